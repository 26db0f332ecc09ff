"""Fixtures of the registry's tests: migrated databases, registry processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import recorded_images
from metadata_pool import Pool, settings
from registry_server import Server

from georeg_lab.postgres import Cluster, free_port
from georeg_lab.registry.config import Database


@pytest.fixture(scope="session")
def metadata_pool(postgres_server: Cluster) -> Pool:
    """Migrated databases; they vanish with their server."""
    return Pool(postgres_server)


@pytest.fixture(scope="module")
def new_metadata(metadata_pool: Pool) -> Iterator[Callable[[], Database]]:
    """Makes migrated, empty metadata databases, given back at the module's end."""
    taken: list[str] = []

    def make() -> Database:
        taken.append(metadata_pool.take())
        return settings(metadata_pool.server, taken[-1])

    yield make
    metadata_pool.free += taken


@pytest.fixture
def fresh_metadata(metadata_pool: Pool) -> Iterator[Database]:
    """A migrated, empty metadata database for one test."""
    with metadata_pool.lent() as name:
        yield settings(metadata_pool.server, name)


@pytest.fixture(scope="module")
def standby(
    postgres_server: Cluster, metadata_pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], tuple[int, str]]]:
    """Makes a streaming standby when it is first asked for; its port, and the name of a migrated database on it."""
    replicas: list[Cluster] = []

    def make() -> tuple[int, str]:
        if not replicas:
            folder = tmp_path_factory.mktemp("standby") / "data"
            replicas.append(Cluster(folder, free_port(), postgres_server.password))
            user, password = postgres_server.superuser, postgres_server.password
            postgres_server.base_backup(replicas[0], "recorded_standby", user, password)
            replicas[0].start()
        return replicas[0].port, metadata_pool.template

    yield make
    for replica in replicas:
        replica.remove()
        postgres_server.execute("SELECT pg_drop_replication_slot('recorded_standby')")


@pytest.fixture(scope="session")
def base_main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of the recordings' base; a test that changes it puts it back."""
    root = tmp_path_factory.mktemp("base-main")
    recorded_images.base_main(root)
    return root


@pytest.fixture(scope="module")
def start_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts registry processes that are stopped at the module's end."""
    with ExitStack() as stack:

        def start(root: Path, **options: Any) -> Server:
            server = Server(tmp_path_factory.mktemp("registry"), root, **options)
            stack.callback(server.stop)
            server.start()
            return server

        yield start
