"""georeg_lab.postgres: clusters, replicas, TLS, and that nothing is left running."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from georeg_lab import postgres
from georeg_lab.postgres import Cluster, PostgresError, free_port, new_password


def test_a_wrong_password_is_refused(postgres_server: Cluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres_server.connect(password="wrong")


def test_settings_and_encoding(postgres_server: Cluster) -> None:
    with postgres_server.connect() as connection:
        values = {
            name: connection.execute(f"SHOW {name}".encode()).fetchone()[0]  # type: ignore[index]
            for name in ("server_encoding", "wal_segment_size", "max_locks_per_transaction", "fsync")
        }
    assert values == {
        "server_encoding": "UTF8",
        "wal_segment_size": "1MB",
        "max_locks_per_transaction": "64",
        "fsync": "off",
    }


def test_a_fresh_database_is_empty(postgres_database: Any) -> None:
    with psycopg.connect(postgres_database.dsn) as connection:
        row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert row == (0,)


def test_replica_streams_and_is_read_only(tmp_path: Path) -> None:
    """On a server of its own: a base backup takes every database along that other tests have made."""
    primary = Cluster(tmp_path / "primary", free_port(), new_password())
    replica = Cluster(tmp_path / "replica", free_port(), primary.password, bin_dir=primary.bin_dir)
    primary.init()
    try:
        primary.start()
        primary.create_role("replicator", "abc123", "LOGIN REPLICATION")
        primary.base_backup(replica, "secondary", "replicator", "abc123")
        replica.start()
        primary.execute("CREATE TABLE streamed (n int)", "INSERT INTO streamed VALUES (42)")
        with replica.connect() as connection:
            end = time.monotonic() + 30
            while connection.execute("SELECT to_regclass('streamed') IS NULL").fetchone() == (True,):
                assert time.monotonic() < end, "the table did not arrive on the replica"
                time.sleep(0.05)
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("CREATE TABLE refused ()")
    finally:
        replica.remove()
        primary.remove()
    assert not replica.data_dir.exists()


def test_stop_ends_the_server_and_start_brings_the_data_back(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "data", free_port(), new_password())
    cluster.init()
    try:
        cluster.start()
        first = cluster.pid()
        assert first is not None
        cluster.execute("CREATE TABLE kept ()")
        cluster.stop()
        assert cluster.pid() is None
        assert postgres.server_state(cluster.data_dir) == ""
        cluster.start()
        cluster.execute("SELECT * FROM kept")
    finally:
        cluster.remove()
    assert postgres.port_is_free(cluster.port)


def test_a_failed_start_shows_the_servers_log(tmp_path: Path, postgres_server: Cluster) -> None:
    cluster = Cluster(tmp_path / "data", postgres_server.port, new_password())
    cluster.init()
    with pytest.raises(PostgresError, match="Address already in use"):
        cluster.start()
    cluster.remove()


def test_a_configured_folder_without_the_programs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOREG_LAB_PG_BIN", raising=False)
    with pytest.raises(PostgresError, match=str(tmp_path)):
        postgres.find_bin_dir(str(tmp_path))
