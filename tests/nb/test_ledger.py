"""The ledger: unbroken, and the one source of the verdict."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from georeg_nb import redaction
from georeg_nb.errors import RecordError
from georeg_nb.ledger import EXIT_CODES, Ledger, broken_links, read, verdict

STEPS = [{"step": name, "section": "s", "site": "primary", "title": name} for name in ("s/a", "s/b", "s/c")]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


class TestChain:
    def test_lines_are_numbered_and_chained(self, ledger: Ledger) -> None:
        for number in range(5):
            ledger.append("event", value=number)
        entries = ledger.entries()
        assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
        assert broken_links(entries) == []

    @pytest.mark.parametrize("change", ["edit", "remove", "swap", "insert"])
    def test_every_change_shows(self, ledger: Ledger, change: str) -> None:
        for number in range(5):
            ledger.append("event", value=number)
        lines = ledger.path.read_text().splitlines()
        if change == "edit":
            lines[2] = lines[2].replace('"value": 2', '"value": 7')
        elif change == "remove":
            del lines[2]
        elif change == "swap":
            lines[1], lines[2] = lines[2], lines[1]
        else:
            lines.insert(2, lines[1])
        ledger.path.write_text("\n".join(lines) + "\n")
        assert broken_links(ledger.entries())

    def test_a_line_that_a_crash_cut_off_is_removed_and_told(self, ledger: Ledger) -> None:
        ledger.append("one")
        with ledger.path.open("a") as file:
            file.write('{"n": 2, "event": "tw')
        assert [entry["event"] for entry in ledger.entries()] == ["one"]
        ledger.append("three")
        assert [entry["event"] for entry in ledger.entries()] == ["one", "line.torn", "three"]
        assert broken_links(ledger.entries()) == []

    def test_a_line_that_is_no_json_is_an_altered_ledger(self, ledger: Ledger) -> None:
        ledger.append("one")
        ledger.path.write_text("oops\n" + ledger.path.read_text())
        with pytest.raises(RecordError, match="line 1"):
            ledger.entries()

    def test_threads(self, ledger: Ledger) -> None:
        other = Ledger(ledger.path)
        threads = [
            threading.Thread(target=lambda which=which: [which.append("x") for _ in range(10)])
            for which in (ledger, other, ledger, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ledger.entries()) == 40
        assert broken_links(ledger.entries()) == []

    def test_secrets_are_masked_before_they_are_hashed(self, ledger: Ledger) -> None:
        redaction.register("c4nary-value", "canary")
        ledger.append("x", text="c4nary-value")
        assert "c4nary" not in ledger.path.read_text()
        assert broken_links(ledger.entries()) == []

    def test_none_there(self, tmp_path: Path) -> None:
        assert read(tmp_path / "none.jsonl") == []


def opened(approve: list[str] | None = None, attempt: int = 1) -> dict[str, Any]:
    return {"event": "run.opened", "attempt": attempt, "steps": STEPS, "approve": approve or []}


def ended(step: str, outcome: str, **facts: Any) -> dict[str, Any]:
    return {"event": "step.ended", "step": step, "outcome": outcome, **facts}


def all_ended(outcome: str) -> list[dict[str, Any]]:
    return [ended(step["step"], outcome) for step in STEPS]


def asked(verdict: str, **facts: Any) -> dict[str, Any]:
    return {
        "event": "check",
        "section": "s",
        "check": "c",
        "site": "primary",
        "verdict": verdict,
        "found": "x",
        **facts,
    }


SUMMARY = {"event": "run.closed"}
STARTED = {"event": "step.started", "step": "s/a"}
STOPPED = {"event": "section.stopped", "section": "s", "exit_code": 3, "message": "no"}

CASES: list[tuple[str, int, list[dict[str, Any]]]] = [
    ("nothing at all", 1, []),
    ("a plan", 0, [opened(), *all_ended("not approved"), SUMMARY]),
    ("everything done", 0, [opened(["all"]), *all_ended("done"), SUMMARY]),
    ("a second run", 0, [opened(["all"]), *all_ended("no-op"), SUMMARY]),
    ("skipped by rule", 0, [opened(["all"]), *all_ended("skipped by rule"), SUMMARY]),
    ("parameters", 2, [{"event": "parameters.wrong", "exit_code": 2, "message": "x"}]),
    ("a failed check in a plan", 3, [opened(), asked("failed"), *all_ended("not reached"), SUMMARY]),
    (
        "a failed check that passed later",
        0,
        [opened(), asked("failed"), asked("passed"), *all_ended("not approved"), SUMMARY],
    ),
    (
        "a warning is none",
        0,
        [opened(), asked("warning"), asked("later", check="d"), *all_ended("not approved"), SUMMARY],
    ),
    ("a prerequisite at apply", 3, [opened(["all"]), STOPPED]),
    (
        "a prerequisite, mended",
        0,
        [opened(["all"]), STOPPED, {"event": "section.started", "section": "s"}, *all_ended("done"), SUMMARY],
    ),
    ("a failed step", 4, [opened(["all"]), ended("s/a", "failed", reason="disk full", exit_code=4)]),
    ("a time-out", 4, [opened(["all"]), ended("s/a", "timed out", exit_code=4), SUMMARY]),
    (
        "a failed step, done on the second try",
        0,
        [opened(["all"]), ended("s/a", "failed"), *all_ended("done"), SUMMARY],
    ),
    ("a step whose kernel died", 4, [opened(["all"]), STARTED]),
    ("a kernel that died between steps", 1, [opened(["all"]), ended("s/a", "done")]),
    ("the same in a plan", 1, [opened(), {"event": "runner.ended", "error": "the kernel died", "exit_code": 1}]),
    (
        "some approved",
        5,
        [opened(["s/a"]), ended("s/a", "done"), ended("s/b", "not approved"), ended("s/c", "not reached"), SUMMARY],
    ),
    ("approved by hand, then done", 0, [opened(), {"event": "approval", "step": "s/a"}, *all_ended("done"), SUMMARY]),
    (
        "attested by parameter only is a plan",
        0,
        [opened(), {"event": "attestation", "how": "parameter"}, *all_ended("not approved"), SUMMARY],
    ),
    (
        "attested by hand is not",
        5,
        [opened(), {"event": "attestation", "how": "button"}, *all_ended("not approved"), SUMMARY],
    ),
    ("verification differs", 6, [opened(["all"]), *all_ended("done"), asked("failed", verifies=True), SUMMARY]),
    ("a step that finds differences", 6, [opened(["all"]), ended("s/a", "failed", exit_code=6)]),
    ("ctrl-c in a step", 130, [opened(["all"]), ended("s/a", "interrupted", exit_code=130)]),
    ("sigterm in a step", 143, [opened(["all"]), ended("s/a", "interrupted", exit_code=143)]),
    ("sigint to the runner", 130, [opened(["all"]), STARTED, {"event": "signal", "signal": 2}]),
    (
        "sighup to the runner",
        143,
        [opened(["all"]), {"event": "signal", "signal": 1}, ended("s/a", "interrupted", exit_code=130)],
    ),
    (
        "interrupted by hand, then done",
        0,
        [opened(["all"]), ended("s/a", "interrupted", exit_code=130), *all_ended("done"), SUMMARY],
    ),
    (
        "the second attempt counts",
        0,
        [opened(["all"]), ended("s/a", "failed"), opened(["all"], 2), *all_ended("done"), SUMMARY],
    ),
    (
        "a new attempt that never opened",
        1,
        [opened(["all"]), {"event": "signal", "signal": 15}, {"event": "runner.started"}],
    ),
    (
        "the gravest counts",
        4,
        [opened(["all"]), asked("failed"), ended("s/a", "failed", exit_code=4), ended("s/b", "not approved")],
    ),
    ("unforeseen wins over approval", 1, [opened(["s/a"]), ended("s/b", "not approved")]),
    (
        "what is undone needs approval again",
        5,
        [opened(["all"]), *all_ended("done"), {"event": "step.undone", "step": "s/a"}, SUMMARY],
    ),
]


class TestVerdict:
    @pytest.mark.parametrize(("code", "entries"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
    def test_exit_status(self, code: int, entries: list[dict[str, Any]]) -> None:
        result = verdict(entries)
        assert result.exit_code == code, result.problems
        assert result.exit_code in EXIT_CODES
        assert result.headline
        assert bool(result.problems) == bool(code)

    def test_every_declared_step_ends_in_exactly_one_outcome(self) -> None:
        for _, _, entries in CASES:
            declared = [outcome.step for outcome in verdict(entries).outcomes]
            assert declared in ([], ["s/a", "s/b", "s/c"])

    def test_a_no_op_after_done_in_the_same_run_stays_done(self) -> None:
        entries = [opened(["all"]), *all_ended("done"), opened(["all"], 2), *all_ended("no-op"), SUMMARY]
        result = verdict(entries)
        assert {outcome.outcome for outcome in result.outcomes} == {"done"}
        assert {outcome.reason for outcome in result.outcomes} == {"in attempt 1; still so"}
        assert result.changed == ("s/a", "s/b", "s/c")

    def test_what_was_changed_is_known_across_attempts(self) -> None:
        entries = [opened(["all"]), ended("s/a", "done"), ended("s/b", "failed"), opened(["all"], 2), STOPPED]
        result = verdict(entries)
        assert result.changed == ("s/a",)
        assert result.exit_code == 3

    def test_the_words_for_people(self) -> None:
        assert "nothing was changed" in verdict(CASES[1][2]).headline
        assert verdict(CASES[2][2]).headline == "Done and verified: 3 steps done, 0 already as they should be."
        noop_plan = [opened(), *all_ended("no-op"), SUMMARY]
        assert verdict(noop_plan).headline.startswith("Nothing to do")

    def test_is_made_of_json(self) -> None:
        for _, code, entries in CASES:
            assert verdict(json.loads(json.dumps(entries))).exit_code == code
