"""The metadata database as the registry's own, ordinary account sees it: a real server, the registry's schema."""

from __future__ import annotations

import json
from collections.abc import Iterator

import psycopg
import pytest

from georeg_lab.postgres import Cluster
from georeg_lab.registry import schema
from georeg_nb.database import IdleConnections
from georeg_nb.errors import DatabaseRefused
from georeg_nb.metadata_db import MetadataDB
from georeg_nb.parameters import DatabaseParameters

PASSWORD = "correct-horse-battery"
CONFIG, LAYER, OTHER, CHILD = ("01" + letter * 64 for letter in "cdef")


ROLE = "registry_account"
"""An account without any further right than to own its database, as the procedures ask for it."""


CONTENT = "tags manifest_references layers manifests repository_blobs repositories top_level_namespaces blobs"


@pytest.fixture(scope="module")
def server(postgres_server: Cluster) -> Iterator[Cluster]:
    """The server, with the database `metadata_filled`, which has the schema."""
    postgres_server.create_role(ROLE, PASSWORD)
    postgres_server.create_database("metadata_filled", ROLE)
    with postgres_server.connect("metadata_filled", ROLE, PASSWORD) as connection:
        for change in schema.changes().values():
            if change.up:
                connection.execute(change.up.encode())
    yield postgres_server
    postgres_server.execute("DROP DATABASE metadata_filled WITH (FORCE)")
    postgres_server.execute(f"DROP ROLE {ROLE}")


def metadata(server: Cluster, name: str, monkeypatch: pytest.MonkeyPatch) -> MetadataDB:
    monkeypatch.setenv("REGISTRY_PASSWORD", PASSWORD)
    values = {"host": "127.0.0.1", "port": server.port, "name": name, "user": ROLE, "sslmode": "disable"}
    return MetadataDB(
        DatabaseParameters.model_validate({**values, "password": "env:REGISTRY_PASSWORD"}), site="primary"
    )


@pytest.fixture
def database(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataDB]:
    """An empty database."""
    server.create_database("metadata_empty", ROLE)
    yield metadata(server, "metadata_empty", monkeypatch)
    server.execute("DROP DATABASE metadata_empty WITH (FORCE)")


@pytest.fixture
def filled(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataDB]:
    """One repository with an image and a list, whole."""
    with server.connect("metadata_filled", ROLE, PASSWORD) as connection:
        for table in CONTENT.split():
            connection.execute(f"DELETE FROM {table}".encode())
        fill(connection)
    yield metadata(server, "metadata_filled", monkeypatch)
    server.execute("ALTER DATABASE metadata_filled RESET ALL")


def fill(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("INSERT INTO top_level_namespaces (name) VALUES ('g')")
    connection.execute(
        "INSERT INTO repositories (top_level_namespace_id, name, path) SELECT id, 'p', 'g/p' FROM top_level_namespaces"
    )
    for blob in (CONFIG, LAYER, OTHER):
        connection.execute("INSERT INTO blobs (size, media_type_id, digest) VALUES (1, 1, decode(%s, 'hex'))", [blob])
        connection.execute(
            "INSERT INTO repository_blobs (top_level_namespace_id, repository_id, blob_digest)"
            " SELECT top_level_namespace_id, id, decode(%s, 'hex') FROM repositories",
            [blob],
        )
    layers = [{"mediaType": "application/x", "digest": name} for name in ("l1", "l2", "l2")]
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": "l3"}
    add_manifest(connection, "image", CONFIG, {"layers": [*layers, foreign]})
    for layer in (LAYER, OTHER):
        connection.execute(
            "INSERT INTO layers (top_level_namespace_id, repository_id, manifest_id, size, media_type_id, digest)"
            " SELECT top_level_namespace_id, repository_id, id, 1, 1, decode(%s, 'hex') FROM manifests",
            [layer],
        )
    add_manifest(connection, "list", None, {"manifests": [{"digest": "c1"}]})
    connection.execute(
        "INSERT INTO manifest_references (top_level_namespace_id, repository_id, parent_id, child_id)"
        " SELECT l.top_level_namespace_id, l.repository_id, l.id, i.id FROM manifests l, manifests i"
        " WHERE l.configuration_blob_digest IS NULL AND i.configuration_blob_digest IS NOT NULL"
    )
    connection.execute(
        "INSERT INTO tags (top_level_namespace_id, repository_id, manifest_id, name)"
        " SELECT top_level_namespace_id, repository_id, id, 'latest' FROM manifests"
        " WHERE configuration_blob_digest IS NULL"
    )


def add_manifest(
    connection: psycopg.Connection[tuple[object, ...]], kind: str, config: str | None, payload: dict[str, object]
) -> None:
    media = {
        "image": "application/vnd.oci.image.manifest.v1+json",
        "list": "application/vnd.docker.distribution.manifest.list.v2+json",
    }
    connection.execute(
        "INSERT INTO manifests (top_level_namespace_id, repository_id, schema_version, media_type_id, digest, payload,"
        " configuration_blob_digest, configuration_media_type_id, total_size) SELECT top_level_namespace_id, id, 2,"
        " (SELECT id FROM media_types WHERE media_type = %s), decode(%s, 'hex'), %s, decode(%s, 'hex'), %s, 0"
        " FROM repositories",
        [
            media[kind],
            "02" + "a" * 128 if kind == "list" else CHILD,
            json.dumps(payload).encode(),
            config,
            1 if config else None,
        ],
    )


def test_an_empty_database_is_read_without_an_error(database: MetadataDB) -> None:
    assert database.tables() == frozenset()
    assert database.migrations() == (frozenset(), frozenset())
    assert database.counts() == {"repositories": 0, "manifests": 0, "blobs": 0, "tags": 0}
    assert database.repositories() == {} == database.all_tags()
    assert database.import_statistics() == [] == database.broken_manifests()


def test_facts_that_an_ordinary_account_may_see(database: MetadataDB) -> None:
    facts = database.server()
    assert facts.owner == database.parameters.user and facts.may_create
    assert not facts.in_recovery and not facts.read_only_by_default and not facts.tls
    assert facts.version_text.split(".")[0] == str(facts.version // 10000)
    assert int(facts.system_identifier) > 0


def test_a_database_that_is_read_only_by_default_is_seen(database: MetadataDB, server: Cluster) -> None:
    name = database.parameters.name
    server.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_read_only = 'on'")
    assert database.server().read_only_by_default


def test_rights_that_are_missing_are_seen(database: MetadataDB, server: Cluster) -> None:
    server.execute(f'ALTER DATABASE "{database.parameters.name}" OWNER TO "{server.superuser}"')
    facts = database.server()
    assert facts.owner == server.superuser and not facts.may_create


def test_tags_and_digests_of_both_algorithms(filled: MetadataDB) -> None:
    digest = "sha512:" + "a" * 128
    assert filled.all_tags() == {("g/p", "latest"): digest}
    assert filled.repository_tags("g/p") == {"latest": digest}
    assert filled.repository_tags("g/none") == {}
    (name,) = filled.tag_buckets("g/p")
    assert filled.repository_tags("g/p", [name]) == {"latest": digest}
    assert filled.repository_tags("g/p", [str((int(name) + 1) % 256)]) == {}


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (None, None),
        (
            f"DELETE FROM repository_blobs WHERE blob_digest = decode('{CONFIG}', 'hex')",
            "its configuration blob is not linked",
        ),
        (f"DELETE FROM repository_blobs WHERE blob_digest = decode('{LAYER}', 'hex')", "a layer is not linked"),
        (f"DELETE FROM layers WHERE digest = decode('{LAYER}', 'hex')", "it lacks a layer that its payload names"),
        ("DELETE FROM manifest_references", "it lacks a child that its payload names"),
    ],
)
def test_manifests_that_are_not_whole(filled: MetadataDB, harm: str | None, cause: str | None) -> None:
    if harm:
        with filled.connect(write=True) as connection:
            connection.execute(harm.encode())
    found = filled.broken_manifests()
    assert [row["repository"] for row in found] == (["g/p"] if cause else [])
    if cause:
        assert found[0]["cause"].startswith(cause)
        assert found[0]["digest"].partition(":")[0] == ("sha512" if "child" in cause else "sha256")


def test_a_cache_index_is_no_broken_image(filled: MetadataDB) -> None:
    with filled.connect(write=True) as connection:
        connection.execute("UPDATE manifests SET non_conformant = true")
        connection.execute("DELETE FROM layers")
    assert filled.broken_manifests() == []


def test_truncate_needs_a_writable_server(filled: MetadataDB, server: Cluster) -> None:
    server.execute(f"ALTER DATABASE \"{filled.parameters.name}\" SET default_transaction_read_only = 'on'")
    with pytest.raises(DatabaseRefused) as refused:
        filled.truncate_tags()
    assert refused.value.sqlstate == "25006" and "a standby or read-only" in refused.value.remedy


def test_a_wrong_password_is_named_and_not_shown(database: MetadataDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "wrong-horse-battery")
    with pytest.raises(DatabaseRefused, match="password authentication failed") as refused:
        database.server()
    assert "correct the password" in refused.value.remedy
    assert "wrong-horse" not in str(refused.value) and str(refused.value).startswith("primary: ")


def test_a_port_forward_is_used_and_the_name_kept(database: MetadataDB) -> None:
    parameters = database.parameters
    forwarded = parameters.model_copy(
        update={
            "host": "registry-db.example.com",
            "port": 1,
            "connect_host": "localhost",
            "connect_port": parameters.port,
        }
    )
    assert MetadataDB(forwarded).server().may_create
    unknown = parameters.model_copy(update={"connect_host": "no-such-host.invalid"})
    with pytest.raises(DatabaseRefused, match="connect_host no-such-host"):
        MetadataDB(unknown).server()


@pytest.mark.parametrize(
    ("change", "trace"),
    [
        ("UPDATE tags SET updated_at = now()", "tags were moved in it"),
        ("UPDATE manifests SET artifact_media_type_id = 1", "images were pushed into it"),
        ("DELETE FROM tags", "tags or manifests were deleted in it"),
    ],
)
def test_what_a_registry_at_work_leaves_is_found(server: Cluster, filled: MetadataDB, change: str, trace: str) -> None:
    with server.connect("metadata_filled", ROLE, PASSWORD) as connection:
        connection.execute("TRUNCATE gc_manifest_review_queue")
        connection.commit()
        assert filled.traces_of_use() == []
        connection.execute(change.encode())
    assert filled.traces_of_use() == [trace]
    assert {path for path, _ in filled.manifests()} == {"g/p"} and len(filled.manifests()) == 2


def test_an_empty_database_has_no_traces(database: MetadataDB) -> None:
    assert database.traces_of_use() == [] and database.manifests() == set()


def test_a_reading_connection_is_used_again_until_the_server_ends_it(filled: MetadataDB, server: Cluster) -> None:
    idle = IdleConnections()
    database = MetadataDB(filled.parameters, site="primary", idle=idle)
    with database.connect() as one, database.connect() as other:  # side by side they are two
        one.execute("SET work_mem = '1MB'")
        first, second = one.info.backend_pid, other.info.backend_pid
    assert first != second
    with database.connect() as again:
        assert again.info.backend_pid in (first, second)
        assert again.execute("SHOW work_mem").fetchone() == ("64MB",)
        assert again.execute("SHOW transaction_read_only").fetchone() == ("on",)
    with pytest.raises(DatabaseRefused), database.connect() as broken:
        gone = broken.info.backend_pid
        broken.execute("SELECT 1 / 0")  # a connection that had an error is not used again
    assert broken.closed
    server.execute(f"SELECT pg_terminate_backend({first + second - gone})")
    with database.connect() as new:
        assert new.info.backend_pid not in (first, second)
    idle.close()
    assert new.closed
