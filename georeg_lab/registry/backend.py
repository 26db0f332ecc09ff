"""What the HTTP handlers ask of the metadata, whether it lies in the file system or in the database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from georeg_lab.registry.http_payloads import Payload


class RepositoryUnknownError(Exception):
    """No such repository."""


class ManifestUnknownError(Exception):
    """No such manifest, or no such tag, in the repository."""


class ManifestReferencedError(Exception):
    """The manifest is the child of a list."""


class BlobUnknownError(Exception):
    """The blob is not part of the repository, or its file is gone."""


class InternalError(Exception):
    """The real program fails here with an error of its database or storage: 500 `UNKNOWN`."""


class UnavailableError(Exception):
    """The metadata cannot be reached: 503."""


@dataclass(frozen=True)
class StoredManifest:
    """A manifest as it is served. `media_type` is the Content-Type of the answer."""

    digest: str
    media_type: str
    payload: bytes


@dataclass(frozen=True)
class StoredBlob:
    """A blob of a repository: its canonical digest and size in bytes."""

    digest: str
    size: int


class Backend(ABC):
    """Metadata of a registry. Every method may raise UnavailableError, and InternalError as the real program does."""

    is_database: bool

    @abstractmethod
    def catalog(self, limit: int, last: str) -> tuple[list[str], bool]:
        """At most `limit` repositories after `last`, and whether a next page is announced."""

    @abstractmethod
    def tags(self, repository: str, limit: int, last: str) -> tuple[list[str], bool]:
        """Tag names, and whether more follow. Legacy mode ignores both bounds. Raises RepositoryUnknownError."""

    @abstractmethod
    def tag_digest(self, repository: str, tag: str) -> str:
        """The digest a tag points to. Raises ManifestUnknownError."""

    @abstractmethod
    def manifest(self, repository: str, digest: str) -> StoredManifest:
        """A manifest of the repository. Raises ManifestUnknownError."""

    @abstractmethod
    def put_manifest(self, repository: str, payload: Payload, tag: str) -> None:
        """Store a verified manifest and, unless `tag` is empty, point the tag to it. Raises http_errors.APIError for
        what only this kind of metadata refuses."""

    @abstractmethod
    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag. Raises RepositoryUnknownError, ManifestUnknownError."""

    @abstractmethod
    def delete_manifest(self, repository: str, digest: str) -> list[str]:
        """Remove a manifest and its tags. Returns the tags that are announced one by one. Raises ManifestUnknownError,
        ManifestReferencedError."""

    @abstractmethod
    def has_manifest(self, repository: str, digest: str) -> bool:
        """Whether the manifest is part of the repository. Raises RepositoryUnknownError."""

    @abstractmethod
    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether a manifest of the repository may name the blob. Raises RepositoryUnknownError."""

    @abstractmethod
    def blob(self, repository: str, digest: str) -> StoredBlob:
        """A blob to serve. Raises BlobUnknownError."""

    @abstractmethod
    def mount(self, repository: str, digest: str, source: str) -> StoredBlob:
        """Make a blob of `source` part of the repository. Raises BlobUnknownError."""

    @abstractmethod
    def link_blob(self, repository: str, digest: str, size: int, alias: str) -> None:
        """Make an uploaded blob part of the repository. `alias`: the digest the client named, if not the canonical."""

    @abstractmethod
    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob out of the repository. Raises BlobUnknownError, RepositoryUnknownError."""

    def close(self) -> None:  # noqa: B027 (nothing to close in the file system)
        """Give back what the metadata needs: connections."""
