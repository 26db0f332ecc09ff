"""Geo's registry records over GraphQL (procedures 5.4): the query, both mutations, and `__type`.

The records live in the tracking database of the site that answers: `geoNode` of another name has none.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from georeg_lab.rails import jobs, records, repositories
from georeg_lab.rails.config import Databases, Row
from georeg_lab.rails.graphql_language import Field, SyntaxProblem, parse

GLOBAL_ID = "gid://gitlab/Geo::ContainerRepositoryRegistry/"
REGISTRY_CLASS = "CONTAINER_REPOSITORY_REGISTRY"
PAGE = 100
NOT_THERE = (
    "The resource that you are attempting to access does not exist or you don't have permission to perform this action"
)


class QueryProblem(Exception):
    """Becomes an entry of `errors`; the answer is still 200."""


def _time(value: datetime | None) -> str | None:
    return None if value is None else f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _hex(value: bytes | None) -> str | None:
    return None if value is None else bytes(value).hex()


REGISTRY_FIELDS: dict[str, Callable[[Row], Any]] = {
    "id": lambda row: f"{GLOBAL_ID}{row['id']}",
    "state": lambda row: records.word(row["state"]).upper(),
    "retryCount": lambda row: row["retry_count"],
    "retryAt": lambda row: _time(row["retry_at"]),
    "lastSyncFailure": lambda row: row["last_sync_failure"],
    "lastSyncedAt": lambda row: _time(row["last_synced_at"]),
    "createdAt": lambda row: _time(row["created_at"]),
    "verificationState": lambda row: records.VERIFICATION_STATES[row["verification_state"]].upper(),
    "verificationStartedAt": lambda row: _time(row["verification_started_at"]),
    "verifiedAt": lambda row: _time(row["verified_at"]),
    "verificationRetryAt": lambda row: _time(row["verification_retry_at"]),
    "verificationRetryCount": lambda row: row["verification_retry_count"],
    "verificationFailure": lambda row: row["verification_failure"],
    "verificationChecksum": lambda row: _hex(row["verification_checksum"]),
    "verificationChecksumMismatched": lambda row: _hex(row["verification_checksum_mismatched"]),
    "checksumMismatch": lambda row: row["checksum_mismatch"],
    "missingOnPrimary": lambda row: row["missing_on_primary"],
    "modelRecordId": lambda row: row["container_repository_id"],
    "containerRepositoryId": lambda row: str(row["container_repository_id"]),
}
SITE_FIELDS: dict[str, Callable[[Row], Any]] = {
    name: itemgetter(name) for name in ("id", "name", "url", "primary", "enabled")
}
TYPES: dict[str, dict[str, Any]] = {
    "ContainerRepositoryRegistry": {"kind": "OBJECT", "fields": list(REGISTRY_FIELDS)},
    "GeoNode": {"kind": "OBJECT", "fields": [*SITE_FIELDS, "containerRepositoryRegistries"]},
    "GeoRegistryClass": {"kind": "ENUM", "enumValues": [REGISTRY_CLASS]},
    "GeoRegistryAction": {"kind": "ENUM", "enumValues": ["REVERIFY", "RESYNC"]},
    "GeoRegistriesBulkAction": {"kind": "ENUM", "enumValues": ["REVERIFY_ALL", "RESYNC_ALL"]},
    "ReplicationStateEnum": {"kind": "ENUM", "enumValues": [state.upper() for state in records.STATES]},
    "VerificationStateEnum": {"kind": "ENUM", "enumValues": [state.upper() for state in records.VERIFICATION_STATES]},
}


def answer(databases: Databases, body: bytes) -> Row:
    """The reply to a GraphQL request (`query`, `variables`): `data`, or `errors`."""
    try:
        request = json.loads(body)
        operation = parse(str(request["query"]), request.get("variables"))
        roots = {"query": QUERIES, "mutation": MUTATIONS}[operation.kind]
        return {
            "data": {found.alias: _resolve(roots, operation.kind, databases, found) for found in operation.selection}
        }
    except (ValueError, KeyError, TypeError) as problem:
        return {"errors": [{"message": f"No query string was present ({type(problem).__name__})"}]}
    except (SyntaxProblem, QueryProblem) as problem:
        return {"errors": [{"message": str(problem)}]}


def _resolve(
    roots: Mapping[str, Callable[[Databases, Field], Any]], kind: str, databases: Databases, found: Field
) -> Any:
    if found.name not in roots:
        raise QueryProblem(f"Field '{found.name}' doesn't exist on type '{kind.capitalize()}'")
    return roots[found.name](databases, found)


def _select(found: Field, type_name: str, known: Mapping[str, Callable[[Row], Any]], row: Row) -> Row:
    shown: Row = {}
    for wanted in found.selection:
        if wanted.name == "__typename":
            shown[wanted.alias] = type_name
        elif wanted.name in known:
            shown[wanted.alias] = known[wanted.name](row)
        else:
            raise QueryProblem(f"Field '{wanted.name}' doesn't exist on type '{type_name}'")
    return shown


def _registry_fields(databases: Databases) -> dict[str, Callable[[Row], Any]]:
    """Those that the schema of the release has."""
    hidden = databases.config.release.hidden_fields
    return {name: read for name, read in REGISTRY_FIELDS.items() if name not in hidden}


def _type(databases: Databases, found: Field) -> Row | None:
    name = str(found.arguments.get("name"))
    known = TYPES.get(name)
    if known is None:
        return None
    if name == "ContainerRepositoryRegistry":
        known = {**known, "fields": list(_registry_fields(databases))}
    row = {"name": name, "kind": known["kind"]}
    for member in ("fields", "enumValues"):
        row[member] = [{"name": value} for value in known[member]] if member in known else None
    return {wanted.alias: row.get(wanted.name) for wanted in found.selection}


def _geo_node(databases: Databases, found: Field) -> Row | None:
    name = found.arguments.get("name") or databases.config.node_name
    row = databases.one("SELECT * FROM geo_nodes WHERE name = %s", [name])
    if row is None:
        return None
    shown: Row = {}
    for wanted in found.selection:
        if wanted.name == "containerRepositoryRegistries":
            shown[wanted.alias] = _registries(databases, wanted, own=name == databases.config.node_name)
        else:
            part = Field(found.name, found.alias, selection=[wanted])
            shown.update(_select(part, "GeoNode", SITE_FIELDS, row))
    return shown


def _registries(databases: Databases, found: Field, *, own: bool) -> Row:
    arguments = found.arguments
    rows = _matching(databases, arguments) if own and databases.config.has_tracking else []
    if arguments.get("after"):
        rows = [row for row in rows if row["id"] > _cursor_id(arguments["after"])]
    if arguments.get("before"):
        rows = [row for row in rows if row["id"] < _cursor_id(arguments["before"])]
    size = min(int(arguments.get("first") or arguments.get("last") or PAGE), PAGE)
    backwards = "last" in arguments and "first" not in arguments
    page = rows[-size:] if backwards else rows[:size]
    more = len(rows) > size
    info = {
        "hasNextPage": more and not backwards,
        "hasPreviousPage": (more and backwards) or bool(arguments.get("after")),
        "startCursor": _cursor(page[0]) if page else None,
        "endCursor": _cursor(page[-1]) if page else None,
    }
    shown: Row = {}
    for wanted in found.selection:
        if wanted.name == "pageInfo":
            shown[wanted.alias] = _select(wanted, "PageInfo", {key: itemgetter(key) for key in info}, info)
        elif wanted.name == "nodes":
            fields = _registry_fields(databases)
            shown[wanted.alias] = [_select(wanted, "ContainerRepositoryRegistry", fields, row) for row in page]
        elif wanted.name == "count":
            shown[wanted.alias] = len(rows)
        else:
            raise QueryProblem(f"Field '{wanted.name}' doesn't exist on type 'ContainerRepositoryRegistryConnection'")
    return shown


def _cursor(row: Row) -> str:
    return (
        base64.urlsafe_b64encode(json.dumps({"id": str(row["id"])}, separators=(",", ":")).encode())
        .decode()
        .rstrip("=")
    )


def _cursor_id(cursor: str) -> int:
    try:
        return int(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))["id"])
    except (ValueError, KeyError, TypeError) as problem:
        raise QueryProblem("Please provide a valid cursor") from problem


def _matching(databases: Databases, arguments: Mapping[str, Any]) -> list[Row]:
    """Records that fit `ids`, `replicationState`, `verificationState`, `keyword` (part of the path), by id."""
    conditions = ["true"]
    values: list[Any] = []
    if arguments.get("ids"):
        conditions.append("id = ANY(%s)")
        values.append([_record_id(value) for value in arguments["ids"]])
    if arguments.get("replicationState"):
        conditions.append(records.is_state(_one_of(records.STATES, arguments["replicationState"])))
    if arguments.get("verificationState"):
        state = _one_of(records.VERIFICATION_STATES, arguments["verificationState"])
        conditions.append("verification_state = %s")
        values.append(records.VERIFICATION_STATES.index(state))
    query = f"SELECT * FROM {records.TABLE} WHERE {' AND '.join(conditions)} ORDER BY id"
    rows = databases.all(query, values, database="geo")
    keyword = arguments.get("keyword")
    if keyword:
        paths = {row["id"]: row["path"] for row in databases.all(repositories.SELECT)}
        rows = [row for row in rows if keyword in paths.get(row["container_repository_id"], "")]
    return rows


def _one_of(states: tuple[str, ...], value: Any) -> str:
    if str(value).lower() not in states:
        raise QueryProblem(f"Argument has an invalid value ({value})")
    return str(value).lower()


def _record_id(value: Any) -> int:
    text = str(value).removeprefix(GLOBAL_ID)
    if not text.isdecimal():
        raise QueryProblem(f'"{value}" does not represent an instance of Geo::ContainerRepositoryRegistry')
    return int(text)


def _apply(databases: Databases, row: Row, action: str) -> None:
    repository = row["container_repository_id"]
    if action.startswith("RESYNC"):
        records.pending(databases, repository)
    elif action.startswith("REVERIFY"):
        records.verification_pending(databases, repository)
    else:
        raise QueryProblem(f"Argument 'action' has an invalid value ({action})")


def _update(databases: Databases, found: Field) -> Row:
    given = found.arguments.get("input") or {}
    row = (
        databases.one(
            f"SELECT * FROM {records.TABLE} WHERE id = %s", [_record_id(given.get("registryId"))], database="geo"
        )
        if databases.config.has_tracking
        else None
    )
    if row is None:
        raise QueryProblem(NOT_THERE)
    action = str(given.get("action"))
    _apply(databases, row, action)
    if action == "RESYNC":
        jobs.enqueue(databases, jobs.SYNC_WORKER, jobs.REPLICABLE, row["container_repository_id"])
    fresh = records.find(databases, row["container_repository_id"]) or row
    shown: Row = {}
    for wanted in found.selection:
        if wanted.name == "registry":
            shown[wanted.alias] = _select(wanted, "ContainerRepositoryRegistry", _registry_fields(databases), fresh)
        elif wanted.name == "errors":
            shown[wanted.alias] = []
        else:
            raise QueryProblem(f"Field '{wanted.name}' doesn't exist on type 'GeoRegistriesUpdatePayload'")
    return shown


def _bulk_update(databases: Databases, found: Field) -> Row:
    given = found.arguments.get("input") or {}
    action = str(given.get("action"))
    if given.get("registryClass") != REGISTRY_CLASS:
        raise QueryProblem(f"Argument 'registryClass' has an invalid value ({given.get('registryClass')})")
    if action not in TYPES["GeoRegistriesBulkAction"]["enumValues"]:
        raise QueryProblem(f"Argument 'action' has an invalid value ({action})")
    if databases.config.has_tracking:
        for row in _matching(databases, given):
            _apply(databases, row, action)
    known: dict[str, Callable[[Row], Any]] = {"errors": lambda _: [], "registryClass": lambda _: REGISTRY_CLASS}
    return _select(found, "GeoRegistriesBulkUpdatePayload", known, {})


QUERIES: dict[str, Callable[[Databases, Field], Any]] = {"geoNode": _geo_node, "__type": _type}
MUTATIONS: dict[str, Callable[[Databases, Field], Any]] = {
    "geoRegistriesUpdate": _update,
    "geoRegistriesBulkUpdate": _bulk_update,
}
