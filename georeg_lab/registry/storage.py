"""The registry's files: the filesystem driver with its error texts, and the layout below the root directory.

Paths are the registry's own, absolute below the root directory (`/docker/registry/v2/…`). Source: registry 3."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from georeg_lab.registry import digests

V2 = "/docker/registry/v2"
REPOSITORIES = f"{V2}/repositories"
BLOBS = f"{V2}/blobs"
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


class StorageError(Exception):
    """An operation on the storage failed; the message is the registry's."""


class PathNotFoundError(StorageError):
    """Nothing lies at the path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"filesystem: Path not found: {path}")
        self.path = path


class InvalidPathError(StorageError):
    """The path has characters that the driver refuses, e.g. a blank in a tag's name."""

    def __init__(self, path: str) -> None:
        super().__init__(f"filesystem: invalid path: {path}")


def blob_folder(digest: str) -> str:
    """Folder of a blob in the blob store."""
    algorithm, _, encoded = digest.partition(":")
    return f"{BLOBS}/{algorithm}/{encoded[:2]}/{encoded}"


def blob_path(digest: str) -> str:
    """The file with a blob's bytes."""
    return f"{blob_folder(digest)}/data"


def layer_link_path(repository: str, digest: str) -> str:
    """The link that makes a blob (layer or config) part of a repository."""
    return f"{REPOSITORIES}/{repository}/_layers/{digest.replace(':', '/', 1)}/link"


def revision_link_path(repository: str, digest: str) -> str:
    """The link that makes a manifest part of a repository."""
    return f"{REPOSITORIES}/{repository}/_manifests/revisions/{digest.replace(':', '/', 1)}/link"


def tags_folder(repository: str) -> str:
    """Folder with one folder per tag."""
    return f"{REPOSITORIES}/{repository}/_manifests/tags"


def tag_folder(repository: str, tag: str) -> str:
    """Folder of a tag; removing it removes the tag."""
    return f"{tags_folder(repository)}/{tag}"


def tag_link_path(repository: str, tag: str) -> str:
    """The link from a tag to the manifest it names now."""
    return f"{tag_folder(repository, tag)}/current/link"


def tag_index_link_path(repository: str, tag: str, digest: str) -> str:
    """The link that remembers that a tag once named this manifest."""
    return f"{tag_folder(repository, tag)}/index/{digest.replace(':', '/', 1)}/link"


def upload_folder(repository: str, upload: str) -> str:
    """Folder of an upload in progress: `data`, `startedat`, `hashstates/<algorithm>/<offset>`."""
    return f"{REPOSITORIES}/{repository}/_uploads/{upload}"


def digest_of_blob_path(path: str) -> str:
    """The digest of a `…/data` path in the blob store. Raises StorageError where the folder's name is none."""
    parts = path.split("/")
    try:
        return digests.validate(f"{parts[-4]}:{parts[-2]}")
    except digests.DigestError as error:
        raise StorageError(f"failed to parse digest from path {path}: {error}") from None


class Storage:
    """The filesystem driver on one root directory. A missing path raises PathNotFoundError, the rest StorageError."""

    def __init__(self, root: Path | str) -> None:
        self.root = str(root).rstrip("/")

    def real(self, path: str) -> str:
        """The file on disk. Raises InvalidPathError."""
        if not _PATH.fullmatch(path):
            raise InvalidPathError(path)
        return self.root + path

    def _failed(self, operation: str, path: str, error: OSError) -> StorageError:
        if isinstance(error, FileNotFoundError):
            return PathNotFoundError(path)
        return StorageError(f"filesystem: {operation} {self.root}{path}: {(error.strerror or str(error)).lower()}")

    def read(self, path: str) -> bytes:
        """The content of a file."""
        real = self.real(path)
        try:
            with open(real, "rb") as file:  # noqa: PTH123 (read once per link: Path costs more than the read)
                return file.read()
        except OSError as error:
            raise self._failed("open", path, error) from None

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """The file opened for reading at an offset."""
        try:
            file = Path(self.real(path)).open("rb")  # noqa: SIM115 (the caller closes it)
        except OSError as error:
            raise self._failed("open", path, error) from None
        file.seek(offset)
        return file

    def write(self, path: str, data: bytes) -> None:
        """Replace a file: cut to nothing and written, then synced, as the driver does it. Not atomic."""
        real = self.real(path)
        try:
            Path(real).parent.mkdir(parents=True, exist_ok=True)
            with Path(real).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed("open", path, error) from None

    def append(self, path: str, data: bytes) -> int:
        """Append to a file, creating it. Returns its new size."""
        real = self.real(path)
        try:
            Path(real).parent.mkdir(parents=True, exist_ok=True)
            with Path(real).open("ab") as file:
                file.write(data)
                return file.tell()
        except OSError as error:
            raise self._failed("open", path, error) from None

    def stat(self, path: str) -> os.stat_result:
        """What the file system says about the path."""
        try:
            return os.stat(self.real(path))  # noqa: PTH116 (once per layer)
        except OSError as error:
            raise self._failed("stat", path, error) from None

    def exists(self, path: str) -> bool:
        """Whether something lies at the path."""
        try:
            self.stat(path)
        except PathNotFoundError:
            return False
        return True

    def is_folder(self, path: str) -> bool:
        """Whether a folder lies at the path."""
        return os.path.isdir(self.real(path))  # noqa: PTH112

    def names(self, path: str) -> list[str]:
        """Names in a folder, in byte order."""
        try:
            return sorted(os.listdir(self.real(path)), key=os.fsencode)  # noqa: PTH208
        except OSError as error:
            raise self._failed("open", path, error) from None

    def move(self, source: str, target: str) -> None:
        """Rename a file into place, replacing what is there."""
        try:
            Path(self.real(target)).parent.mkdir(parents=True, exist_ok=True)
            Path(self.real(source)).replace(self.real(target))
        except OSError as error:
            raise self._failed("rename", source, error) from None

    def delete(self, path: str) -> None:
        """Remove a file or a folder with everything in it."""
        real = Path(self.real(path))
        try:
            if real.is_dir() and not real.is_symlink():
                shutil.rmtree(real)
            else:
                real.unlink()
        except OSError as error:
            raise self._failed("remove", path, error) from None

    # --- the layout

    def link(self, path: str) -> str:
        """The digest in a link file. Raises PathNotFoundError, StorageError, digests.DigestError."""
        return digests.validate(self.read(path).decode("utf-8", "replace"))

    def repositories(self) -> Iterator[str]:
        """Names of all repositories: folders with `_manifests`, walked in byte order of the path components.

        Raises PathNotFoundError where there is no `repositories` folder at all."""
        return (name for name, is_repository in self.walk() if is_repository)

    def walk(self) -> Iterator[tuple[str, bool]]:
        """(path, False) for each folder that could be a repository or hold one, (name, True) for each repository.

        Raises PathNotFoundError where there is no `repositories` folder at all."""
        yield from self._walk_repositories(REPOSITORIES, "")

    def _walk_repositories(self, folder: str, name: str) -> Iterator[tuple[str, bool]]:
        try:
            with os.scandir(self.root + folder) as entries:
                found = sorted((os.fsencode(entry.name), entry.name, entry.is_dir()) for entry in entries)
        except OSError as error:
            if name and isinstance(error, FileNotFoundError):
                return  # vanished during the walk
            raise self._failed("open", folder, error) from None
        for _, entry, is_folder in found:
            if entry == "_manifests" and name:
                yield name, True
            elif is_folder and not entry.startswith("_"):
                inner = f"{name}/{entry}" if name else entry
                yield inner, False
                yield from self._walk_repositories(f"{folder}/{entry}", inner)

    def has_repository(self, repository: str) -> bool:
        """Whether the repository exists in the storage: its folder has `_manifests`."""
        return os.path.exists(f"{self.root}{REPOSITORIES}/{repository}/_manifests")  # noqa: PTH110

    def tags(self, repository: str) -> list[str]:
        """Names in the repository's tags folder, in byte order. Raises PathNotFoundError where it has none."""
        return self.names(tags_folder(repository))

    def tag_digest(self, repository: str, tag: str) -> str:
        """The digest that a tag's `current/link` names. Raises as `link` does."""
        return self.link(tag_link_path(repository, tag))

    def blob_sizes(self) -> Iterator[tuple[str, int]]:
        """(path of the `data` file, size) of every blob file, in byte order of the path components.

        Raises PathNotFoundError where there is no `blobs` folder."""
        yield from self._walk_blobs(BLOBS)

    def _walk_blobs(self, folder: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(self.root + folder) as entries:
                found = sorted((os.fsencode(entry.name), entry) for entry in entries)
        except OSError as error:
            if folder != BLOBS and isinstance(error, FileNotFoundError):
                return
            raise self._failed("open", folder, error) from None
        for _, entry in found:
            if entry.is_dir():
                yield from self._walk_blobs(f"{folder}/{entry.name}")
            elif entry.name == "data":
                yield f"{folder}/data", entry.stat().st_size
