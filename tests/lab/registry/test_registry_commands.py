"""The command line against the recorded commands: usage, flags, configuration, database errors, offline collection."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded_images as images

from georeg_lab.postgres import Cluster, free_port
from georeg_lab.registry import cli, config, durations
from georeg_lab.registry.config_decode import DecodeError

DATA = Path(__file__).resolve().parents[2] / "data/registry/cli.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text().splitlines()]
BUILD_FIELDS = ("time", "version", "go_version", "instance_id")
VARYING = {"duration_ms": "{n}", "pid": "{pid}", "sql": "{sql}", "args": "{args}", "port": "{port}", "database": "{db}"}


def run(argv: list[str], stdin: str = "") -> tuple[int, str, str]:
    """A command in this process: exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(stdin))
        status = cli.main(argv, "{argv0}")
    return status, out.getvalue(), err.getvalue()


def plain(text: str) -> str:
    """Output with what differs from run to run replaced as in the recordings."""
    quoted = r'"(?:[^"\\]|\\.)*"'
    for pattern, replacement in (
        (rf"time={quoted}", 'time="{time}"'),
        (rf"\bargs=(?:{quoted}|\S+)", 'args="{args}"'),
        (rf"\bsql=(?:{quoted}|\S+)", 'sql="{sql}"'),
        (r"duration_ms=\S+", "duration_ms={n}"),
        (r"\bpid=\S+", "pid={pid}"),
        (r"in [\d.]+m?s$", "in {duration}"),
        (r"\bdatabase=\w+", "database={db}"),
        (r"127\.0\.0\.1:(?:\d+|\{pgport\})|\{addr\}", "{addr}"),
        (r"port=(?:\d+|\{pgport\})", "port={pgport}"),
        (r"lookup (\S+) on \S+:53", r"lookup \1 on {resolver}:53"),
        (r'database \\?"\w+\\?" does not exist', 'database "{db}" does not exist'),
        (r"dbname=\w+", "dbname={db}"),
        (r"user=\w+", "user={user}"),
        (r'for user (\\?)"\w+\\?"', r"for user \1{user}"),
    ):
        text = re.sub(pattern, replacement, text, flags=re.M)
    return text


def log_lines(text: str) -> list[dict[str, Any]]:
    """JSON lines without what differs from run to run."""
    lines = []
    for line in text.splitlines():
        line = line.replace("{pgport}", "0")
        fields = {key: value for key, value in json.loads(line).items() if key not in BUILD_FIELDS}
        fields |= {key: placeholder for key, placeholder in VARYING.items() if key in fields}
        lines.append({key: plain(value) if isinstance(value, str) else value for key, value in fields.items()})
    return lines


def label(number: int) -> str:
    case = CASES[number]
    return f"{number} {' '.join(case['argv'][1:])} {case['state']}"[:90]


def cases(*numbers: int) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(CASES[n], id=label(n)) for n in numbers])


@cases(*range(19))
def test_usage_and_flags(case: dict[str, Any]) -> None:
    found = run([word.replace("{work}", "/nowhere") for word in case["argv"][1:]])
    assert found == (case["exit"], case["stdout"], case["stderr"])


BROKEN = {
    "bad.yml": "version: 0.1\nstorage: {inmemory: {}, filesystem: {rootdirectory: /x}}\n",
    "bad2.yml": "storage: {filesystem: {rootdirectory: /x}}\n",
    "bad3.yml": "version: 0.1\nstorage: {filesystem: {rootdirectory: /x}}\ndatabase: {enabled: maybe}\n",
    "bad4.yml": "version: 0.1\ndatabase: {enabled: false}\n",
    "lab.py": "import subprocess, sys\n",
}


@cases(*range(19, 27))
def test_configuration_errors(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_CONFIGURATION_PATH", raising=False)
    (tmp_path / "cfg").mkdir()
    for name, text in BROKEN.items():
        folder = tmp_path if name == "lab.py" else tmp_path / "cfg"
        (folder / name).write_text(text)
    status, out, err = run([word.replace("{work}", str(tmp_path)) for word in case["argv"][1:]])
    assert (status, out) == (case["exit"], case.get("stdout", ""))
    assert err.replace(str(tmp_path), "{work}") == case["stderr"]


# --- databases that refuse


Write = Callable[..., str]


@pytest.fixture
def write_config(postgres_server: Cluster, tmp_path: Path) -> Write:
    """Writes a configuration: keywords are keys of `database`. The storage is base-main's where `storage` says so."""

    def write(storage: Path | None = None, log: dict[str, Any] | None = None, **database: Any) -> str:
        settings = {
            "enabled": False,
            "host": "127.0.0.1",
            "port": postgres_server.port,
            "user": postgres_server.superuser,
            "password": postgres_server.password,
            "dbname": "postgres",
            "sslmode": "disable",
            **database,
        }
        path = tmp_path / "config.yml"
        root = storage or tmp_path / "storage"
        document = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(root)}},
            "database": settings,
            "log": log or {},
        }
        path.write_text(json.dumps(document))
        return str(path)

    return write


REFUSALS: dict[str, dict[str, Any]] = {
    "refused": {"port": 1},
    "wrong password": {"password": "wrong"},
    "unknown user": {"user": "nobody"},
    "unknown database": {"dbname": "nodb"},
    "host unknown": {"host": "no-such-host.invalid"},
    "sslmode require, server without TLS": {"sslmode": "require"},
    "sslmode verify-full, root certificate missing": {"sslmode": "verify-full", "sslrootcert": "/nonexistent.pem"},
}


@cases(103, 104, 106, 107, 109, 110, 112, 113, 115, 116, 118, 119, 121, 122)
def test_database_refuses(case: dict[str, Any], write_config: Write) -> None:
    path = write_config(**REFUSALS[case["state"].removeprefix("database: ")])
    status, out, err = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert status == case["exit"]
    assert log_lines(out) == log_lines(case["stdout"])
    assert plain(err) == plain(case["stderr"])
    assert "wrong" not in out + err.replace("wrong password", "")


def import_fields(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**line, "duration_s": 0} if "duration_s" in line else line for line in lines]


@pytest.fixture(scope="module")
def base_main(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base-main")
    images.base_main(root)
    return root


@cases(124, 125, 126, 127, 129)
def test_import_without_the_schema(
    case: dict[str, Any], write_config: Write, base_main: Path, postgres_database: Any
) -> None:
    path = write_config(storage=base_main, dbname=postgres_database.name)
    if "100" in case["state"]:
        assert run(["database", "migrate", "up", "-n", "100", path])[0] == 0
    status, out, err = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert (status, plain(err)) == (case["exit"], plain(case["stderr"]))
    assert import_fields(log_lines(out)) == import_fields(log_lines(case["stdout"]))
    lock = base_main / "docker/registry/lockfiles/filesystem-in-use"
    assert lock.exists() == ("-2" in case["argv"])
    lock.unlink(missing_ok=True)


@pytest.fixture
def powerless(postgres_server: Cluster, postgres_database: Any) -> Iterator[dict[str, Any]]:
    postgres_server.create_role("powerless", "p")
    yield {"user": "powerless", "password": "p", "dbname": postgres_database.name}
    postgres_server.execute('DROP ROLE "powerless"')


@cases(133, 134)
def test_role_without_rights(case: dict[str, Any], write_config: Write, powerless: dict[str, Any]) -> None:
    path = write_config(**powerless)
    status, out, err = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert (status, plain(err)) == (case["exit"], plain(case["stderr"]))
    assert log_lines(out) == log_lines(case["stdout"])


# --- a standby


@pytest.fixture(scope="module")
def standby(postgres_server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    name = "standby_source"
    postgres_server.create_database(name, postgres_server.superuser)
    folder = tmp_path_factory.mktemp("standby")
    path = folder / "config.yml"
    path.write_text(json.dumps({"version": "0.1", "database": _settings(postgres_server, name)}))
    assert run(["database", "migrate", "up", str(path)])[0] == 0
    replica = Cluster(folder / "data", free_port(), postgres_server.password)
    postgres_server.base_backup(replica, "cli_standby", postgres_server.superuser, postgres_server.password)
    replica.start()
    yield replica
    replica.remove()
    postgres_server.execute(f'DROP DATABASE "{name}" WITH (FORCE)', "SELECT pg_drop_replication_slot('cli_standby')")


def _settings(server: Cluster, name: str) -> dict[str, Any]:
    return {
        "enabled": False,
        "host": "127.0.0.1",
        "port": server.port,
        "user": server.superuser,
        "password": server.password,
        "dbname": name,
        "sslmode": "disable",
    }


@cases(*range(137, 149))
def test_standby(case: dict[str, Any], standby: Cluster, write_config: Write, base_main: Path) -> None:
    path = write_config(storage=base_main, **_settings(standby, "standby_source"))
    status, out, err = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert (status, plain(err)) == (case["exit"], plain(case["stderr"]))
    if case["argv"][1] == "background-migrate":
        assert out == case["stdout"]
    else:
        assert log_lines(out) == log_lines(case["stdout"])
    assert not list((base_main / "docker/registry").glob("lockfiles/*"))


# --- offline collection, flags of the import


@cases(150, 151, 152, 153, 154, 155)
def test_garbage_collect(case: dict[str, Any], write_config: Write, base_main: Path, tmp_path: Path) -> None:
    enabled = {"True": True, "prefer": "prefer"}.get(case["state"].removeprefix("database.enabled: "), False)
    empty = case["state"] == "empty storage"
    path = write_config(storage=tmp_path / "empty" if empty else base_main, enabled=enabled)
    lock = base_main / "docker/registry/lockfiles/database-in-use"
    if "database-in-use" in case["state"]:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text('{"version":1}')
    status, out, err = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert (status, err) == (case["exit"], case["stderr"])
    assert import_fields(log_lines(out)) == import_fields(log_lines(case["stdout"]))
    if lock.exists():
        lock.unlink()
        lock.parent.rmdir()


@cases(156, 157, 158, 160, 161, 162)
def test_flags_of_the_import(case: dict[str, Any], write_config: Write) -> None:
    path = write_config()
    found = run([path if "{work}" in word else word for word in case["argv"][1:]])
    assert found == (case["exit"], case["stdout"], case["stderr"])


def test_collection_removes_only_what_nothing_names(write_config: Write, tmp_path: Path) -> None:
    root = tmp_path / "storage"
    images.base_main(root)
    path = write_config(storage=root)
    before = {file for file in root.rglob("*") if file.is_file()}
    assert run(["garbage-collect", path])[0] == 0
    assert {file for file in root.rglob("*") if file.is_file()} == before
    assert run(["garbage-collect", "-m", path])[0] == 0
    gone = {file.relative_to(root) for file in before if not file.exists()}
    untagged = images.image("untagged", "oci", (200,))
    names = [digest.split(":")[1] for digest in (untagged.digest, *map(images.digest, untagged.blobs))]
    assert {file.parent.name for file in gone} == set(names)
    assert len(gone) == len(names) + 1  # the files, and the manifest's revision link


# --- reading the configuration


FILE = """
version: 0.1
storage:
  filesystem: {rootdirectory: /srv/registry}
  delete: {enabled: true}
database: {enabled: true, host: db, port: 5432, password: p, pool: {maxopen: 7}}
http: {addr: ':5000', draintimeout: 1m30s, headers: {X-A: [b, c]}}
notifications:
  endpoints: [{name: n, url: http://x, timeout: 500ms, maxretries: 5, headers: {Authorization: [t]}}]
gc: {disabled: true, reviewafter: -1}
unknown: {key: 1}
"""


def test_reads_a_configuration() -> None:
    found = config.parse(FILE)
    assert (str(found.storage.root), found.storage.driver, found.storage.delete_enabled) == (
        "/srv/registry",
        "filesystem",
        True,
    )
    assert (found.database.mode, found.database.port, found.database.pool.max_open) == ("true", 5432, 7)
    assert (found.http.drain_timeout, found.http.header_lists) == (90.0, {"X-A": ["b", "c"]})
    endpoint = found.notifications.endpoints[0]
    assert (endpoint.timeout, endpoint.max_retries, endpoint.header_lists) == (0.5, 5, {"Authorization": ["t"]})
    assert found.gc.disabled
    assert found.gc.review_after < 0
    assert found.log.level == "info"
    assert "p" not in repr(found.database).split("password")[0][-3:]
    assert "password" not in repr(found)


def test_environment_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {
        "REGISTRY_DATABASE_ENABLED": "prefer",
        "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/elsewhere",
        "REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED": "true",
        "REGISTRY_HTTP_DRAINTIMEOUT": "5s",
        "REGISTRY_FF_ENFORCE_LOCKFILES": "true",
        "REGISTRY_NONSENSE": "1",
    }
    found = config.parse(FILE, environment=environment)
    assert (found.database.mode, str(found.storage.root), found.http.drain_timeout) == ("prefer", "/elsewhere", 5.0)
    assert found.storage.maintenance == {"readonly": {"enabled": True}}
    err = capsys.readouterr().err
    assert 'msg="ignoring unrecognized environment variable"' in err
    assert "name=REGISTRY_NONSENSE" in err
    assert "FF_ENFORCE" not in err
    with pytest.raises(config.ConfigError, match="into int"):
        config.parse(FILE, environment={"REGISTRY_DATABASE_PORT": "many"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http: {draintimeout: soon}", "  line 3: cannot unmarshal !!str `soon` into time.Duration"),
        ("database: {port: x}", "  line 3: cannot unmarshal !!str `x` into int"),
        ("gc: {disabled: perhaps not}", "  line 3: cannot unmarshal !!str `perhaps...` into bool"),
        ("http: [1]", "  line 3: cannot unmarshal !!seq into configuration.HTTP"),
    ],
)
def test_values_that_do_not_fit(text: str, message: str) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse(f"version: 0.1\nstorage: {{filesystem: {{}}}}\n{text}\n")
    assert str(caught.value) == f"yaml: unmarshal errors:\n{message}"
    assert not isinstance(caught.value, DecodeError)


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("72h", 259200, "72h0m0s"),
        ("1m30s", 90, "1m30s"),
        ("500ms", 0.5, "500ms"),
        ("0", 0, "0s"),
        ("-1.5s", -1.5, "-1.5s"),
    ],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    assert durations.parse(text) == pytest.approx(seconds)
    assert durations.text(seconds) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("x", 'time: invalid duration "x"'),
    ],
)
def test_bad_durations(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        durations.parse(text)


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "georeg_lab.registry"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "registry github.com/docker/distribution v4.32.0-gitlab\n"
    done = subprocess.run([*command, "frob"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, 'unknown command "frob" for "registry"\n')
