"""Registries that run, compared over HTTP in both metadata modes: what is planted is found, nothing is invented.

With GEOREG_REGISTRY_BINARY it is GitLab's own registry that is compared.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from registry_server import Server, database_section

from georeg_lab.images import Image, Seed, image, index, write_legacy
from georeg_lab.registry.config import Database
from georeg_lab.registry_client import RegistryClient
from georeg_nb.credentials import Secret
from georeg_nb.parameters import GitLabParameters, RegistryParameters
from georeg_nb.registry_api import RegistryAPI, client
from georeg_nb.verification import Comparison, Level, compare_registries, questions

PATHS = ("a", "a/b", "a-b/c", "a.b/c", "g/odd.x__y--z")
TRUNCATED = {"corrupt", "unreadable"}


class NoTokens:
    """A registry without authentication takes any."""

    def get(self, scope: str, old: object = None) -> Secret:
        return Secret("none", "no token", masked=False)


class Client(RegistryClient):
    def _fetch_token(self, scope: str) -> str:
        return "none"


@dataclass
class Side:
    """A registry with its storage, and its database where it works on one."""

    server: Server
    root: Path
    database: Database | None

    @property
    def api(self) -> RegistryAPI:
        here = {"url": self.server.url}
        registry = RegistryAPI(
            RegistryParameters.model_validate(here), GitLabParameters.model_validate({**here, "token": "env:NONE"})
        )
        registry._tokens = NoTokens()  # type: ignore[assignment]
        return registry

    @property
    def client(self) -> Client:
        return Client(self.server.url, self.server.url, Path("/none"))

    def put(self, path: str, content: Image, *tags: str) -> None:
        if self.database:
            self.client.push(path, content, *tags)
        else:
            write_legacy(self.root, Seed(path, content, tags))

    def delete_tag(self, path: str, tag: str) -> None:
        self.client.delete_tag(path, tag)

    def forget_manifest(self, path: str, digest: str) -> None:
        """The repository does not have this manifest any more, whatever refers to it."""
        if self.database:
            self._sql("DELETE FROM manifest_references c USING manifests m WHERE c.child_id = m.id AND ", path, digest)
            self._sql("DELETE FROM manifests m WHERE ", path, digest)
            return
        repository = self.root / "docker/registry/v2/repositories" / path
        shutil.rmtree(repository / "_manifests/revisions/sha256" / digest.partition(":")[2])

    def alter_manifest(self, path: str, digest: str) -> None:
        """Its payload has other bytes than its digest says."""
        if self.database:
            self._sql("UPDATE manifests m SET payload = payload || ' '::bytea WHERE ", path, digest)
        else:
            self._data(digest).write_bytes(self._data(digest).read_bytes() + b" ")

    def truncate(self, digest: str) -> None:
        """The storage has lost the end of a blob."""
        os.truncate(self._data(digest), self._data(digest).stat().st_size - 10)

    def _data(self, digest: str) -> Path:
        value = digest.partition(":")[2]
        return self.root / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"

    def _sql(self, statement: str, path: str, digest: str) -> None:
        assert self.database
        keys = ("host", "port", "user", "password", "dbname")
        where = (
            "m.digest = decode('01' || %(digest)s, 'hex')"
            " AND m.repository_id = (SELECT id FROM repositories WHERE path = %(path)s)"
        )
        with psycopg.connect(**{key: getattr(self.database, key) for key in keys}) as connection:
            changed = connection.execute((statement + where).encode(), {"path": path, "digest": digest[7:]}).rowcount
            assert changed > 0, statement


def compare(here: Side, there: Side, level: Level) -> Comparison:
    return compare_registries(here.api, there.api, names=("primary", "secondary"), level=level)


def fill(side: Side, numbers: random.Random) -> None:
    """Images of all four types, an index in an index, digests that tags and repositories share."""
    for path in PATHS:
        for number in range(numbers.randint(1, 3)):
            style = numbers.choice(("oci", "docker"))
            side.put(path, image(f"{path} {number}", style), f"t{number}", f"Same-{number}")  # type: ignore[arg-type]
        side.put(path, index(f"{path} list", "docker"), "list")
        side.put(path, index(f"{path} index", "oci", ("amd64", "arm64", "s390x")), "index", "latest")
    side.put("shared/one", image("a 0"), "t")


@pytest.fixture(params=["legacy and legacy", "legacy and database", "database and database"])
def sides(
    request: pytest.FixtureRequest,
    start_registry: Callable[..., Server],
    new_metadata: Callable[[], Database],
    tmp_path: Path,
) -> list[Side]:
    made = []
    for number, mode in enumerate(request.param.split(" and ")):
        root = tmp_path / f"storage-{number}"
        root.mkdir()
        database = new_metadata() if mode == "database" else None
        options: dict[str, Any] = {"database": database_section(database)} if database else {}
        made.append(Side(start_registry(root, options=options), root, database))
    return made


def test_planted_differences_are_all_found_and_none_invented(
    sides: list[Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = sum(side.database is not None for side in sides)
    monkeypatch.setattr(client, "PAGE", 3)
    monkeypatch.setattr(questions, "PAUSES", ())
    here, there = sides
    for side in sides:
        fill(side, random.Random(seed))
    equal = compare(here, there, "content")
    assert (equal.verdict, equal.differences) == ("equal", [])
    assert equal.tags[0] == equal.tags[1] == sum(len(here.client.tags(path)) for path in (*PATHS, "shared/one"))

    numbers = random.Random(seed)
    deleted, moved, childless, altered, cut = numbers.sample(PATHS, 5)
    there.delete_tag(deleted, "t0")
    there.put(moved, image("moved"), "t0")
    there.put("only/there", image("new"), "new")
    child = index(f"{childless} list", "docker").children[1]
    there.forget_manifest(childless, child.digest)
    changed = index(f"{altered} index", "oci", ("amd64", "arm64", "s390x"))
    there.alter_manifest(altered, changed.digest)
    layer = index(f"{cut} list", "docker").children[0].blobs[-1][0]
    there.truncate(layer)

    expected = {
        (deleted, "t0", "missing", ""),
        (moved, "t0", "differing", ""),
        ("only/there", "new", "extra", ""),
        (childless, "list", "incomplete", child.digest),
        (altered, "index", "corrupt", changed.digest),
    }
    assert brief(compare(here, there, "api")) == expected
    whole = brief(compare(here, there, "content"))
    assert {one for one in whole if one[3] != layer} == expected
    ((path, tag, kind, _),) = {one for one in whole if one[3] == layer}
    assert (path, tag) == (cut, "list") and kind in TRUNCATED


def brief(found: Comparison) -> set[tuple[str, str, str, str]]:
    assert found.reason == "" and {one.state for one in found.differences} == {"different"}
    return {(one.repository, one.tag, one.kind, one.object) for one in found.differences}


def test_a_manifest_with_other_bytes_is_found_by_reading_it(sides: list[Side]) -> None:
    here, there = sides
    for side in sides:
        side.put("g/p", image("plain"), "1.0")
    there.alter_manifest("g/p", image("plain").digest)
    assert compare(here, there, "api").equal, "the api level reads indexes only"
    assert brief(compare(here, there, "content")) == {("g/p", "1.0", "corrupt", image("plain").digest)}


def test_an_empty_repository_is_no_difference(sides: list[Side]) -> None:
    here, there = sides
    for side in sides:
        side.put("g/p", image("plain"), "1.0")
    here.put("g/untagged", image("plain"), "gone")
    here.delete_tag("g/untagged", "gone")
    found = compare(here, there, "content")
    assert found.equal and set(found.counts) == {"g/p"}
