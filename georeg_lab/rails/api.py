"""The REST API as far as procedures 5 uses it: plain functions from a request's facts to the JSON of its answer."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

from georeg_lab.rails import repositories, status, tokens
from georeg_lab.rails.access import ApiError
from georeg_lab.rails.config import REVISION, Databases, Row, current_site
from georeg_lab.rails.registry_client import own_client
from georeg_lab.rails.schema import add_site

SITE_FIELDS = (
    "id", "name", "url", "internal_url", "primary", "enabled", "files_max_capacity", "repos_max_capacity",
    "verification_max_capacity", "container_repositories_max_capacity", "selective_sync_type", "selective_sync_shards",
    "minimum_reverification_interval", "sync_object_storage",
)  # fmt: skip
GEO_PLANS = ("premium", "ultimate")


def metadata(version: str) -> Row:
    """`GET /metadata`."""
    kas = {"enabled": False, "externalUrl": None, "externalK8sProxyUrl": None, "version": None}
    return {"version": version, "revision": REVISION, "kas": kas, "enterprise": True}


def current_license(databases: Databases) -> Row | None:
    """`GET /license`: the newest license, None when there is none."""
    row = databases.one("SELECT * FROM licenses ORDER BY id DESC LIMIT 1")
    if row is None:
        return None
    data = json.loads(row["data"])
    expires = data.get("expires_at")
    expired = bool(expires) and date.fromisoformat(expires) < datetime.now(UTC).date()
    created = f"{row['created_at']:%Y-%m-%dT%H:%M:%S.000Z}"
    users = databases.value("SELECT count(*) FROM users")
    return {"id": row["id"], "created_at": created, **data, "expired": expired, "active_users": users}


def licensed(databases: Databases) -> bool:
    """The license includes Geo."""
    found = current_license(databases)
    return found is not None and found["plan"] in GEO_PLANS and not found["expired"]


def application_settings(databases: Databases) -> Row | None:
    """`GET /application/settings`."""
    return databases.one("SELECT * FROM application_settings WHERE id = 1")


def sites(databases: Databases) -> list[Row]:
    """`GET /geo_sites`."""
    rows = databases.all("SELECT * FROM geo_nodes ORDER BY id")
    return [_site(databases, row) for row in rows]


def site(databases: Databases, number: int) -> Row:
    """`GET /geo_sites/:id`."""
    return _site(databases, find_site(databases, number))


def create_site(databases: Databases, body: bytes) -> Row:
    """`POST /geo_sites`. Raises ApiError 400, 403; texts beside the status are unconfirmed (procedures 5.2)."""
    asked = json.loads(body or b"{}")
    missing = [name for name in ("name", "url") if not asked.get(name)]
    if missing:
        raise ApiError(400, {"error": ", ".join(f"{name} is missing" for name in missing)})
    unknown = set(asked) - {"name", "url", "internal_url", "primary", "enabled"}
    if unknown:
        raise ApiError(400, {"error": f"the lab does not take {', '.join(sorted(unknown))}"})
    here = current_site(databases)
    if here is None or not here["primary"]:
        raise ApiError(403, {"message": "403 Forbidden"})
    if databases.value("SELECT 1 FROM geo_nodes WHERE name = %s", [asked["name"]]):
        raise ApiError(400, {"message": {"name": ["has already been taken"]}})
    number = add_site(databases.main, asked["name"], f"{str(asked['url']).rstrip('/')}/", bool(asked.get("primary")))
    if asked.get("internal_url"):
        databases.run("UPDATE geo_nodes SET internal_url = %s WHERE id = %s", [asked["internal_url"], number])
    return site(databases, number)


def delete_site(databases: Databases, number: int) -> None:
    """`DELETE /geo_sites/:id`. Raises ApiError 404."""
    find_site(databases, number)
    databases.run("DELETE FROM geo_nodes WHERE id = %s", [number])


def find_site(databases: Databases, number: int) -> Row:
    """The record. Raises ApiError 404."""
    row = databases.one("SELECT * FROM geo_nodes WHERE id = %s", [number])
    if row is None:
        raise ApiError(404, {"message": "404 GeoSite Not Found"})
    return row


def _site(databases: Databases, row: Row) -> Row:
    config = databases.config
    primary = databases.value('SELECT url FROM geo_nodes WHERE "primary"') or config.external_url
    edit = f"{str(primary).rstrip('/')}/admin/geo/sites/{row['id']}"
    own = f"{config.external_url}/api/v4/geo_sites/{row['id']}"
    return {
        **{name: row[name] for name in SITE_FIELDS},
        "internal_url": row["internal_url"] or row["url"],
        "current": row["name"] == config.node_name,
        "selective_sync_namespace_ids": [],
        "web_edit_url": f"{edit}/edit",
        "web_geo_replication_details_url": None if row["primary"] else f"{edit}/replication",
        "_links": {"self": own, "status": f"{own}/status", "repair": f"{own}/repair"},
    }


def statuses(databases: Databases) -> list[Row]:
    """`GET /geo_sites/status`: the sites that have reported."""
    rows = databases.all("SELECT * FROM geo_node_statuses ORDER BY geo_node_id")
    return [_status(databases, row, find_site(databases, row["geo_node_id"])) for row in rows]


def site_status(databases: Databases, number: int) -> Row:
    """`GET /geo_sites/:id/status`. Raises ApiError 404, also until the first report."""
    found = find_site(databases, number)
    row = databases.one("SELECT * FROM geo_node_statuses WHERE geo_node_id = %s", [number])
    if row is None:
        raise ApiError(404, {"message": "404 Status for Geo site not found Not Found"})
    return _status(databases, row, found)


def _status(databases: Databases, row: Row, found: Row) -> Row:
    return status.present(databases, row, found, f"{databases.config.external_url}/api/v4")


def take_status(databases: Databases, authorization: str, body: bytes) -> None:
    """`POST /geo/status`: a secondary's report. Raises ApiError 401."""
    sender = tokens.geo_site(databases, authorization, status.REPORT_SCOPE)
    if sender is None:
        raise ApiError(401, {"message": "401 Unauthorized"})
    here = current_site(databases)
    if here is None or not here["primary"]:
        raise ApiError(403, {"message": "403 Forbidden - only the primary takes status reports"})
    status.store(databases, sender["id"], json.loads(body))


def registry_repositories(databases: Databases, project: str, tags: bool, tags_count: bool) -> list[Row]:
    """`GET /projects/:id/registry/repositories`; the project by id or by full path. Raises ApiError 404."""
    query = "SELECT source_id FROM routes WHERE source_type = 'Project' AND (path = %s OR source_id::text = %s)"
    number = databases.value(query, [project, project])
    if number is None:
        raise ApiError(404, {"message": "404 Project Not Found"})
    return [_repository(databases, row, tags, tags_count) for row in repositories.of_project(databases, number)]


def _repository(databases: Databases, row: Row, tags: bool, tags_count: bool) -> Row:
    location = f"{databases.config.registry_host}/{row['path']}"
    shown: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "path": row["path"],
        "project_id": row["project_id"],
        "location": location,
        "created_at": f"{row['created_at']:%Y-%m-%dT%H:%M:%S.000Z}",
        "cleanup_policy_started_at": None,
        "status": row["status"],
    }
    if tags or tags_count:
        names = [str(tag["name"]) for tag in own_client(databases, row["path"]).tags(row["path"])]
        if tags_count:
            shown["tags_count"] = len(names)
        if tags:
            shown["tags"] = [
                {"name": name, "path": f"{row['path']}:{name}", "location": f"{location}:{name}"} for name in names
            ]
    return shown
