"""Conditions of a lab for the time of a `with`: what refused runs are tested with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from georeg_lab.postgres import hand_over
from georeg_lab.sites import LabSites
from georeg_lab.sites.databases import registry_cluster


@contextmanager
def database_down(sites: LabSites, site: str = "secondary") -> Iterator[None]:
    """The site's external registry database does not run."""
    cluster = registry_cluster(sites.lab, site)
    cluster.stop()
    try:
        yield
    finally:
        cluster.start()


@contextmanager
def wrong_token(sites: LabSites) -> Iterator[None]:
    """The token that the parameters refer to is not one of GitLab's."""
    path = sites.lab.secrets / "gitlab-token"
    right = path.read_text()
    path.write_text("glpat-0000000000000000000000000000000000000000\n")
    try:
        yield
    finally:
        path.write_text(right)


@contextmanager
def secondary_database_is_standby(sites: LabSites) -> Iterator[None]:
    """The secondary's external registry database is a streaming replica of the primary's, passwords included."""
    primary, secondary = (registry_cluster(sites.lab, site) for site in ("primary", "secondary"))
    aside = secondary.data_dir.with_name("data.aside")
    secondary.stop()
    secondary.data_dir.rename(aside)
    slot = "mistaken_standby"
    own, other = (sites.lab.secrets / f"{site}-registry-database" for site in ("secondary", "primary"))
    password = own.read_text()
    own.write_text(other.read_text())
    try:
        primary.base_backup(secondary, slot, primary.superuser, primary.password)
        for name in ("server.crt", "server.key"):
            shutil.copy2(aside / name, secondary.data_dir / name)
            hand_over(secondary.data_dir / name)
        secondary.start()
        yield
    finally:
        own.write_text(password)
        secondary.remove()
        primary.execute(
            f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        )
        primary.stop()  # a slot that is being given up by its sender cannot be dropped; after a restart it is free
        primary.start()
        primary.execute(
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        )
        aside.rename(secondary.data_dir)
        secondary.start()


CONDITIONS: dict[str, Callable[[LabSites], AbstractContextManager[None]]] = {
    "database-down": database_down,
    "wrong-token": wrong_token,
    "secondary-database-is-standby": secondary_database_is_standby,
}
