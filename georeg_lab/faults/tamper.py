"""Single tags of one site changed directly where its registry keeps them, so that no event tells of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from georeg_lab.layout import inside
from georeg_lab.sites import LabSites


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
