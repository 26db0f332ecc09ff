"""Killed at every point and resumed: no tag lost, never read-only unknowingly, never two imports at once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from observe import commands, tags_in_database, tags_on_disk
from workplace import Outcome, Workplace, end, outcomes

from georeg_lab.images import LOST

pytestmark = [pytest.mark.lab]
COMPLETE = {"done", "no-op", "skipped by rule"}


def imports_started(workplace: Workplace) -> dict[str, int]:
    """How often `registry-database import` was called on each node."""
    log = [argv for argv in commands(workplace.lab) if argv[:3] == ["gitlab-ctl", "registry-database", "import"]]
    return {"all": len(log)}


def assert_complete(workplace: Workplace, last: Outcome, before: dict[str, dict[tuple[str, str], str]]) -> None:
    assert last.status == 0, last.output
    assert set(outcomes(last.ledger).values()) <= COMPLETE
    for site, tags in before.items():
        expected = {key: digest for key, digest in tags.items() if key != LOST}
        found = tags_in_database(workplace.lab, site)
        assert {key: found.get(key) for key in expected} == expected
    assert imports_started(workplace) == {"all": 2}


@pytest.mark.xdist_group("crashes")
def test_a_crash_injected_at_every_step(fresh_workplace: Workplace) -> None:
    before = {site: tags_on_disk(fresh_workplace.lab, site) for site in ("primary", "secondary")}
    planned = fresh_workplace.run()
    assert planned.status == 0, planned.output
    steps = list(outcomes(planned.ledger))
    assert len(steps) >= 8
    run_id = ""
    for step in steps:
        for point in ("before", "after-apply"):
            resume = ["--resume", run_id] if run_id else []
            crashed = fresh_workplace.run("--approve", "all", *resume, env={"GEOREG_CRASH_AT": f"{step}:{point}"})
            assert crashed.status != 0, f"{step}:{point} did not crash\n{crashed.output}"
            run_id = run_id or crashed.record.name
            status = fresh_workplace.georeg("status", "-f", "parameters/lab/migrate-legacy.yml")
            assert status.status == 0, status.output
            for site in ("primary", "secondary"):
                assert_read_only_is_known(fresh_workplace, site, status.output)
    last = fresh_workplace.run("--approve", "all", "--resume", run_id)
    assert_complete(fresh_workplace, last, before)


def assert_read_only_is_known(workplace: Workplace, site: str, status: str) -> None:
    """What `georeg status` says of a site's registry is what its registry does."""
    client = workplace.lab.registry_client(site)
    answer = client.request("POST", "/v2/lab/canary/blobs/uploads/", "repository:lab/canary:pull,push")
    if answer.status_code == 202:
        client.request("DELETE", answer.headers["Location"], "repository:lab/canary:pull,push")
    line = next(line for line in status.splitlines() if re.search(rf"\b{site}\b", line) and "read" in line.lower())
    said_read_only = "read-only" in line
    assert said_read_only == (answer.status_code == 405), line


def wait_for(condition: Callable[[], bool], process: object, seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit or process.poll() is not None:  # type: ignore[attr-defined]
            raise AssertionError("the point at which to kill was not reached")
        time.sleep(0.05)


def kernel_of(runner: int) -> psutil.Process:
    """The kernel process below a runner."""
    for child in psutil.Process(runner).children(recursive=True):
        if any("ipykernel" in part for part in child.cmdline()):
            return child
    raise AssertionError("no kernel runs")


def step_started(workplace: Workplace, step: str) -> Callable[[], bool]:
    """Whether the newest ledger says that this step was begun, counted from now on."""
    before = started_steps(workplace).count(step)
    return lambda: started_steps(workplace).count(step) > before


def started_steps(workplace: Workplace) -> list[str]:
    """Steps in the order in which any run began them."""
    lines = [line for path in workplace.records.glob("*/ledger.jsonl") for line in path.read_text().splitlines(True)]
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry["step"] for entry in entries if entry["event"] == "step.started"]


POINTS = [
    ("kernel", "hold/hold-image-sync"),
    ("runner", "secondary.import/connect-database"),
    ("kernel", "secondary.import/migrate-schema"),
    ("runner", "secondary.import/read-only"),
    ("kernel", "secondary.import/import"),
    ("runner", "primary.import/import"),
    ("kernel", "primary.import/enable-database"),
    ("runner", "release/release-image-sync"),
]


@pytest.mark.xdist_group("kills")
def test_kernel_and_runner_killed_at_eight_points(fresh_workplace: Workplace) -> None:
    before = {site: tags_on_disk(fresh_workplace.lab, site) for site in ("primary", "secondary")}
    run_id = ""
    for victim, step in POINTS:
        resume = ["--resume", run_id] if run_id else []
        reached = step_started(fresh_workplace, step)
        process = fresh_workplace.start("--approve", "all", *resume)
        try:
            wait_for(reached, process)
            if step.endswith("/import"):
                time.sleep(0.4)  # into the import, not before it
            if victim == "kernel":
                kernel_of(process.pid).kill()
                assert process.wait(timeout=120) != 0
            else:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(timeout=60)
        finally:
            end(process)
        run_id = run_id or max(path.name for path in fresh_workplace.records.iterdir())
    last = fresh_workplace.run("--approve", "all", "--resume", run_id)
    assert_complete(fresh_workplace, last, before)


@pytest.mark.xdist_group("kills")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_recorded_and_exits_by_its_name(fresh_workplace: Workplace, number: int, status: int) -> None:
    reached = step_started(fresh_workplace, "secondary.import/migrate-schema")
    process = fresh_workplace.start("--approve", "all")
    try:
        wait_for(reached, process)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == status, output
    assert "--resume" in output
