"""Progress: into the record for the terminal, and into the cell for who watches it there."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from georeg_nb.display import Document, Text
from georeg_nb.records import Record
from georeg_nb.redaction import redact
from georeg_nb.runbook.buttons import someone_is_there

_STEP = 0.1
"""Without a terminal a line is written when a fraction has grown by this much."""


class Reporter:
    """The observer that the sites report to. One line per change; a live line where a person watches the notebook."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.on_progress: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._last: tuple[str, str, float] | None = None
        self._handle: Any = None
        # Our runner shows progress on its own terminal, from the record: the notebook stays free of it.
        self._runner_shows = bool(os.environ.get("GEOREG_RUN")) and not someone_is_there()
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
        with self._lock:
            step = -1.0 if fraction is None else int(fraction / _STEP) * _STEP
            if (site, text, step) == self._last:
                return
            self._last = (site, text, step)
        self.record.progress(site, text, fraction)
        line = progress_line(site, text, fraction)
        if self._handle is not None:
            self._handle.update(Document("progress", [Text(line)]))
        elif self._aloud:
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
        self._last = None
        self._aloud = False


def progress_line(site: str, text: str, fraction: float | None) -> str:
    share = "" if fraction is None else f" {fraction:.0%}"
    return f"{site}: {text}{share}" if site else f"{text}{share}"
