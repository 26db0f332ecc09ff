"""Killed from outside and taken up again: no tag lost, never read-only unknowingly, never two imports at once."""

from __future__ import annotations

import signal

import pytest
from killing import (
    begun,
    entries_of,
    freezing,
    kernel_of,
    kill_the_import,
    newest,
    stopped_at,
    thaw,
    wait_for,
)
from observe import tags_in_database
from standing import (
    all_tags,
    assert_complete,
    assert_status_is_true,
    imports_started,
    refuses_pushes,
)
from workplace import Outcome, Workplace, end, outcomes

pytestmark = [pytest.mark.lab]
CLEAR = "secondary.import/clear-half-import", "primary.import/clear-half-import"


POINTS: list[tuple[str | int, str]] = [
    ("kernel", "hold/hold-image-sync"),
    ("runner", "secondary.import/connect-database"),
    (signal.SIGTERM, "secondary.import/migrate-schema"),
    ("kernel", "secondary.import/read-only"),
    ("runner", "secondary.import/import"),
    ("kernel", "primary.import/migrate-schema"),
    (signal.SIGINT, "primary.import/read-only"),
    ("kernel", "primary.import/import"),
    ("runner", "primary.import/enable-database"),
    ("kernel", "release/release-image-sync"),
]
ANEW = {"secondary.import/read-only", "primary.import/enable-database"}
"""After these nobody says --resume: the notebook is opened anew, and all is run."""


def test_kernel_and_runner_killed_at_eight_points(fresh_workplace: Workplace) -> None:
    """One chain: `kill -9` of the kernel and of the runner at eight points, two of them in the middle of an import; and
    the two signals that end a run in order. Each time the next run takes it up, by --resume or as a new one.
    """
    workplace = fresh_workplace
    before = all_tags(workplace)
    resume: list[str] = []
    for how, step in POINTS:
        section, _, name = step.partition("/")
        reached = begun(workplace, step)
        if name == "import":
            reached = freezing(workplace, section.partition(".")[0])
        status, output = stopped_at(workplace, how, reached, *resume)
        for site in before:
            thaw(workplace, site)  # it goes on by itself
        run = newest(workplace)
        expected = {"kernel": 4, "runner": -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
        assert status == expected, output
        if isinstance(how, int):
            assert f"--resume {run}" in output
            assert outcomes(entries_of(workplace, run))[step] == "interrupted"
        assert_status_is_true(workplace)
        resume = [] if step in ANEW else ["--resume", run]
    last = workplace.run("--approve", "all", *resume)
    assert_complete(workplace, last, before, {"primary": 1, "secondary": 1})
    assert len(list(workplace.records.glob("*/ledger.jsonl"))) == 1 + len(ANEW)
    taken = [entry for run in workplace.records.iterdir() for entry in entries_of(workplace, run.name)]
    instead = [entry["instead_of"] for entry in taken if entry["event"] == "lock.taken" and entry["instead_of"]]
    assert any(holder["run"] != last.record.name for holder in instead)  # type: ignore[index]


def test_an_import_that_is_killed_is_never_imported_over(fresh_workplace: Workplace) -> None:
    """The import's own job is killed in the middle: on the secondary under the eyes of its run, on the primary together
    with the kernel. The half that it left is refused until its removal is approved by its own full name. The two steps
    that are there for this alone are crashed, too.
    """
    workplace = fresh_workplace
    before = all_tags(workplace)

    process = workplace.start("--approve", "all")
    try:
        wait_for(freezing(workplace, "secondary"), process)
        left = kill_the_import(workplace, "secondary")
        output, _ = process.communicate(timeout=120)
    finally:
        end(process)
    assert 0 < left < len(before["secondary"])
    assert process.returncode == 4, output
    assert "pushes are accepted again" in output
    assert_status_is_true(workplace)
    assert not refuses_pushes(workplace, "secondary")

    refused = refused_over_a_half(workplace, "secondary", left, ["--resume", newest(workplace)])

    resume = ["--resume", refused.record.name]
    crash = {"GEOREG_CRASH_AT": f"{CLEAR[0]}:after-apply"}
    crashed = workplace.run("--approve", "all", "--approve", CLEAR[0], *resume, env=crash)
    assert crashed.status == 4, crashed.output
    assert tags_in_database(workplace.lab, "secondary") == {}

    process = workplace.start("--approve", "all", *resume)
    try:
        wait_for(freezing(workplace, "primary"), process)
        kernel = kernel_of(process.pid)
        kernel.suspend()  # it must not see its import die
        left = kill_the_import(workplace, "primary")
        kernel.kill()
        process.communicate(timeout=120)
    finally:
        end(process)
    assert 0 < left < len(before["primary"])
    assert imports_started(workplace) == {"secondary": 2, "primary": 1}
    assert_status_is_true(workplace)
    assert refuses_pushes(workplace, "primary")

    crash = {"GEOREG_CRASH_AT": "primary.import/let-pushes-in:after-apply"}
    crashed = workplace.run("--approve", "all", *resume, env=crash)
    assert crashed.status == 4, crashed.output
    assert_status_is_true(workplace)
    refused = refused_over_a_half(workplace, "primary", left, ["--resume", newest(workplace)])
    last = workplace.run("--approve", "all", "--approve", CLEAR[1], "--resume", refused.record.name)
    assert_complete(workplace, last, before, {"primary": 2, "secondary": 2})


def refused_over_a_half(workplace: Workplace, site: str, left: int, resume: list[str]) -> Outcome:
    """With everything approved but the removal itself, nothing is removed and nothing imported."""
    started = imports_started(workplace)
    refused = workplace.run("--approve", "all", *resume)
    assert refused.status == 5, refused.output
    ended = outcomes(refused.ledger)
    assert ended[f"{site}.import/clear-half-import"] == "not approved"
    assert ended[f"{site}.import/import"] == "not reached"
    assert imports_started(workplace) == started
    assert len(tags_in_database(workplace.lab, site)) == left
    assert_status_is_true(workplace)
    assert not refuses_pushes(workplace, site)
    return refused
