"""The sites file of a lab: the inventory that georeg works from, in the shape of any other sites file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from georeg_lab import states
from georeg_lab.layout import Lab
from georeg_lab.sites.node_files import DATABASE_CA

HEAD = """\
# The rehearsal sites that `georeg lab up` starts. Relative paths: from the working directory, else the project's root.
"""


def sites_file(lab: Lab) -> str:
    """Text of `sites.yml` for this lab. Paths below the project are relative to it, others absolute."""
    inventory = {"primary": _site(lab, "primary"), "secondaries": [_site(lab, site) for site in lab.secondaries]}
    state = states.of(lab)
    head = HEAD if state.name == states.DEFAULT else f"{HEAD}# State {state.name}: {state.title}.\n"
    return head + yaml.safe_dump(inventory, sort_keys=False, width=120)


def _site(lab: Lab, site: str) -> dict[str, Any]:
    folder, ports = project_path(lab.dir), lab.ports
    ca = f"{folder}/pki/ca.crt"
    way: dict[str, Any] = {"connection": "local"}
    if lab.ssh:
        way = {"connection": "ssh", "ssh_config": f"{folder}/ssh/ssh_config", "sudo": lab.ssh == "sudo"}
    return {
        "name": site,
        "geo_name": site,
        "gitlab": {
            "url": f"https://127.0.0.1:{ports.gitlab(site)}",
            "token": f"file:{folder}/secrets/gitlab-token",
            "user": "root",
            "ca": ca,
        },
        "registry": {"url": f"https://127.0.0.1:{ports.registry(site)}", "ca": ca},
        "database": {
            "host": "127.0.0.1",
            "port": ports.registry_database(site),
            "name": "registry",
            "user": "registry",
            "password": f"file:{folder}/secrets/{site}-registry-database",
            "sslmode": "verify-full",
            "ca": ca,
            "node_sslrootcert": DATABASE_CA,
        },
        "nodes": [
            {
                "name": lab.node_name(node),
                "roles": ["rails", "sidekiq", "registry", "postgres"] if node == site else ["registry"],
                **way,
                "root": str(lab.node_root(node)) if lab.ssh else f"{folder}/{node}",
            }
            for node in lab.registry_nodes(site)
        ],
    }


def project_root() -> Path | None:
    """The project that the working directory lies in: the nearest folder upwards with notebooks/ and parameters/."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "parameters").is_dir():
            return folder
    return None


def project_path(path: Path) -> str:
    """The path relative to the project when it lies in one, else absolute."""
    path, project = path.resolve(), project_root()
    return str(path.relative_to(project) if project and path.is_relative_to(project) else path)
