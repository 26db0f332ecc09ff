"""Two metadata databases: planted differences are all found, none is invented, and little crosses the wire."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from georeg_lab.postgres import Cluster
from georeg_lab.registry import schema
from georeg_nb.errors import DatabaseRefused
from georeg_nb.metadata_db import MetadataDB
from georeg_nb.parameters import DatabaseParameters
from georeg_nb.verification import Difference, accept_losses, compare_databases, compare_tags, second_look

Tags = dict[tuple[str, str], str]


def digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


class Registry:
    """A metadata database that is filled by rows, in any order and with ids of its own."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        cluster.create_database(name, cluster.superuser)
        with self.connect() as connection:
            for change in schema.changes().values():
                if change.up:
                    connection.execute(change.up.encode())

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return self.cluster.connect(self.name)

    def fill(self, tags: Tags, seed: int) -> None:
        """Replace all content by these tags, inserted in an order that depends on the seed."""
        with self.connect() as connection:
            for table in ("tags", "manifests", "repositories", "top_level_namespaces"):
                connection.execute(f"DELETE FROM {table}".encode())
            rows = sorted(tags.items())
            random.Random(seed).shuffle(rows)
            for (repository, tag), value in rows:
                self.add(connection, repository, tag, value)

    def add(self, connection: psycopg.Connection[tuple[object, ...]], repository: str, tag: str, value: str) -> None:
        namespace = repository.split("/")[0]
        connection.execute(
            "INSERT INTO top_level_namespaces (name) VALUES (%s) ON CONFLICT (name) DO NOTHING", [namespace]
        )
        connection.execute(
            "INSERT INTO repositories (top_level_namespace_id, name, path) SELECT id, %s, %s FROM top_level_namespaces"
            " WHERE name = %s ON CONFLICT (path) DO NOTHING",
            [repository.rsplit("/", 1)[-1], repository, namespace],
        )
        connection.execute(
            "INSERT INTO manifests (top_level_namespace_id, repository_id, schema_version, media_type_id, digest,"
            " payload, total_size)"
            " SELECT top_level_namespace_id, id, 2, 1, decode('01' || %s, 'hex'), '{}', 0 FROM repositories"
            " WHERE path = %s ON CONFLICT DO NOTHING",
            [value.removeprefix("sha256:"), repository],
        )
        connection.execute(
            "INSERT INTO tags (top_level_namespace_id, repository_id, manifest_id, name)"
            " SELECT m.top_level_namespace_id, m.repository_id, m.id, %s FROM manifests m JOIN repositories r"
            " ON r.id = m.repository_id WHERE r.path = %s AND m.digest = decode('01' || %s, 'hex')",
            [tag, repository, value.removeprefix("sha256:")],
        )

    def database(self, monkeypatch: pytest.MonkeyPatch, **changes: object) -> MetadataDB:
        monkeypatch.setenv("TEST_DATABASE_PASSWORD", self.cluster.password)
        values = {
            "host": "127.0.0.1",
            "port": self.cluster.port,
            "name": self.name,
            "user": self.cluster.superuser,
            "password": "env:TEST_DATABASE_PASSWORD",
            "sslmode": "disable",
        }
        return MetadataDB(DatabaseParameters.model_validate(values | changes), site="here")


@pytest.fixture(scope="module")
def registries(postgres_server: Cluster) -> Iterator[tuple[Registry, Registry]]:
    pair = Registry(postgres_server, "verification_here"), Registry(postgres_server, "verification_there")
    yield pair
    for registry in pair:
        postgres_server.execute(f"DROP DATABASE {registry.name} WITH (FORCE)")


def some_tags(numbers: random.Random) -> Tags:
    """A few small repositories, one large one, and tags that share digests."""
    found: Tags = {}
    for repository in ("a", "a/b", "a/b/c", "z.y_x/w--v", "big/one"):
        for number in range(700 if repository == "big/one" else numbers.randint(1, 6)):
            found[repository, f"t{number}"] = digest(f"{repository} {number % 5}")
    return found


@pytest.mark.parametrize("seed", range(6))
def test_planted_differences_are_all_found_and_none_invented(
    registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    numbers = random.Random(seed)
    here = some_tags(numbers)
    there, expected = dict(here), set()
    for key in numbers.sample(sorted(here), 0 if seed == 0 else 4):
        del there[key]
        expected.add(Difference(*key, "missing", here[key]))
    for key in numbers.sample(sorted(there), 0 if seed == 0 else 3):
        there[key] = digest("moved")
        expected.add(Difference(*key, "differing", here[key], there[key]))
    if seed:
        there["only/there", "new"] = digest("new")
        expected.add(Difference("only/there", "new", "extra", "", digest("new")))
    registries[0].fill(here, seed)
    registries[1].fill(there, seed + 1)

    found = compare_databases(*(registry.database(monkeypatch) for registry in registries))

    assert set(found.differences) == expected
    assert found.equal == (not expected)
    assert found.tags == (len(here), len(there))
    assert set(compare_tags(here, there).differences) == expected


def test_rows_say_how_many_differ_and_how() -> None:
    here = {("a", "1"): digest("1"), ("a", "2"): digest("2"), ("b", "1"): digest("3")}
    there = {("a", "1"): digest("1"), ("a", "2"): digest("x"), ("c", "1"): digest("3")}
    found = compare_tags(here, there, names=("primary", "secondary"))

    verdicts = {
        row["repository"]: [row[key] for key in ("missing", "extra", "differing", "verdict")] for row in found.rows()
    }
    assert verdicts == {"a": [0, 0, 1, "different"], "b": [1, 0, 0, "different"], "c": [0, 1, 0, "different"]}
    assert [row["tags on primary"] for row in found.rows()] == [2, 1, 0]
    assert [(row["repository"], row["tag"], row["kind"]) for row in found.difference_rows()] == [
        ("a", "2", "differing"),
        ("b", "1", "missing"),
        ("c", "1", "extra"),
    ]


def test_an_accepted_loss_is_shown_and_does_not_count() -> None:
    here = {("a", "lost"): digest("1"), ("a", "kept"): digest("2")}
    found = accept_losses(compare_tags(here, {("a", "kept"): digest("2")}), ["a:lost", "b:other"])
    assert found.equal
    assert [(one.tag, one.state) for one in found.differences] == [("lost", "accepted")]
    assert found.rows()[0]["accepted"] == 1
    moved = accept_losses(compare_tags(here, {**here, ("a", "lost"): digest("3")}), ["a:lost"])
    assert not moved.equal, "a tag that moved is no loss"


def test_what_is_gone_on_a_second_look_was_on_its_way() -> None:
    here = {("a", "1"): digest("1"), ("b", "1"): digest("2"), ("c", "1"): digest("3")}
    first = compare_tags(here, {})
    later = compare_tags(here, {("a", "1"): digest("1")})
    found = second_look(first, lambda paths: later, pending=lambda: frozenset({"b"}))
    assert [(one.repository, one.state) for one in found.differences] == [("b", "in flight"), ("c", "different")]
    assert found.verdict == "different"
    assert second_look(first, lambda paths: later, pending=lambda: frozenset({"b", "c"})).verdict == "in flight"


def test_server_facts_and_schema_state(registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    registries[0].fill({("a/b", "1"): digest("1")}, 1)
    database = registries[0].database(monkeypatch)
    server = database.server()
    assert server.version >= 150000
    assert not server.in_recovery
    assert not server.read_only_by_default
    assert server.may_create
    assert server.bytea_output == "hex"
    assert server.system_identifier.isdigit()
    assert "tags" in database.tables()
    assert database.counts()["tags"] == 1
    assert database.all_tags() == {("a/b", "1"): digest("1")}
    assert database.repository_tags("a/b") == {"1": digest("1")}
    assert set(database.pushed_since(datetime(2020, 1, 1, tzinfo=UTC))) == {("a/b", "1")}
    assert database.import_statistics() == []
    assert database.count("no_such_table") == 0


def test_a_manifest_whose_layer_is_not_linked_is_named(
    registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registries[0].fill({("a/b", "1"): digest("1")}, 1)
    with registries[0].connect() as connection:
        connection.execute("INSERT INTO blobs (size, media_type_id, digest) VALUES (1, 1, decode('0102', 'hex'))")
        connection.execute(
            "INSERT INTO layers (top_level_namespace_id, repository_id, manifest_id, size, media_type_id, digest)"
            " SELECT top_level_namespace_id, repository_id, id, 1, 1, decode('0102', 'hex') FROM manifests"
        )
    database = registries[0].database(monkeypatch)
    broken = database.broken_manifests()
    assert [(row["repository"], row["digest"]) for row in broken] == [("a/b", digest("1"))]
    with registries[0].connect() as connection:
        connection.execute("DELETE FROM layers")
        connection.execute("DELETE FROM blobs")


def test_reading_connections_cannot_write(
    registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = registries[0].database(monkeypatch)
    with pytest.raises(DatabaseRefused) as refused, database.connect() as connection:
        connection.execute("DELETE FROM tags")
    assert refused.value.sqlstate == "25006"


def test_truncate_empties_tags_alone(registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch) -> None:
    registries[1].fill({("a/b", "1"): digest("1")}, 1)
    database = registries[1].database(monkeypatch)
    database.truncate_tags()
    assert database.counts(("tags", "manifests")) == {"tags": 0, "manifests": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "no_such_database"}, "create the database"),
        ({"port": 9}, "is PostgreSQL running there"),
        ({"sslmode": "verify-full"}, "TLS"),
    ],
    ids=["no database", "refused", "no TLS"],
)
def test_a_refusal_says_what_to_do_and_shows_no_password(
    registries: tuple[Registry, Registry], monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: str
) -> None:
    database = registries[0].database(monkeypatch, **changes)
    with pytest.raises(DatabaseRefused) as refused:
        database.server()
    assert words in str(refused.value)
    assert registries[0].cluster.password not in str(refused.value)
