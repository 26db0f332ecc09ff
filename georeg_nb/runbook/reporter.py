"""Progress: into the record for the terminal, and into the cell for who watches it there."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from georeg_nb.display import Document, Text
from georeg_nb.records import Record
from georeg_nb.redaction import redact
from georeg_nb.runbook.buttons import someone_is_there

_NUMBERS = re.compile(r"\d+")


class Thinning:
    """Tells news from repetition: another text, or a fraction that has changed by `step`.

    Beside a fraction only what stands before a colon counts: "tags: 3 of 12" goes on from "tags: 2 of 12".
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self._last: tuple[str, str, int] | None = None

    def news(self, site: str, text: str, fraction: float | None) -> bool:
        known = text if fraction is None else _NUMBERS.sub("#", text.partition(":")[0])
        now = (site, known, -1 if fraction is None else int(fraction / self.step + 1e-9))
        changed = now != self._last
        self._last = now
        return changed


class Reporter:
    """The observer that the sites report to. One line per change; a live line where a person watches the notebook."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.on_progress: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._fine = Thinning(0.01)
        self._coarse = Thinning(0.1)
        self._handle: Any = None
        # Our runner shows progress on its own terminal, from the record: the notebook stays free of it.
        self._runner_shows = "GEOREG_RUN" in os.environ
        self._aloud = False

    def command(self, record: Mapping[str, Any]) -> None:
        self.record.command(record)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """The same as `command`: a node takes a plain function as its observer."""
        self.record.command(record)

    def kept(self, site: str, name: str, data: Any) -> None:
        self.record.kept(site, name, data)

    def progress(self, site: str, text: str, fraction: float | None = None) -> None:
        """Tell how far something is; the same again, or hardly further, is not told twice."""
        self.on_progress()
        line = progress_line(site, text, fraction)
        with self._lock:
            if self._fine.news(site, text, fraction):
                self.record.progress(site, text, fraction)
                if self._handle is not None:
                    self._handle.update(Document("progress", [Text(line)]))
            if self._aloud and self._coarse.news(site, text, fraction):
                sys.stdout.write(redact(line) + "\n")
                sys.stdout.flush()

    def watch(self, *, aloud: bool = True) -> None:
        """From now on until `rest`: one live line in the running cell where a person sees it, else printed lines.

        Not `aloud`: no printed lines, so that the output of cells that only read stays the same from run to run.
        """
        self._aloud = aloud and not self._runner_shows
        if someone_is_there():
            from IPython.display import display

            self._handle = display(Document("progress", [Text("…")]), display_id=True)

    def rest(self) -> None:
        """The live line has served: what remains is the result."""
        if self._handle is not None:
            self._handle.update(Document("progress", []))
        self._handle = None
        self._aloud = False


def progress_line(site: str, text: str, fraction: float | None) -> str:
    share = "" if fraction is None else f" {fraction:.0%}"
    return f"{site}: {text}{share}" if site else f"{text}{share}"
