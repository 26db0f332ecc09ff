"""Migrated metadata databases that tests take and give back: emptying one is quicker than copying 2,700 relations."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import registry_program

from georeg_lab.postgres import Cluster
from georeg_lab.registry.config import Database

EMPTIED = (
    "tags",
    "layers",
    "manifest_references",
    "gc_manifest_review_queue",
    "manifests",
    "repository_blobs",
    "repositories",
    "top_level_namespaces",
    "blobs",
    "gc_blob_review_queue",
    "gc_blobs_layers",
    "gc_blobs_configurations",
    "gc_tmp_blobs_manifests",
    "import_statistics",
)


def empty(connection: psycopg.Connection[Any]) -> None:
    """Back to the state right after the migrations, but for sequences and `gc_review_after_defaults`."""
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")  # no triggers: fast
        for table in EMPTIED:
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM media_types WHERE id > 103")
        connection.execute("DROP TABLE IF EXISTS gorp_migrations")
        connection.execute("DELETE FROM schema_migrations WHERE id >= '2099'")


def settings(server: Cluster, name: str) -> Database:
    """How to reach a database of `server`."""
    return Database(
        enabled="true", host="127.0.0.1", port=server.port, user=server.superuser, password=server.password, dbname=name
    )


@dataclass
class Pool:
    """The databases of one server. The template has none of its own connections, so that it can be copied."""

    server: Cluster
    template: str = "registry_template"
    free: list[str] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.server.create_database(self.template, self.server.superuser)
        registry_program.migrate(settings(self.server, self.template))

    @contextlib.contextmanager
    def lent(self) -> Iterator[str]:
        """A database that is given back."""
        name = self.take()
        try:
            yield name
        finally:
            self.free.append(name)

    def take(self) -> str:
        """Name of a migrated database without content."""
        if self.free:
            name = self.free.pop()
            with self.server.connect(name) as connection:
                empty(connection)
            return name
        name = f"registry_{next(self.numbers)}"
        self.server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        return name
