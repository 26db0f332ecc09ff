"""An import that is held still, for rehearsing what interrupts one: a seam of the lab, nothing of the registry's.

Whoever rehearses writes the step's word (`one`, `two`, `three`) into HOLD of the node. The import stops in that step,
says so by its process number in HELD, and goes on when HOLD is gone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

HOLD, HELD = "run/hold-import", "run/import-is-held"


def hold(step: str, done: int) -> None:
    """Wait here while this step is to be held, once `done` repositories (or batches of blobs) are behind it."""
    root = os.environ.get("GEOREG_NODE_ROOT")
    if not root or (done < 2 and step != "three"):
        return
    wanted = Path(root, HOLD)
    if not _says(wanted, step):
        return
    held = Path(root, HELD)
    held.write_text(str(os.getpid()))
    while _says(wanted, step):
        time.sleep(0.05)
    held.unlink(missing_ok=True)


def _says(path: Path, step: str) -> bool:
    try:
        return path.read_text() == step
    except FileNotFoundError:
        return False
