"""Records of the tracking database for container repositories: their states and how they change (rails 4)."""

from __future__ import annotations

import random
from typing import Any

from georeg_lab.rails.config import Databases, Row

STATES = ("pending", "started", "synced", "failed")
VERIFICATION_STATES = ("pending", "started", "succeeded", "failed", "disabled")
VERIFIED = VERIFICATION_STATES.index("succeeded")
TABLE = "container_repository_registry"
FAILURE_LENGTH = 255
SYNC_TIMEOUT = "8 hours"
MAXIMUM_DELAY = 3600


class InvalidTransition(Exception):
    """The record is in a state that the change does not start from."""


def number(state: str | int | None) -> int:
    """A state as number, whether the column holds a number or a word."""
    text = str(state)
    return STATES.index(text) if text in STATES else int(text)


def word(state: str | int | None) -> str:
    """A state as word, whether the column holds a number or a word."""
    return STATES[number(state)]


def is_state(*names: str) -> str:
    """SQL: `state` is one of these; the text column holds numbers or words."""
    values = [value for name in names for value in (name, str(STATES.index(name)))]
    return "state IN (" + ", ".join(f"'{value}'" for value in values) + ")"


def delay(retry_count: int) -> int:
    """Seconds until the next attempt: grows with the count, with chance, at most an hour.

    Sidekiq's own formula; that GitLab uses it here was not read.
    """
    return min(retry_count**4 + 15 + random.randrange(30) * (retry_count + 1), MAXIMUM_DELAY)  # noqa: S311


def find(databases: Databases, repository: int) -> Row | None:
    """The record of a container repository."""
    return databases.one(f"SELECT * FROM {TABLE} WHERE container_repository_id = %s", [repository], database="geo")


def pending(databases: Databases, repository: int) -> None:
    """Any state → pending; made when there is none. Sets retry count and time back (rails 2.1)."""
    query = (
        f"INSERT INTO {TABLE} (container_repository_id) VALUES (%s) ON CONFLICT (container_repository_id)"
        " DO UPDATE SET state = '0', retry_count = 0, retry_at = NULL"
    )
    databases.run(query, [repository], database="geo")


def start(databases: Databases, repository: int) -> None:
    """Pending, synced or failed → started. Raises InvalidTransition otherwise."""
    query = (
        f"UPDATE {TABLE} SET state = '1', last_synced_at = now() WHERE container_repository_id = %s"
        f" AND {is_state('pending', 'synced', 'failed')}"
    )
    if databases.run(query, [repository], database="geo") == 0:
        raise InvalidTransition(
            'Cannot transition state via :start from :started (Reason(s): State cannot transition via "start")'
        )


def synced(databases: Databases, repository: int) -> bool:
    """Started → synced in one update; False when the record is no longer started. Verification follows if the primary
    has a checksum, else it is disabled."""
    query = (
        f"UPDATE {TABLE} SET state = '2', retry_count = 0, retry_at = NULL, last_sync_failure = NULL,"
        " missing_on_primary = false, verification_state = %s"
        f" WHERE container_repository_id = %s AND {is_state('started')}"
    )
    after = "pending" if primary_checksum(databases, repository) else "disabled"
    return databases.run(query, [VERIFICATION_STATES.index(after), repository], database="geo") == 1


def failed(databases: Databases, repository: int, message: str) -> None:
    """Any state → failed: text cut at 255 characters, one more retry, later each time."""
    record = find(databases, repository)
    retries = int(record["retry_count"] or 0) + 1 if record else 1
    query = (
        f"UPDATE {TABLE} SET state = '3', last_sync_failure = %s, retry_count = %s,"
        " retry_at = now() + make_interval(secs => %s) WHERE container_repository_id = %s"
    )
    values = [message[:FAILURE_LENGTH], retries, delay(retries), repository]
    databases.run(query, values, database="geo")


def fail_timed_out(databases: Databases) -> None:
    """Started for longer than eight hours → failed."""
    query = (
        f"SELECT container_repository_id FROM {TABLE} WHERE {is_state('started')}"
        f" AND last_synced_at < now() - interval '{SYNC_TIMEOUT}'"
    )
    for row in databases.all(query, database="geo"):
        failed(databases, row["container_repository_id"], f"Sync timed out after {SYNC_TIMEOUT}")


def due(databases: Databases, limit: int) -> list[int]:
    """Repositories to sync: pending, or failed and due; the one that was synced longest ago first (rails 1.4)."""
    query = (
        f"SELECT container_repository_id FROM {TABLE} WHERE {is_state('pending')}"
        f" OR ({is_state('failed')} AND (retry_at IS NULL OR retry_at < now()))"
        " ORDER BY last_synced_at NULLS FIRST, id LIMIT %s"
    )
    return [row["container_repository_id"] for row in databases.all(query, [limit], database="geo")]


def verification_pending(databases: Databases, repository: int) -> None:
    """Verify again; only where there is a record."""
    query = (
        f"UPDATE {TABLE} SET verification_state = 0, verification_retry_at = NULL, verification_retry_count = 0"
        " WHERE container_repository_id = %s"
    )
    databases.run(query, [repository], database="geo")


def primary_checksum(databases: Databases, repository: int) -> bytes | None:
    """The primary's checksum in the replicated main database, None unless its verification succeeded."""
    query = (
        "SELECT verification_checksum FROM container_repository_states"
        f" WHERE container_repository_id = %s AND verification_state = {VERIFIED}"
    )
    found: Any = databases.value(query, [repository])
    return None if found is None else bytes(found)
