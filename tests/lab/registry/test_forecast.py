"""georeg's forecast against every recorded import: what it foresees from the legacy registry is what the importer
did.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from import_bench import Bench, Workshop, workshops_fixture
from registry_replay import lines

from georeg_lab.registry.backend import ManifestUnknownError, RepositoryUnknownError
from georeg_lab.registry.http_errors import APIError
from georeg_lab.registry.legacy_backend import LegacyBackend
from georeg_lab.registry.storage import Storage, StorageError
from georeg_nb.errors import HttpRefused
from georeg_nb.nodes import LocalNode
from georeg_nb.procedures import forecast
from georeg_nb.registry_api import Manifest

__all__ = ["workshops_fixture"]


def told_by_options(case: dict[str, Any]) -> bool:
    """Cases about flags and lock files: nothing in the images is special."""
    return bool(case["flags"]) or "lockfile" in case["name"] or case["name"].startswith(("dry-run", "no-statistics"))


CASES = [
    case
    for case in lines("import")
    if case["method"] == "one-step" and len(case["steps"]) == 1 and not told_by_options(case)
]


class Registry:
    """The legacy registry as RegistryAPI shows it, without the HTTP between."""

    def __init__(self, root: Path) -> None:
        self._backend = LegacyBackend(Storage(str(root)))

    def catalog(self) -> Iterator[str]:
        yield from self._backend.catalog(10_000, "")[0]

    def tags(self, path: str) -> list[str]:
        try:
            return self._backend.tags(path, 10_000, "")[0]
        except RepositoryUnknownError:
            return []

    def digest(self, path: str, reference: str) -> str | None:
        try:
            digest = self._backend.tag_digest(path, reference)
        except ManifestUnknownError:
            return None
        except (APIError, StorageError, OSError):
            raise HttpRefused("500", status=500) from None
        return digest if self.manifest(path, digest) else None

    def manifest(self, path: str, reference: str) -> Manifest | None:
        try:
            stored = self._backend.manifest(path, reference)
        except ManifestUnknownError:
            return None
        except (APIError, StorageError, OSError, ValueError):
            raise HttpRefused("500", status=500) from None
        return Manifest(stored.payload, stored.media_type, reference)

    def has_blob(self, path: str, digest: str) -> bool:
        return self._backend.has_blob(path, digest)


def made(root: Path) -> forecast.Forecast:
    node = LocalNode("node", ["registry"])
    config = SimpleNamespace(root_directory=str(root))
    omnibus = SimpleNamespace(node=node, registry_config=lambda: config)
    return forecast.make(SimpleNamespace(registry=Registry(root), omnibus=omnibus, progress=lambda *_: None))  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['base']}: {case['name']}")
def test_the_forecast_is_what_the_importer_did(case: dict[str, Any], workshops: dict[str, Workshop]) -> None:
    workshop = workshops[case["base"]]
    try:
        Bench(workshop.root, Path(), None).plant(case["storage"])  # type: ignore[arg-type]
        foreseen = made(workshop.root)
    finally:
        workshop.restore()
    fatal, lost = foreseen.of("fatal"), {(trouble.repository, trouble.tag) for trouble in foreseen.of("lost")}
    if case["exit"] == 0:
        imported = {(path, tag) for path, tag, _ in case["tags"]}
        assert fatal == []
        assert lost == set(foreseen.tags) - imported
    elif case["name"] == "no-blobs-folder":
        assert lost == set(foreseen.tags)
    else:
        assert fatal, f"foreseen: {foreseen.troubles}"
