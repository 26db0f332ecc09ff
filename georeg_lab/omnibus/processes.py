"""Processes by pid and start time, from /proc: a pid that is used again is never taken for the old process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process: `ticks` is its start in clock ticks since boot."""

    pid: int
    ticks: int


class _Stat(NamedTuple):
    state: str
    parent: int
    ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def find(pid: int) -> Process | None:
    """The process that has this pid now, None when there is none or it is a zombie (a child of ours is reaped)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    stat = _stat(pid)
    return Process(pid, stat.ticks) if stat is not None and stat.state not in "ZX" else None


def alive(process: Process) -> bool:
    """This very process runs."""
    return find(process.pid) == process


def descendants(process: Process) -> list[Process]:
    """All processes below this one, however they changed their sessions."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None and stat.state not in "ZX":
            children.setdefault(stat.parent, []).append(Process(int(entry.name), stat.ticks))
    found: list[Process] = []
    pending = [process.pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += [child.pid for child in below]
    return found


def send(process: Process, number: int) -> None:
    """Signal this very process; nothing if it is gone."""
    if alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_gone(processes: Iterable[Process], timeout: float) -> list[Process]:
    """Wait until none of them runs; what still runs after `timeout` seconds."""
    end = time.monotonic() + timeout
    left = [process for process in processes if alive(process)]
    pause = 0.01
    while left and time.monotonic() < end:
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
        left = [process for process in left if alive(process)]
    return left


def end(process: Process, number: int, timeout: float) -> None:
    """Stop a process with everything below it: `number`, then after `timeout` seconds SIGKILL."""
    family = [process, *descendants(process)]
    send(process, number)
    if wait_gone([process], timeout):
        family = list({*family, *descendants(process)})
        send(process, signal.SIGKILL)
    for straggler in wait_gone(family, 2):
        send(straggler, signal.SIGKILL)
    wait_gone(family, 5)
