"""What georeg writes into gitlab.rb to add a registry, node by node. Source: procedures 2.2, 2.4."""

from __future__ import annotations

from typing import Any

from georeg_nb import gitlab_rb
from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures.guard.registry import EVENTS
from georeg_nb.site import Site

REGISTRY = "registry"
NOTIFICATIONS = "registry-notifications"
REPLICATION = "registry-replication"
RAILS = ("rails", "sidekiq")


def registry_block(site: Site, package: Omnibus) -> str:
    """The site's registry: its address everywhere, the service where the node has it. A node of Rails alone is told
    where it is, because the package knows of a registry only on nodes that run one.
    """
    url = site.parameters.registry.url
    runs = "registry" in package.node.roles
    lines = [f"registry_external_url {gitlab_rb.ruby(url)}", gitlab_rb.assignment("registry", ["enable"], runs)]
    if not runs:
        lines.append(gitlab_rb.assignment("gitlab_rails", ["registry_enabled"], True))
        lines.append(gitlab_rb.assignment("gitlab_rails", ["registry_api_url"], url))
    return "\n".join(lines)


def endpoint(site: Site, token: str) -> dict[str, Any]:
    """The endpoint for Geo's events. Its name is fixed, and its header an array: the package takes Rails' secret from
    there, and stops at anything else (procedures 2.4; run).
    """
    return {
        "name": "geo_event",
        "url": f"{site.parameters.gitlab.url}{EVENTS}",
        "timeout": "500ms",
        "maxretries": 5,
        "backoff": "1s",
        "headers": {"Authorization": [token]},
    }


def foreign_endpoints(package: Omnibus) -> list[dict[str, Any]]:
    """Endpoints of others, as rendered. `threshold` beside `maxretries` is the package's own and goes: written out, it
    would win in newer releases (procedures 3.2).
    """
    config = package.registry_config()
    others = [dict(found) for found in (config.endpoints if config else []) if found.get("name") != "geo_event"]
    for other in others:
        if "maxretries" in other:
            other.pop("threshold", None)
    return others


def names_of_others(site: Site) -> list[str]:
    """Names of the endpoints that are not Geo's."""
    return sorted({str(one.get("name")) for p in site.packages("registry") for one in foreign_endpoints(p)})


def notifications_block(site: Site, package: Omnibus, token: str) -> str:
    """The complete array, because a second one replaces the first and `+` stops on an unset key (procedures 4.2); and
    the secret, for nodes of Rails alone.
    """
    lines = []
    if "registry" in package.node.roles:
        endpoints = [*foreign_endpoints(package), endpoint(site, token)]
        lines.append(gitlab_rb.assignment("registry", ["notifications"], endpoints))
    if package.node.roles & set(RAILS):
        lines.append(secret_line(token))
    return "\n".join(lines)


def secret_line(token: str) -> str:
    """The key that Rails reads; `registry['notification_secret']`, as documented, has no effect (procedures 2.4)."""
    return gitlab_rb.assignment("gitlab_rails", ["registry_notification_secret"], token)


def replication_block(site: Site, token: str) -> str:
    """Where a secondary pulls from, and the secret that it needs once it is promoted."""
    address = f"{site.sites.primary.parameters.registry.url}/"
    return "\n".join(
        [
            gitlab_rb.assignment("gitlab_rails", ["geo_registry_replication_enabled"], True),
            gitlab_rb.assignment("gitlab_rails", ["geo_registry_replication_primary_api_url"], address),
            secret_line(token),
        ]
    )
