"""Runs, kernels and imports killed at a chosen moment."""

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
from observe import tags_in_database
from standing import importers
from workplace import Workplace, end

from georeg_lab.registry.held import HELD, HOLD


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
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


def kill_the_import(workplace: Workplace, site: str) -> int:
    """Stop the import where it is, see how far it is, and kill its job whole. Returns the number of tags it left."""
    (registry,) = importers(workplace, site)
    os.kill(registry.pid, signal.SIGSTOP)
    session = os.getsid(registry.pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.kill()
    psutil.wait_procs([registry], timeout=30)
    thaw(workplace, site)
    return len(tags_in_database(workplace.lab, site))


def freezing(workplace: Workplace, site: str, step: str = "") -> Callable[[], bool]:
    """Whether a site's import (of this step) is at work. It is held there until `thaw`, in the middle of the step; an
    import in one step where it has some of the tags.
    """
    root = workplace.lab.lab.node_root(site)
    (root / HELD).unlink(missing_ok=True)
    (root / HOLD).write_text(step or "two")
    return (root / HELD).exists


def thaw(workplace: Workplace, site: str) -> None:
    """Let an import that is held go on by itself; later ones are not held."""
    (workplace.lab.lab.node_root(site) / HOLD).unlink(missing_ok=True)
