"""`registry serve` against the recorded starts: lockfiles, refusing databases, answers while up, the log, the end."""

from __future__ import annotations

import http.client
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contract_cases
import pytest
import registry_program
import yaml
from cli_scenes import REFUSALS
from registry_server import Server, configuration, database_section

from georeg_lab.postgres import Cluster
from georeg_lab.registry import db, migrations
from georeg_lab.registry.config import Database

LOCKS = "docker/registry/lockfiles"
VARYING = (
    *("time", "version", "go_version", "instance_id", "correlation_id", "http_response_duration", "stack"),
    *("duration_ms", "pid", "sql", "args", "port", "database", "remote_addr"),
)
PATHS = ("/v2/", "/gitlab/v1/", "/v2/_catalog", "/gitlab/v1/repositories/acme/app/", "/v2/acme/app/manifests/a-first")


def chosen(started: bool) -> Any:
    """Parametrised with the recorded starts that succeeded, or those that were refused."""
    found = contract_cases.parameters(
        "registry/cli.jsonl", lambda case: str(case["name"]), lambda case: case.get("started") is started
    )
    return pytest.mark.parametrize("case", found)


# --- what a case begins with


@pytest.fixture(scope="module")
def metadata(new_metadata: Callable[[], Database]) -> Database:
    """A migrated, empty database that all starts share: none of them writes to it."""
    return new_metadata()


@pytest.fixture
def storage(case: dict[str, Any], base_main: Path, tmp_path: Path) -> Path:
    """The storage that the case's words describe."""
    root = tmp_path / "storage"
    if case["state"].startswith("empty storage"):
        root.mkdir()
    else:
        shutil.copytree(base_main, root)
    locks = root / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    for name in ("filesystem-in-use", "database-in-use"):
        if name in case["name"].partition("locks=")[2]:
            (locks / name).write_text('{"version":1}')
    if "is a folder" in case["state"]:
        (locks / ("database-in-use" if "enabled=False" in case["name"] else "filesystem-in-use")).mkdir()
    return root


@pytest.fixture
def database(case: dict[str, Any], metadata: Database, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The `database` section that the case's words describe."""
    enabled = re.search(r"enabled=(\w+)", case["name"])
    section = database_section(metadata, sslmode="disable")
    section["enabled"] = {"False": False, "prefer": "prefer"}.get(enabled[1] if enabled else "True", True)
    state = case["state"]
    server: Cluster = request.getfixturevalue("postgres_server")
    if state.startswith("database: "):
        section |= REFUSALS[state.removeprefix("database: ")]
    elif "nothing listens" in state:
        section["port"] = 1
    elif "standby" in state:
        port, name = request.getfixturevalue("standby")()
        section |= {"port": port, "dbname": name, "enabled": "prefer" if "prefer" in case["name"] else True}
    elif "role without" in state:
        server.create_role("powerless_server", "p")
        request.addfinalizer(lambda: server.execute('DROP ROLE "powerless_server"'))
        section |= {"user": "powerless_server", "password": "p", "dbname": _other_schema(request, 0)}
    elif state == "database without schema":
        section["dbname"] = _other_schema(request, 0)
    elif "first 100" in state:
        section["dbname"] = _other_schema(request, 100)
    elif "0 post" in state:
        section["dbname"] = _other_schema(request, None)
    elif "unknown id" in state:
        newer: Database = request.getfixturevalue("new_metadata")()
        with db.connect(newer) as connection:
            connection.execute("INSERT INTO schema_migrations VALUES ('20991231235959_from_the_future', now())")
        section["dbname"] = newer.dbname
    yield section


def _other_schema(request: pytest.FixtureRequest, limit: int | None) -> str:
    """A database of its own with so many pre-deployment migrations (None: all of them), and none after deployment."""
    name: str = request.getfixturevalue("postgres_database").name
    server: Cluster = request.getfixturevalue("postgres_server")
    settings = Database(
        host="127.0.0.1", port=server.port, user=server.superuser, password=server.password, dbname=name
    )
    if limit != 0:
        with db.connect(settings) as connection:
            migrator = migrations.Migrator(db.Queries(connection), "pre-deployment")
            migrator.up(migrator.plan_up(limit or 0))
    return name


# --- what is compared


def plain(text: str) -> str:
    """A message without addresses, names and numbers that differ from run to run."""
    for pattern, replacement in (
        (r"127\.0\.0\.1:(?:\d+|\{pgport\})|\{addr\}", "{addr}"),
        (r"port=(?:\d+|\{pgport\})", "port={pgport}"),
        (r"lookup (\S+) on \S+:53", r"lookup \1 on {resolver}:53"),
        (r'database "\w+" does not exist', 'database "{db}" does not exist'),
        (r"(dbname|database|user)=\w+", r"\1={name}"),
        (r'for user "\w+"', 'for user "{name}"'),
        (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d http: panic serving .*", "{time} http: panic serving {client}: {…}"),
        (r"\{time\} http: panic serving .*", "{time} http: panic serving {client}: {…}"),
    ):
        text = re.sub(pattern, replacement, text)
    text = re.sub(r"(http: panic serving \{client\}: \{…\}).*", r"\1", text, flags=re.S)  # and the stack
    return text.strip()


def comparable(lines: list[dict[str, Any]]) -> str:
    """The lines, each with its keys sorted, without what differs from run to run."""
    found = []
    for line in lines:
        if line["msg"].startswith("Starting upload purge in "):
            continue  # said when its turn comes: not in the recordings
        fields = {key: value for key, value in line.items() if key not in VARYING}
        kept = {key: plain(value) if isinstance(value, str) else value for key, value in fields.items()}
        found.append(json.dumps(kept, sort_keys=True, ensure_ascii=False))
    return "\n".join(found)


def parts(lines: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The log up to the signal, and what is said after it: the real program stops its parts at once, in any order."""
    at = next((n for n, line in enumerate(lines) if line["msg"].startswith("attempting to stop")), len(lines))
    return comparable(lines[:at]), sorted(comparable(lines[at:]).splitlines())


def lockfiles(root: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((root / LOCKS).glob("*")) if file.is_file()}


# --- the tests


@chosen(started=False)
def test_refuses_to_start(case: dict[str, Any], storage: Path, database: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(configuration(storage, 1, database)))
    status, out, err = registry_program.run(["serve", str(path)], variables=case["env"])
    assert (status, plain(err)) == (case["exit"], plain(case["stderr"]))
    assert comparable([json.loads(line) for line in out.splitlines()]) == comparable(case["log"])
    assert lockfiles(storage) == case["lockfiles_after"]
    assert "password" not in err.replace("password authentication", "").replace("password=xxxxx", "")


@chosen(started=True)
def test_starts(case: dict[str, Any], storage: Path, database: dict[str, Any], tmp_path: Path) -> None:
    server = Server(tmp_path, storage, options={"database": database}, environment=case["env"])
    server.start()
    try:
        probed = {path: probe(server, path) for path in PATHS}
    finally:
        status = server.stop()
    assert (status, plain(server.stderr)) == (case["exit"], plain(case["stderr"]))
    assert probed == {path: comparable_probe(answer) for path, answer in case["probe"].items()}
    (begun, ended), (begun_recorded, ended_recorded) = parts(server.log), parts(case["log"])
    assert begun == begun_recorded
    assert ended == ended_recorded
    assert lockfiles(storage) == case["lockfiles_after"]


def probe(server: Server, path: str) -> dict[str, Any]:
    try:
        answer = server.request("GET", path)
    except http.client.RemoteDisconnected as error:
        return {"error": repr(error)}
    enabled = answer.headers.get("Gitlab-Container-Registry-Database-Enabled")
    return comparable_probe({"status": answer.status, "database_enabled": enabled, "body": answer.body.decode()})


def comparable_probe(answer: dict[str, Any]) -> dict[str, Any]:
    """The recording keeps the beginning of a body only."""
    return {**answer, "body": answer["body"][:200]} if "body" in answer else answer
