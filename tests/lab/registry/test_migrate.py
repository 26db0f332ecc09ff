"""The schema that the migrations make: the recorded columns, partitions, seeds, triggers; a migration that fails."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from metadata_pool import Pool
from registry_program import run

from georeg_lab.registry import schema

DATA = Path(__file__).resolve().parents[2] / "data/registry"


@pytest.fixture
def config_path(postgres_database: Any, tmp_path: Path) -> str:
    path = tmp_path / "config.yml"
    database = postgres_database
    settings = {
        "host": database.host,
        "port": database.port,
        "user": database.user,
        "password": database.password,
        "dbname": database.name,
        "sslmode": "disable",
    }
    path.write_text(json.dumps({"version": "0.1", "database": settings}))
    return str(path)


def test_a_failure_keeps_what_was_applied(config_path: str, postgres_database: Any) -> None:
    assert run(["database", "migrate", "up", "-n", "2", config_path]).status == 0
    with psycopg.connect(postgres_database.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE blobs (x int)")
    status, _, err = run(["database", "migrate", "up", config_path])
    assert status == 1
    failed = "20210503150607_create_blobs_table"
    text = f'applying migration {failed}: ERROR: relation "blobs" already exists (SQLSTATE 42P07) handling {failed}'
    assert err.splitlines()[-1] == f"failed to run database migrations: {text}"
    assert run(["database", "migrate", "version", config_path]).out.splitlines() == [
        "pre-deployment:20210503150438_seed_media_types_table",
        "post-deployment:Unknown",
    ]


# --- the schema


@pytest.fixture(scope="module")
def migrated(metadata_pool: Pool) -> Iterator[psycopg.Connection[Any]]:
    """The template itself: what was lent before may have been changed by an import or by `gc.reviewafter`."""
    with metadata_pool.server.connect(metadata_pool.template) as connection:
        yield connection


def table(name: str) -> list[tuple[str, ...]]:
    """The rows of a recorded table."""
    with (DATA / name).open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


@pytest.mark.contract("registry/columns.csv", 0)
def test_columns_are_the_recorded_ones(migrated: psycopg.Connection[Any]) -> None:
    found = migrated.execute(
        "SELECT table_name, column_name, data_type, CASE is_nullable WHEN 'YES' THEN 'y' ELSE 'n' END, "
        "CASE WHEN column_default IS NOT NULL OR is_identity = 'YES' THEN 'y' ELSE 'n' END "
        "FROM information_schema.columns WHERE table_schema = 'public'"
    )
    assert set(found.fetchall()) == set(table("columns.csv"))


@pytest.mark.contract("registry/migrations.csv", 0)
def test_bookkeeping_is_the_recorded_one(migrated: psycopg.Connection[Any]) -> None:
    books = (("pre-deployment", "schema_migrations"), ("post-deployment", "post_deploy_schema_migrations"))
    found = [(kind, row[0]) for kind, book in books for row in migrated.execute(f"SELECT id FROM {book} ORDER BY id")]
    assert found == sorted(table("migrations.csv"), key=lambda row: (row[0] != "pre-deployment", row[1]))


@pytest.mark.contract("registry/media_types.csv", 0)
def test_media_types_are_the_recorded_ones(migrated: psycopg.Connection[Any]) -> None:
    assert migrated.execute("SELECT media_type FROM media_types ORDER BY id").fetchall() == table("media_types.csv")


def test_partitions_and_indexes(migrated: psycopg.Connection[Any]) -> None:
    tables = migrated.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'partitions'").fetchall()
    expected = {f"{table}_p_{n}" for table in schema.PARTITIONED_TABLES for n in range(schema.PARTITIONS)}
    assert {row[0] for row in tables} == expected
    count = migrated.execute("SELECT count(*) FROM pg_indexes WHERE schemaname = 'partitions'").fetchone()
    assert count == (2112,)


def test_seeds(migrated: psycopg.Connection[Any]) -> None:
    found = migrated.execute("SELECT media_type FROM media_types ORDER BY id").fetchall()
    assert tuple(row[0] for row in found) == schema.media_types()
    assert len(found) == 103
    background = migrated.execute("SELECT status, count(*) FROM batched_background_migrations GROUP BY 1").fetchall()
    assert background == [(1, 65)]
    assert migrated.execute("SELECT count(*) FROM gc_review_after_defaults").fetchone() == (7,)


def test_every_id_is_known_once() -> None:
    pre, post = (schema.ids(kind) for kind in schema.KINDS)
    assert (len(pre), len(post)) == (184, 10)
    assert len({*pre, *post}) == 194
    assert set(schema.changes()) <= {*pre, *post}


@pytest.fixture
def rows(migrated: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """One repository with a list, its child and a tag; gone afterwards."""
    with migrated.transaction(force_rollback=True):
        migrated.execute("INSERT INTO top_level_namespaces (id, name) VALUES (1, 'a')")
        migrated.execute("INSERT INTO repositories (id, top_level_namespace_id, name, path) VALUES (1, 1, 'b', 'a/b')")
        migrated.execute("INSERT INTO blobs (digest, media_type_id, size) VALUES ('\\x01c0', 1, 5), ('\\x01a1', 1, 6)")
        migrated.execute(
            "INSERT INTO manifests (id, top_level_namespace_id, repository_id, schema_version, media_type_id, digest, "
            "payload, total_size, configuration_blob_digest, configuration_media_type_id, subject_id) VALUES "
            "(1, 1, 1, 2, 3, '\\x01e1', '{}', 0, NULL, NULL, NULL), "
            "(2, 1, 1, 2, 3, '\\x01e2', '{}', 9, '\\x01c0', 5, 1)"
        )
        migrated.execute(
            "INSERT INTO layers (top_level_namespace_id, repository_id, manifest_id, digest, size, media_type_id) "
            "VALUES (1, 1, 2, '\\x01a1', 6, 1)"
        )
        migrated.execute(
            "INSERT INTO manifest_references (top_level_namespace_id, repository_id, parent_id, child_id) "
            "VALUES (1, 1, 1, 2)"
        )
        migrated.execute(
            "INSERT INTO tags (top_level_namespace_id, repository_id, manifest_id, name) VALUES (1, 1, 1, 't')"
        )
        yield migrated


def queue(connection: psycopg.Connection[Any], table: str, key: str) -> dict[Any, str]:
    return dict(connection.execute(f"SELECT {key}, event FROM {table}").fetchall())


def manifests(connection: psycopg.Connection[Any]) -> dict[Any, str]:
    return queue(connection, "gc_manifest_review_queue", "manifest_id")


def blobs(connection: psycopg.Connection[Any]) -> dict[Any, str]:
    return queue(connection, "gc_blob_review_queue", "encode(digest, 'hex')")


def test_inserts_are_queued(rows: psycopg.Connection[Any]) -> None:
    assert blobs(rows) == {"01c0": "blob_upload", "01a1": "blob_upload"}
    assert manifests(rows) == {1: "manifest_upload", 2: "manifest_upload"}
    assert rows.execute("SELECT encode(digest, 'hex'), manifest_id FROM gc_blobs_configurations").fetchall() == [
        ("01c0", 2)
    ]
    assert rows.execute("SELECT encode(digest, 'hex') FROM gc_blobs_layers").fetchall() == [("01a1",)]
    assert rows.execute("SELECT count(*) FROM gc_tmp_blobs_manifests").fetchone() == (2,)
    assert rows.execute("SELECT DISTINCT media_type_id_convert_to_bigint FROM manifests").fetchall() == [(3,)]
    jitter = rows.execute(
        "SELECT min(review_after) - now(), max(review_after) - now() FROM gc_blob_review_queue"
    ).fetchone()
    assert jitter
    assert all(86400 + 5 <= value.total_seconds() <= 86400 + 60 for value in jitter)


def test_moving_and_deleting_a_tag_queues_its_manifest(rows: psycopg.Connection[Any]) -> None:
    rows.execute("UPDATE tags SET manifest_id = 2")
    assert manifests(rows) == {1: "tag_switch", 2: "manifest_upload"}
    rows.execute("DELETE FROM tags")
    assert manifests(rows) == {1: "tag_switch", 2: "tag_delete"}


def test_deleting_a_list_queues_its_children(rows: psycopg.Connection[Any]) -> None:
    rows.execute("DELETE FROM manifest_references")
    assert manifests(rows) == {1: "manifest_upload", 2: "manifest_list_delete"}


def test_deleting_a_manifest_queues_config_layers_and_subject(rows: psycopg.Connection[Any]) -> None:
    rows.execute("DELETE FROM manifest_references")
    rows.execute("DELETE FROM manifests WHERE id = 2")
    assert blobs(rows) == {"01c0": "manifest_delete", "01a1": "layer_delete"}
    assert manifests(rows) == {1: "manifest_delete"}
    assert rows.execute("SELECT (SELECT count(*) FROM gc_blobs_layers), (SELECT count(*) FROM layers)").fetchone() == (
        0,
        0,
    )


def test_a_referenced_child_cannot_go(rows: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation), rows.transaction():
        rows.execute("DELETE FROM manifests WHERE id = 2")


def test_truncating_tags_queues_nothing(rows: psycopg.Connection[Any]) -> None:
    rows.execute("TRUNCATE tags")
    assert manifests(rows) == {1: "manifest_upload", 2: "manifest_upload"}
