"""Manifests and blobs as the import finds them in the storage: what it reads, and how it fails.

Source: registry 1.6 (corruptions), recorded imports."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from georeg_lab.registry import digests, go_json, storage
from georeg_lab.registry import media_types as types
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.storage import PathNotFoundError, Storage

# `-+`, where the original has `-*`: the same names, without its exponential backtracking
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_NAME = re.compile(rf"(?:{_HOST}(?:\.{_HOST})*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*")
NAME_LIMIT = 255


class BlobUnknownError(Exception):
    """The blob is not linked to the repository, or its file is gone."""

    def __init__(self) -> None:
        super().__init__("unknown blob")


class ManifestUnknownError(Exception):
    """No such manifest in the repository, or nothing in it that could be one."""

    def __init__(self, repository: str, digest: str) -> None:
        super().__init__(f"unknown manifest name={repository} revision={digest}")


class ManifestEmptyError(Exception):
    """The manifest's file has no bytes."""

    def __init__(self, repository: str, digest: str) -> None:
        super().__init__(f"manifest content missing from storage backend name={repository} digest={digest}")


class ManifestSchema1Error(Exception):
    """A manifest of schema version 1."""

    def __init__(self) -> None:
        super().__init__("manifest schema v1 unsupported")


class ManifestMalformedError(Exception):
    """The manifest cannot be read as one of the four known kinds."""


@dataclass(frozen=True)
class Descriptor:
    """What a manifest says about a blob or a child. `size` in bytes."""

    media_type: str
    size: int
    digest: str


@dataclass(frozen=True)
class StoredManifest:
    """A manifest of the storage. Images have `config` and `layers`, lists `children`, a buildx cache index all of them.

    `counted_size` is what the manifest itself adds to its total size: the bytes of the payload, for a cache index those
    of the image manifest that it is taken for."""

    digest: str
    payload: bytes
    media_type: str
    type_name: str
    counted_size: int
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    children: tuple[Descriptor, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether this is a list or an index."""
        return self.config is None


def parse_name(name: str) -> str:
    """Return the repository's name. Raises ValueError with the registry's text."""
    if not _NAME.fullmatch(name):
        raise ValueError("invalid reference format")
    if len(name) > NAME_LIMIT:
        raise ValueError(f"repository name must not be more than {NAME_LIMIT} characters")
    return name


class RepositoryFiles:
    """The links of one repository, and the blobs behind them."""

    def __init__(self, files: Storage, name: str, log: Logger) -> None:
        """`log` gets the storage's own warnings, which name no repository."""
        self.files = files
        self.name = name
        self.log = log

    def _stat(self, link: str, digest: str) -> str:
        """The digest that a link names, after looking whether its blob is there. Raises BlobUnknownError,
        digests.DigestError, StorageError."""
        try:
            target = self.files.link(link)
            if target != digest:
                self.log.warning(f"looking up blob with canonical target: {digest} -> {target}")
            self.files.stat(storage.blob_path(target))
        except PathNotFoundError:
            raise BlobUnknownError from None
        return target

    def stat_blob(self, digest: str) -> None:
        """Look whether a layer or config is linked and there. Raises as `_stat`."""
        self._stat(storage.layer_link_path(self.name, digest), digest)

    def read_blob(self, digest: str) -> bytes:
        """The bytes of a layer or config. Raises as `_stat`."""
        target = self._stat(storage.layer_link_path(self.name, digest), digest)
        return self.files.read(storage.blob_path(target))

    def read_manifest(self, digest: str) -> StoredManifest:
        """A manifest by digest; its bytes are not checked against the digest. Raises one of the errors of this module,
        digests.DigestError, StorageError."""
        try:
            target = self._stat(storage.revision_link_path(self.name, digest), digest)
            payload = self.files.read(storage.blob_path(target))
        except (BlobUnknownError, PathNotFoundError):
            raise ManifestUnknownError(self.name, digest) from None
        if not payload:
            raise ManifestEmptyError(self.name, digest)
        try:
            content = go_json.loads(payload)
        except go_json.GoJSONError as error:
            raise ManifestMalformedError(f"failed to unmarshal manifest payload: {error}") from None
        version, media_type = _versioned(content)
        if version == 1:
            raise ManifestSchema1Error
        if version != 2:
            self.log.warning("unrecognized manifest schema version, ignoring manifest", schema_version=version)
            raise ManifestUnknownError(self.name, digest)
        return _manifest(digest, payload, content, media_type)


def _versioned(content: Any) -> tuple[int, str]:
    """`schemaVersion` and `mediaType`. Raises ManifestMalformedError."""
    head = "failed to unmarshal manifest payload: json: cannot unmarshal"
    if content is None:
        return 0, ""
    if not isinstance(content, dict):
        raise ManifestMalformedError(f"{head} {_go_kind(content)} into Go value of type manifest.Versioned")
    version, media_type = content.get("schemaVersion", 0), content.get("mediaType", "")
    if isinstance(version, bool) or not isinstance(version, int):
        raise ManifestMalformedError(
            f"{head} {_go_kind(version)} into Go struct field Versioned.schemaVersion of type int"
        )
    if not isinstance(media_type, str):
        raise ManifestMalformedError(
            f"{head} {_go_kind(media_type)} into Go struct field Versioned.mediaType of type string"
        )
    return version, media_type


def _go_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "null"


def _descriptor(value: Any) -> Descriptor:
    value = value if isinstance(value, dict) else {}
    return Descriptor(str(value.get("mediaType", "")), int(value.get("size", 0)), str(value.get("digest", "")))


def _manifest(digest: str, payload: bytes, content: dict[str, Any], media_type: str) -> StoredManifest:
    children = tuple(_descriptor(child) for child in content.get("manifests") or ())
    if not media_type:
        media_type = types.OCI_INDEX if children else types.OCI_MANIFEST
    if media_type in types.LISTS:
        type_name = "*manifestlist.DeserializedManifestList"
        configs = [child for child in children if child.media_type == types.BUILDKIT_CACHE_CONFIG]
        if configs:
            layers = tuple(child for child in children if child is not configs[0])
            size = _size_as_image(content["manifests"], children.index(configs[0]))
            return StoredManifest(digest, payload, media_type, type_name, size, configs[0], layers, children)
        return StoredManifest(digest, payload, media_type, type_name, 0, children=children)
    if media_type in types.IMAGES:
        type_name = f"*{'schema2' if media_type == types.DOCKER_MANIFEST else 'ocischema'}.DeserializedManifest"
        layers = tuple(_descriptor(layer) for layer in content.get("layers") or ())
        config = _descriptor(content.get("config"))
        return StoredManifest(digest, payload, media_type, type_name, len(payload), config, layers)
    raise ManifestMalformedError(f"errors verifying manifest: unrecognized manifest content type {media_type}")


def _size_as_image(entries: list[dict[str, Any]], config: int) -> int:
    """Bytes of the OCI image manifest that a cache index is rewritten to before its size is taken."""
    keys = ("mediaType", "size", "digest", "urls", "annotations", "platform")
    ordered = [{key: entry[key] for key in keys if entry.get(key)} for entry in entries]
    image = {
        "schemaVersion": 2,
        "mediaType": types.OCI_MANIFEST,
        "config": ordered[config],
        "layers": [entry for position, entry in enumerate(ordered) if position != config] or None,
    }
    return len(json.dumps(image, indent=3, ensure_ascii=False).encode())


DIGEST_SKIPPED = (digests.DigestFormatError, digests.DigestUnsupportedError)
"""Broken links that only cost what they point to; a hash of the wrong length ends the import."""
