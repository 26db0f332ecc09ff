"""Fixtures: one PostgreSQL server per session (and xdist worker), a fresh database per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from georeg_lab.postgres import Cluster, free_port, new_password

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """An empty database; its owner is also a superuser (extensions, REPLICATION)."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)

    @property
    def dsn(self) -> str:
        """libpq connection string."""
        return f"host={self.host} port={self.port} dbname={self.name} user={self.user} password={self.password}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running PostgreSQL cluster, removed afterwards."""
    folder: Path = tmp_path_factory.mktemp("postgres")
    cluster = Cluster(folder / "data", free_port(), new_password())
    cluster.init()
    cluster.start()
    yield cluster
    cluster.remove()


@pytest.fixture
def postgres_database(postgres_server: Cluster) -> Iterator[Database]:
    """A fresh database on `postgres_server`, dropped afterwards."""
    name = f"test_{next(_numbers)}"
    postgres_server.create_database(name, postgres_server.superuser)
    yield Database("127.0.0.1", postgres_server.port, name, postgres_server.superuser, postgres_server.password)
    postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
