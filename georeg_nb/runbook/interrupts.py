"""Ctrl-C and SIGTERM while a step is being applied: it ends as 'interrupted', and the jobs on the nodes go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The kernel was told to end. A KeyboardInterrupt, so that all that ends well on Ctrl-C ends well here too."""

    exit_code = 143


class Interrupted(KeyboardInterrupt):
    """A cell was interrupted. IPython shows the message instead of a traceback."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def exit_code(error: BaseException) -> int:
    return int(getattr(error, "exit_code", 130))


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Terminated. Only the main thread can set handlers; elsewhere nothing is set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"signal {number}")

    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
