"""Tables of the main and the tracking database, as far as replication of the registry touches them, and their rows.

Names and columns are GitLab's, a small part of them: what no step, check or stand-in reads is left out. `sidekiq_jobs`
and `exclusive_leases` in the tracking database are ours: GitLab keeps both in Redis. Personal access tokens are kept as
digests only.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

VERIFICATION_COLUMNS = """
    verification_state smallint NOT NULL DEFAULT 0, verification_started_at timestamptz, verified_at timestamptz,
    verification_retry_at timestamptz, verification_retry_count smallint NOT NULL DEFAULT 0,
    verification_checksum bytea, verification_failure text"""

MAIN = f"""
CREATE TABLE application_settings (id bigint PRIMARY KEY, uuid text NOT NULL, enabled_git_access_protocol text,
    container_registry_token_expire_delay integer NOT NULL DEFAULT 5, authorized_keys_enabled boolean NOT NULL);
CREATE TABLE licenses (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, username text UNIQUE NOT NULL,
    admin boolean NOT NULL DEFAULT false);
CREATE TABLE personal_access_tokens (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES users, scopes text[] NOT NULL, token_digest text UNIQUE NOT NULL,
    revoked boolean NOT NULL DEFAULT false);
CREATE TABLE namespaces (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text NOT NULL,
    parent_id bigint REFERENCES namespaces, UNIQUE NULLS NOT DISTINCT (path, parent_id));
CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text NOT NULL,
    namespace_id bigint NOT NULL REFERENCES namespaces, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE routes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source_id bigint NOT NULL,
    source_type text NOT NULL, path text UNIQUE NOT NULL);
CREATE TABLE project_authorizations (user_id bigint NOT NULL REFERENCES users,
    project_id bigint NOT NULL REFERENCES projects, access_level integer NOT NULL, PRIMARY KEY (user_id, project_id));
CREATE TABLE container_repositories (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint NOT NULL REFERENCES projects, name text NOT NULL, status smallint,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, name));
CREATE TABLE container_repository_states (
    container_repository_id bigint PRIMARY KEY REFERENCES container_repositories ON DELETE CASCADE,
    {VERIFICATION_COLUMNS});
CREATE TABLE project_states (project_id bigint PRIMARY KEY REFERENCES projects ON DELETE CASCADE,
    {VERIFICATION_COLUMNS});
CREATE TABLE uploads (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE upload_states (upload_id bigint PRIMARY KEY REFERENCES uploads ON DELETE CASCADE,
    {VERIFICATION_COLUMNS});
CREATE TABLE geo_nodes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "primary" boolean NOT NULL DEFAULT false,
    name text UNIQUE NOT NULL, url text NOT NULL, internal_url text, enabled boolean NOT NULL DEFAULT true,
    access_key text NOT NULL, secret_access_key text NOT NULL, oauth_application_id bigint,
    files_max_capacity integer NOT NULL DEFAULT 10, repos_max_capacity integer NOT NULL DEFAULT 25,
    verification_max_capacity integer NOT NULL DEFAULT 100,
    container_repositories_max_capacity integer NOT NULL DEFAULT 10,
    minimum_reverification_interval integer NOT NULL DEFAULT 90, sync_object_storage boolean NOT NULL DEFAULT false,
    selective_sync_type text, selective_sync_shards text[] NOT NULL DEFAULT '{{}}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE geo_node_statuses (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    geo_node_id bigint UNIQUE NOT NULL REFERENCES geo_nodes ON DELETE CASCADE, status_message text,
    db_replication_lag_seconds integer, last_event_id bigint, last_event_date timestamptz,
    cursor_last_event_id bigint, cursor_last_event_date timestamptz, last_successful_status_check_at timestamptz,
    replication_slots_count integer, replication_slots_used_count integer,
    replication_slots_max_retained_wal_bytes bigint,
    version text, revision text, storage_configuration_digest bytea, status jsonb NOT NULL DEFAULT '{{}}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz);
CREATE TABLE geo_events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, replicable_name text NOT NULL,
    event_name text NOT NULL, payload jsonb NOT NULL DEFAULT '{{}}', created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE geo_event_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    geo_event_id bigint REFERENCES geo_events ON DELETE CASCADE, created_at timestamptz NOT NULL DEFAULT now());
"""

REGISTRY_COLUMNS = """
    retry_count integer DEFAULT 0, last_sync_failure varchar(255), retry_at timestamptz, last_synced_at timestamptz,
    missing_on_primary boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now(),
    verification_state smallint NOT NULL DEFAULT 0, verification_started_at timestamptz, verified_at timestamptz,
    verification_retry_at timestamptz, verification_retry_count integer DEFAULT 0,
    checksum_mismatch boolean NOT NULL DEFAULT false, verification_checksum bytea,
    verification_checksum_mismatched bytea, verification_failure varchar(255)"""

# `state` of container repositories is text with numbers or words in it, of the other types a number (rails 4).
TRACKING = f"""
CREATE TABLE event_log_states (event_id bigint PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE container_repository_registry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    container_repository_id bigint UNIQUE NOT NULL, state varchar DEFAULT '0',
    {REGISTRY_COLUMNS});
CREATE TABLE project_repository_registry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id bigint UNIQUE NOT NULL, state smallint NOT NULL DEFAULT 0,
    {REGISTRY_COLUMNS});
CREATE TABLE file_registry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id bigint UNIQUE NOT NULL, state smallint NOT NULL DEFAULT 0,
    {REGISTRY_COLUMNS});
CREATE TABLE sidekiq_jobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, class text NOT NULL, args jsonb NOT NULL,
    enqueued_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz, pid integer);
CREATE TABLE exclusive_leases (key text PRIMARY KEY, uuid text NOT NULL, expires_at timestamptz NOT NULL);
"""

ALL_SCOPES = ("api", "read_api", "read_registry", "write_registry")


def create_main(conn: psycopg.Connection[Any]) -> None:
    """Make the tables of gitlabhq_production and the one row of settings, as the role that the connection has."""
    with conn.transaction():
        conn.execute(MAIN.encode())
        settings = "(id, uuid, authorized_keys_enabled) VALUES (1, gen_random_uuid()::text, false)"
        conn.execute(f"INSERT INTO application_settings {settings}".encode())


def create_tracking(conn: psycopg.Connection[Any]) -> None:
    """Make the tables of gitlabhq_geo_production."""
    with conn.transaction():
        conn.execute(TRACKING.encode())


def token_digest(token: str) -> str:
    """What is kept of a personal access token."""
    return hashlib.sha256(token.encode()).hexdigest()


def add_user(
    conn: psycopg.Connection[Any], name: str, token: str, admin: bool = False, scopes: Sequence[str] = ALL_SCOPES
) -> int:
    """Add a user, or a further token of an existing one. Returns the user's id."""
    query = (
        "INSERT INTO users (username, admin) VALUES (%s, %s)"
        " ON CONFLICT (username) DO UPDATE SET admin = excluded.admin RETURNING id"
    )
    user = int(_value(conn, query, name, admin))
    _value(
        conn,
        "INSERT INTO personal_access_tokens (user_id, scopes, token_digest) VALUES (%s, %s, %s) RETURNING id",
        *(user, list(scopes), token_digest(token)),
    )
    return user


def add_member(conn: psycopg.Connection[Any], user: int, project: int, access_level: int) -> None:
    """Give a user a role in a project: 20 reporter (pull), 30 developer (push, delete), 40 maintainer (all)."""
    conn.execute("INSERT INTO project_authorizations VALUES (%s, %s, %s)", [user, project, access_level])


def add_project(conn: psycopg.Connection[Any], path: str) -> int:
    """Add the project with this full path (`group/sub/app`) and the namespaces above it. Returns its id."""
    *groups, name = path.split("/")
    if not groups:
        raise ValueError(f"{path}: a project lies in a group")
    parent: int | None = None
    for depth, group in enumerate(groups, 1):
        query = "SELECT id FROM namespaces WHERE path = %s AND parent_id IS NOT DISTINCT FROM %s"
        found = _value(conn, query, group, parent)
        if found is None:
            query = "INSERT INTO namespaces (path, parent_id) VALUES (%s, %s) RETURNING id"
            found = _value(conn, query, group, parent)
            _add_route(conn, found, "Namespace", "/".join(groups[:depth]))
        parent = int(found)
    query = "INSERT INTO projects (path, namespace_id) VALUES (%s, %s) RETURNING id"
    project = int(_value(conn, query, name, parent))
    _add_route(conn, project, "Project", path)
    return project


def add_container_repository(conn: psycopg.Connection[Any], path: str) -> int:
    """Add the record of the registry repository with this path; its project exists. Returns its id."""
    query = (
        "SELECT source_id, path FROM routes WHERE source_type = 'Project'"
        " AND (path = %s OR starts_with(%s, path || '/')) ORDER BY length(path) DESC LIMIT 1"
    )
    row = _row(conn, query, path, path)
    if row is None:
        raise LookupError(f"{path} belongs to no project")
    query = "INSERT INTO container_repositories (project_id, name) VALUES (%s, %s) RETURNING id"
    return int(_value(conn, query, row[0], path[len(row[1]) + 1 :]))


def add_uploads(conn: psycopg.Connection[Any], count: int) -> None:
    """Add `count` uploads: a data type that goes on being replicated whatever the registry does."""
    query = (
        "INSERT INTO uploads (path) SELECT '@hashed/' || md5(n::text) || '/file-' || n"
        " FROM generate_series((SELECT count(*) FROM uploads) + 1, (SELECT count(*) FROM uploads) + %s) AS n"
    )
    conn.execute(query, [count])


def add_site(
    conn: psycopg.Connection[Any], name: str, url: str, primary: bool = False, internal_url: str | None = None
) -> int:
    """Add a Geo site record with its key pair for calls between sites. Returns its id."""
    query = (
        'INSERT INTO geo_nodes (name, url, "primary", internal_url, access_key, secret_access_key,'
        " oauth_application_id) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id"
    )
    keys = (secrets.token_urlsafe(15), secrets.token_urlsafe(48), None if primary else 1)
    return int(_value(conn, query, name, url, primary, internal_url, *keys))


def add_license(conn: psycopg.Connection[Any], plan: str = "ultimate", expires_at: str | None = None) -> None:
    """Add a license; the newest one counts. `expires_at` is an ISO date, None for never."""
    data = {
        "plan": plan,
        "starts_at": date(2026, 1, 1).isoformat(),
        "expires_at": expires_at,
        "user_limit": 0,
        "licensee": {"Name": "Rehearsal", "Company": "Lab", "Email": "lab@example.net"},
    }
    conn.execute("INSERT INTO licenses (data) VALUES (%s)", [json.dumps(data)])


def _add_route(conn: psycopg.Connection[Any], source: int, kind: str, path: str) -> None:
    conn.execute("INSERT INTO routes (source_id, source_type, path) VALUES (%s, %s, %s)", [source, kind, path])


def _row(conn: psycopg.Connection[Any], query: str, *values: Any) -> tuple[Any, ...] | None:
    from psycopg.rows import tuple_row

    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), values).fetchone()


def _value(conn: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    row = _row(conn, query, *values)
    return None if row is None else row[0]
