"""The queue and the leases of Sidekiq on a secondary, as rows of the tracking database (GitLab keeps them in Redis)."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from georeg_lab.rails.config import Databases, Row

EVENT_WORKER = "Geo::EventWorker"
SYNC_WORKER = "Geo::SyncWorker"
RESCHEDULED_WORKER = "Geo::ContainerRepositorySyncWorker"
REPLICABLE = "container_repository"
LEASE_PREFIX = "geo_container_sync:"
LEASE_SECONDS = 8 * 3600


def enqueue(databases: Databases, class_name: str, *arguments: Any) -> None:
    """Queue a job, unless the same one waits already (Sidekiq drops such duplicates of idempotent workers)."""
    query = (
        "INSERT INTO sidekiq_jobs (class, args) SELECT %s, %s::jsonb WHERE NOT EXISTS"
        " (SELECT FROM sidekiq_jobs WHERE class = %s AND args = %s::jsonb AND started_at IS NULL)"
    )
    text = json.dumps(arguments)
    databases.run(query, [class_name, text, class_name, text], database="geo")


def claim(databases: Databases) -> Row | None:
    """Take the oldest waiting job for this process; None when none waits."""
    query = (
        "UPDATE sidekiq_jobs SET started_at = clock_timestamp(), pid = %s WHERE id = (SELECT id FROM sidekiq_jobs"
        " WHERE started_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *"
    )
    return databases.one(query, [os.getpid()], database="geo")


def finish(databases: Databases, job: int) -> None:
    """The job is done."""
    databases.run("DELETE FROM sidekiq_jobs WHERE id = %s", [job], database="geo")


def requeue(databases: Databases, *, working: Collection[int] = ()) -> None:
    """Put back jobs of processes that are gone, and of this one except those it is `working` on (reliable fetcher)."""
    reset = "UPDATE sidekiq_jobs SET started_at = NULL, pid = NULL WHERE id = %s"
    for row in databases.all("SELECT id, pid FROM sidekiq_jobs WHERE started_at IS NOT NULL", database="geo"):
        if not _alive(row["pid"]) or (row["pid"] == os.getpid() and row["id"] not in working):
            databases.run(reset, [row["id"]], database="geo")


def running(databases: Databases) -> list[Row]:
    """Jobs about container repositories that a living process works on now."""
    rows = databases.all("SELECT * FROM sidekiq_jobs WHERE started_at IS NOT NULL ORDER BY id", database="geo")
    return [row for row in rows if _alive(row["pid"])]


def leases(databases: Databases) -> list[str]:
    """Keys of the sync leases that are held."""
    query = "SELECT key FROM exclusive_leases WHERE starts_with(key, %s) AND expires_at > now() ORDER BY key"
    return [row["key"] for row in databases.all(query, [LEASE_PREFIX], database="geo")]


@contextmanager
def lease(databases: Databases, key: str, seconds: int = LEASE_SECONDS) -> Iterator[bool]:
    """Hold a lease while the block runs; False: somebody else holds it. A killed process leaves it to its end."""
    query = (
        "INSERT INTO exclusive_leases VALUES (%s, %s, now() + make_interval(secs => %s)) ON CONFLICT (key) DO UPDATE"
        " SET uuid = excluded.uuid, expires_at = excluded.expires_at WHERE exclusive_leases.expires_at <= now()"
    )
    mine = str(uuid.uuid4())
    obtained = databases.run(query, [key, mine, seconds], database="geo") == 1
    try:
        yield obtained
    finally:
        if obtained:
            databases.run("DELETE FROM exclusive_leases WHERE key = %s AND uuid = %s", [key, mine], database="geo")


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
