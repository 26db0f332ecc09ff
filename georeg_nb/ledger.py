"""The ledger: what happened, as append-only JSON lines, and what follows from it.

Each line carries the hash of the line before, is flushed and synced before the next thing happens, and is all that the
verdict is made from: the runner, the summary cell and the command line tell the same truth because all call `verdict`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from georeg_nb.errors import RecordError
from georeg_nb.records import stamp
from georeg_nb.redaction import dump_json

Entry = Mapping[str, Any]
Outcome = Literal[
    "done",
    "no-op",
    "failed",
    "timed out",
    "interrupted",
    "not approved",
    "skipped by rule",
    "not reached",
]
COMPLETE: frozenset[str] = frozenset({"done", "no-op", "skipped by rule"})

EXIT_CODES = {
    0: "done and verified, or a plan was made",
    1: "something unforeseen; the traceback is in the record",
    2: "the parameters are wrong; nothing was contacted",
    3: "a prerequisite failed; what earlier sections changed is listed",
    4: "a step failed",
    5: "something still needs approval or attestation",
    6: "verification found differences",
    130: "interrupted (Ctrl-C)",
    143: "interrupted (SIGTERM or SIGHUP)",
}

_GENESIS = "0" * 64
_LONGEST_LINE = 1_000_000


def _line_hash(entry: Entry) -> str:
    body = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class Ledger:
    """The ledger of one run. Safe to use from several threads, and from kernel and runner one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, event: str, **facts: Any) -> Entry:
        """Write one line and return it; on the disk when this returns. Values are JSON-like, and are redacted."""
        with self._lock, self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            previous, torn = self._tail(file)
            number = previous.get("n", 0) + 1
            if torn:
                repair = self._entry(number, previous, "line.torn", {"bytes": torn})
                file.write(_dump(repair))
                previous, number = repair, number + 1
            entry = self._entry(number, previous, event, facts)
            file.write(_dump(entry))
            file.flush()
            os.fsync(file.fileno())
        return entry

    def _entry(self, number: int, previous: Entry, event: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        entry = {
            "n": number,
            "time": stamp(),
            "event": event,
            **json.loads(dump_json(dict(facts))),
        }
        entry["previous"] = previous.get("hash", _GENESIS)
        entry["hash"] = _line_hash(entry)
        return entry

    @staticmethod
    def _tail(file: Any) -> tuple[dict[str, Any], int]:
        """The last whole line, and how many bytes of a line that a crash cut off were removed behind it."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        data = file.read()
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            file.truncate(size - len(rest))
            file.seek(0, os.SEEK_END)
        last = whole.rpartition(b"\n")[2] if newline else b""
        return (json.loads(last) if last else {}), len(rest)

    def entries(self) -> list[Entry]:
        return read(self.path)


def _dump(entry: Entry) -> bytes:
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode()


def read(path: Path) -> list[Entry]:
    """The entries of a ledger; none when there is no file. A last line that a crash cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    entries: list[Entry] = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise RecordError(f"{path.name}, line {number} is no JSON: the ledger was altered") from error
    return entries


def broken_links(entries: Sequence[Entry]) -> list[int]:
    """Line numbers (from 1) whose hash, or whose reference to the line before, is wrong."""
    broken, previous = [], _GENESIS
    for number, entry in enumerate(entries, 1):
        if entry.get("n") != number or entry.get("previous") != previous or entry.get("hash") != _line_hash(entry):
            broken.append(number)
        previous = entry.get("hash", "")
    return broken


@dataclass(frozen=True)
class StepOutcome:
    """How one declared step ended. `reason` says why there was nothing to do, or what stopped it."""

    step: str
    section: str
    site: str
    title: str
    outcome: Outcome
    reason: str = ""
    attempt: int = 1
    digest: str = ""


@dataclass(frozen=True)
class CheckResult:
    """The last answer of one check."""

    section: str
    check: str
    site: str
    title: str
    verdict: str
    found: str = ""
    expected: str = ""
    remedy: str = ""
    evidence: str = ""
    source: str = ""
    verifies: bool = False


@dataclass(frozen=True)
class RunVerdict:
    """What follows from a ledger. `changed` are the steps that any attempt applied; `planned`: nothing was approved."""

    exit_code: int
    headline: str
    outcomes: tuple[StepOutcome, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    changed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    attempts: int = 0
    planned: bool = False
    finished: bool = False
    running_jobs: tuple[str, ...] = field(default=())


def verdict(entries: Iterable[Entry]) -> RunVerdict:
    """The outcome of every declared step, and the exit status, of the last attempt of a run.

    The exit statuses are those of `EXIT_CODES`. Of several reasons the gravest is taken: interrupted, failed step,
    failed prerequisite, differing verification, missing approval.
    """
    reading = _Reading()
    for entry in entries:
        reading.take(entry)
    return reading.verdict()


class _Reading:
    """The state that a ledger leads to, line by line. Cells are run again: the last word on each thing counts."""

    def __init__(self) -> None:
        self.attempts = 0
        self.changed: dict[str, int] = {}  # step: the attempt that did it
        self.declared: list[Entry] = []
        self.new_attempt({})

    def new_attempt(self, entry: Entry) -> None:
        self.declared = list(entry.get("steps", ()))
        self.outcomes: dict[str, Entry] = {}
        self.started: dict[str, Entry] = {}
        self.checks: dict[tuple[str, str, str], Entry] = {}
        self.errors: dict[str, Entry] = {}
        self.jobs: dict[str, None] = {}
        self.approving = bool(entry.get("approving", entry.get("approve")))
        self.finished = False
        self.signal = 0
        self.runner_error: Entry | None = None

    def take(self, entry: Entry) -> None:
        handler = getattr(self, "on_" + str(entry["event"]).replace(".", "_"), None)
        if handler:
            handler(entry)

    def on_run_opened(self, entry: Entry) -> None:
        self.attempts = int(entry.get("attempt", self.attempts + 1))
        self.new_attempt(entry)

    def on_runner_started(self, entry: Entry) -> None:
        self.new_attempt({"steps": self.declared})

    def on_parameters_wrong(self, entry: Entry) -> None:
        self.errors[""] = entry

    def on_check(self, entry: Entry) -> None:
        self.checks[entry["section"], entry["check"], entry.get("site", "")] = entry

    def on_section_not_reached(self, entry: Entry) -> None:
        for key in [key for key in self.checks if key[0] == entry["section"]]:
            del self.checks[key]

    def on_approval(self, entry: Entry) -> None:
        self.approving = True

    def on_attestation(self, entry: Entry) -> None:
        self.approving = self.approving or entry.get("how") != "parameter"

    def on_step_started(self, entry: Entry) -> None:
        self.started[entry["step"]] = entry
        self.outcomes.pop(entry["step"], None)

    def on_step_ended(self, entry: Entry) -> None:
        step, outcome = entry["step"], entry["outcome"]
        self.started.pop(step, None)
        self.jobs.update(dict.fromkeys(entry.get("running_jobs", ())))
        if outcome == "done":
            self.changed[step] = self.attempts
        elif outcome == "no-op" and step in self.changed:
            # Looking at it again does not make what this run did undone.
            earlier = self.changed[step]
            reason = f"in attempt {earlier}; still so" if earlier != self.attempts else ""
            entry = {**entry, "outcome": "done", "reason": reason}
        elif outcome == "not reached" and self.outcomes.get(step, {}).get("outcome") == "done":
            return
        self.outcomes[step] = entry

    def on_step_undone(self, entry: Entry) -> None:
        self.changed.pop(entry["step"], None)
        self.outcomes[entry["step"]] = {**entry, "outcome": "not approved", "reason": "was undone"}

    def on_section_started(self, entry: Entry) -> None:
        self.errors.pop(entry["section"], None)

    def on_section_stopped(self, entry: Entry) -> None:
        self.errors[entry["section"]] = entry

    def on_run_closed(self, entry: Entry) -> None:
        self.finished = True

    def on_signal(self, entry: Entry) -> None:
        self.signal = int(entry["signal"])

    def on_runner_ended(self, entry: Entry) -> None:
        self.runner_error = entry if entry.get("error") else None

    def verdict(self) -> RunVerdict:
        outcomes = tuple(self.outcome_of(step) for step in self.declared)
        checks = tuple(
            CheckResult(**{name: entry.get(name, default) for name, default in _CHECK_FIELDS.items()})
            for entry in self.checks.values()
        )
        code, problems = self.judge(outcomes, checks)
        planned = not self.approving
        done = sum(1 for outcome in outcomes if outcome.outcome == "done")
        return RunVerdict(
            code,
            _headline(code, planned, done, outcomes, self.finished),
            outcomes,
            checks,
            tuple(self.changed),
            tuple(problems),
            self.attempts,
            planned,
            self.finished,
            tuple(self.jobs),
        )

    def outcome_of(self, step: Entry) -> StepOutcome:
        name = step["step"]
        facts = {key: step.get(key, "") for key in ("step", "section", "site", "title")}
        if ended := self.outcomes.get(name):
            return StepOutcome(
                **facts,
                outcome=ended["outcome"],
                reason=ended.get("reason", ""),
                attempt=self.attempts,
                digest=ended.get("digest", ""),
            )
        if name in self.started:
            reason = "it was started, and how it ended was not written down; `georeg status` shows how the site is"
            return StepOutcome(**facts, outcome="interrupted", reason=reason, attempt=self.attempts)
        return StepOutcome(**facts, outcome="not reached", attempt=self.attempts)

    def judge(self, outcomes: Sequence[StepOutcome], checks: Sequence[CheckResult]) -> tuple[int, list[str]]:
        codes: dict[int, list[str]] = {}

        def add(code: int, text: str) -> None:
            codes.setdefault(code, []).append(text)

        if self.signal:
            add(130 if self.signal == 2 else 143, f"interrupted by signal {self.signal}")
        for error in self.errors.values():
            add(int(error.get("exit_code", 1)), error.get("message", ""))
        for outcome in outcomes:
            if outcome.outcome in ("failed", "timed out"):
                add(int(self.outcomes[outcome.step].get("exit_code", 4)), f"{outcome.step}: {outcome.reason}")
            elif outcome.outcome == "interrupted":
                ended = self.outcomes.get(outcome.step)
                # Without an end the kernel died in the middle of it: that is a step that failed, not a person's wish.
                add(int(ended.get("exit_code", 130)) if ended else 4, f"{outcome.step}: {outcome.reason}")
        for code, text in _failed_checks(checks):
            add(code, text)
        if self.approving:
            waiting = [outcome.step for outcome in outcomes if outcome.outcome == "not approved"]
            if waiting:
                add(5, "needs approval: " + ", ".join(waiting))
        unreached = [outcome.step for outcome in outcomes if outcome.outcome == "not reached"]
        if not self.finished and not codes.keys() - {5}:
            add(1, "the run did not reach its summary")
        elif not codes and self.approving and unreached:
            add(5, "not reached: " + ", ".join(unreached))
        if self.runner_error and not codes.keys() - {1, 5}:
            add(int(self.runner_error.get("exit_code", 1)), str(self.runner_error["error"]))
        problems = [text for code in _GRAVEST_FIRST for text in codes.get(code, ())]
        return next((code for code in _GRAVEST_FIRST if code in codes), 0), problems


def _failed_checks(checks: Iterable[CheckResult]) -> list[tuple[int, str]]:
    """(exit code, what is wrong and what to do). Checks that fail for one and the same reason are one problem."""
    same: dict[tuple[int, str, str, str, str], list[str]] = {}
    for result in checks:
        if result.verdict == "failed":
            key = (6 if result.verifies else 3, result.site, result.found, result.expected, result.remedy)
            same.setdefault(key, []).append(result.title)
    problems = []
    for (code, site, found, expected, remedy), titles in same.items():
        where = f" on {site}" if site else ""
        wanted = f" (expected: {expected})" if expected else ""
        advice = f"\nWhat to do: {remedy}" if remedy else ""
        problems.append((code, f"{'; '.join(titles)}{where}: {found}{wanted}{advice}"))
    return problems


_GRAVEST_FIRST = (143, 130, 2, 4, 3, 6, 1, 5)
_CHECK_FIELDS = {one.name: "" if one.default is MISSING else one.default for one in fields(CheckResult)}


def _headline(code: int, planned: bool, done: int, outcomes: Sequence[StepOutcome], finished: bool) -> str:
    if code == 0 and planned:
        open_steps = sum(1 for outcome in outcomes if outcome.outcome not in COMPLETE)
        if not open_steps:
            if not outcomes:
                return "Every check passed; this scenario changes nothing."
            return "Nothing to do: both sites already are as this runbook leaves them."
        return f"A plan was made and nothing was changed: {_count(open_steps)} wait for approval."
    if code == 0:
        if not done:
            return "Verified: every step already was as this runbook leaves it."
        noop = sum(1 for outcome in outcomes if outcome.outcome == "no-op")
        return f"Done and verified: {_count(done)} done, {noop} already as they should be."
    text = EXIT_CODES.get(code, "")
    return f"{text[:1].upper()}{text[1:]}." + ("" if finished else " The run did not reach its summary.")


def _count(number: int) -> str:
    return "1 step" if number == 1 else f"{number} steps"
