"""The database side of the import: find or create what a repository needs.

Every method raises db.DatabaseError where the server refuses. Source: registry 4.1, 6.1, 6.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from georeg_lab.registry import digests
from georeg_lab.registry import media_types as types
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.importer_manifests import Descriptor

COUNTED = ("repositories", "manifests", "blobs", "tags")


class UnknownMediaTypeError(Exception):
    """A media type without a row, while none may be added."""

    def __init__(self, media_type: str) -> None:
        super().__init__(f"unknown media type: {media_type}")


@dataclass(frozen=True)
class Repository:
    """A repository's row; ids are this database's own."""

    namespace: int
    id: int
    path: str
    last_published_at: datetime | None


@dataclass
class Statistics:
    """One row of `import_statistics`, filled while the import runs."""

    started_at: datetime | None = None
    finished_at: datetime | None = None
    pre_import: bool = False
    pre_import_started_at: datetime | None = None
    pre_import_finished_at: datetime | None = None
    pre_import_error: str | None = None
    tag_import: bool = False
    tag_import_started_at: datetime | None = None
    tag_import_finished_at: datetime | None = None
    tag_import_error: str | None = None
    blob_import: bool = False
    blob_import_started_at: datetime | None = None
    blob_import_finished_at: datetime | None = None
    blob_import_error: str | None = None
    repositories_count: int = 0
    tags_count: int = 0
    manifests_count: int = 0
    blobs_count: int = 0
    blobs_size_bytes: int = 0
    storage_driver: str = "filesystem"


class Store:
    """Rows of the import's database. `dynamic_media_types` adds types that the database does not know."""

    def __init__(self, queries: Queries, dynamic_media_types: bool = True) -> None:
        self.queries = queries
        self.dynamic_media_types = dynamic_media_types
        self._media_types: dict[str, int] = {}
        self._namespaces: dict[str, int] = {}

    def forget(self) -> None:
        """Drop what is remembered of rows: a transaction that made them was rolled back."""
        self._media_types.clear()
        self._namespaces.clear()

    # --- media types

    def _load_media_types(self) -> None:
        if not self._media_types:
            self._media_types = dict(self.queries.execute("SELECT media_type, id FROM media_types").fetchall())

    def media_type(self, name: str) -> int:
        """The id of a media type. Raises UnknownMediaTypeError."""
        self._load_media_types()
        found = self._media_types.get(name)
        if found is None and self.dynamic_media_types:
            row = self.queries.one(
                "INSERT INTO media_types (media_type) VALUES (%s) ON CONFLICT (media_type) "
                "DO UPDATE SET media_type = excluded.media_type RETURNING id",
                (name,),
            )
            found = self._media_types[name] = row[0] if row else 0
        if found is None:
            raise UnknownMediaTypeError(name)
        return found

    def layer_media_type(self, name: str) -> int:
        """The id of a layer's media type; an unknown one counts as `application/octet-stream`."""
        try:
            return self.media_type(name)
        except UnknownMediaTypeError:
            return self.media_type(types.OCTET_STREAM)

    # --- repositories

    def repository(self, path: str) -> Repository:
        """Find or create a repository and its top-level namespace."""
        top = path.split("/", 1)[0]
        namespace = self._namespaces.get(top)
        if namespace is None:
            try:
                namespace = self._namespace(top)
            except DatabaseError as error:
                raise DatabaseError(
                    f"finding or creating namespace: scanning namespace: {error}", error.sqlstate
                ) from None
            self._namespaces[top] = namespace
        try:
            row = self.queries.one(
                "SELECT id, last_published_at FROM repositories WHERE path = %s AND deleted_at IS NULL", (path,)
            ) or self.queries.one(
                "INSERT INTO repositories (top_level_namespace_id, name, path) VALUES (%s, %s, %s) "
                "ON CONFLICT (path) DO UPDATE SET deleted_at = NULL RETURNING id, last_published_at",
                (namespace, path.rsplit("/", 1)[-1], path),
            )
        except DatabaseError as error:
            raise DatabaseError(f"scanning repository: {error}", error.sqlstate) from None
        assert row is not None
        return Repository(namespace, row[0], path, row[1])

    def _namespace(self, name: str) -> int:
        row = self.queries.one("SELECT id FROM top_level_namespaces WHERE name = %s", (name,)) or self.queries.one(
            "INSERT INTO top_level_namespaces (name) VALUES (%s) ON CONFLICT (name) "
            "DO UPDATE SET name = excluded.name RETURNING id",
            (name,),
        )
        assert row is not None
        return int(row[0])

    def mark_published(self, repository: Repository) -> None:
        """Note that step one is through with a repository."""
        self.queries.execute(
            "UPDATE repositories SET last_published_at = now() WHERE top_level_namespace_id = %s AND id = %s",
            (repository.namespace, repository.id),
        )

    # --- manifests

    def find_manifest(self, repository: Repository, digest: str) -> int | None:
        """The id of a manifest of the repository. Raises digests.DigestError for an algorithm that cannot be stored."""
        row = self.queries.one(
            "SELECT id FROM manifests WHERE top_level_namespace_id = %s AND repository_id = %s AND digest = %s",
            (repository.namespace, repository.id, digests.to_bytes(digest)),
        )
        return None if row is None else int(row[0])

    def link_blobs(self, repository: Repository, blobs: Sequence[Descriptor]) -> None:
        """Create blobs with the sizes of their descriptors, and their links to the repository."""
        if not blobs:
            return
        sizes = {digests.to_bytes(blob.digest): blob.size for blob in blobs}
        keys = sorted(sizes)  # one order for all: no deadlock with a push
        self.queries.execute(
            "WITH wanted AS (SELECT * FROM unnest(%s::bytea[], %s::bigint[]) AS w (digest, size)), "
            "made AS (INSERT INTO blobs (digest, media_type_id, size) SELECT digest, %s, size FROM wanted "
            "ON CONFLICT (digest) DO NOTHING) "
            "INSERT INTO repository_blobs (top_level_namespace_id, repository_id, blob_digest) "
            "SELECT %s, %s, digest FROM wanted "
            "ON CONFLICT (top_level_namespace_id, repository_id, blob_digest) DO NOTHING",
            (
                keys,
                [sizes[key] for key in keys],
                self.media_type(types.OCTET_STREAM),
                repository.namespace,
                repository.id,
            ),
        )

    def create_manifest(
        self,
        repository: Repository,
        digest: str,
        payload: bytes,
        media_type: str,
        *,
        config: Descriptor | None = None,
        config_payload: bytes | None = None,
        total_size: int = 0,
        non_conformant: bool = False,
    ) -> int:
        """Create a manifest (an image's with `config`, whose blob must exist). Raises UnknownMediaTypeError."""
        try:
            media_type_id = self.media_type(media_type)
        except UnknownMediaTypeError as error:
            raise UnknownMediaTypeError(str(error)) from None
        row = self.queries.one(
            "INSERT INTO manifests (top_level_namespace_id, repository_id, schema_version, media_type_id, digest, "
            "payload, configuration_media_type_id, configuration_payload, configuration_blob_digest, total_size, "
            "non_conformant) VALUES (%s, %s, 2, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            (
                repository.namespace,
                repository.id,
                media_type_id,
                digests.to_bytes(digest),
                payload,
                self.media_type(config.media_type) if config else None,
                config_payload,
                digests.to_bytes(config.digest) if config else None,
                total_size,
                non_conformant,
            ),
        )
        assert row is not None
        return int(row[0])

    def create_layers(self, repository: Repository, manifest: int, layers: Sequence[Descriptor]) -> None:
        """Create the layers of a manifest, each digest once."""
        once = {layer.digest: layer for layer in layers}
        if not once:
            return
        self.queries.execute(
            "INSERT INTO layers (top_level_namespace_id, repository_id, manifest_id, digest, size, media_type_id) "
            "SELECT %s, %s, %s, digest, size, media_type_id "
            "FROM unnest(%s::bytea[], %s::bigint[], %s::smallint[]) AS w (digest, size, media_type_id) "
            "ON CONFLICT (top_level_namespace_id, repository_id, manifest_id, digest) DO NOTHING",
            (
                repository.namespace,
                repository.id,
                manifest,
                [digests.to_bytes(layer.digest) for layer in once.values()],
                [layer.size for layer in once.values()],
                [self.layer_media_type(layer.media_type) for layer in once.values()],
            ),
        )

    def add_reference(self, repository: Repository, parent: int, child: int) -> None:
        """Make a manifest the child of a list."""
        self.queries.execute(
            "INSERT INTO manifest_references (top_level_namespace_id, repository_id, parent_id, child_id) "
            "VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (top_level_namespace_id, repository_id, parent_id, child_id) DO NOTHING",
            (repository.namespace, repository.id, parent, child),
        )

    # --- tags, blobs, the rest

    def has_tags(self) -> bool:
        """Whether the `tags` table has any row."""
        row = self.queries.one("SELECT EXISTS (SELECT FROM tags)")
        return bool(row and row[0])

    def create_tag(self, repository: Repository, name: str, manifest: int) -> None:
        """Create a tag, or move it."""
        self.queries.execute(
            "INSERT INTO tags (top_level_namespace_id, repository_id, manifest_id, name) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (top_level_namespace_id, repository_id, name) DO UPDATE SET manifest_id = "
            "excluded.manifest_id, updated_at = now() WHERE excluded.manifest_id <> tags.manifest_id",
            (repository.namespace, repository.id, manifest, name),
        )

    def create_blobs(self, blobs: Sequence[tuple[bytes, int]]) -> None:
        """Create blobs (digest as stored, size in bytes) that have no row yet."""
        self.queries.execute(
            "INSERT INTO blobs (digest, media_type_id, size) SELECT digest, "
            "(SELECT id FROM media_types WHERE media_type = %s), size "
            "FROM unnest(%s::bytea[], %s::bigint[]) AS w (digest, size) ON CONFLICT (digest) DO NOTHING",
            (types.OCTET_STREAM, [digest for digest, _ in blobs], [size for _, size in blobs]),
        )

    def row_counts(self) -> dict[str, int]:
        """Rows of the four tables that the last log line names."""
        row = self.queries.one("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in COUNTED))
        return dict(zip(COUNTED, row or (), strict=True))

    def save_statistics(self, statistics: Statistics) -> None:
        """Write the import's row."""
        names = [field.name for field in fields(statistics)]
        values: tuple[Any, ...] = tuple(getattr(statistics, name) for name in names)
        self.queries.execute(
            f"INSERT INTO import_statistics ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})", values
        )
