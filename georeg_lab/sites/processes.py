"""Processes that belong to a lab, found by what they were started with, so that nothing outlives `down`."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from georeg_lab.layout import Lab


def processes_of(lab: Lab) -> list[int]:
    """Pids of processes that run on one of the lab's nodes, or serve one of its data directories.

    They have `--root <node root>` or a data directory of the lab among their arguments, or GEOREG_NODE_ROOT in their
    environment (what georeg started on a node, jobs included). The caller and its ancestors are left out.
    """
    roots = {os.fsencode(lab.node_root(node)) for node in lab.nodes}
    spared = set(_ancestors(os.getpid()))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in spared and _belongs(entry, roots, os.fsencode(lab.dir)):
            found.append(int(entry.name))
    return found


def _belongs(process: Path, roots: set[bytes], lab_dir: bytes) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    for option, value in itertools.pairwise(words):
        if (option == b"--root" and value in roots) or (option == b"-D" and value.startswith(lab_dir + b"/")):
            return True
    return any(b"GEOREG_NODE_ROOT=" + root in variables for root in roots)


def _ancestors(pid: int) -> Iterable[int]:
    while pid > 1:
        yield pid
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return


def end(lab: Lab, patience: float = 5) -> None:
    """End every process of the lab: SIGTERM, and SIGKILL for what is left after `patience` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = processes_of(lab)
        for pid in left:
            _kill(pid, number)
        limit = time.monotonic() + patience
        while left and time.monotonic() < limit:
            time.sleep(0.05)
            left = processes_of(lab)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
