"""The loop of Sidekiq and the log cursor: it waits, ends on a signal, and survives a database that restarts."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable

POLL_SECONDS = 0.5
BUSY_SECONDS = 0.05
AFTER_ERROR_SECONDS = 2.0


def run_until_stopped(work: Callable[[], bool], stopping: threading.Event) -> None:
    """Call `work` until SIGTERM or SIGINT: again soon while it says that there is more, else after a pause."""
    import psycopg
    import requests

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    while not stopping.is_set():
        try:
            pause = BUSY_SECONDS if work() else POLL_SECONDS
        except (psycopg.Error, requests.RequestException, OSError) as problem:
            pause = AFTER_ERROR_SECONDS
            print("".join(traceback.format_exception_only(problem)).strip(), file=sys.stderr, flush=True)
        stopping.wait(pause)
