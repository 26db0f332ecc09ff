"""Metadata in PostgreSQL. Source: registry 4, 5.2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from georeg_lab.registry import database_push, digests, storage
from georeg_lab.registry import media_types as types
from georeg_lab.registry.backend import (
    Backend,
    BlobUnknownError,
    InternalError,
    ManifestReferencedError,
    ManifestUnknownError,
    RepositoryUnknownError,
    StoredBlob,
    StoredManifest,
)
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.http_payloads import Payload, PayloadError, stored
from georeg_lab.registry.importer_store import Repository, Store
from georeg_lab.registry.storage import Storage

Result = TypeVar("Result")
FOREIGN_KEY_VIOLATION = "23503"
CONFLICTS = ("23505", "40001", "40P01")  # somebody else inserted the row, or waits for ours
REPEATS = 5


@dataclass(frozen=True)
class _Key:
    """What finds a row of a repository."""

    namespace: int
    repository: int


def find_repository(queries: Queries, path: str) -> Repository | None:
    """The repository's row, unless it is soft-deleted."""
    row = queries.one(
        "SELECT top_level_namespace_id, id, last_published_at FROM repositories WHERE path = %s AND deleted_at IS NULL",
        (path,),
    )
    return None if row is None else Repository(row[0], row[1], path, row[2])


def bytes_of(digest: str) -> bytes | None:
    """A digest as it is stored, or None where the database cannot hold its algorithm."""
    try:
        return digests.to_bytes(digest)
    except digests.DigestError:
        return None


class DatabaseBackend(Backend):
    """Metadata in the database; blobs stay in the storage.

    The repository is always looked up first: its numbers then choose one partition in 64. A join with `repositories`
    would have every partition planned, which takes ten times as long as the query.
    """

    is_database = True

    def __init__(self, pool: Pool, files: Storage) -> None:
        self.pool = pool
        self.files = files

    def close(self) -> None:
        self.pool.close()

    def _run(self, work: Callable[[Queries], Result], *, transaction: bool = False) -> Result:
        """Run queries; a transaction that lost against a concurrent one is repeated."""
        for left in range(REPEATS, -1, -1):
            try:
                return self.pool.transaction(work) if transaction else self.pool.run(work)
            except DatabaseError as error:
                if not (transaction and left and error.sqlstate in CONFLICTS):
                    raise InternalError(str(error)) from None
        raise AssertionError

    # --- lists

    def catalog(self, limit: int, last: str) -> tuple[list[str], bool]:
        """Repositories with a manifest, soft-deleted ones too, in the database's collation."""

        def work(queries: Queries) -> list[str]:
            rows = queries.execute(
                "SELECT r.path FROM repositories r WHERE r.path > %s AND EXISTS (SELECT FROM manifests m WHERE "
                "m.top_level_namespace_id = r.top_level_namespace_id AND m.repository_id = r.id) "
                "ORDER BY r.path LIMIT %s",
                (last, limit + 1),
            )
            return [row[0] for row in rows]

        found = self._run(work)
        return found[:limit], len(found) > limit

    def tags(self, repository: str, limit: int, last: str) -> tuple[list[str], bool]:
        def work(queries: Queries) -> list[str]:
            row = find_repository(queries, repository)
            if row is None:
                raise RepositoryUnknownError
            rows = queries.execute(
                "SELECT name FROM tags WHERE top_level_namespace_id = %s AND repository_id = %s AND name > %s "
                "ORDER BY name LIMIT %s",
                (row.namespace, row.id, last, limit + 1),
            )
            return [found[0] for found in rows]

        found = self._run(work)
        return found[:limit], len(found) > limit

    # --- manifests

    def tag_digest(self, repository: str, tag: str) -> str:
        def work(queries: Queries) -> str:
            found = find_repository(queries, repository)
            if found is None:
                raise ManifestUnknownError
            row = queries.one(
                "SELECT m.digest FROM tags t JOIN manifests m ON m.top_level_namespace_id = t.top_level_namespace_id "
                "AND m.repository_id = t.repository_id AND m.id = t.manifest_id "
                "WHERE t.top_level_namespace_id = %s AND t.repository_id = %s AND t.name = %s",
                (found.namespace, found.id, tag),
            )
            if row is None:
                raise ManifestUnknownError
            return digests.from_bytes(row[0])

        return self._run(work)

    def manifest(self, repository: str, digest: str) -> StoredManifest:
        key = bytes_of(digest)

        def work(queries: Queries) -> StoredManifest:
            found = find_repository(queries, repository)
            row = (
                None
                if found is None
                else queries.one(
                    "SELECT m.payload, t.media_type, m.non_conformant FROM manifests m "
                    "JOIN media_types t ON t.id = m.media_type_id "
                    "WHERE m.top_level_namespace_id = %s AND m.repository_id = %s AND m.digest = %s",
                    (found.namespace, found.id, key),
                )
            )
            if row is None:
                raise ManifestUnknownError
            return StoredManifest(digest, _served_type(row[0], row[1], bool(row[2])), bytes(row[0]))

        return self._run(work)

    def has_manifest(self, repository: str, digest: str) -> bool:
        key = bytes_of(digest)

        def work(queries: Queries) -> bool:
            found = find_repository(queries, repository)
            if found is None:
                raise RepositoryUnknownError
            row = queries.one(
                "SELECT FROM manifests WHERE top_level_namespace_id = %s AND repository_id = %s AND digest = %s",
                (found.namespace, found.id, key),
            )
            return row is not None

        return self._run(work)

    def put_manifest(self, repository: str, payload: Payload, tag: str) -> None:
        self._run(
            lambda queries: database_push.put_manifest(queries, self.files, repository, payload, tag), transaction=True
        )

    def delete_tag(self, repository: str, tag: str) -> None:
        def work(queries: Queries) -> None:
            row = find_repository(queries, repository)
            if row is None:
                raise RepositoryUnknownError
            deleted = queries.execute(
                "DELETE FROM tags WHERE top_level_namespace_id = %s AND repository_id = %s AND name = %s",
                (row.namespace, row.id, tag),
            )
            if deleted.rowcount == 0:
                raise ManifestUnknownError

        self._run(work)

    def delete_manifest(self, repository: str, digest: str) -> list[str]:
        """The tags go with the manifest, unannounced."""
        key = bytes_of(digest)

        def work(queries: Queries) -> None:
            row = find_repository(queries, repository)
            if row is None:
                raise InternalError("repository not found")  # recorded: 500
            where = (row.namespace, row.id)
            found = queries.one(
                "SELECT id FROM manifests WHERE top_level_namespace_id = %s AND repository_id = %s AND digest = %s",
                (*where, key),
            )
            if found is None:
                raise ManifestUnknownError
            named = queries.one(
                "SELECT FROM manifests WHERE top_level_namespace_id = %s AND repository_id = %s AND subject_id = %s",
                (*where, found[0]),
            )
            if named is not None:
                raise InternalError("manifest is the subject of another")  # recorded: 500
            try:
                queries.execute(
                    "DELETE FROM manifests WHERE top_level_namespace_id = %s AND repository_id = %s AND id = %s",
                    (*where, found[0]),
                )
            except DatabaseError as error:
                if error.sqlstate == FOREIGN_KEY_VIOLATION:
                    raise ManifestReferencedError from None
                raise

        self._run(work)
        return []

    # --- blobs

    def _linked(self, queries: Queries, repository: str, digest: str) -> StoredBlob | None:
        found = find_repository(queries, repository)
        row = (
            None
            if found is None
            else queries.one(
                "SELECT b.size FROM repository_blobs l JOIN blobs b ON b.digest = l.blob_digest "
                "WHERE l.top_level_namespace_id = %s AND l.repository_id = %s AND l.blob_digest = %s AND b.digest = %s",
                (found.namespace, found.id, bytes_of(digest), bytes_of(digest)),
            )
        )
        return None if row is None else StoredBlob(digest, row[0])

    def has_blob(self, repository: str, digest: str) -> bool:
        """The row decides, whether the file is there or not."""

        def work(queries: Queries) -> bool:
            if self._linked(queries, repository, digest) is not None:
                return True
            if find_repository(queries, repository) is None:
                raise RepositoryUnknownError
            return False

        return self._run(work)

    def blob(self, repository: str, digest: str) -> StoredBlob:
        found = self._run(lambda queries: self._linked(queries, repository, digest))
        if found is None or not self.files.exists(storage.blob_path(digest)):
            raise BlobUnknownError
        return found

    def mount(self, repository: str, digest: str, source: str) -> StoredBlob:
        def work(queries: Queries) -> StoredBlob:
            found = self._linked(queries, source, digest)
            if found is None:
                raise BlobUnknownError
            self._link(queries, repository, digest)
            return found

        return self._run(work, transaction=True)

    def _link(self, queries: Queries, repository: str, digest: str) -> None:
        row = Store(queries).repository(repository)
        queries.execute(
            "INSERT INTO repository_blobs (top_level_namespace_id, repository_id, blob_digest) VALUES (%s, %s, %s) "
            "ON CONFLICT (top_level_namespace_id, repository_id, blob_digest) DO NOTHING",
            (row.namespace, row.id, digests.to_bytes(digest)),
        )

    def link_blob(self, repository: str, digest: str, size: int, alias: str) -> None:
        def work(queries: Queries) -> None:
            queries.execute(
                "INSERT INTO blobs (digest, media_type_id, size) SELECT %s, id, %s FROM media_types "
                "WHERE media_type = %s ON CONFLICT (digest) DO NOTHING",
                (digests.to_bytes(digest), size, types.OCTET_STREAM),
            )
            self._link(queries, repository, digest)

        self._run(work, transaction=True)

    def delete_blob(self, repository: str, digest: str) -> None:
        def work(queries: Queries) -> None:
            row = find_repository(queries, repository)
            if row is None:
                raise RepositoryUnknownError
            deleted = queries.execute(
                "DELETE FROM repository_blobs WHERE top_level_namespace_id = %s AND repository_id = %s "
                "AND blob_digest = %s",
                (row.namespace, row.id, bytes_of(digest)),
            )
            if deleted.rowcount == 0:
                raise BlobUnknownError

        self._run(work)


def _served_type(payload: bytes, media_type: str, non_conformant: bool) -> str:
    """A build cache's index is stored as an image, but served as the index that it is."""
    if not non_conformant:
        return media_type
    try:
        return stored(bytes(payload)).media_type
    except PayloadError:
        return media_type
