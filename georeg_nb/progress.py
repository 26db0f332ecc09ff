"""Progress of a run on the terminal, from the file that its kernel writes: a live line, or one line per change."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

from georeg_nb.runbook.reporter import Thinning, progress_line

_PAUSE = 0.3


class ProgressDisplay:
    """Follows a record's progress.jsonl while a `with` block runs. What was there before is not shown again."""

    def __init__(self, record: Path, console: Console) -> None:
        self._file = record / "progress.jsonl"
        self._console = console
        self._offset = self._file.stat().st_size if self._file.exists() else 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._thin = Thinning(0.1)
        self._live = console.status("starting the kernel …") if console.is_terminal else None

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._read()
        if self._live:
            self._live.stop()

    def _follow(self) -> None:
        while not self._end.wait(_PAUSE):
            self._read()

    def _read(self) -> None:
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._show(json.loads(line))

    def _show(self, entry: dict[str, Any]) -> None:
        site, text, fraction = entry.get("site", ""), entry["text"], entry.get("fraction")
        line = progress_line(site, text, fraction)
        question = text.startswith("checking: ")
        if self._live:
            self._live.update(Text(line))
            if fraction is None and not question:
                self._console.print(Text(line))
        elif not question and self._thin.news(site, text, fraction):
            self._console.print(Text(f"{entry['time'][11:]} {line}"), soft_wrap=True)
