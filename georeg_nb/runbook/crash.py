"""Test seam: GEOREG_CRASH_AT="<step id>:before|during|after-apply" ends this process without any goodbye at that point.

It stands in for a power cut. `during` is at the first sign of progress of the step, or half a second after its start.
"""

from __future__ import annotations

import os
import signal
import threading

BEFORE, DURING, AFTER_APPLY = "before", "during", "after-apply"
_WAIT = 0.5


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class CrashPoint:
    """The points of one step at which the process may be told to die."""

    def __init__(self, step_id: str) -> None:
        wanted, _, point = os.environ.get("GEOREG_CRASH_AT", "").rpartition(":")
        self._point = point if wanted == step_id else ""
        self._applying = False

    def reach(self, point: str) -> None:
        if point == self._point:
            _die()

    def applying(self) -> None:
        """The change begins."""
        self._applying = self._point == DURING
        if self._applying:
            timer = threading.Timer(_WAIT, _die)
            timer.daemon = True
            timer.start()

    def progress(self) -> None:
        """The change shows progress."""
        if self._applying:
            _die()
