"""Killed at every point and resumed: no tag lost, never read-only unknowingly, never two imports at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import psycopg
import pytest
from observe import tags_in_database, tags_on_disk
from workplace import Outcome, Workplace, end, outcomes

from georeg_lab.images import LOST
from georeg_nb.runbook.locks import LOCK

pytestmark = [pytest.mark.lab]
COMPLETE = {"done", "no-op", "skipped by rule"}
SITES = ("primary", "secondary")
CLEAR = "secondary.import/clear-half-import", "primary.import/clear-half-import"
PARAMETERS_FILE = ("-f", "parameters/lab/migrate-legacy.yml")

Tags = Mapping[tuple[str, str], str]


# what is asked of the lab


def all_tags(workplace: Workplace) -> dict[str, Tags]:
    return {site: tags_on_disk(workplace.lab, site) for site in SITES}


def imports_started(workplace: Workplace) -> Counter[str]:
    """How often `gitlab-ctl registry-database import` was called on each site."""
    log = workplace.lab.lab.dir / "commands.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return Counter(e["node"] for e in entries if e["argv"][:3] == ["gitlab-ctl", "registry-database", "import"])


def importers(workplace: Workplace, site: str) -> list[psutil.Process]:
    """The processes of a site that import: the registry's own, not the job that waits for it."""
    found, root = [], str(workplace.lab.lab.node_root(site))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if (
                "import" in words
                and "georeg_lab.registry" in words
                and root in process.environ().get("GEOREG_NODE_ROOT", "")
            ):
                found.append(process)
    return found


def keep(workplace: Workplace, site: str, name: str) -> dict[str, object]:
    """What georeg keeps on a site."""
    path = workplace.lab.lab.node_root(site) / f"var/lib/georeg/keep/migrate-legacy/{name}.json"
    return dict(json.loads(path.read_text()))


def refuses_pushes(workplace: Workplace, site: str) -> bool:
    """What the site's registry really does with an upload."""
    client = workplace.lab.registry_client(site)
    answer = client.request("POST", "/v2/lab/canary/blobs/uploads/", "repository:lab/canary:pull,push")
    if answer.status_code == 202:
        client.request("DELETE", answer.headers["Location"], "repository:lab/canary:pull,push")
    assert answer.status_code in (202, 405), answer.text
    return answer.status_code == 405


def assert_status_is_true(workplace: Workplace) -> str:
    """`georeg status` says of every site's pushes what its registry does. Returns what it said."""
    settled(workplace)
    status = workplace.georeg("status", *PARAMETERS_FILE)
    assert status.status == 0, status.output
    for site in SITES:
        line = next(line for line in status.stdout.splitlines() if re.match(rf"{site} +{site}-node ", line))
        assert ("REFUSED" in line) == refuses_pushes(workplace, site), status.output
        assert ("accepted" in line) != ("REFUSED" in line), status.output
    return status.stdout


def settled(workplace: Workplace) -> None:
    """Wait for the reconfigures that went on by themselves, so that the answer is of one moment. Imports may go on."""
    limit = time.monotonic() + 60
    while any("reconfigure" in words for site in SITES for words in jobs_at_work(workplace, site)):
        assert time.monotonic() < limit
        time.sleep(0.1)


def jobs_at_work(workplace: Workplace, site: str) -> list[list[str]]:
    """Command lines of the shells that wait for georeg's jobs on a site."""
    root, found = str(workplace.lab.lab.node_root(site)), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "georeg-job" in words and any(word.startswith(root) for word in words):
                found.append(words)
    return found


def assert_complete(
    workplace: Workplace, last: Outcome, before: Mapping[str, Tags], imports: Mapping[str, int]
) -> None:
    """Everything is done, nothing was lost, nothing is left refused or held, and no import was started too often."""
    assert last.status == 0, last.output
    assert set(outcomes(last.ledger).values()) <= COMPLETE
    for site, tags in before.items():
        expected = {key: digest for key, digest in tags.items() if key != LOST}
        found = tags_in_database(workplace.lab, site)
        assert {key: found.get(key) for key in expected} == expected
        window = keep(workplace, site, "window")
        assert window["closed"], window
        assert window["outcome"] == "migrated"
        assert not (workplace.lab.lab.node_root(site) / LOCK.lstrip("/")).exists()
    assert imports_started(workplace) == imports
    assert "Nothing is going on." in assert_status_is_true(workplace)


# a crash at every step


def test_a_crash_injected_at_every_step(fresh_workplace: Workplace) -> None:
    """One chain: each run takes up the one that died, and dies itself at the next step.

    Every step that has something to do is crashed once: immediately before it and immediately after its change in
    turn, so that each point is met on one of the two sites or the other; the imports in their middle.
    """
    workplace = fresh_workplace
    before = all_tags(workplace)
    planned = workplace.run()
    assert planned.status == 0, planned.output
    steps = [step for step, outcome in outcomes(planned.ledger).items() if outcome == "not approved"]
    assert len(steps) >= 20
    resume: list[str] = []
    for number, step in enumerate(steps):
        point = "during" if step.endswith("/import") else ("before", "after-apply")[number % 2]
        crashed = workplace.run("--approve", "all", *resume, env={"GEOREG_CRASH_AT": f"{step}:{point}"})
        assert "the kernel died" in crashed.ledger[-1]["error"], f"{step}:{point} did not crash\n{crashed.output}"
        assert crashed.status == (1 if point == "before" else 4)
        last = [entry for entry in crashed.ledger if entry["event"].startswith(("step.", "lock."))][-1]
        assert point == "before" or (last["event"], last["step"]) == ("step.started", step)
        resume = ["--resume", crashed.record.name]
        said = assert_status_is_true(workplace)
        assert f"--resume {crashed.record.name}" in said  # the next safe command
    assert_complete(workplace, workplace.run("--approve", "all", *resume), before, {"primary": 1, "secondary": 1})


# killed from outside


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
        left = kill_the_import(workplace, "primary")
        kernel_of(process.pid).kill()
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
