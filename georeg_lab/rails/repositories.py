"""Container repositories of the main database: by path, by id; their events."""

from __future__ import annotations

import json

from georeg_lab.rails.config import Databases, Row, current_site
from georeg_lab.rails.jobs import REPLICABLE

FULL_PATH = "routes.path || CASE WHEN repository.name = '' THEN '' ELSE '/' || repository.name END"
SELECT = (
    f"SELECT repository.id, repository.name, repository.project_id, repository.created_at, repository.status,"
    f" {FULL_PATH} AS path, routes.path AS project_path FROM container_repositories AS repository"
    " JOIN routes ON routes.source_type = 'Project' AND routes.source_id = repository.project_id"
)


def by_path(databases: Databases, path: str) -> Row | None:
    """The record of the repository with this full path."""
    return databases.one(f"{SELECT} WHERE {FULL_PATH} = %s", [path])


def by_id(databases: Databases, repository: int) -> Row | None:
    """The record of this id, with `path` and `project_path`."""
    return databases.one(f"{SELECT} WHERE repository.id = %s", [repository])


def of_project(databases: Databases, project: int) -> list[Row]:
    """The records of a project."""
    return databases.all(f"{SELECT} WHERE repository.project_id = %s ORDER BY repository.id", [project])


def project_of(databases: Databases, path: str) -> Row | None:
    """The project that a repository path belongs to (`project_id`, `path`, `root_namespace_id`): longest path wins."""
    query = (
        "SELECT routes.source_id AS project_id, routes.path, root.source_id AS root_namespace_id FROM routes"
        " JOIN routes AS root ON root.source_type = 'Namespace' AND root.path = split_part(routes.path, '/', 1)"
        " WHERE routes.source_type = 'Project' AND (routes.path = %s OR starts_with(%s, routes.path || '/'))"
        " ORDER BY length(routes.path) DESC LIMIT 1"
    )
    return databases.one(query, [path, path])


def access_entry(databases: Databases, path: str, actions: list[str]) -> Row:
    """One `access` entry of a token; `meta` where the project is known."""
    entry: Row = {"type": "repository", "name": path, "actions": actions}
    project = project_of(databases, path)
    if project:
        keys = ("project_id", "root_namespace_id")
        entry["meta"] = {"project_path": project["path"], **{key: project[key] for key in keys}}
    return entry


def find_or_create(databases: Databases, path: str) -> Row | None:
    """The record of a path within a project, made when a push token is granted for it, with its Geo event."""
    found = by_path(databases, path)
    project = project_of(databases, path)
    if found or project is None:
        return found
    name = path[len(project["path"]) + 1 :]
    query = "INSERT INTO container_repositories (project_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING"
    if databases.run(query, [project["project_id"], name]) == 1:
        created = by_path(databases, path)
        if created:
            publish(databases, "created", created["id"])
    return by_path(databases, path)


def touched(databases: Databases, repository: int) -> None:
    """The repository's tags changed on the primary: its checksum is computed again, the secondaries are told."""
    publish(databases, "updated", repository)
    query = (
        "INSERT INTO container_repository_states (container_repository_id) VALUES (%s)"
        " ON CONFLICT (container_repository_id) DO UPDATE SET verification_state = 0, verification_retry_at = NULL,"
        " verification_retry_count = 0"
    )
    databases.run(query, [repository])


def publish(databases: Databases, event: str, repository: int) -> None:
    """Write a Geo event and its log entry, in one transaction: on a primary that has a secondary, else nothing.

    Events: created, updated, deleted (rails 1.3), and checksum_succeeded when the primary's checksum is there
    (known from the framework's other types, not read).
    """
    site = current_site(databases)
    if site is None or not site["primary"] or not databases.config.registry_enabled:
        return
    if not databases.value('SELECT count(*) FROM geo_nodes WHERE NOT "primary"'):
        return
    query = (
        "WITH event AS (INSERT INTO geo_events (replicable_name, event_name, payload) VALUES (%s, %s, %s) RETURNING id)"
        " INSERT INTO geo_event_log (geo_event_id) SELECT id FROM event"
    )
    databases.run(query, [REPLICABLE, event, json.dumps({"model_record_id": repository})])
