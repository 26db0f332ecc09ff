"""The scenes that the recorded commands belong to: what is there before, what happens in between. Cases by index."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import recorded_images as images
import registry_program
from contract_cases import recorded
from registry_program import Finished
from registry_server import Server

from georeg_lab.postgres import Cluster, free_port

CASES = recorded("registry/cli.jsonl")
UNKNOWN_ID = "20990101000000_from_the_future"
LOCK = "docker/registry/lockfiles"
MANIFEST = "9c99f67020e8bf5b2d282c78b6cbf300a8c4c096a1155f4060664bd0c0e17d84"  # of m-broken
BROKEN_CONFIGURATIONS = {
    "cfg/bad.yml": "version: 0.1\nstorage: {inmemory: {}, filesystem: {rootdirectory: /x}}\n",
    "cfg/bad2.yml": "storage: {filesystem: {rootdirectory: /x}}\n",
    "cfg/bad3.yml": "version: 0.1\nstorage: {filesystem: {rootdirectory: /x}}\ndatabase: {enabled: maybe}\n",
    "cfg/bad4.yml": "version: 0.1\ndatabase: {enabled: false}\n",
    "lab.py": "import subprocess, sys\n",
}
REFUSALS: dict[str, dict[str, Any]] = {
    "refused": {"port": 1},
    "wrong password": {"password": "wrong"},
    "unknown user": {"user": "nobody"},
    "unknown database": {"dbname": "nodb"},
    "host unknown": {"host": "no-such-host.invalid"},
    "sslmode require, server without TLS": {"sslmode": "require"},
    "sslmode verify-full, root certificate missing": {"sslmode": "verify-full", "sslrootcert": "/nonexistent.pem"},
}


@dataclass
class Outcome:
    """What one command did."""

    finished: Finished
    lockfiles: list[str]
    logs: list[tuple[str, int]]


@dataclass
class Stage:
    """A scratch folder, a storage and a PostgreSQL server, on which scenes are played once each."""

    folder: Path
    server: Cluster
    empty_database: Callable[[], str]
    migrated_database: Callable[[], contextlib.AbstractContextManager[str]]
    standby: Callable[[], tuple[int, str]]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    played: set[str] = field(default_factory=set)
    left_by_down: tuple[list[str], int] = ([], -1)  # relations and functions

    def __post_init__(self) -> None:
        self.root = self.folder / "storage"
        for name in ("cfg", "st/logdir", "cwd", "home"):
            (self.folder / name).mkdir(parents=True)
        for name, text in BROKEN_CONFIGURATIONS.items():
            (self.folder / name).write_text(text)
        images.base_main(self.root)

    def outcome(self, number: int) -> Outcome:
        """What case `number` did; plays its scene first. Raises KeyError when the scene did not come that far."""
        scene = next(scene for scene, numbers in SCENES.items() if number in numbers)
        if scene.__name__ not in self.played:
            self.played.add(scene.__name__)
            scene(self)
        return self.outcomes[number]

    def configure(self, database: str = "postgres", root: Path | None = None, **more: Any) -> None:
        """Say what every configuration file of the scene holds; `more`: keys of `database`, and `log`."""
        log = {"level": "info", "accesslog": {"disabled": True}, **more.pop("log", {})}
        settings = {
            "enabled": False,
            "host": "127.0.0.1",
            "port": self.server.port,
            "user": self.server.superuser,
            "password": self.server.password,
            "dbname": database,
            "sslmode": "disable",
            **more,
        }
        document = {
            "version": "0.1",
            "log": log,
            "storage": {"filesystem": {"rootdirectory": str(root or self.root)}},
            "database": settings,
        }
        (self.folder / "cfg/scene.yml").write_text(json.dumps(document))

    def run(self, *numbers: int) -> None:
        """Run commands and keep what they did."""
        for number in numbers:
            self.outcomes[number] = self._run(number)

    def word(self, text: str) -> str:
        """A word of a command line with its placeholders filled in."""
        if text.startswith("{work}/cfg/") and text.removeprefix("{work}/") not in BROKEN_CONFIGURATIONS:
            return str(self.folder / "cfg/scene.yml")
        return text.replace("{work}", str(self.folder)).replace("{config}", str(self.folder / "cfg/scene.yml"))

    def _run(self, number: int) -> Outcome:
        case = CASES[number]
        for file in self._log_files():
            file.unlink()
        variables = {name: self.word(value) for name, value in case["env"].items()}
        argv = [self.word(word) for word in case["argv"][1:]]
        found = registry_program.run(argv, case.get("stdin") or "", variables, self.folder / "cwd")
        finished = Finished(found.status, *(text.replace(str(self.folder), "{work}") for text in found[1:]))
        logs = [(oct(file.stat().st_mode & 0o777), len(file.read_text().splitlines())) for file in self._log_files()]
        lockfiles = self.root / LOCK
        return Outcome(finished, [f.name for f in lockfiles.iterdir()] if lockfiles.is_dir() else [], logs)

    def _log_files(self) -> list[Path]:
        return [*(self.folder / "cwd").iterdir(), *(self.folder / "st/logdir").iterdir()]

    def unlock(self) -> None:
        """No lockfiles, as before."""
        shutil.rmtree(self.root / LOCK, ignore_errors=True)

    def sql(self, database: str, statement: str) -> None:
        with self.server.connect(database) as connection:
            connection.execute(statement)


def usage(stage: Stage) -> None:
    stage.run(*USAGE)


def step_by_step(stage: Stage) -> None:
    stage.configure(stage.empty_database())
    stage.run(*STEP_BY_STEP)


def unknown_migration(stage: Stage) -> None:
    name = stage.empty_database()
    stage.configure(name)
    stage.run(56, 57)
    stage.sql(name, f"INSERT INTO schema_migrations VALUES ('{UNKNOWN_ID}', now())")
    stage.run(58, 59, 60)
    stage.sql(name, f"DELETE FROM schema_migrations WHERE id = '{UNKNOWN_ID}'")
    stage.run(61)


def up_and_down(stage: Stage) -> None:
    name = stage.empty_database()
    stage.configure(name)
    stage.run(62, 63)
    with stage.server.connect(name) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname IN ('public', 'partitions') AND relkind IN ('r', 'p', 'S') ORDER BY 1"
        ).fetchall()
        functions = "SELECT FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        stage.left_by_down = [row[0] for row in left], connection.execute(functions).rowcount
    stage.run(64)


def small_lock_table(stage: Stage) -> None:
    server = Cluster(stage.folder / "small", free_port(), stage.server.password)
    server.init({"max_connections": "60", "max_locks_per_transaction": "64"})
    server.start()
    try:
        stage.configure(port=server.port)
        stage.run(65)
    finally:
        server.remove()


def refusing_database(stage: Stage) -> None:
    for number in REFUSING:
        stage.configure(**REFUSALS[CASES[number]["state"].removeprefix("database: ")])
        stage.run(number)


def schema_missing(stage: Stage) -> None:
    name = stage.empty_database()
    stage.configure(name)
    for number in SCHEMA_MISSING:
        stage.run(number)
        stage.unlock()


def powerless_role(stage: Stage) -> None:
    stage.server.create_role("powerless", "p")
    with stage.migrated_database() as name:
        stage.configure(name, user="powerless", password="p")
        stage.run(133, 134)
    stage.server.execute('DROP ROLE "powerless"')


def streaming_standby(stage: Stage) -> None:
    port, name = stage.standby()
    stage.configure(name, port=port)
    stage.run(*STANDBY)


def offline_collection(stage: Stage) -> None:
    lock = stage.root / LOCK / "database-in-use"
    for number, enabled in ((150, True), (151, "prefer"), (152, False)):
        stage.configure(enabled=enabled)
        stage.run(number)
    lock.parent.mkdir(parents=True)
    lock.write_text('{"version":1}')
    stage.run(153, 154)
    stage.unlock()
    stage.configure(root=stage.folder / "empty")
    stage.run(155)


def flags_of_the_import(stage: Stage) -> None:
    with stage.migrated_database() as name:
        stage.configure(name)
        stage.run(*IMPORT_FLAGS)
    stage.unlock()


def fresh_imports(stage: Stage) -> None:
    for number in FRESH_IMPORTS:
        state, level = CASES[number]["name"].rpartition(", level ")[::2]
        log = {"level": level} if state else {"formatter": "text"} if "text" in CASES[number]["name"] else {}
        damage = broken_manifest(stage.root) if number == 177 else contextlib.nullcontext()
        with stage.migrated_database() as name, damage:
            stage.configure(name, log=log)
            if number == 178:
                found = registry_program.run(["database", "import", "-l", stage.word("{config}")])
                assert found.status == 0, found.err
            stage.run(number)
        stage.unlock()


@contextlib.contextmanager
def broken_manifest(root: Path) -> Iterator[None]:
    file = root / images.V2 / "blobs/sha256" / MANIFEST[:2] / MANIFEST / "data"
    content = file.read_bytes()
    file.write_text("nope")
    yield
    file.write_bytes(content)


def newer_schema(stage: Stage) -> None:
    with stage.migrated_database() as name:
        stage.sql(name, f"INSERT INTO schema_migrations VALUES ('{UNKNOWN_ID}', now())")
        stage.configure(name)
        stage.run(180)
    stage.unlock()


def two_at_once(stage: Stage) -> None:
    """The second waits until the first has made the bookkeeping table. Here a transaction holds it up for sure."""
    name = stage.empty_database()
    stage.configure(name)
    with stage.server.connect(name) as first:
        first.execute("BEGIN; CREATE TABLE schema_migrations (id text PRIMARY KEY, applied_at timestamptz)")
        second = threading.Thread(target=stage.run, args=(182,))
        second.start()
        while second.is_alive() and not _waits(stage.server, name):
            time.sleep(0.05)
        first.execute("COMMIT")
        second.join()
    stage.run(181, 183, 184)


def _waits(server: Cluster, name: str) -> bool:
    with server.connect("postgres") as connection:
        sql = "SELECT FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        return connection.execute(sql, [name]).fetchone() is not None


def beside_a_registry(stage: Stage) -> None:
    server = Server(stage.folder / "home", stage.root)
    server.start()
    with stage.migrated_database() as name:
        stage.configure(name)
        stage.run(185)
    server.stop()
    stage.unlock()


USAGE = range(27)
STEP_BY_STEP = range(27, 56)
REFUSING = tuple(n for n in range(102, 123) if "started" not in CASES[n])
SCHEMA_MISSING = (124, 125, 126, 127, 128, 129, 131)
STANDBY = range(137, 149)
IMPORT_FLAGS = range(156, 164)
FRESH_IMPORTS = range(164, 179)
SCENES: dict[Callable[[Stage], None], Any] = {
    usage: USAGE,
    step_by_step: STEP_BY_STEP,
    unknown_migration: range(56, 62),
    up_and_down: range(62, 65),
    small_lock_table: (65,),
    refusing_database: REFUSING,
    schema_missing: SCHEMA_MISSING,
    powerless_role: (133, 134),
    streaming_standby: STANDBY,
    offline_collection: range(150, 156),
    flags_of_the_import: IMPORT_FLAGS,
    fresh_imports: FRESH_IMPORTS,
    newer_schema: (180,),
    two_at_once: range(181, 185),
    beside_a_registry: (185,),
}
