"""Things that go wrong at real sites, brought about in a lab by name or behind georeg's back.

`FAULTS` are conditions: a context manager each, which sets the fault and takes it away again. `Tamper` changes single
tags of one site without the other side, or any event, hearing of it. One fault is always there: `images.LOST`, a tag
that the importer leaves behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from georeg_lab.layout import inside
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


FAULTS: dict[str, Callable[[LabSites], AbstractContextManager[None]]] = {
    "database-down": database_down,
    "wrong-token": wrong_token,
    "secondary-database-is-standby": secondary_database_is_standby,
}


@dataclass(frozen=True)
class Tamper:
    """Change tags of one site directly where its registry keeps them: in the storage (legacy) or in the database."""

    sites: LabSites
    site: str

    @property
    def uses_database(self) -> bool:
        """Whether the site's registry works on its metadata database."""
        config = inside(self.sites.lab.node_root(self.site), "/var/opt/gitlab/registry/config.yml")
        enabled = (yaml.safe_load(config.read_text()).get("database") or {}).get("enabled")
        return str(enabled).lower() == "true"

    def delete_tag(self, repository: str, tag: str) -> None:
        """The tag is gone, its manifest stays."""
        if self.uses_database:
            self._sql("DELETE FROM tags AS t USING repositories AS r", repository, tag)
        else:
            shutil.rmtree(self._tag_folder(repository, tag))

    def move_tag(self, repository: str, tag: str, other_tag: str) -> None:
        """The tag now names the manifest that `other_tag` of the same repository names."""
        if self.uses_database:
            target = (
                "(SELECT manifest_id FROM tags AS o WHERE o.repository_id = t.repository_id AND o.name = %(other)s)"
            )
            self._sql(f"UPDATE tags AS t SET manifest_id = {target} FROM repositories AS r", repository, tag, other_tag)
        else:
            digest = (self._tag_folder(repository, other_tag) / "current/link").read_text()
            self._write_tag(repository, tag, digest)

    def add_tag(self, repository: str, tag: str, other_tag: str) -> None:
        """A new tag on the manifest that `other_tag` names."""
        if not self.uses_database:
            self._write_tag(repository, tag, (self._tag_folder(repository, other_tag) / "current/link").read_text())
            return
        columns = "top_level_namespace_id, repository_id, manifest_id"
        self._sql(
            f"INSERT INTO tags ({columns}, name) SELECT t.top_level_namespace_id, t.repository_id, t.manifest_id,"
            " %(other)s FROM tags AS t JOIN repositories AS r ON true",
            repository,
            other_tag,
            tag,
        )

    def _tag_folder(self, repository: str, tag: str) -> Path:
        folder = self.sites.storage(self.site) / "docker/registry/v2/repositories"
        return folder / repository / "_manifests/tags" / tag

    def _write_tag(self, repository: str, tag: str, digest: str) -> None:
        folder = self._tag_folder(repository, tag)
        for path in (folder / "current", folder / "index/sha256" / digest.partition(":")[2]):
            path.mkdir(parents=True, exist_ok=True)
            (path / "link").write_text(digest)

    def _sql(self, statement: str, repository: str, tag: str, other: str = "") -> None:
        """Run `statement` for the row `t` of the tag, `r` its repository. Raises LookupError when there is none."""
        import psycopg

        where = (
            " WHERE t.repository_id = r.id AND t.top_level_namespace_id = r.top_level_namespace_id"
            " AND r.path = %(repository)s AND t.name = %(tag)s"
        )
        values: dict[str, Any] = {"repository": repository, "tag": tag, "other": other}
        with psycopg.connect(self.sites.metadata_dsn(self.site)) as connection:
            if connection.execute((statement + where).encode(), values).rowcount != 1:
                raise LookupError(f"{self.site} has no tag {repository}:{tag}")
