"""Manifests as bodies of requests: reading them, and what makes one invalid. Source: registry 5.2, recorded answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from georeg_lab.registry import digests, go_json
from georeg_lab.registry import media_types as types

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
        """Everything the manifest names, the config first."""
        if self.is_list:
            return self.children
        return (self.config or Reference("", 0, ""), *self.layers)

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


def _reference(value: Any) -> Reference:
    value = value if isinstance(value, dict) else {}
    platform = value.get("platform") or {}
    return Reference(
        str(value.get("mediaType") or ""),
        int(value.get("size") or 0),
        str(value.get("digest") or ""),
        tuple(str(url) for url in value.get("urls") or ()),
        tuple((str(k), str(v)) for k, v in (value.get("annotations") or {}).items()),
        str(platform.get("architecture") or ""),
        str(platform.get("os") or ""),
    )


def _wrong_type(value: Any, field: str, wanted: str) -> NoReturn:
    kind = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    found = kind.get(type(value), "null")
    raise PayloadError(f"json: cannot unmarshal {found} into Go struct field {field} of type {wanted}")


def _document(data: bytes) -> dict[str, Any]:
    try:
        content = go_json.loads(data)
    except go_json.GoJSONError as error:
        raise PayloadError(str(error)) from None
    if not isinstance(content, dict):
        kind = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}.get(type(content), "null")
        raise PayloadError(f"json: cannot unmarshal {kind} into Go value of type manifest.Versioned")
    if not isinstance(content.get("mediaType") or "", str):
        _wrong_type(content["mediaType"], "Versioned.mediaType", "string")
    if type(content.get("schemaVersion", 0)) is not int:
        _wrong_type(content["schemaVersion"], "Versioned.schemaVersion", "int")
    return content


def read(content_type: str, data: bytes) -> Payload:
    """Read the body of a manifest PUT. A content type that is no manifest's is ignored. Raises PayloadError."""
    media_type = content_type.split(";")[0].strip().lower()
    content = _document(data)
    named = content.get("mediaType") or ""
    if media_type not in _SHOULD_BE:
        if not named:
            raise PayloadError("no mediaType in manifest")
        if named not in _SHOULD_BE:
            raise PayloadError(f"unsupported manifest media type and no default available: {named}")
        media_type = named
    optional = media_type in (types.OCI_MANIFEST, types.OCI_INDEX)
    if named != media_type and not (optional and not named):
        raise PayloadError(f"{_SHOULD_BE[media_type]} '{media_type}' not '{named}'")
    if media_type in types.IMAGES and content.get("manifests"):
        raise PayloadError("expected manifest but found index")
    if media_type in types.LISTS and (content.get("config") or content.get("layers")):
        raise PayloadError("expected index but found manifest")
    return _payload(media_type, content, data)


def stored(data: bytes) -> Payload:
    """Read a manifest from the blob store, where only its bytes say what it is. Raises PayloadError."""
    content = _document(data)
    if content.get("schemaVersion") == 1:
        raise PayloadError("manifest schema v1 unsupported")
    media_type = content.get("mediaType") or (types.OCI_INDEX if content.get("manifests") else types.OCI_MANIFEST)
    if media_type not in _SHOULD_BE:
        raise PayloadError(f"unrecognized manifest content type {media_type}")
    return _payload(media_type, content, data)


def _payload(media_type: str, content: dict[str, Any], data: bytes) -> Payload:
    digest = digests.of(data)
    subject = _reference(content["subject"]) if isinstance(content.get("subject"), dict) else None
    try:
        if media_type in types.LISTS:
            children = tuple(_reference(child) for child in content.get("manifests") or ())
            return Payload(digest, media_type, data, children=children, subject=subject)
        config = _reference(content["config"]) if content.get("config") else None
        layers = tuple(_reference(layer) for layer in content.get("layers") or ())
    except (TypeError, ValueError, AttributeError):
        raise PayloadError(
            "json: cannot unmarshal into Go struct field Manifest of type distribution.Descriptor"
        ) from None
    artifact = str(content.get("artifactType") or "") if media_type == types.OCI_MANIFEST else ""
    return Payload(digest, media_type, data, config, layers, subject=subject, artifact_type=artifact)
