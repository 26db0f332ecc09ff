"""Sidekiq, log cursor, runner, psql: from an event on the primary to a verified image, and holding it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from rails_fakes import MAIN, READ_TOKEN, Pair

from georeg_lab.layout import Lab, Ports
from georeg_lab.omnibus import templates
from georeg_lab.postgres import Cluster, environment, free_port
from georeg_lab.rails import jobs, logcursor, psql, records, repositories, runner, schema
from georeg_lab.rails.config import Config, Databases, role
from georeg_lab.rails.sidekiq import Sidekiq
from georeg_nb.readers import RUNNER_EXPRESSIONS


@contextmanager
def sidekiq(databases: Databases) -> Iterator[Sidekiq]:
    """A worker whose scheduled work is due in every round."""
    worker = Sidekiq(databases.config)
    try:
        yield worker
    finally:
        worker.stop()
        worker.databases.close()


def work_until(worker: Sidekiq, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, "not reached"
        worker._next_cron = 0
        worker.work()
        time.sleep(0.02)


def verified(pair: Pair) -> bool:
    query = "SELECT count(*) FROM container_repository_registry WHERE state = '2' AND verification_state = 2"
    return bool(pair.secondary.value(query, database="geo"))


def test_from_push_to_verified(pair: Pair) -> None:
    primary = pair.registries["primary"]
    primary.image("a", "1.0")
    repositories.touched(pair.primary, pair.repository["id"])
    with sidekiq(pair.primary) as first, sidekiq(pair.secondary) as second:
        work_until(first, lambda: pair.primary.value("SELECT count(*) FROM geo_events") == 2)
        logcursor.read_events(pair.secondary)
        names = pair.primary.all("SELECT event_name FROM geo_events ORDER BY id")
        assert [row["event_name"] for row in names] == ["updated", "checksum_succeeded"]
        work_until(second, lambda: verified(pair))
        assert pair.registries["secondary"].tags == primary.tags
        entry = pair.primary.one("SELECT * FROM geo_node_statuses ORDER BY geo_node_id DESC LIMIT 1")
        work_until(second, lambda: (pair.primary.value("SELECT count(*) FROM geo_node_statuses") or 0) == 2)
    assert entry is not None
    assert pair.secondary.value("SELECT max(event_id) FROM event_log_states", database="geo") == 2
    assert jobs.running(pair.secondary) == []
    assert jobs.leases(pair.secondary) == []


def test_repositories_without_events_are_found(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    with sidekiq(pair.secondary) as worker:
        work_until(worker, lambda: bool(pair.registries["secondary"].tags))
        pair.primary.run("DELETE FROM container_repositories")
        count = "SELECT count(*) FROM container_repository_registry"
        work_until(worker, lambda: pair.secondary.value(count, database="geo") == 0)


def test_nothing_moves_while_replication_is_off_but_the_rest_goes_on(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.registries["secondary"].image("surplus", "surplus")
    repositories.touched(pair.primary, pair.repository["id"])
    jobs.enqueue(pair.secondary, jobs.SYNC_WORKER, jobs.REPLICABLE, pair.repository["id"])
    schema.add_uploads(pair.primary.main, 3)
    off = pair.render("secondary", replication=False)
    assert runner.find(runner.REPLICATION_ENABLED) is not None
    with sidekiq(pair.primary) as first, sidekiq(off) as second:
        work_until(first, lambda: pair.primary.value("SELECT count(*) FROM upload_states") == 3)
        work_until(second, lambda: off.value("SELECT count(*) FROM file_registry", database="geo") == 3)
        work_until(second, lambda: off.value("SELECT count(*) FROM sidekiq_jobs", database="geo") == 0)
        while logcursor.read_events(off):
            pass
        last = pair.primary.value("SELECT max(id) FROM geo_event_log")
        assert off.value("SELECT max(event_id) FROM event_log_states", database="geo") == last
        work_until(second, lambda: True)
    assert pair.registries["secondary"].requests == []
    assert list(pair.registries["secondary"].tags) == ["surplus"]
    query = "SELECT (SELECT count(*) FROM container_repository_registry) + (SELECT count(*) FROM sidekiq_jobs)"
    assert pair.secondary.value(query, database="geo") == 0
    with sidekiq(pair.secondary) as third:  # on again: the skipped events are made up for by the consistency worker
        work_until(third, lambda: pair.registries["secondary"].tags == pair.registries["primary"].tags)
    off.close()


def test_a_failed_record_waits_for_its_time(pair: Pair) -> None:
    number = pair.repository["id"]
    records.pending(pair.secondary, number)
    records.failed(pair.secondary, number, "no reason")
    assert records.due(pair.secondary, 10) == []
    pair.secondary.run("UPDATE container_repository_registry SET retry_at = now() - interval '1 s'", database="geo")
    assert records.due(pair.secondary, 10) == [number]


def test_a_job_is_queued_once_until_it_starts(pair: Pair) -> None:
    for _ in range(3):
        jobs.enqueue(pair.secondary, jobs.SYNC_WORKER, jobs.REPLICABLE, 1)
    claimed = jobs.claim(pair.secondary)
    assert claimed is not None
    assert jobs.claim(pair.secondary) is None
    jobs.enqueue(pair.secondary, jobs.SYNC_WORKER, jobs.REPLICABLE, 1)
    assert len(jobs.running(pair.secondary)) == 1
    pair.secondary.run("UPDATE sidekiq_jobs SET pid = 4194305 WHERE pid IS NOT NULL", database="geo")
    assert jobs.running(pair.secondary) == []
    jobs.requeue(pair.secondary)
    again = jobs.claim(pair.secondary)
    assert again is not None
    assert again["id"] == claimed["id"]


def run(pair: Pair, site: str, text: str) -> int:
    return runner.run(pair.roots[site], ["runner", text])


@pytest.mark.parametrize(
    ("site", "text", "printed"),
    [
        ("primary", runner.CONTAINER_REPOSITORY_COUNT, "1\n"),
        ("primary", runner.GEO_ROLE, "primary\n"),
        ("secondary", runner.GEO_ROLE, "secondary\n"),
        ("secondary", runner.REPOSITORY_STORAGES, "default\n"),
        ("primary", runner.REPLICATION_ENABLED, "false\n"),
        ("secondary", runner.REPLICATION_ENABLED, "true\n"),
        ("primary", runner.MAXIMUM_EVENT_ID, "\n"),
        ("secondary", runner.REGISTRY_STATES, "[]\n"),
        ("secondary", runner.RUNNING_SYNC_JOBS, "0\n"),
        ("secondary", runner.SYNC_LEASES, "0\n"),
        ("secondary", runner.STARTED_COUNT, "0\n"),
        ("primary", runner.UPDATE_STATUS, ""),
    ],
)
def test_expressions(pair: Pair, capsys: pytest.CaptureFixture[str], site: str, text: str, printed: str) -> None:
    assert run(pair, site, text) == 0
    assert capsys.readouterr().out == printed


def test_the_states_are_one_line_of_json(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.sync()
    run(pair, "secondary", runner.REGISTRY_STATES)
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["container_repository_id"], row["state"], row["last_sync_failure"]) == (
        pair.repository["id"],
        "2",
        None,
    )
    assert row["last_synced_at"].endswith("Z")


def test_sync_of_one_record_by_its_id(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    records.pending(pair.secondary, pair.repository["id"])
    pair.registries["primary"].image("a", "1.0")
    assert run(pair, "secondary", runner.SYNC_ONE.replace("<id>", str(pair.record["id"]))) == 0
    assert list(pair.registries["secondary"].tags) == ["1.0"]
    assert run(pair, "secondary", runner.SYNC_ONE.replace("<id>", "77")) == 1
    assert "Couldn't find Geo::ContainerRepositoryRegistry with 'id'=77" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["puts 1", runner.GEO_ROLE + "; exit", runner.SYNC_ONE, "puts ContainerRepository .count"]
)
def test_other_expressions_are_refused_by_name(pair: Pair, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run(pair, "primary", text) == 1
    output = capsys.readouterr()
    assert (output.out, repr(text) in output.err) == ("", True)


def test_roles(pair: Pair) -> None:
    assert [role(databases) for databases in (pair.primary, pair.secondary)] == ["primary", "secondary"]
    pair.primary.run("DELETE FROM geo_nodes")
    assert role(pair.primary) == "none"


def serve(tmp_path: Path, module: str, root: Path) -> subprocess.Popen[bytes]:
    log = (tmp_path / f"{module}.log").open("wb")
    command = [sys.executable, "-m", f"georeg_lab.rails.{module}", "--root", str(root)]
    with log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def test_processes_start_and_end_on_sigterm(pair: Pair, tmp_path: Path) -> None:
    Lab(tmp_path, Ports(free_port() - 14)).save()  # the secondary's puma gets the free port
    started = {module: serve(tmp_path, module, pair.roots["secondary"]) for module in ("puma", "sidekiq", "logcursor")}
    try:
        url = f"http://127.0.0.1:{Lab.load(tmp_path).ports.puma('secondary')}/api/v4/version"
        end = time.monotonic() + 60
        answer: Any = None
        while answer is None:
            try:
                answer = requests.get(url, headers={"PRIVATE-TOKEN": READ_TOKEN}, timeout=5).json()
            except requests.ConnectionError:
                assert time.monotonic() < end, (tmp_path / "puma.log").read_text()
                time.sleep(0.1)
        assert answer["version"] == "18.7.7-ee"
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        codes = {module: process.wait(60) for module, process in started.items()}
    logs = "".join((tmp_path / f"{module}.log").read_text() for module in started)
    assert (set(codes.values()), logs) == ({0}, "")


def test_psql_reads_its_password_from_a_file(cluster: Cluster, pair: Pair, tmp_path: Path) -> None:
    base = cluster.port - 5  # the port of the primary's database in the lab's numbering
    Lab(tmp_path, Ports(base)).save()
    folder = tmp_path / "primary/var/opt/gitlab/postgresql"
    folder.mkdir(parents=True)
    (folder / ".pgpass").touch(mode=0o600)
    (folder / ".pgpass").write_text(f"127.0.0.1:{cluster.port}:*:gitlab-psql:{cluster.password}\n")
    with cluster.connect() as admin:
        admin.execute('DROP ROLE IF EXISTS "gitlab-psql"')
    cluster.create_role("gitlab-psql", cluster.password, "LOGIN SUPERUSER")
    argv, extra = psql.command(pair.roots["primary"], ["-tAc", "SELECT current_database(), pg_is_in_recovery()"])
    assert cluster.password not in " ".join(argv)
    values = environment(Path(argv[0]).parent, extra)
    done = subprocess.run(argv, capture_output=True, text=True, env=values, check=False)
    assert (done.stdout, done.stderr) == (f"{MAIN}|f\n", "")
    argv, _ = psql.command(pair.roots["secondary"], ["-d", "postgres", "-tAc", "SELECT 1"], geo=True)
    assert argv.count("-d") == 1
    assert str(Ports(base).geo_postgresql()) in argv


def test_config_without_a_node_name_takes_the_url(pair: Pair) -> None:
    config = Config.load(pair.roots["primary"])
    config.gitlab_yml["geo"]["node_name"] = None
    assert config.node_name == pair.urls["primary"]


def test_config_reads_what_reconfigure_renders(tmp_path: Path) -> None:
    rails = {
        "gitlab_host": "127.0.0.1",
        "gitlab_port": 18711,
        "gitlab_https": True,
        "registry_enabled": True,
        "registry_host": "127.0.0.1",
        "registry_port": 18712,
        "registry_api_url": "http://127.0.0.1:18713",
        "registry_notification_secret": "madeuptoken0123456789abcdefghijkl",
        "geo_registry_replication_enabled": True,
        "geo_registry_replication_primary_api_url": "https://127.0.0.1:18702/",
        "db_host": "/var/opt/gitlab/postgresql",
        "db_port": 18715,
        "db_password": "secret",
    }
    etc = tmp_path / "var/opt/gitlab/gitlab-rails/etc"
    etc.mkdir(parents=True)
    (etc / "gitlab.yml").write_text(templates.gitlab_yml(rails))
    (etc / "database.yml").write_text(templates.database_yml(rails, {"db_host": "127.0.0.1", "db_port": 18716}))
    config = Config.load(tmp_path)
    assert (config.external_url, config.node_name) == ("https://127.0.0.1:18711", "https://127.0.0.1:18711")
    assert (config.registry_host, config.registry_api_url) == ("127.0.0.1:18712", "http://127.0.0.1:18713")
    assert (config.primary_api_url, config.replication_enabled) == ("https://127.0.0.1:18702", True)
    assert (config.notification_secret, config.registry_issuer) == (
        "madeuptoken0123456789abcdefghijkl",
        "omnibus-gitlab-issuer",
    )
    main = {"host": "127.0.0.1", "port": 18715, "dbname": MAIN, "user": "gitlab", "password": "secret"}
    assert config.connection_settings("main") == main
    assert config.connection_settings("geo")["user"] == "gitlab_geo"
    assert "secret" not in repr(config)


def test_every_expression_that_checks_may_run_is_known() -> None:
    assert set(RUNNER_EXPRESSIONS) <= set(runner.EXPRESSIONS)
