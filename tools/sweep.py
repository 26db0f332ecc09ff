"""End every process that belongs to a folder, and remove the folder: `python tools/sweep.py FOLDER`.

Tests clean up after themselves; this is for those that were interrupted or killed before they could.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import psutil


def belongs(process: psutil.Process, folder: str) -> bool:
    """By argument, working directory or environment."""
    try:
        if process.cwd().startswith(folder) or any(folder in argument for argument in process.cmdline()):
            return True
        return any(folder in value for name, value in process.environ().items() if name.startswith(("GEOREG", "PG")))
    except psutil.Error:
        return False


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    ours = {parent.pid for parent in psutil.Process().parents()} | {psutil.Process().pid}
    left = [process for process in psutil.process_iter() if process.pid not in ours and belongs(process, str(folder))]
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(f"left behind, ended: {' '.join(process.cmdline())[:120]}", file=sys.stderr)
            process.kill()
    psutil.wait_procs(left, timeout=10)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
