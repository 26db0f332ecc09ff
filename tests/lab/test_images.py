"""georeg_lab.images: what the lab is seeded with is varied, legal, and the same every time."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from georeg_lab import images
from georeg_lab.images import Image, Seed

REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
SEEDS = [*images.catalog(), *images.pushed()]


def test_the_same_bytes_in_another_process() -> None:
    code = "from georeg_lab import images; print(images.index('x', 'docker').digest, images.image('y').digest)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == [images.index("x", "docker").digest, images.image("y").digest]


def test_names_are_legal() -> None:
    assert [seed.repository for seed in SEEDS if not REPOSITORY.fullmatch(seed.repository)] == []
    assert [tag for seed in SEEDS for tag in seed.tags if not TAG.fullmatch(tag)] == []


def test_the_catalog_holds_every_kind() -> None:
    tags = images.tags_of(SEEDS)
    assert {seed.image.media_type for seed in SEEDS} == set(images.MANIFEST_TYPES)
    assert sum(repository == images.MANY for repository, _ in tags) == 1000
    assert any(not seed.tags for seed in SEEDS), "untagged manifests"
    assert any(len(seed.tags) > 1 for seed in SEEDS), "several tags on one digest"
    assert max(len(tag) for _, tag in tags) == 128
    assert images.LOST in tags
    repositories = {seed.repository for seed in SEEDS}
    assert any(f"{name}/".startswith(f"{other}/") for name in repositories for other in repositories - {name})
    assert len(tags) == sum(len(seed.tags) for seed in SEEDS), "no tag is seeded twice"


@pytest.mark.parametrize("style", ["oci", "docker"])
def test_descriptors_match_the_bytes(style: images.Style) -> None:
    whole = images.index("service", style)
    for descriptor, child in zip(json.loads(whole.payload)["manifests"], whole.children, strict=True):
        assert (descriptor["digest"], descriptor["size"]) == (child.digest, len(child.payload))
        manifest, blobs = json.loads(child.payload), dict(child.blobs)
        for part in [manifest["config"], *manifest["layers"]]:
            assert (images.digest_of(blobs[part["digest"]]), len(blobs[part["digest"]])) == (
                part["digest"],
                part["size"],
            )
        diffs = [images.digest_of(gzip.decompress(blobs[layer["digest"]])) for layer in manifest["layers"]]
        assert json.loads(blobs[manifest["config"]["digest"]])["rootfs"]["diff_ids"] == diffs


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _links(content: Image) -> int:
    return len(content.blobs) + 1 + sum(_links(child) for child in content.children)


def test_the_legacy_layout(tmp_path: Path) -> None:
    seed = Seed("a/b", images.index("service"), ("1", "latest"))
    images.write_legacy(tmp_path, seed)
    files = _files(tmp_path / "docker/registry/v2/repositories/a/b")
    assert files["_manifests/tags/latest/current/link"] == seed.image.digest.encode()
    assert len([name for name in files if not name.startswith("_manifests/tags")]) == _links(seed.image)
    for path, data in _files(tmp_path / "docker/registry/v2/blobs").items():
        assert images.digest_of(data) == f"sha256:{path.split('/')[2]}"


def test_the_lost_tag_has_no_linked_config(tmp_path: Path) -> None:
    [seed] = [seed for seed in images.catalog() if seed.loss]
    images.write_legacy(tmp_path, seed)
    linked = list((tmp_path / "docker/registry/v2/repositories" / seed.repository / "_layers/sha256").iterdir())
    assert seed.image.config.partition(":")[2] not in [path.name for path in linked]
    assert len(linked) == len(seed.image.blobs) - 1
