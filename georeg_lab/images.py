"""Synthetic container images: real OCI and Docker manifests, configs and layers, the same bytes for the same name.

An image goes into a registry by HTTP (`RegistryClient.push`), or, where a thousand pushes would take too long, straight
into the storage of a legacy registry (`write_legacy`). `catalog()` and `pushed()` are what the lab is seeded with.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from georeg_lab.layout import MANY_TAGS

Style = Literal["oci", "docker"]

TYPES: dict[Style, dict[str, str]] = {
    "oci": {
        "manifest": "application/vnd.oci.image.manifest.v1+json",
        "index": "application/vnd.oci.image.index.v1+json",
        "config": "application/vnd.oci.image.config.v1+json",
        "layer": "application/vnd.oci.image.layer.v1.tar+gzip",
    },
    "docker": {
        "manifest": "application/vnd.docker.distribution.manifest.v2+json",
        "index": "application/vnd.docker.distribution.manifest.list.v2+json",
        "config": "application/vnd.docker.container.image.v1+json",
        "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    },
}
MANIFEST_TYPES = tuple(TYPES[style][kind] for style in TYPES for kind in ("manifest", "index"))


def digest_of(data: bytes) -> str:
    """sha256 digest in the registry's notation."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Image:
    """A manifest with everything below it: `blobs` (config and layers by digest) and `children` (of an index)."""

    media_type: str
    payload: bytes
    config: str = ""
    blobs: tuple[tuple[str, bytes], ...] = ()
    children: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the manifest."""
        return digest_of(self.payload)


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=3).encode()


def _descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


@cache
def _layer(name: str, size: int) -> tuple[bytes, str]:
    """A gzipped tar with one file of `size` incompressible bytes, and the digest of the tar itself."""
    content = hashlib.shake_128(name.encode()).digest(size)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(f"srv/{hashlib.sha256(name.encode()).hexdigest()[:12]}.bin")
        entry.size = size
        tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1, mtime=0), digest_of(buffer.getvalue())


@cache
def image(name: str, style: Style = "oci", architecture: str = "amd64", layers: int = 2) -> Image:
    """An image of `layers` layers; the first is shared by all images of the same architecture, as a base image is."""
    types = TYPES[style]
    parts = [_layer(f"base {architecture}", 3000)]
    parts += [_layer(f"{name} {architecture} {number}", 700) for number in range(1, layers)]
    config = _encode(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Labels": {"org.example.lab.name": name}, "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in parts]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(parts))],
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": types["manifest"],
        "config": _descriptor(types["config"], config),
        "layers": [_descriptor(types["layer"], data) for data, _ in parts],
    }
    blobs = {digest_of(data): data for data in [config, *(data for data, _ in parts)]}
    return Image(types["manifest"], _encode(manifest), digest_of(config), tuple(blobs.items()))


@cache
def index(name: str, style: Style = "oci", architectures: tuple[str, ...] = ("amd64", "arm64")) -> Image:
    """A multi-platform image: an OCI index or a Docker manifest list over one image per architecture."""
    types = TYPES[style]
    children = tuple(image(name, style, architecture) for architecture in architectures)
    manifest = {
        "schemaVersion": 2,
        "mediaType": types["index"],
        "manifests": [
            _descriptor(child.media_type, child.payload, platform={"architecture": architecture, "os": "linux"})
            for child, architecture in zip(children, architectures, strict=True)
        ],
    }
    return Image(types["index"], _encode(manifest), children=children)


@dataclass(frozen=True)
class Seed:
    """One image of the catalog. `tags` empty: an untagged manifest. `loss` names what the importer stumbles over."""

    repository: str
    image: Image
    tags: tuple[str, ...]
    loss: Literal["", "unlinked-config"] = ""


MANY = "acme/many/nightly"
LOST = ("acme/tools/builder", "2019-unlinked")
LONG_TAG = "release_candidate.2024-" + "x" * 105  # 128 characters, the longest that is legal


def _many(tags_in_all: int) -> Iterator[Seed]:
    """The largest repository: ten tags on each of its manifests."""
    for first in range(0, tags_in_all, 10):
        number = first // 10
        tags = tuple(f"build-{tag:04d}" for tag in range(first, min(first + 10, tags_in_all)))
        yield Seed(MANY, image(f"nightly {number}", "docker" if number % 2 else "oci"), tags)


def catalog(many: int = MANY_TAGS) -> list[Seed]:
    """What both registries hold after the first synchronisation, except what is in `pushed()`.

    `many` is the number of tags in the largest repository."""
    odd = "acme/odd-names/a.b_c__d--e"
    return [
        Seed("acme/web", image("web 1.0", "docker"), ("1.0.0", "1.0", "1")),
        Seed("acme/web", image("web 1.1", "docker"), ("1.1.0", "1.1", "latest", "stable")),
        Seed("acme/web/api", image("api 1", "oci"), ("v1", "v1.0")),
        Seed("acme/web/api", image("api 2", "oci", layers=4), ("v2", "latest")),
        Seed("acme/web/api", image("api untagged 1", "oci"), ()),
        Seed("acme/web/api", image("api untagged 2", "docker"), ()),
        Seed("acme/web/api/worker/cron", image("cron", "oci", layers=1), ("main",)),
        Seed("acme/multi/service", index("service 1"), ("1.0", "latest")),
        Seed("acme/multi/service", index("service 2", "oci", ("amd64", "arm64", "s390x")), ("2.0",)),
        Seed("acme/multi/legacy-list", index("list 1", "docker"), ("1.0", "latest")),
        Seed("acme/tools/builder", image("builder 2024", "docker"), ("2024",)),
        Seed(LOST[0], image("builder 2019", "docker"), (LOST[1],), "unlinked-config"),
        Seed("acme/tools", image("tools", "oci"), ("latest",)),
        Seed(odd, image("odd 1"), (LONG_TAG, "UPPER", "upper", "_underscore", "1..2", "0", "Mixed-Case_1.0")),
        Seed("acme/odd-names/0/1/2", image("odd 2"), ("007",)),
        *_many(many),
    ]


def pushed() -> list[Seed]:
    """What is pushed over HTTP once replication is up: it reaches the secondary by notification, event and sync."""
    return [
        Seed("lab/canary", image("canary 0", "oci"), ("seed",)),
        Seed("acme/web/site", index("site 1", "oci"), ("1.0", "latest")),
        Seed("acme/web/site", image("site 2", "docker"), ("2.0",)),
    ]


def projects() -> list[str]:
    """Projects that the repositories belong to: the first two parts of each path."""
    return sorted({"/".join(seed.repository.split("/")[:2]) for seed in [*catalog(), *pushed()]})


def _link(path: Path, digest: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "link").write_text(digest)


def _write_blob(storage: Path, data: bytes) -> None:
    digest = digest_of(data).partition(":")[2]
    path = storage / "docker/registry/v2/blobs/sha256" / digest[:2] / digest
    if not (path / "data").exists():
        path.mkdir(parents=True, exist_ok=True)
        (path / "data").write_bytes(data)


def write_legacy(storage: Path, seed: Seed) -> None:
    """Write an image into a legacy registry's storage as its own pushes would have. Source: registry 3.

    `storage` is the file system driver's root directory.
    """
    _write_image(storage, seed.repository, seed.image)
    folder = storage / "docker/registry/v2/repositories" / seed.repository
    digest = seed.image.digest
    for tag in seed.tags:
        _link(folder / "_manifests/tags" / tag / "current", digest)
        _link(folder / "_manifests/tags" / tag / "index/sha256" / digest.partition(":")[2], digest)
    if seed.loss == "unlinked-config":
        link = folder / "_layers/sha256" / seed.image.config.partition(":")[2] / "link"
        link.unlink()
        link.parent.rmdir()


def _write_image(storage: Path, repository: str, content: Image) -> None:
    folder = storage / "docker/registry/v2/repositories" / repository
    for child in content.children:
        _write_image(storage, repository, child)
    for digest, data in content.blobs:
        _write_blob(storage, data)
        _link(folder / "_layers/sha256" / digest.partition(":")[2], digest)
    _write_blob(storage, content.payload)
    _link(folder / "_manifests/revisions/sha256" / content.digest.partition(":")[2], content.digest)


def tags_of(seeds: Iterable[Seed]) -> dict[tuple[str, str], str]:
    """(repository, tag) → manifest digest."""
    return {(seed.repository, tag): seed.image.digest for seed in seeds for tag in seed.tags}
