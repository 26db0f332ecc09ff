"""Registries that are on a metadata database at the start: imported with GitLab's own commands."""

from __future__ import annotations

from collections.abc import Callable

from georeg_lab import states
from georeg_lab.layout import Lab
from georeg_lab.sites import node_files

Run = Callable[..., str]


def use_databases(lab: Lab, run: Run, progress: Callable[[str], None]) -> None:
    """Move each site that the lab's state has on a metadata database there, secondaries first. `run` runs a node's
    program. Source: procedures 2.6."""
    state = states.of(lab)
    for site in reversed(lab.sites):
        if state.registry(site) not in ("external", "bundled"):
            continue
        progress(f"{site}: registry metadata into the {state.registry(site)} database")
        nodes = lab.registry_nodes(site)
        run(site, "gitlab-ctl", "stop", "registry")  # releases before 17.10 ask otherwise
        run(site, "gitlab-ctl", "registry-database", "migrate", "up")
        run(site, "gitlab-ctl", "registry-database", "import", timeout=600)
        node_files.write_gitlab_rb(lab, site, database=True)
        for node in nodes:
            run(node, "gitlab-ctl", "reconfigure")
