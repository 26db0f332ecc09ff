"""What a fault is made of: changes of a lab that can be taken back, also by a later process.

Each keeps what it needs for that in a folder of its own (`keep`). Taking back tolerates what was never done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg

from georeg_lab.layout import inside
from georeg_lab.postgres import Cluster, hand_over
from georeg_lab.sites import LabError, LabSites
from georeg_lab.sites.databases import main_cluster, registry_cluster, tracking_cluster
from georeg_lab.sites.node_files import DATABASE_CA, STORAGE, Secrets

GITLAB_RB = "/etc/gitlab/gitlab.rb"
PATIENCE = 30.0  # seconds
CLUSTERS: dict[str, Callable[..., Cluster]] = {
    "main": main_cluster,
    "tracking": tracking_cluster,
    "registry": registry_cluster,
}


class Action(Protocol):
    """A change and its way back."""

    def on(self, sites: LabSites, keep: Path) -> None:
        """Make the change."""

    def off(self, sites: LabSites, keep: Path) -> None:
        """Take it back."""


def fill(text: str, sites: LabSites, site: str = "secondary") -> str:
    """`text` with the lab's values for {placeholders}: addresses, passwords, the storage."""
    lab, kept = sites.lab, Secrets(sites.lab.secrets)
    values = {
        "primary": f"https://127.0.0.1:{lab.ports.gitlab('primary')}",
        "secondary": f"https://127.0.0.1:{lab.ports.gitlab('secondary')}",
        "registry": f"https://127.0.0.1:{lab.ports.registry(site)}",
        "main_port": str(lab.ports.postgresql(site)),
        "database_port": str(lab.ports.registry_database(site)),
        "database_password": kept.registry_database(site),
        "main_password": kept.value("main-database"),
        "notification_token": kept.value("notification-token"),
        "database_ca": DATABASE_CA,
        "storage": STORAGE,
    }
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


@dataclass(frozen=True)
class Configure:
    """Lines at the end of a site's gitlab.rb, reconfigured. That reconfigure then fails may be the very fault."""

    site: str
    text: str

    def on(self, sites: LabSites, keep: Path) -> None:
        file = inside(sites.lab.node_root(self.site), GITLAB_RB)
        keep.touch(mode=0o600)  # it holds secrets
        keep.write_text(file.read_text())
        with file.open("a") as out:
            out.write(f"\n{fill(self.text, sites, self.site)}\n")
        with suppress(LabError):
            sites.run(self.site, "gitlab-ctl", "reconfigure")

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            inside(sites.lab.node_root(self.site), GITLAB_RB).write_text(keep.read_text())
            sites.run(self.site, "gitlab-ctl", "reconfigure")


@dataclass(frozen=True)
class Replace:
    """A file of a site with another text (a function of the old one), or none; where `text` is None it is taken away.

    `restart` names services to restart afterwards, both ways.
    """

    site: str
    path: str
    text: Callable[[str], str] | None = None
    restart: tuple[str, ...] = ()

    def on(self, sites: LabSites, keep: Path) -> None:
        file = inside(sites.lab.node_root(self.site), self.path)
        there, before = file.exists(), file.read_text() if file.exists() else ""
        keep.touch(mode=0o600)
        keep.write_text(f"{'there' if there else 'none'}\n{before}")
        if self.text is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.text(before))
        self._restart(sites)

    def off(self, sites: LabSites, keep: Path) -> None:
        if not keep.exists():
            return
        state, _, text = keep.read_text().partition("\n")
        file = inside(sites.lab.node_root(self.site), self.path)
        if state == "none":
            file.unlink(missing_ok=True)
        else:
            file.write_text(text)
        self._restart(sites)

    def _restart(self, sites: LabSites) -> None:
        for name in self.restart:
            with suppress(LabError):
                sites.run(self.site, "gitlab-ctl", "restart", name)


@dataclass(frozen=True)
class FileForFolder:
    """A file lies where a site has, or would make, a folder."""

    site: str
    path: str

    def on(self, sites: LabSites, keep: Path) -> None:
        folder = inside(sites.lab.node_root(self.site), self.path)
        keep.touch()
        if folder.is_dir():
            folder.rename(folder.with_name(f"{folder.name}.aside"))
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text("no folder\n")

    def off(self, sites: LabSites, keep: Path) -> None:
        folder = inside(sites.lab.node_root(self.site), self.path)
        if keep.exists():
            folder.unlink(missing_ok=True)
            aside = folder.with_name(f"{folder.name}.aside")
            if aside.exists():
                aside.rename(folder)


@dataclass(frozen=True)
class Sql:
    """Statements in a database of a site as its superuser; `undo` takes them back."""

    cluster: str
    site: str
    do: tuple[str, ...]
    undo: tuple[str, ...] = ()
    dbname: str = "postgres"

    def on(self, sites: LabSites, keep: Path) -> None:
        keep.touch()
        self._execute(sites, self.do)

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            self._execute(sites, self.undo)

    def _execute(self, sites: LabSites, statements: tuple[str, ...]) -> None:
        cluster = CLUSTERS[self.cluster](sites.lab, self.site)
        cluster.execute(*(fill(statement, sites, self.site) for statement in statements), dbname=self.dbname)


@dataclass(frozen=True)
class Run:
    """A command of a node, whatever its outcome, and one for the way back."""

    site: str
    argv: tuple[str, ...]
    back: tuple[str, ...] = ()

    def on(self, sites: LabSites, keep: Path) -> None:
        keep.touch()
        with suppress(LabError):
            sites.run(self.site, *self.argv)

    def off(self, sites: LabSites, keep: Path) -> None:
        if self.back and keep.exists():
            sites.run(self.site, *self.back)


@dataclass(frozen=True)
class EmptyDatabase:
    """Changes nothing when it is switched on; the way back makes a site's registry database anew, empty."""

    site: str

    def on(self, sites: LabSites, keep: Path) -> None:
        keep.touch()

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            statements = ("DROP DATABASE registry WITH (FORCE)", "CREATE DATABASE registry OWNER registry")
            registry_cluster(sites.lab, self.site).execute(*statements)


@dataclass(frozen=True)
class AccessRules:
    """The primary's pg_hba.conf with other rules, loaded; the standbys' connections are broken off."""

    change: Callable[[str], str]

    def on(self, sites: LabSites, keep: Path) -> None:
        file = main_cluster(sites.lab, "primary").data_dir / "pg_hba.conf"
        keep.write_text(file.read_text())
        self._load(sites, file, self.change(file.read_text()))

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            self._load(sites, main_cluster(sites.lab, "primary").data_dir / "pg_hba.conf", keep.read_text())

    def _load(self, sites: LabSites, file: Path, rules: str) -> None:
        with main_cluster(sites.lab, "primary").connect() as connection:
            file.write_text(rules)
            hand_over(file)
            connection.execute("SELECT pg_reload_conf()")
            time.sleep(0.2)  # the postmaster reads it after the signal
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'gitlab%%' "
                "AND pid <> pg_backend_pid() AND usename <> 'gitlab-psql'"
            )


@dataclass(frozen=True)
class DropSlot:
    """The primary's replication slot of the secondary is gone."""

    slot: str = "secondary"

    def on(self, sites: LabSites, keep: Path) -> None:
        keep.touch()
        with main_cluster(sites.lab, "primary").connect() as connection:
            for _ in range(50):
                try:
                    connection.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [self.slot])
                    return
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.1)
        raise LabError(f"the replication slot {self.slot} is always in use")

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            with main_cluster(sites.lab, "primary").connect() as connection:
                connection.execute(
                    "SELECT pg_create_physical_replication_slot(%s, true) WHERE NOT EXISTS"
                    " (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
                    [self.slot, self.slot],
                )


@dataclass(frozen=True)
class Do:
    """Anything else: functions of the sites."""

    do: Callable[[LabSites], None]
    undo: Callable[[LabSites], None] = field(default=lambda sites: None)

    def on(self, sites: LabSites, keep: Path) -> None:
        keep.touch()
        self.do(sites)

    def off(self, sites: LabSites, keep: Path) -> None:
        if keep.exists():
            self.undo(sites)


@dataclass(frozen=True)
class Await:
    """Wait until a log of a site says something: the fault is there only then."""

    site: str
    log: str
    text: str

    def on(self, sites: LabSites, keep: Path) -> None:
        file = inside(sites.lab.node_root(self.site), f"/var/log/gitlab/{self.log}")
        end = time.monotonic() + PATIENCE
        while not (file.exists() and self.text in file.read_text(errors="replace")):
            if time.monotonic() > end:
                raise LabError(f"{self.site}: {self.log} does not say {self.text!r} within {PATIENCE:g} s")
            time.sleep(0.1)

    def off(self, sites: LabSites, keep: Path) -> None: ...
