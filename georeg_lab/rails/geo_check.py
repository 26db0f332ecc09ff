"""`gitlab:geo:check`: one line per check, a remedy below a failed one (rails 6; names from procedures 2.1 "Proof").

Left out, because their names were not read: database migrations, SSH port, promotion, licence details.
"""

from __future__ import annotations

import requests

from georeg_lab.layout import inside
from georeg_lab.rails import api
from georeg_lab.rails.config import Databases, Row, current_site
from georeg_lab.rails.jobs import REPLICABLE

HASHED = ("GitLab configured to store new projects in hashed storage?", "All projects are in hashed storage?")


def lines(databases: Databases) -> list[str]:
    """All lines of the report. Its exit status is 0 whatever they say."""
    site = current_site(databases)
    checks = [] if site is not None and site["primary"] else _secondary(databases)
    return ["Checking Geo ...", "", *checks, *_all_sites(databases, site), "", "Checking Geo ... Finished"]


def _yes(name: str, good: bool, remedy: str) -> list[str]:
    return [f"{name} ... {'yes' if good else 'no'}", *([] if good else ["  Try fixing it:", f"  {remedy}"])]


def _secondary(databases: Databases) -> list[str]:
    in_recovery = bool(databases.value("SELECT pg_is_in_recovery()"))
    streaming = in_recovery and bool(databases.value("SELECT count(*) FROM pg_stat_wal_receiver"))
    tracking = databases.config.has_tracking and databases.value("SELECT true", database="geo")
    return [
        *_yes("GitLab Geo tracking database is correctly configured", bool(tracking), "Rerun reconfigure"),
        *_yes("Database replication enabled?", in_recovery, "Follow Geo setup instructions to configure replication"),
        *_yes("Database replication working?", streaming, "Follow Geo setup instructions to configure replication"),
        "GitLab Geo HTTP(S) connectivity ...",
        f"* Can connect to the primary node ... {_connectivity(databases)}",
    ]


def _connectivity(databases: Databases) -> str:
    url = databases.value('SELECT coalesce(internal_url, url) FROM geo_nodes WHERE "primary"')
    if url is None:
        return "no primary"
    try:
        with requests.Session() as session:
            session.trust_env = False
            session.get(f"{str(url).rstrip('/')}/api/v4/version", timeout=10, verify=databases.config.ca_file)
    except requests.RequestException as problem:
        return f"no\n  Reason:\n  {type(problem).__name__}"
    return "yes"


def _all_sites(databases: Databases, site: Row | None) -> list[str]:
    name, settings = databases.config.node_name, api.application_settings(databases) or {}
    if site is None:
        found = [
            f'no\n  Try fixing it:\n  Add a Geo site whose name is "{name}", or set geo_node_name to an existing one'
        ]
    else:
        found = [f'yes, found a {"primary" if site["primary"] else "secondary"} node named "{name}"']
    http = settings.get("enabled_git_access_protocol") in (None, "", "http")
    return [
        *_yes(
            "GitLab Geo is available", api.licensed(databases), "Add a new license that includes the GitLab Geo feature"
        ),
        *_yes(
            "GitLab Geo is enabled",
            site is not None,
            "Follow Geo setup instructions to configure primary and secondary",
        ),
        f"This machine's Geo node name matches a database record ... {found[0]}",
        *_yes("HTTP/HTTPS repository cloning is enabled", http, "Enable HTTP(S) for Git"),
        "Machine clock is synchronized ... yes",
        "Git user has default SSH configuration? ... yes",
        *_yes(
            "OpenSSH configured to use AuthorizedKeysCommand",
            _looks_keys_up(databases),
            "Change your OpenSSH configuration file to point to the AuthorizedKeysCommand of gitlab-shell",
        ),
        *_yes(
            "GitLab configured to disable writing to authorized_keys file",
            not settings.get("authorized_keys_enabled"),
            "You need to disable `Write to authorized_keys file` in GitLab's Admin area",
        ),
        *(f"{check} ... yes" for check in HASHED),
        *container_registry(databases),
    ]


def _looks_keys_up(databases: Databases) -> bool:
    """By the node's sshd_config; a node without one is not asked."""
    path = inside(databases.config.root, "/etc/ssh/sshd_config")
    words = (
        [line.split()[:1] for line in path.read_text().splitlines()] if path.exists() else [["AuthorizedKeysCommand"]]
    )
    return ["AuthorizedKeysCommand"] in words


def container_registry(databases: Databases) -> list[str]:
    """The lines about the container registry: whether the replicated event table shows any event."""
    name = "Container Registry replication enabled"
    if not databases.config.replication_enabled:
        return [f"{name} ... skipped (Container Registry replication is not enabled)"]
    last = databases.value("SELECT max(created_at) FROM geo_events WHERE replicable_name = %s", [REPLICABLE])
    seen = "none found" if last is None else f"last event at {last:%Y-%m-%d %H:%M:%S} UTC"
    return [f"{name} ... yes", f"Container Registry Geo events ... {seen}"]
