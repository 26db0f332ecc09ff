"""Progress bars of an import that logs to a file: redrawn with carriage returns, also in a pipe.

Source: registry 1.6 and the recorded output. The spinner turns when something is drawn, not by time as the real one.
"""

from __future__ import annotations

import time
from typing import TextIO

_CLEAR = "\r" + " " * 122 + "\r"
_FRAMES = "|/-\\"
_WIDTH = 40


class Progress:
    """What stdout shows. `Silent` shows nothing."""

    def start(self) -> None:
        """Draw the spinner before the log file is opened."""

    def describe(self, text: str) -> None:
        """Draw the spinner with a new description, and end the line."""

    def finish(self, text: str) -> None:
        """Draw the last description; the line is not ended."""

    def bar(self, text: str, unit: str, total: int) -> Bar:
        """A bar for `total` things."""
        return Bar(None, text, unit, total)

    def counter(self, text: str, unit: str) -> Bar:
        """A spinner that counts things whose number is not known."""
        return Bar(None, text, unit, 0)


class Silent(Progress):
    """For `--log-to-stdout`."""


class Bar:
    """A bar, or a counting spinner where `total` is 0."""

    def __init__(self, stream: TextIO | None, text: str, unit: str, total: int) -> None:
        self.stream = stream
        self.text = text
        self.unit = unit
        self.total = total
        self.done = 0
        self._started = time.monotonic()
        self._last = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Draw the bar full, also where the work ended early: that is how the real program closes it."""
        if self.done < self.total:
            self.done = self.total - 1
            self.advance()

    def advance(self) -> None:
        """One more is done."""
        self.done += 1
        if self.stream is None:
            return
        spent = time.monotonic() - self._started
        rate = f"{round(self.done / max(spent, 1e-6))} {self.unit}/s"
        if self.total:
            share = min(1.0, self.done / self.total)
            filled = int(share * _WIDTH)
            drawn = (
                "=" * filled if filled == _WIDTH else "=" * max(0, filled - 1) + ">" + " " * (_WIDTH - max(1, filled))
            )
            line = f"\r {int(share * 100):>3}% [{drawn}] ({self.done}/{self.total}, {rate}) [{spent:.0f}s] {self.text} "
        else:
            line = f"\r{_FRAMES[self.done % 4]} ({self.done}/-, {rate}) [{spent:.0f}s] {self.text} "
        if self._last:
            self.stream.write("\r" + " " * len(self._last) + "\r")
        self.stream.write(line)
        self._last = line


class Spinner(Progress):
    """Progress drawn to a stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._started = time.monotonic()
        self._frame = 0

    def _line(self, text: str) -> str:
        return f"\r{_FRAMES[self._frame % 4]}  [{time.monotonic() - self._started:.0f}s] {text} "

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
        self._frame += 1

    def start(self) -> None:
        self._write(self._line(""))

    def describe(self, text: str) -> None:
        line = self._line(text)
        self._write(f"{_CLEAR}{line}{line}\n")

    def finish(self, text: str) -> None:
        line = self._line(text)
        self._write(f"{_CLEAR}{line}{_CLEAR}{line}")

    def bar(self, text: str, unit: str, total: int) -> Bar:
        return Bar(self.stream, text, unit, total)

    def counter(self, text: str, unit: str) -> Bar:
        return Bar(self.stream, text, unit, 0)
