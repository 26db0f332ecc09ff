"""End every process that belongs to a folder, and remove the folder: `python tools/sweep.py FOLDER`.

Tests clean up after themselves; this is for those that were interrupted or killed before they could. With `--begin` the
folder becomes that of the calling shell, and what shells that are gone left beside it is swept: a session that was
killed (SIGKILL, no memory) cannot do it itself. Folders without an owner, or of a living one, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import psutil

PATTERN, OWNER = "georeg-test-*", "owner"


def belongs(process: psutil.Process, folder: str) -> bool:
    """By argument, working directory or environment."""
    try:
        words = [process.cwd(), *process.cmdline()]
        words += [value for name, value in process.environ().items() if name.startswith(("GEOREG", "PG"))]
    except psutil.Error:
        return False
    return any(f"{folder}/" in f"{word}/" for word in words)


def at_work(process: psutil.Process) -> bool:
    """What is dead and waits for its parent to notice does nothing any more."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def sweep(folder: Path) -> None:
    """End the folder's processes, and remove it."""
    ours = {parent.pid for parent in psutil.Process().parents()} | {psutil.Process().pid}
    left = [process for process in psutil.process_iter() if process.pid not in ours and belongs(process, str(folder))]
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(f"left behind, ended: {' '.join(process.cmdline())[:120]}", file=sys.stderr)
            process.kill()
    end = time.monotonic() + 10
    while any(at_work(process) for process in left) and time.monotonic() < end:
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def identity(process: psutil.Process) -> str:
    """A process number is used again; together with its start it is not."""
    return f"{process.pid} {process.create_time()}"


def is_dead(folder: Path) -> bool:
    """Whether the folder is ours and had an owner that is gone."""
    try:
        owner = (folder / OWNER).read_text()
        ours = folder.stat().st_uid == os.getuid()
    except OSError:
        return False
    try:
        return ours and identity(psutil.Process(int(owner.split()[0]))) != owner
    except psutil.NoSuchProcess:
        return ours


def main() -> None:
    *options, name = sys.argv[1:]
    folder = Path(name).resolve()
    if options != ["--begin"]:
        sweep(folder)
        return
    (folder / OWNER).write_text(identity(psutil.Process(os.getppid())))
    for other in folder.parent.glob(PATTERN):
        if is_dead(other):
            print(f"sweeping {other}, which a test session left that was killed", file=sys.stderr)
            sweep(other)


if __name__ == "__main__":
    main()
