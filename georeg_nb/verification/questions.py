"""Single questions to one registry, each with an answer for whatever happens.

They are functions of a module, with answers that can be sent, so that any `concurrent.futures` executor can run them.
Source: registry 5.2, 7; rails 2.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from georeg_nb.errors import HttpRefused, Unreachable
from georeg_nb.registry_api import MANIFEST_TYPES, RegistryAPI, hashes_to

State = Literal["there", "absent", "corrupt", "fails", "unsupported", "lost"]

IMAGES = frozenset(kind for kind in MANIFEST_TYPES if "index" not in kind and "list" not in kind)
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
BUILDKIT = "application/vnd.buildkit.cacheconfig"
PAUSES: tuple[float, ...] = (1.0, 4.0)
"""Seconds before a registry that fails at something (500) is asked again; 429 and 502 to 504 the session repeats."""
EXCERPT = 240


@dataclass(frozen=True)
class Below:
    """What a manifest names: another manifest, or a blob (`child`: one that an index names in a manifest's place)."""

    kind: Literal["manifest", "blob"]
    digest: str
    label: str
    child: bool = False


@dataclass(frozen=True)
class Answer:
    """`fails`: the registry could not tell, `text` says why; `grave`: by no plain refusal. `lost`: it is not there."""

    state: State
    digest: str = ""
    media_type: str = ""
    text: str = ""
    grave: bool = False
    names: tuple[str, ...] = ()
    below: tuple[Below, ...] = ()


ABSENT = Answer("absent", text="is not there")


def repositories(registry: RegistryAPI) -> Answer:
    """The catalog."""
    return _asked(registry, lambda: Answer("there", names=tuple(registry.catalog())))


def tags(registry: RegistryAPI, path: str) -> Answer:
    """Tags of a repository; none where it is unknown."""
    return _asked(registry, lambda: Answer("there", names=tuple(registry.tags(path))))


def tag(registry: RegistryAPI, path: str, name: str) -> Answer:
    """Digest and type of the manifest that a tag names."""

    def look() -> Answer:
        found = registry.head(path, name)
        return Answer("there", found.digest, found.media_type) if found else ABSENT

    return _asked(registry, look)


def manifest(registry: RegistryAPI, path: str, digest: str) -> Answer:
    """Read a manifest by its digest: do its bytes hash to it, and what does it name?"""

    def read() -> Answer:
        found = registry.manifest(path, digest)
        if found is None:
            return ABSENT
        if not hashes_to(found.payload, digest):
            return Answer("corrupt", digest, text="its bytes do not hash to its digest")
        if found.media_type.startswith(SCHEMA_1):
            return unsupported(digest)
        try:
            document = json.loads(found.payload)
            if document.get("schemaVersion") == 1:
                return unsupported(digest)
            return Answer("there", digest, found.media_type, below=tuple(_named(document)))
        except (ValueError, TypeError, KeyError, AttributeError):
            return Answer("corrupt", digest, text="it is no manifest: what it names cannot be read")

    return _asked(registry, read)


def blob(registry: RegistryAPI, path: str, digest: str, whole: bool) -> Answer:
    """A config or layer: can it be pulled from this repository, and (`whole`) do its bytes hash to its digest?"""

    def read() -> Answer:
        if not whole:
            return Answer("there", digest) if registry.has_blob(path, digest) else ABSENT
        real = registry.digest_of_blob(path, digest)
        if real is None:
            return ABSENT
        return Answer("there", digest) if real == digest else Answer("corrupt", digest, text=f"its bytes are {real}")

    return _asked(registry, read)


def unsupported(digest: str) -> Answer:
    """A manifest of schema 1: the importer leaves it behind, and it cannot be walked (registry 6.2)."""
    return Answer("unsupported", digest, text="a manifest of schema 1: an import leaves it behind; rebuild the image")


def _named(document: Mapping[str, Any]) -> Iterator[Below]:
    """What a manifest names. Foreign layers are elsewhere, and a build cache's index names blobs (rails 2)."""
    children = list(document.get("manifests") or ())
    cache = any(str(child.get("mediaType", "")).startswith(BUILDKIT) for child in children)
    for number, child in enumerate(children, 1):
        platform = child.get("platform") or {}
        name = "/".join(filter(None, (platform.get("os"), platform.get("architecture"), platform.get("variant"))))
        yield Below("blob" if cache else "manifest", child["digest"], f"child {name or number}", child=True)
    if config := document.get("config"):
        yield Below("blob", config["digest"], "config")
    for number, layer in enumerate(document.get("layers") or document.get("blobs") or (), 1):
        kind = str(layer.get("mediaType", ""))
        if "foreign" not in kind and "nondistributable" not in kind:
            yield Below("blob", layer["digest"], f"layer {number}")


def _asked(registry: RegistryAPI, question: Callable[[], Answer]) -> Answer:
    for attempt in range(len(PAUSES) + 1):
        try:
            return question()
        except HttpRefused as error:
            if error.status < 500:
                return Answer("fails", text=error.message[:EXCERPT])
            if attempt == len(PAUSES):
                return _failed(registry, error)
            time.sleep(PAUSES[attempt] * random.uniform(0.5, 1))  # noqa: S311 - spreads requests only
        except Unreachable as error:
            return _failed(registry, error)
    raise AssertionError("the loop ends with an answer")


def _failed(registry: RegistryAPI, error: Unreachable) -> Answer:
    """Is it this one thing, or the registry as a whole?"""
    try:
        registry.identity()
    except Unreachable as whole:
        return Answer("lost", text=whole.message[:EXCERPT])
    return Answer("fails", text=error.message[:EXCERPT], grave=True)
