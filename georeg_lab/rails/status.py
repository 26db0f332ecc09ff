"""A site's Geo status: computed on the site, kept in the primary's database, read through the API.

Source: rails 7, procedures 5.2.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from georeg_lab.rails import geo_verification, records, tokens
from georeg_lab.rails.config import REVISION, Config, Databases, Row, current_site
from georeg_lab.rails.datatypes import ALL, CONTAINER_REPOSITORIES, DataType
from georeg_lab.rails.geolog import log

COUNTED_AT = "container_repositories_counted_at"
REPORT_SCOPE = "geo_node_status"
REPORT_PATH = "/api/v4/geo/status"
OUTDATED = timedelta(minutes=60)
STALE = "Geo node status has not been updated in over 60 minutes. Site status may be stale."
NOT_STREAMING = "The Geo site does not appear to be replicating the database from the primary site."
WRITABLE = (
    "The Geo site has a database that is writable which is an indication it is not configured for replication with"
    " the primary site."
)
COLUMNS = (
    "status_message", "db_replication_lag_seconds", "last_event_id", "last_event_date", "cursor_last_event_id",
    "cursor_last_event_date", "last_successful_status_check_at", "replication_slots_count",
    "replication_slots_used_count", "replication_slots_max_retained_wal_bytes", "version", "revision",
    "storage_configuration_digest", "status",
)  # fmt: skip
COUNTERS = (
    "count", "checksum_total_count", "checksummed_count", "checksum_failed_count", "synced_count", "failed_count",
    "registry_count", "verification_total_count", "verified_count", "verification_failed_count",
    "oldest_unsynced_time",
)  # fmt: skip


def report(databases: Databases) -> None:
    """Compute this site's status and hand it in. Raises LookupError where no site record has this node's name."""
    site = current_site(databases)
    if site is None:
        raise LookupError("Current node is not a Geo site")
    hand_in(
        databases, site, compute_primary(databases, site) if site["primary"] else compute_secondary(databases, site)
    )


def hand_in(databases: Databases, site: Row, facts: Row) -> None:
    """The primary writes its status, a secondary posts it to the primary (a failure is only logged)."""
    if site["primary"]:
        store(databases, site["id"], facts)
    else:
        _post(databases, site, facts)


def compute_primary(databases: Databases, site: Row, keep_count: float = 0) -> Row:
    """The primary's status. `keep_count`: the number of container repositories may be so many seconds old (Sidekiq
    caches it, up to an hour; a console or a Rake task counts anew)."""
    facts = _common(databases)
    slots = databases.one(
        "SELECT count(*) AS count, count(*) FILTER (WHERE active) AS used,"
        " max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint AS retained FROM pg_replication_slots"
    )
    if slots:
        facts["replication_slots_count"] = slots["count"]
        facts["replication_slots_used_count"] = slots["used"]
        facts["replication_slots_max_retained_wal_bytes"] = slots["retained"]
    for kind in ALL:
        facts["status"].update(_primary_counts(databases, kind))
    now, status = time.time(), facts["status"]
    old = databases.value("SELECT status FROM geo_node_statuses WHERE geo_node_id = %s", [site["id"]]) or {}
    counted_at = old.get(COUNTED_AT, 0)
    if now - counted_at < keep_count:
        status["container_repositories_count"] = old["container_repositories_count"]
    status[COUNTED_AT] = counted_at if now - counted_at < keep_count else now
    return facts


def compute_secondary(databases: Databases, site: Row) -> Row:
    """A secondary's status. Counts of a type whose replication is off are not refreshed: null, or the old ones."""
    facts = _common(databases)
    in_recovery = databases.value("SELECT pg_is_in_recovery()")
    if not in_recovery:
        facts["status_message"] = WRITABLE
    elif not databases.value("SELECT count(*) FROM pg_stat_wal_receiver"):
        facts["status_message"] = NOT_STREAMING
    if in_recovery:
        facts["db_replication_lag_seconds"] = databases.value(
            "SELECT CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0"
            " ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp())::int END"
        )
    cursor = databases.one("SELECT * FROM event_log_states ORDER BY event_id DESC LIMIT 1", database="geo")
    if cursor:
        facts["cursor_last_event_id"] = cursor["event_id"]
        event = databases.value("SELECT created_at FROM geo_event_log WHERE id = %s", [cursor["event_id"]])
        facts["cursor_last_event_date"] = event or cursor["created_at"]
    old = databases.value("SELECT status FROM geo_node_statuses WHERE geo_node_id = %s", [site["id"]]) or {}
    for kind in ALL:
        enabled = kind is not CONTAINER_REPOSITORIES or databases.config.replication_enabled
        names = [f"{kind.plural}_{counter}" for counter in COUNTERS]
        counts = secondary_counts(databases, kind) if enabled else {name: old[name] for name in names if name in old}
        facts["status"].update({**counts, f"{kind.plural}_replication_enabled": enabled})
    return facts


def _common(databases: Databases) -> Row:
    event = databases.one("SELECT id, created_at FROM geo_event_log ORDER BY id DESC LIMIT 1") or {}
    digest = hashlib.sha256("\n".join(sorted(databases.config.storages)).encode()).hexdigest()
    return {
        "status_message": "Healthy",
        "last_event_id": event.get("id"),
        "last_event_date": event.get("created_at"),
        "last_successful_status_check_at": datetime.now(UTC),
        "version": databases.config.version.removesuffix("-ee"),
        "revision": REVISION,
        "storage_configuration_digest": digest,
        "status": {},
    }


def _primary_counts(databases: Databases, kind: DataType) -> Row:
    failed, succeeded = geo_verification.FAILED, geo_verification.SUCCEEDED
    query = (
        f"SELECT (SELECT count(*) FROM {kind.model}) AS count,"
        f" (SELECT count(*) FROM {kind.model}) AS checksum_total_count,"
        f" count(*) FILTER (WHERE verification_state = {succeeded}) AS checksummed_count,"
        f" count(*) FILTER (WHERE verification_state = {failed}) AS checksum_failed_count FROM {kind.states}"
    )
    return {f"{kind.plural}_{name}": value for name, value in (databases.one(query) or {}).items()}


def secondary_counts(databases: Databases, kind: DataType) -> Row:
    """Counts of a type from the tracking database, named as in the API. `count` is the secondary's own records."""
    text_state = kind is CONTAINER_REPOSITORIES
    synced, failed = (
        records.is_state(word) if text_state else f"state = {records.number(word)}" for word in ("synced", "failed")
    )
    verified, unverified = geo_verification.SUCCEEDED, geo_verification.FAILED
    query = (
        "SELECT count(*) AS count, count(*) AS registry_count,"
        f" count(*) FILTER (WHERE {synced}) AS synced_count, count(*) FILTER (WHERE {failed}) AS failed_count,"
        " count(*) AS verification_total_count,"
        f" count(*) FILTER (WHERE {synced} AND verification_state = {verified}) AS verified_count,"
        f" count(*) FILTER (WHERE verification_state = {unverified}) AS verification_failed_count,"
        f" coalesce(min(extract(epoch FROM created_at)) FILTER (WHERE NOT {synced}), -1)::bigint"
        " AS oldest_unsynced_time"
        f" FROM {kind.registry}"
    )
    found = databases.one(query, database="geo") or {}
    return {f"{kind.plural}_{name}": value for name, value in found.items()}


def _post(databases: Databases, site: Row, facts: Row) -> None:
    import requests

    config: Config = databases.config
    primary = databases.one('SELECT * FROM geo_nodes WHERE "primary"') or {}
    url = str(primary.get("internal_url") or primary.get("url") or "").rstrip("/") + REPORT_PATH
    body = json.dumps(facts, default=str)
    headers = {
        "Authorization": tokens.geo_authorization(databases.config, site, REPORT_SCOPE),
        "Content-Type": "application/json",
    }
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.verify = config.ca_file
            response = session.post(url, data=body, headers=headers, timeout=10)
        response.raise_for_status()
    except requests.RequestException as problem:
        message = "Failed to Net::HTTP request to primary url"
        log(config, "ERROR", "Geo::NodeStatusRequestService", message, primary_url=url, error=str(problem))


def store(databases: Databases, site: int, facts: Row) -> None:
    """Write a site's status into the main database (on the primary)."""
    values = {name: facts.get(name) for name in COLUMNS}
    values["status"] = json.dumps(facts.get("status") or {})
    digest = values["storage_configuration_digest"]
    values["storage_configuration_digest"] = bytes.fromhex(str(digest)) if digest else None
    names = ", ".join(COLUMNS)
    marks = ", ".join(f"%({name})s" for name in COLUMNS)
    updates = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)
    query = (
        f"INSERT INTO geo_node_statuses (geo_node_id, updated_at, {names}) VALUES (%(site)s, now(), {marks})"
        f" ON CONFLICT (geo_node_id) DO UPDATE SET updated_at = excluded.updated_at, {updates}"
    )
    databases.run(query, {**values, "site": site})


def health(row: Row) -> tuple[bool, str]:
    """Healthy or not, and the text: the message must be empty or `Healthy`, the status younger than 60 minutes."""
    message = row["status_message"] or "Healthy"
    updated = row["updated_at"]
    if updated is not None and datetime.now(UTC) - updated > OUTDATED:
        return False, message if message != "Healthy" else STALE
    return message == "Healthy", message


def percentage(part: Any, total: Any) -> str:
    """`"92.86%"`; `"0.00%"` when there is nothing."""
    return f"{100 * part / total:.2f}%" if part and total else "0.00%"


def _epoch(value: datetime | None) -> int | None:
    return None if value is None else int(value.timestamp())


def present(databases: Databases, row: Row, site: Row, base: str) -> Row:
    """The API's form of a status row; `base` is the URL of `/api/v4` for the links."""
    primary = databases.one(
        "SELECT storage_configuration_digest AS digest FROM geo_node_statuses"
        ' JOIN geo_nodes ON geo_nodes.id = geo_node_id WHERE "primary"'
    )
    digest = row["storage_configuration_digest"]
    healthy, text = health(row)
    shown: Row = {
        "geo_node_id": site["id"],
        "healthy": healthy,
        "health": text,
        "health_status": "Healthy" if healthy else "Unhealthy",
        "missing_oauth_application": not site["primary"] and site["oauth_application_id"] is None,
        "db_replication_lag_seconds": row["db_replication_lag_seconds"],
    }
    for kind in ALL:
        status, name = row["status"], kind.plural
        shown[f"{name}_replication_enabled"] = status.get(f"{name}_replication_enabled")
        shown.update({f"{name}_{counter}": status.get(f"{name}_{counter}") for counter in COUNTERS})
        total = status.get(f"{name}_registry_count")
        for part in ("synced", "verified"):
            shown[f"{name}_{part}_in_percentage"] = percentage(status.get(f"{name}_{part}_count"), total)
    used, slots = row["replication_slots_used_count"], row["replication_slots_count"]
    return {
        **shown,
        "replication_slots_count": slots,
        "replication_slots_used_count": used,
        "replication_slots_used_in_percentage": percentage(used, slots),
        "replication_slots_max_retained_wal_bytes": row["replication_slots_max_retained_wal_bytes"],
        "last_event_id": row["last_event_id"],
        "last_event_timestamp": _epoch(row["last_event_date"]),
        "cursor_last_event_id": row["cursor_last_event_id"],
        "cursor_last_event_timestamp": _epoch(row["cursor_last_event_date"]),
        "last_successful_status_check_timestamp": _epoch(row["last_successful_status_check_at"]),
        "version": row["version"],
        "revision": row["revision"],
        "storage_shards": [{"name": name} for name in databases.config.storages],
        "storage_shards_match": site["primary"]
        or (primary is not None and digest is not None and digest == primary["digest"]),
        "selective_sync_type": site["selective_sync_type"],
        "namespaces": [],
        "updated_at": f"{row['updated_at']:%Y-%m-%dT%H:%M:%S}.{row['updated_at'].microsecond // 1000:03d}Z",
        "_links": {"self": f"{base}/geo_sites/{site['id']}/status", "site": f"{base}/geo_sites/{site['id']}"},
    }
