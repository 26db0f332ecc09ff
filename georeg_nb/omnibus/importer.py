"""The log of `registry database import --log-to-stdout`: how far it is, which tags it leaves behind, how it ended.

The importer's exit status proves nothing: tags can be missing at status 0, and the log names them only in its second
step (registry 0 fact 9, 1.6). So this log gives progress and causes; what was imported is read from the database.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

NOT_ENABLED = "Container registry is not enabled, exiting"
FATAL = "failed to "
COMPLETE = "metadata import complete"
# msg → what it says about a tag, where that is no loss of the tag (registry 1.6)
NO_LOSS = frozenset({"blob is not linked to repository, skipping blob import", "lock path should not be a directory"})

# step one reads every manifest, step two only tags, step three lists blobs: shares by our own measurements
STEP_WEIGHTS = {1: 0.75, 2: 0.2, 3: 0.05}

_PAIR = re.compile(r'([A-Za-z_][\w.]*)=("(?:\\.|[^"\\])*"|\S*)')


def parse_log_line(line: str) -> dict[str, Any]:
    """One line of the registry's log, in either format (`json`, or `text`, the package's default); {} for anything
    else.
    """
    try:
        if line.startswith("{"):
            entry = json.loads(line)
            return entry if isinstance(entry, dict) else {}
        if line.startswith("time="):
            return {key: _unquoted(value) for key, value in _PAIR.findall(line)}
    except ValueError:
        pass
    return {}


def _unquoted(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value


@dataclass
class ImportLog:
    """State of an import as its log tells it. `feed` takes text as it comes, also in the middle of a line.

    `total_tags` is what the caller knows from the snapshot (the log never states a total); 0 = not known. `steps` are
    those that this command does.
    """

    total_tags: int = 0
    steps: tuple[int, ...] = (1, 2, 3)
    repository: str = ""
    step: int = 0
    repositories: int = 0
    tags: int = 0
    blobs: int = 0
    lost: dict[str, str] = field(default_factory=dict)  # "path:tag" → cause, as far as the log names the tag
    warnings: list[dict[str, Any]] = field(default_factory=list)
    fatal: str = ""
    not_enabled: bool = False
    counts: dict[str, int] | None = None
    complete: bool = False
    _rest: str = ""

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line.strip())

    def close(self) -> ImportLog:
        """Take what is left without a newline, and return self."""
        rest, self._rest = self._rest, ""
        self._line(rest.strip())
        return self

    def _line(self, line: str) -> None:
        if line.startswith(NOT_ENABLED):
            self.not_enabled = True
        elif line.startswith(FATAL):
            self.fatal = line
        elif entry := parse_log_line(line):
            self._entry(entry)

    def _entry(self, entry: dict[str, Any]) -> None:
        message = str(entry.get("msg", ""))
        path = str(entry.get("repository", ""))
        match message:
            case "pre importing repository" | "importing repository":
                self.step = 1 if message.startswith("pre") else 2
                self.repository, self.repositories = path, int(entry.get("count") or 0)
                if self.repositories == 1:
                    self.tags = 0
            case "processing tag" | "importing tag":
                self.tags += 1
            case "importing blob":
                self.step, self.blobs = 3, self.blobs + 1
            case "importing all blobs":
                self.step, self.repository = 3, ""
            case "metadata import complete":
                self.complete = True
                names = ("repositories", "manifests", "blobs", "tags")
                self.counts = {name: int(entry[name]) for name in names if name in entry} or None
            case _ if entry.get("level") in ("warning", "error"):
                self._warning(entry, message, path)

    def _warning(self, entry: dict[str, Any], message: str, path: str) -> None:
        kept = {key: entry[key] for key in ("repository", "tag_name", "digest", "error", "msg") if entry.get(key)}
        self.warnings.append(kept)
        if entry.get("tag_name") and message not in NO_LOSS:
            cause = f"{message}: {entry['error']}" if entry.get("error") else message
            self.lost[f"{path}:{entry['tag_name']}"] = cause

    @property
    def fraction(self) -> float | None:
        """How much is done, 0 to 1, from tags seen in steps one and two; None when no total is known."""
        if self.complete:
            return 1.0
        if not self.total_tags or self.step not in self.steps or self.steps == (3,):
            return None
        share = min(self.tags / self.total_tags, 1.0) if self.step < 3 else 0.0
        before = sum(STEP_WEIGHTS[step] for step in self.steps if step < self.step)
        return (before + STEP_WEIGHTS[self.step] * share) / sum(STEP_WEIGHTS[step] for step in self.steps)

    def __str__(self) -> str:
        """One line of progress."""
        if self.complete:
            return "import complete"
        if not self.step:
            return "import starting"
        if self.step == 3:
            return f"step three: {self.blobs} blobs"
        of = f" of {self.total_tags}" if self.total_tags else ""
        return f"step {'one' if self.step == 1 else 'two'}: {self.repository}, {self.tags}{of} tags"


@dataclass(frozen=True)
class Window:
    """A predicted read-only window in seconds. `ground` says what it was computed from, `work` is `high` without the
    two reconfigures.
    """

    low: float
    high: float
    ground: str
    work: float = 0.0

    def __str__(self) -> str:
        return f"{_minutes(self.low)} to {_minutes(self.high)} ({self.ground})"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Step one reads 2 to 4 TB of images per hour in published reports (procedures 2.6, registry 6.6); a tag costs a few
# storage reads and SQL statements (5 to 50 ms, our estimate), and each of the two reconfigures takes 1 to 5 min
# (procedures 2.6).
TAG_SECONDS = (0.005, 0.05)
BYTES_PER_SECOND = (4e12 / 3600, 2e12 / 3600)
RECONFIGURE_SECONDS = (60, 300)
STEP_TWO_SHARE = 0.1  # "step two about 90 % faster than step one" (procedures 2.6)


def predict_window(
    tags: int, size: int | None, *, measured: tuple[int, float] | None = None, reconfigure: float | None = None
) -> Window:
    """How long pushes will be refused by a one-step import: from read-only to the database.

    `size` is in bytes (None: not known, e.g. object storage). `measured` is another site's import (tags, seconds),
    `reconfigure` its measured reconfigure in seconds; the estimate then follows these, with a factor of two either way.
    """
    if measured and measured[0]:
        seconds = tags * measured[1] / measured[0]
        return _window(seconds / 2, seconds * 2, f"{tags} tags, as measured on the other site", reconfigure)
    low, high = (tags * TAG_SECONDS[i] + (size or 0) / BYTES_PER_SECOND[i] for i in (0, 1))
    ground = f"{tags} tags" + (f", {size / 1e9:.1f} GB" if size is not None else ", size not known")
    return _window(low, high, ground, reconfigure)


def predict_step_two(
    manifests: int, missing: int, step_one: tuple[int, float], *, reconfigure: float | None = None
) -> Window:
    """How long pushes will be refused by step two of a three-step import, with a factor of two either way.

    It reads those of the `manifests` that are `missing` in the database as step one would, and passes over all of them
    in a tenth of step one's time. `step_one` is what that took: (manifests, seconds). Source: procedures 2.6, derived.
    """
    each = step_one[1] / max(step_one[0], 1)
    seconds = each * (STEP_TWO_SHARE * manifests + missing)
    ground = f"{manifests} manifests, {missing} not read yet; step one read {step_one[0]} in {step_one[1]:.0f} s"
    return _window(seconds / 2, seconds * 2, ground, reconfigure)


def _window(low: float, high: float, ground: str, reconfigure: float | None) -> Window:
    restart = (reconfigure / 2, reconfigure * 2) if reconfigure else RECONFIGURE_SECONDS
    return Window(2 * restart[0] + low, 2 * restart[1] + high, ground, high)
