"""Manifests as bodies of requests: reading them, and what makes one invalid. Source: registry 5.2, recorded answers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from georeg_lab.registry import digests, go_json, go_struct
from georeg_lab.registry import media_types as types
from georeg_lab.registry.go_struct import Struct

LIMIT = 4 * 1024 * 1024
_SHOULD_BE = {
    types.DOCKER_MANIFEST: "mediaType in manifest should be",
    types.DOCKER_LIST: "mediaType in manifest list should be",
    types.OCI_MANIFEST: "if present, mediaType in manifest should be",
    types.OCI_INDEX: "if present, mediaType in image index should be",
}


class PayloadError(Exception):
    """The bytes are no manifest; the message is the `detail` of `MANIFEST_INVALID`."""


@dataclass(frozen=True)
class Reference:
    """What a manifest says about a blob or another manifest. `size` in bytes."""

    media_type: str
    size: int
    digest: str
    urls: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    architecture: str = ""
    os: str = ""

    def event_entry(self) -> dict[str, Any]:
        """The reference as an event lists it."""
        entry: dict[str, Any] = {"mediaType": self.media_type, "size": self.size, "digest": self.digest}
        if self.urls:
            entry["urls"] = list(self.urls)
        if self.annotations:
            entry["annotations"] = dict(self.annotations)
        return entry


@dataclass(frozen=True)
class Payload:
    """A manifest that was read. Images have `config` and `layers`, lists `children`."""

    digest: str
    media_type: str
    data: bytes
    schema_version: int = 2
    config: Reference | None = None
    layers: tuple[Reference, ...] = ()
    children: tuple[Reference, ...] = ()
    subject: Reference | None = None
    artifact_type: str = ""

    @property
    def is_list(self) -> bool:
        """Whether this is a list or an index, a build cache's included."""
        return self.media_type in types.LISTS

    @property
    def cache_config(self) -> Reference | None:
        """The config among the children of a build cache's index."""
        return next((child for child in self.children if child.media_type == types.BUILDKIT_CACHE_CONFIG), None)

    @property
    def references(self) -> tuple[Reference, ...]:
        """Everything the manifest names: the config first, the subject last."""
        if self.is_list:
            return self.children
        subject = () if self.subject is None else (self.subject,)
        return (self.config or Reference("", 0, ""), *self.layers, *subject)

    @property
    def total_size(self) -> int:
        """Bytes of payload, config and layers; 0 for lists. Source: registry 4.1."""
        config = self.cache_config if self.is_list else self.config
        if config is None:
            return 0
        if not self.is_list:
            return len(self.data) + config.size + sum(layer.size for layer in self.layers)
        layers = [child for child in self.children if child is not config]
        return _converted_size(config, layers) + config.size + sum(layer.size for layer in layers)


def _converted_size(config: Reference, layers: list[Reference]) -> int:
    """Bytes of the image that the real program makes of a build cache's index (recorded: indented by three blanks)."""
    head = {"schemaVersion": 2, "mediaType": types.OCI_MANIFEST}
    document = {**head, "config": config.event_entry(), "layers": [layer.event_entry() for layer in layers]}
    return len(json.dumps(document, ensure_ascii=False, indent=3).encode())


_PLATFORM = Struct("v1.Platform", {"architecture": "string", "os": "string", "variant": "string"})
_DESCRIPTOR = {
    "mediaType": "string",
    "size": "int64",
    "digest": "digest.Digest",
    "urls": ["string"],
    "annotations": {},
}
_BLOB = Struct("distribution.Descriptor", {**_DESCRIPTOR, "platform": _PLATFORM})
_CHILD = Struct(
    "manifestlist.ManifestDescriptor",
    {
        **{f"Descriptor.{key}": kind for key, kind in _DESCRIPTOR.items()},
        "platform": Struct("manifestlist.PlatformSpec", {"architecture": "string", "os": "string"}),
    },
)
_VERSIONED = {"Versioned.schemaVersion": "int", "Versioned.mediaType": "string"}
_IMAGE = {**_VERSIONED, "config": _BLOB, "layers": [_BLOB]}
_LIST = Struct("manifestlist.ManifestList", {**_VERSIONED, "manifests": [_CHILD]})
_STRUCTS = {
    types.DOCKER_MANIFEST: Struct("schema2.Manifest", _IMAGE),
    types.OCI_MANIFEST: Struct(
        "ocischema.Manifest", {**_IMAGE, "artifactType": "string", "subject": _BLOB, "annotations": {}}
    ),
    types.DOCKER_LIST: _LIST,
    types.OCI_INDEX: _LIST,
}
_ANY = Struct("manifest.Versioned", {"schemaVersion": "int", "mediaType": "string"})
_PARAMETER = re.compile(r'\s*[\w!#$&+.^`|~-]+\s*=\s*(?:[\w!#$&+.^`|~-]+|"(?:[^"\\]|\\.)*")\s*')


def media_type(header: str) -> str:
    """The media type in a header, in lower case, without parameters. Raises ValueError with Go's words."""
    found, *parameters = header.split(";")
    if parameters and not parameters[-1].strip():
        parameters.pop()
    if not all(_PARAMETER.fullmatch(parameter) for parameter in parameters):
        raise ValueError("mime: invalid media parameter")
    return found.strip().lower()


def _reference(value: Any) -> Reference:
    value = value or {}
    platform = value.get("platform") or {}
    return Reference(
        value.get("mediaType") or "",
        value.get("size") or 0,
        value.get("digest") or "",
        tuple(url or "" for url in value.get("urls") or ()),
        tuple((k, v or "") for k, v in (value.get("annotations") or {}).items()),
        platform.get("architecture") or "",
        platform.get("os") or "",
    )


def _document(data: bytes, kind: Struct) -> dict[str, Any]:
    try:
        content = go_json.loads(data)
        go_struct.check(content, kind)
    except RecursionError:
        raise PayloadError("exceeded max depth") from None
    except go_json.GoJSONError as error:
        raise PayloadError(str(error)) from None
    found: dict[str, Any] = content or {}
    return found


def read(content_type: str, data: bytes) -> Payload:
    """Read the body of a manifest PUT; what no content type claims is taken for a Docker image. Raises PayloadError."""
    try:
        claimed = media_type(content_type)
    except ValueError as error:
        raise PayloadError(str(error)) from None
    if claimed == types.DOCKER_SCHEMA_1_SIGNED:
        raise PayloadError("missing signature key")
    if claimed not in _SHOULD_BE:
        claimed = types.DOCKER_MANIFEST
    content = _document(data, _STRUCTS[claimed])
    named = content.get("mediaType") or ""
    if claimed == types.DOCKER_MANIFEST and not named:
        raise PayloadError("no mediaType in manifest")
    optional = claimed in (types.OCI_MANIFEST, types.OCI_INDEX)
    if named != claimed and not (optional and not named):
        raise PayloadError(f"{_SHOULD_BE[claimed]} '{claimed}' not '{named}'")
    return _payload(claimed, content, data)


def stored(data: bytes) -> Payload:
    """Read a manifest from the blob store, where only its bytes say what it is. Raises PayloadError."""
    content = _document(data, _ANY)
    if content.get("schemaVersion") == 1:
        raise PayloadError("manifest schema v1 unsupported")
    is_index = content.get("manifests") is not None
    found = content.get("mediaType") or (types.OCI_INDEX if is_index else types.OCI_MANIFEST)
    if found not in _SHOULD_BE:
        raise PayloadError(f"unrecognized manifest content type {found}")
    return _payload(found, _document(data, _STRUCTS[found]), data)


def _payload(kind: str, content: dict[str, Any], data: bytes) -> Payload:
    digest, version = digests.of(data), content.get("schemaVersion") or 0
    if kind in types.LISTS:
        children = tuple(_reference(child) for child in content.get("manifests") or ())
        return Payload(digest, kind, data, version, children=children)
    config = _reference(content["config"]) if content.get("config") else None
    layers = tuple(_reference(layer) for layer in content.get("layers") or ())
    if kind == types.DOCKER_MANIFEST:
        return Payload(digest, kind, data, version, config, layers)
    subject = _reference(content["subject"]) if content.get("subject") is not None else None
    artifact = content.get("artifactType") or ""
    return Payload(digest, kind, data, version, config, layers, subject=subject, artifact_type=artifact)
