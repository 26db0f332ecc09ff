"""geo-logcursor: reads the replicated event log on a secondary and queues a job per event (rails 1.3).

    python -m georeg_lab.rails.logcursor --root ROOT

Events that are read while replication is off are skipped: the cursor moves on (procedures 2.6 H4).
"""

from __future__ import annotations

import threading
from pathlib import Path

from georeg_lab.layout import root_from_environment
from georeg_lab.rails import jobs
from georeg_lab.rails.config import Config, Databases
from georeg_lab.rails.service import run_until_stopped

BATCH = 200


def read_events(databases: Databases) -> bool:
    """Queue a job for each event behind the cursor, and move the cursor. True when there may be more."""
    query = "SELECT coalesce(max(event_id), 0) FROM event_log_states"
    cursor = databases.value(query, database="geo")
    query = (
        "SELECT log.id, event.replicable_name, event.event_name, event.payload FROM geo_event_log AS log"
        " JOIN geo_events AS event ON event.id = log.geo_event_id WHERE log.id > %s ORDER BY log.id LIMIT %s"
    )
    events = databases.all(query, [cursor, BATCH])
    if not events:
        return False
    with databases.tracking.transaction():
        for event in events:
            if event["replicable_name"] == jobs.REPLICABLE and databases.config.replication_enabled:
                jobs.enqueue(databases, jobs.EVENT_WORKER, jobs.REPLICABLE, event["event_name"], event["payload"])
        last = events[-1]["id"]
        databases.run("INSERT INTO event_log_states (event_id) VALUES (%s)", [last], database="geo")
        databases.run("DELETE FROM event_log_states WHERE event_id < %s", [last], database="geo")
    return len(events) == BATCH


def main(root: Path) -> None:
    """Read events until SIGTERM."""
    databases = Databases(Config.load(root))
    run_until_stopped(lambda: read_events(databases), threading.Event())


if __name__ == "__main__":
    main(root_from_environment())
