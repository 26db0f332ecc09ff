"""What is wrong with parameters beyond their types: contradictions between sites, files and secrets that are not there.

Works on the data as read, so that these problems are shown together with wrong types and misspelt names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from georeg_nb import credentials
from georeg_nb.errors import Problem
from georeg_nb.parameters.files import Document, Place, below_project, dotted, project_root

SECRETS: tuple[Place, ...] = (("gitlab", "token"), ("database", "password"))
SSH_ONLY = ("host", "user", "port", "ssh_config", "sudo")
CA_FILES: tuple[Place, ...] = (("gitlab", "ca"), ("registry", "ca"), ("database", "ca"))


def problems_of_sites(document: Document) -> Iterator[Problem]:
    """Everything that the sites file's model cannot see."""
    places = site_places(document.data)
    yield from _shared(document, places)
    for place in places:
        yield from _missing_roles(document, place)
        yield from _wrong_ways(document, place)
        yield from _missing_files(document, place)
        yield from _missing_secrets(document, place)


def site_places(data: dict[str, Any]) -> list[Place]:
    """Where the sites are in a sites file, as far as there are any."""
    places: list[Place] = [("primary",)] if isinstance(data.get("primary"), dict) else []
    secondaries = data.get("secondaries")
    if isinstance(secondaries, list):
        places += [("secondaries", n) for n, site in enumerate(secondaries) if isinstance(site, dict)]
    return places


def _get(data: Any, place: Place) -> Any:
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _nodes(document: Document, site: Place) -> list[Place]:
    nodes = _get(document.data, (*site, "nodes"))
    return (
        [(*site, "nodes", n) for n, node in enumerate(nodes) if isinstance(node, dict)]
        if isinstance(nodes, list)
        else []
    )


def _shared(document: Document, sites: list[Place]) -> Iterator[Problem]:
    """Two sites are two sites: nothing of one may be the other's."""
    rules: list[tuple[str, Any, str]] = [
        ("name", lambda site: _get(site, ("name",)), "the name"),
        ("geo_name", lambda site: _get(site, ("geo_name",)), "the Geo site name"),
        ("gitlab.url", lambda site: _address(_get(site, ("gitlab", "url"))), "the GitLab"),
        ("registry.url", lambda site: _address(_get(site, ("registry", "url"))), "the registry"),
        ("database.host", _database_server, "the database server"),
    ]
    for key, value_of, what in rules:
        first: dict[Any, Place] = {}
        for place in sites:
            value = value_of(_get(document.data, place))
            if value is None:
                continue
            if value in first:
                hint = "each site needs its own, writable database server" if key == "database.host" else ""
                yield document.problem((*place, *key.split(".")), f"is {what} of {dotted(first[value])} as well", hint)
            first.setdefault(value, place)
    seen: dict[str, dict[Any, Place]] = defaultdict(dict)
    nodes = [node for site in sites for node in _nodes(document, site)]
    for node in nodes:
        for key in ("name", "root"):
            value = _get(document.data, (*node, key))
            if isinstance(value, str) and value in seen[key]:
                yield document.problem((*node, key), f"is the {key} of {dotted(seen[key][value])} as well")
            elif isinstance(value, str):
                seen[key][value] = node
    local = [node for node in nodes if not _is_ssh(document, node)]
    rootless = [node for node in local if not _get(document.data, (*node, "root"))]
    for node in rootless[1:]:
        yield document.problem(
            node,
            f"is this machine, like {dotted(rootless[0])}",
            "only one node can be this machine; give the others a root",
        )


def _is_ssh(document: Document, node: Place) -> bool:
    return bool(_get(document.data, (*node, "connection")) == "ssh")


def _wrong_ways(document: Document, site: Place) -> Iterator[Problem]:
    """Settings that belong to the other kind of connection, and ways through nodes that lead nowhere."""
    nodes = _nodes(document, site)
    for node in nodes:
        root = _get(document.data, (*node, "root"))
        if _is_ssh(document, node) and isinstance(root, str) and not root.startswith("/"):
            yield document.problem((*node, "root"), "must be an absolute path on the node")
        for key in () if _is_ssh(document, node) else SSH_ONLY:
            if _get(document.data, (*node, key)):
                yield document.problem((*node, key), "is for connection: ssh")
        config = _get(document.data, (*node, "ssh_config"))
        if isinstance(config, str) and not below_project(config).is_file():
            yield document.problem((*node, "ssh_config"), f"there is no file {config}")
    reached = [str(_get(document.data, (*node, "name"))) for node in nodes if _is_ssh(document, node)]
    for key in ("gitlab", "registry", "database"):
        via = _get(document.data, (*site, key, "via"))
        if isinstance(via, str) and via not in reached:
            hint = f"there are: {', '.join(reached)}" if reached else "this site has none"
            yield document.problem((*site, key, "via"), "is no node of this site with connection: ssh", hint)
    database = (*site, "database")
    if _get(document.data, (*database, "via")) and _get(document.data, (*database, "connect_host")):
        yield document.problem((*database, "via"), "leads another way than connect_host: leave one of them out")


def _missing_roles(document: Document, site: Place) -> Iterator[Problem]:
    nodes = _nodes(document, site)
    lists = [_get(document.data, (*node, "roles")) for node in nodes]
    held = {role for roles in lists if isinstance(roles, list) for role in roles if isinstance(role, str)}
    for role in ("rails", "registry"):
        if nodes and role not in held:
            yield document.problem((*site, "nodes"), f"no node has the role {role}")


def _missing_files(document: Document, site: Place) -> Iterator[Problem]:
    for place in CA_FILES:
        value = _get(document.data, (*site, *place))
        if isinstance(value, str) and not below_project(value).is_file():
            yield document.problem((*site, *place), f"there is no file {value}")
    database = _get(document.data, (*site, "database"))
    if isinstance(database, dict) and str(database.get("sslmode", "verify-full")).startswith("verify"):
        for key, where in (("ca", "on the workstation"), ("node_sslrootcert", "on the registry nodes")):
            if not database.get(key):
                yield document.problem(
                    (*site, "database", key),
                    f"is missing: the authority's file {where}, which sslmode verifies against",
                )
    for node in _nodes(document, site):
        root = _get(document.data, (*node, "root"))
        if isinstance(root, str) and not _is_ssh(document, node) and not below_project(root).is_dir():
            yield document.problem((*node, "root"), f"there is no folder {root}")


def _missing_secrets(document: Document, site: Place) -> Iterator[Problem]:
    for key in SECRETS:
        value = _get(document.data, (*site, *key))
        if isinstance(value, str) and credentials.is_reference(value):
            problem = credentials.unavailable(value, project_root())
            if problem:
                yield document.problem((*site, *key), problem)


def _address(url: Any) -> tuple[str | None, int | None, str] | None:
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port, parts.path.rstrip("/")) if parts.hostname else None


def _database_server(site: Any) -> tuple[str, int] | None:
    database = _get(site, ("database",))
    if not isinstance(database, dict) or not isinstance(database.get("host"), str):
        return None
    return database["host"].lower(), database.get("port", 5432)
