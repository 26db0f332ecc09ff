"""Several registry nodes of one site: one registry to its users, so everything that they must have in common. Source:
registry 2, 3; procedures 2.3, 2.6.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any

from georeg_nb.errors import NodeFileMissing
from georeg_nb.omnibus import SECRETS, Omnibus, RegistryConfig
from georeg_nb.procedures import state
from georeg_nb.procedures.places import place_of
from georeg_nb.runbook import Finding, check, expect, failed, not_applicable, passed
from georeg_nb.site import Site


@check("the registry nodes of the site are alike", source="registry 2, 3", evidence="source")
def nodes_are_alike(site: Site) -> Finding:
    """One storage, HTTP secret, signing key, database and set of notifications, and one version of the registry.

    With a storage of its own a node would hide what is pushed through the others, and its tags would not be imported.
    Secrets are compared by a digest under a key of this moment, and never shown.
    """
    packages = site.packages("registry")
    if len(packages) == 1:
        return not_applicable("one registry node")
    pepper = secrets.token_bytes(32)
    facts = {package.node.name: _facts(package, site, pepper) for package in packages}
    first = packages[0].node.name
    differ = [
        f"{what} of {name}" for name, found in facts.items() for what in found if found[what] != facts[first][what]
    ]
    if differ:
        return failed(
            f"other than on {first}: {', '.join(differ)}",
            "alike on every registry node",
            remedy="give every registry node of the site the same storage, gitlab-secrets.json and registry settings",
        )
    return passed(f"alike on {', '.join(facts)}", "alike on every registry node")


def _facts(package: Omnibus, site: Site, pepper: bytes) -> dict[str, str]:
    """What is compared → what it is on this node."""
    config = package.registry_config()
    data: dict[str, Any] = dict(config.data) if config else {}
    try:
        kept = json.loads(package.node.read_file(SECRETS)).get("registry") or {}
    except NodeFileMissing:
        kept = {}
    secret = {
        "the HTTP secret": (data.get("http") or {}).get("secret"),
        "the signing key": [kept.get("internal_key"), kept.get("internal_certificate")],
        "the notifications": data.get("notifications"),
    }
    hidden = {
        name: hmac.new(pepper, json.dumps(value, sort_keys=True, default=str).encode(), hashlib.sha256).hexdigest()
        for name, value in secret.items()
    }
    return hidden | {
        "the storage": place_of(package, site.name)[1],
        "the database's address": _database(config),
        "the registry's version": package.registry_version(),
    }


def _database(config: RegistryConfig | None) -> str:
    """Where the configured database is; the package's default is one word, as its address follows the node's roles."""
    if config is None:
        return ""
    unused = state.is_bundled(config) and config.mode != "database"
    return "the default, not enabled" if unused else str(config.database_address)


@check("the database's certificate authority is on every registry node", source="procedures 2.3", evidence="source")
def authority_is_there(site: Site) -> Finding:
    """A node without it fails only when it is switched to the database, with pushes refused."""
    path = site.parameters.database.node_sslrootcert
    if not path:
        return not_applicable("no node_sslrootcert is given")
    missing = [node.name for node in site.registry_nodes if not node.exists(path)]
    return expect(
        f"not on {', '.join(missing)}" if missing else "there",
        "there",
        remedy=f"copy it to {path} on these nodes, readable by the registry",
    )
