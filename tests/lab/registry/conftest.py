"""Fixtures of the registry's tests: migrated databases, registry processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from registry_server import Server

from georeg_lab.postgres import Cluster
from georeg_lab.registry import db, migrations
from georeg_lab.registry.config import Database

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Cluster) -> str:
    """Name of a migrated database without content, to be copied."""
    name = "registry_template"
    postgres_server.create_database(name, postgres_server.superuser)
    with db.connect(settings(postgres_server, name)) as connection:
        migrations.apply_all(db.Queries(connection))
    return name


def settings(server: Cluster, name: str) -> Database:
    return Database(
        enabled="true", host="127.0.0.1", port=server.port, user=server.superuser, password=server.password, dbname=name
    )


@pytest.fixture(scope="session")
def new_metadata(postgres_server: Cluster, migrated_template: str) -> Iterator[Callable[[], Database]]:
    """Makes migrated, empty metadata databases that are dropped at the end."""
    made = []

    def make() -> Database:
        name = f"registry_{next(_numbers)}"
        postgres_server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_template}"')
        made.append(name)
        return settings(postgres_server, name)

    yield make
    for name in made:
        postgres_server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def start_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts registry processes that are stopped at the end."""
    with ExitStack() as stack:

        def start(root: Path, **options: Any) -> Server:
            server = Server(tmp_path_factory.mktemp("registry"), root, **options)
            stack.callback(server.stop)
            server.start()
            return server

        yield start
