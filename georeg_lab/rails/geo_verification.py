"""Geo's own verification of container repositories: a checksum of the tag list on each site (rails 3).

It proves the list alone, not that manifests, children or layers are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from georeg_lab.rails import records, repositories
from georeg_lab.rails.config import Databases, Row
from georeg_lab.rails.geolog import log
from georeg_lab.rails.records import FAILURE_LENGTH, TABLE, VERIFICATION_STATES, delay
from georeg_lab.rails.registry_client import own_client

SERVICE = "Geo::ContainerRepositoryReplicator"
MISMATCH = "Checksum does not match the primary checksum"
PENDING, STARTED, SUCCEEDED, FAILED, DISABLED = range(len(VERIFICATION_STATES))
BATCH = 10


def checksum_of(tags: Iterable[dict[str, str | None]]) -> str:
    """SHA-256 in hex over name + digest of all tags, sorted by the name's bytes, nothing between. A digest that cannot
    be read leaves the name alone."""
    ordered = sorted(tags, key=lambda tag: str(tag["name"]).encode())
    text = "".join(f"{tag['name']}{tag['digest'] or ''}" for tag in ordered)
    return hashlib.sha256(text.encode()).hexdigest()


def checksum(databases: Databases, path: str) -> str:
    """The checksum of a repository of this site's own registry. Raises RegistryError."""
    return checksum_of(own_client(databases, path).tags(path))


def checksum_on_primary(databases: Databases) -> int:
    """Compute what is pending, or failed and due, on the primary. Returns how many were done."""
    states = "container_repository_states"
    key = "container_repository_id"
    databases.run(
        f"INSERT INTO {states} ({key}) SELECT id FROM container_repositories EXCEPT SELECT {key} FROM {states}"
    )
    query = (
        f"UPDATE {states} SET verification_state = {STARTED}, verification_started_at = now()"
        f" WHERE {key} IN (SELECT {key} FROM {states} WHERE verification_state = {PENDING}"
        f" OR (verification_state = {FAILED} AND verification_retry_at < now()) ORDER BY 1 LIMIT {BATCH}) RETURNING *"
    )
    todo = databases.all(query)
    for row in todo:
        _checksum_one(databases, row)
    return len(todo)


def recompute_on_primary(databases: Databases, number: int) -> None:
    """Compute the checksum of one repository now, whatever its state is. Raises LookupError when there is none."""
    if repositories.by_id(databases, number) is None:
        raise LookupError(f"Couldn't find ContainerRepository with 'id'={number}")
    query = (
        "INSERT INTO container_repository_states AS s (container_repository_id, verification_state) VALUES (%(id)s, "
        "%(to)s)"
        " ON CONFLICT (container_repository_id) DO UPDATE SET verification_state = %(to)s, verification_started_at "
        "= now()"
        " RETURNING *"
    )
    row = databases.one(query, {"id": number, "to": STARTED})
    assert row is not None
    _checksum_one(databases, row)


def _checksum_one(databases: Databases, row: Row) -> None:
    number = row["container_repository_id"]
    repository = repositories.by_id(databases, number)
    if repository is None:
        return
    still = f"WHERE container_repository_id = %s AND verification_state = {STARTED}"  # else an event came meanwhile
    try:
        value = bytes.fromhex(checksum(databases, repository["path"]))
    except Exception as problem:
        retries = row["verification_retry_count"] + 1
        query = (
            f"UPDATE container_repository_states SET verification_state = {FAILED}, verification_failure = %s,"
            f" verification_retry_count = %s, verification_retry_at = now() + make_interval(secs => %s) {still}"
        )
        text = f"Error during verification: {problem}"[:FAILURE_LENGTH]
        databases.run(query, [text, retries, delay(retries), number])
        return
    query = (
        f"UPDATE container_repository_states SET verification_state = {SUCCEEDED}, verification_checksum = %s,"
        " verified_at = now(), verification_failure = NULL, verification_retry_count = 0, verification_retry_at = NULL "
        + still
    )
    if databases.run(query, [value, number]) == 1:
        repositories.publish(databases, "checksum_succeeded", number)


def verify_on_secondary(databases: Databases) -> int:
    """Compare what is synced, and pending or due, with the primary's checksum. Returns how many were done."""
    query = (
        f"UPDATE {TABLE} SET verification_state = {STARTED}, verification_started_at = now()"
        f" WHERE id IN (SELECT id FROM {TABLE} WHERE {records.is_state('synced')} AND (verification_state = {PENDING}"
        f" OR (verification_state = {FAILED} AND verification_retry_at < now())) ORDER BY id LIMIT {BATCH}) RETURNING *"
    )
    todo = databases.all(query, database="geo")
    for row in todo:
        _verify_one(databases, row["container_repository_id"])
    return len(todo)


def _verify_one(databases: Databases, number: int) -> None:
    repository = repositories.by_id(databases, number)
    expected = records.primary_checksum(databases, number)
    if repository is None or expected is None:
        _set_verification(databases, number, "verification_state = %s", [DISABLED])
        return
    try:
        found = bytes.fromhex(checksum(databases, repository["path"]))
    except Exception as problem:
        columns = (
            "verification_state = %s, verification_failure = %s,"
            " verification_retry_count = verification_retry_count + 1,"
            " verification_retry_at = now() + make_interval(secs => %s)"
        )
        text = f"Error during verification: {problem}"[:FAILURE_LENGTH]
        _set_verification(databases, number, columns, [FAILED, text, delay(1)])
        return
    if found == expected:
        columns = (
            "verification_state = %s, verification_checksum = %s, verified_at = now(), checksum_mismatch = false,"
            " verification_checksum_mismatched = NULL, verification_failure = NULL, verification_retry_count = 0,"
            " verification_retry_at = NULL"
        )
        _set_verification(databases, number, columns, [SUCCEEDED, found])
        return
    facts = {"primary_checksum": expected.hex(), "checksum": found.hex(), "container_repository_id": number}
    log(databases.config, "ERROR", SERVICE, MISMATCH, **facts)
    text = f'{MISMATCH} {{"checksum":"{found.hex()}","primary_checksum":"{expected.hex()}"}}'[:FAILURE_LENGTH]
    columns = (
        "verification_state = %s, verification_checksum = %s, verification_checksum_mismatched = %s,"
        " checksum_mismatch = true, verification_failure = %s, verification_retry_count = verification_retry_count + 1"
    )
    if _set_verification(databases, number, columns, [FAILED, found, expected, text]):
        records.failed(databases, number, f"Verification failed with: {text}")


def _set_verification(databases: Databases, number: int, columns: str, values: list[object]) -> bool:
    """Write the result unless an event or a sync came meanwhile."""
    query = f"UPDATE {TABLE} SET {columns} WHERE container_repository_id = %s AND verification_state = {STARTED}"
    return databases.run(query, [*values, number], database="geo") == 1
