"""The image set of the recordings: every blob follows from its name (tests/data/registry/README.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TYPES = {
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    "oci": (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.index.v1+json",
    ),
}
V2 = "docker/registry/v2"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def blob(name: str, size: int) -> bytes:
    """First `size` bytes of sha256(name:0) | sha256(name:1) | …"""
    parts = (hashlib.sha256(f"{name}:{n}".encode()).digest() for n in range(size // 32 + 1))
    return b"".join(parts)[:size]


@dataclass(frozen=True)
class Image:
    media_type: str
    payload: bytes
    architecture: str = "amd64"
    blobs: tuple[bytes, ...] = ()
    children: tuple[Image, ...] = field(default_factory=tuple)

    @property
    def digest(self) -> str:
        return digest(self.payload)


def image(name: str, kind: str, sizes: tuple[int, ...] = (1000, 500), arch: str = "amd64") -> Image:
    manifest_type, config_type, layer_type, _ = TYPES[kind]
    layers = [blob(f"{name}/layer/{k}", size) for k, size in enumerate(sizes)]
    config = compact(
        {
            "architecture": arch,
            "os": "linux",
            "config": {"Labels": {"georeg": name}},
            "rootfs": {"type": "layers", "diff_ids": [digest(blob(f"{name}/diff/{k}", 64)) for k in range(len(sizes))]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {"mediaType": config_type, "size": len(config), "digest": digest(config)},
        "layers": [{"mediaType": layer_type, "size": len(data), "digest": digest(data)} for data in layers],
    }
    return Image(manifest_type, compact(manifest), arch, (config, *layers))


def index(kind: str, children: tuple[Image, ...]) -> Image:
    manifest = {
        "schemaVersion": 2,
        "mediaType": TYPES[kind][3],
        "manifests": [
            {
                "mediaType": child.media_type,
                "size": len(child.payload),
                "digest": child.digest,
                "platform": {"architecture": child.architecture, "os": "linux"},
            }
            for child in children
        ],
    }
    return Image(TYPES[kind][3], compact(manifest), children=children)


def with_config_type(source: Image, media_type: str) -> Image:
    """The same image with another media type of its config."""
    manifest = json.loads(source.payload)
    manifest["config"]["mediaType"] = media_type
    return Image(source.media_type, compact(manifest), source.architecture, source.blobs)


def put_blob(root: Path, data: bytes) -> str:
    name = digest(data)
    encoded = name.split(":")[1]
    path = root / V2 / "blobs/sha256" / encoded[:2] / encoded / "data"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return name


def put_link(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").write_text(name)


def push_legacy(root: Path, repository: str, content: Image, tags: Iterable[str] = ()) -> None:
    """Write what a legacy registry's pushes leave behind."""
    folder = root / V2 / "repositories" / repository
    for child in content.children:
        push_legacy(root, repository, child)
    for data in content.blobs:
        put_link(folder / "_layers/sha256" / put_blob(root, data).split(":")[1], digest(data))
    name = put_blob(root, content.payload)
    encoded = name.split(":")[1]
    put_link(folder / "_manifests/revisions/sha256" / encoded, name)
    for tag in tags:
        put_link(folder / "_manifests/tags" / tag / "current", name)
        put_link(folder / "_manifests/tags" / tag / "index/sha256" / encoded, name)


PUSHED_BETWEEN = image("pushed-between", "docker", (170,))
PUSHED_BETWEEN_2 = image("pushed-between-2", "oci", (171,))


def base_main(root: Path) -> None:
    push_legacy(root, "acme/app", image("app-a", "docker"), ["a-first"])
    push_legacy(root, "acme/app", image("app-m", "docker"), ["m-broken"])
    push_legacy(root, "acme/app", image("app-z", "oci"), ["z-last"])
    push_legacy(root, "acme/app/sub", image("sub-v1", "docker", (300,)), ["v1"])
    docker = (image("list-c1", "docker", (400,)), image("list-c2", "docker", (401,), "arm64"))
    oci = (image("idx-c1", "oci", (410,)), image("idx-c2", "oci", (411,), "arm64"))
    push_legacy(root, "acme/list", index("docker", docker), ["lista", "listb"])
    push_legacy(root, "acme/list", index("oci", oci), ["oci"])
    push_legacy(root, "acme/untagged", image("untagged", "oci", (200,)))
    push_legacy(root, "zeta/last", image("last", "docker", (222,)), ["latest"])


def base_many(root: Path) -> None:
    for repository, count in (("k/a", 5), ("k/b", 400), ("k/c", 5)):
        push_legacy(root, repository, image("k-many", "docker", (150,)), [f"t{n:03d}" for n in range(count)])
        push_legacy(root, repository, image("k-other", "oci", (151,)), ["other"])


BASES = {"base-main": base_main, "base-many": base_many}


def known_blobs() -> dict[str, bytes]:
    """Planted blobs that the recordings name by their hash only, by that hash."""
    sources = [image(name, kind) for name, kind in (("um", "docker"), ("uc", "oci"), ("ul", "oci"), ("nomt", "oci"))]
    sources += [image("helm", "oci"), image("app-m", "docker"), image("app-a", "docker"), image("app-z", "oci")]
    found = [data for source in sources for data in (*source.blobs, source.payload)]
    found += [blob("bk/0", 300), blob("bk/1", 310), blob("orphan", 77)]
    return {digest(data).split(":")[1]: data for data in found}
