"""Legacy metadata: links in the storage. Source: registry 3, 5.2."""

from __future__ import annotations

import threading
from contextlib import suppress

from georeg_lab.registry import digests, storage
from georeg_lab.registry.backend import (
    Backend,
    BlobUnknownError,
    ManifestUnknownError,
    RepositoryUnknownError,
    StoredBlob,
    StoredManifest,
)
from georeg_lab.registry.http_errors import APIError
from georeg_lab.registry.http_payloads import Payload, PayloadError, stored
from georeg_lab.registry.storage import InvalidPathError, PathNotFoundError, Storage


class LegacyBackend(Backend):
    """Metadata in the folders of the repositories."""

    is_database = False

    def __init__(self, files: Storage) -> None:
        self.files = files
        self._lock = threading.Lock()  # a file that is being written is empty for a moment

    def _write(self, path: str, data: bytes) -> None:
        with self._lock:
            self.files.write(path, data)

    def _link(self, path: str) -> str:
        with self._lock:
            return self.files.link(path)

    def catalog(self, limit: int, last: str) -> tuple[list[str], bool]:
        """In byte order of the path components. Any folder after a full page announces a next one."""
        after = last.split("/") if last else []
        found: list[str] = []
        with suppress(PathNotFoundError):
            for name, is_repository in self.files.walk():
                if len(found) == limit:
                    return found, True
                if is_repository and name.split("/") > after:
                    found.append(name)
        return found, False

    def tags(self, repository: str, limit: int, last: str) -> tuple[list[str], bool]:
        """All tags, whatever the bounds are."""
        try:
            return self.files.tags(repository), False
        except PathNotFoundError:
            raise RepositoryUnknownError from None

    def tag_digest(self, repository: str, tag: str) -> str:
        path = storage.tag_link_path(repository, tag)
        try:
            return self._link(path)
        except InvalidPathError:
            raise APIError("UNKNOWN", {"Path": path, "DriverName": "filesystem"}) from None
        except (PathNotFoundError, digests.DigestError):
            raise ManifestUnknownError from None

    def _linked(self, link: str) -> str:
        """The digest in a link whose blob is there. Raises BlobUnknownError."""
        try:
            target = self._link(link)
            self.files.stat(storage.blob_path(target))
        except (PathNotFoundError, digests.DigestError):
            raise BlobUnknownError from None
        return target

    def manifest(self, repository: str, digest: str) -> StoredManifest:
        try:
            target = self._linked(storage.revision_link_path(repository, digest))
            with self._lock:
                data = self.files.read(storage.blob_path(target))
        except (BlobUnknownError, PathNotFoundError):
            raise ManifestUnknownError from None
        if not data:
            raise ManifestUnknownError
        try:
            return StoredManifest(digest, stored(data).media_type, data)
        except PayloadError:
            raise APIError("UNKNOWN", {}) from None

    def has_manifest(self, repository: str, digest: str) -> bool:
        return self.files.exists(storage.revision_link_path(repository, digest))

    def put_manifest(self, repository: str, payload: Payload, tag: str) -> None:
        self._write(storage.blob_path(payload.digest), payload.data)
        self._write(storage.revision_link_path(repository, payload.digest), payload.digest.encode())
        if tag:
            link = payload.digest.encode()
            self._write(storage.tag_index_link_path(repository, tag, payload.digest), link)
            self._write(storage.tag_link_path(repository, tag), link)

    def delete_tag(self, repository: str, tag: str) -> None:
        if not self.files.exists(storage.tags_folder(repository)):
            raise RepositoryUnknownError
        try:
            self.files.delete(storage.tag_folder(repository, tag))
        except PathNotFoundError:
            raise ManifestUnknownError from None

    def _tags_of(self, repository: str, digest: str) -> list[str]:
        found = []
        with suppress(PathNotFoundError):
            for tag in self.files.tags(repository):
                with suppress(storage.StorageError, digests.DigestError):
                    if self._link(storage.tag_link_path(repository, tag)) == digest:
                        found.append(tag)
        return found

    def delete_manifest(self, repository: str, digest: str) -> list[str]:
        """Removes the revision's link; the payload stays in the blob store, and lists keep pointing to it."""
        link = storage.revision_link_path(repository, digest)
        if not self.files.exists(link):
            raise ManifestUnknownError
        self.files.delete(link)
        tags = self._tags_of(repository, digest)
        for tag in tags:
            self.files.delete(storage.tag_folder(repository, tag))
        return tags

    def blob(self, repository: str, digest: str) -> StoredBlob:
        target = self._linked(storage.layer_link_path(repository, digest))
        return StoredBlob(target, self.files.stat(storage.blob_path(target)).st_size)

    def has_blob(self, repository: str, digest: str) -> bool:
        try:
            self._linked(storage.layer_link_path(repository, digest))
        except BlobUnknownError:
            return False
        return True

    def mount(self, repository: str, digest: str, source: str) -> StoredBlob:
        found = self.blob(source, digest)
        self._write(storage.layer_link_path(repository, found.digest), found.digest.encode())
        return found

    def link_blob(self, repository: str, digest: str, size: int, alias: str) -> None:
        for name in {digest, alias} - {""}:
            self._write(storage.layer_link_path(repository, name), digest.encode())

    def delete_blob(self, repository: str, digest: str) -> None:
        try:
            self.files.delete(storage.layer_link_path(repository, digest))
        except PathNotFoundError:
            raise BlobUnknownError from None
