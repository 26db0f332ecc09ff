"""Killed from outside and taken up again: no tag lost, never read-only unknowingly, never two imports at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from observe import tags_in_database, tags_on_disk
from standing import (
    all_tags,
    assert_complete,
    assert_status_is_true,
    importers,
    imports_started,
    refuses_pushes,
)
from workplace import Outcome, Workplace, end, outcomes

pytestmark = [pytest.mark.lab]
CLEAR = "secondary.import/clear-half-import", "primary.import/clear-half-import"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit or process.poll() is not None:
            raise AssertionError(f"the point was not reached: {process.communicate(timeout=10)[0]}")
        time.sleep(0.02)


def kernel_of(runner: int) -> psutil.Process:
    """The kernel process below a runner."""
    for child in psutil.Process(runner).children(recursive=True):
        if any("ipykernel" in part for part in child.cmdline()):
            return child
    raise AssertionError("no kernel runs")


def begun(workplace: Workplace, step: str) -> Callable[[], bool]:
    """Whether a ledger says that this step was begun, counted from now on."""
    before = started_steps(workplace.records).count(step)
    return lambda: started_steps(workplace.records).count(step) > before


def started_steps(records: Path) -> list[str]:
    """Steps as any run began them."""
    lines = [line for path in records.glob("*/ledger.jsonl") for line in path.read_text().splitlines(True)]
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry["step"] for entry in entries if entry["event"] == "step.started"]


def newest(workplace: Workplace) -> str:
    return max(workplace.records.glob("*/ledger.jsonl"), key=lambda path: path.stat().st_mtime).parent.name


def entries_of(workplace: Workplace, run: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (workplace.records / run / "ledger.jsonl").read_text().splitlines()]


def in_the_import(workplace: Workplace, site: str) -> Callable[[], bool]:
    """Whether a site's import is at work and has some of the tags, and not all of them."""
    everything = len(tags_on_disk(workplace.lab, site))

    def reached() -> bool:
        if not importers(workplace, site):
            return False
        with psycopg.connect(workplace.lab.metadata_dsn(site)) as connection:
            return 0 < connection.execute("SELECT count(*) FROM tags").fetchone()[0] < everything  # type: ignore[index]

    return reached


def stopped_at(workplace: Workplace, how: str | int, reached: Callable[[], bool], *arguments: str) -> tuple[int, str]:
    """Start a run, and when the point is reached end it: its kernel or itself by SIGKILL, or itself by a signal.

    Returns exit status and output. Its kernel is gone, too: nothing of it can change anything any more.
    """
    process = workplace.start("--approve", "all", *arguments)
    try:
        wait_for(reached, process)
        kernel = kernel_of(process.pid)
        if how == "kernel":
            kernel.kill()
        else:
            process.send_signal(int(how) if isinstance(how, int) else signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
        with contextlib.suppress(psutil.NoSuchProcess):
            kernel.wait(timeout=30)  # a kernel notices within a second that its runner is gone
    finally:
        end(process)
    return process.returncode, output


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
            reached = in_the_import(workplace, section.partition(".")[0])
        status, output = stopped_at(workplace, how, reached, *resume)
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


# the import itself is killed


def kill_the_import(workplace: Workplace, site: str) -> int:
    """Freeze the import where it is, see how far it is, and kill its job whole. Returns the number of tags it left."""
    (registry,) = importers(workplace, site)
    os.kill(registry.pid, signal.SIGSTOP)
    session = os.getsid(registry.pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.kill()
    psutil.wait_procs([registry], timeout=30)
    return len(tags_in_database(workplace.lab, site))


def test_an_import_that_is_killed_is_never_imported_over(fresh_workplace: Workplace) -> None:
    """The import's own job is killed in the middle: on the secondary under the eyes of its run, on the primary together
    with the kernel. The half that it left is refused until its removal is approved by its own full name. The two steps
    that are there for this alone are crashed, too.
    """
    workplace = fresh_workplace
    before = all_tags(workplace)

    process = workplace.start("--approve", "all")
    try:
        wait_for(in_the_import(workplace, "secondary"), process)
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
        wait_for(in_the_import(workplace, "primary"), process)
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
