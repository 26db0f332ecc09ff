"""What the first recordings do not show and georeg relies on: played on a real registry to record it, and on the
stand-in to compare (tests/data/registry/further-*.jsonl). Each scene begins with its base's storage and an empty
database."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import recorded_images as images
import recorded_tokens as tokens
import registry_program
from import_bench import Bench, KeptConnection, Metadata, comparable
from metadata_pool import Pool, settings
from registry_replay import Replay
from registry_server import Server, configuration, database_section

ACCEPT = {"Accept": ", ".join(kind for kinds in images.TYPES.values() for kind in (kinds[0], kinds[3]))}
APP = images.image("app-a", "docker")
LIST = images.index(
    "docker", (images.image("list-c1", "docker", (400,)), images.image("list-c2", "docker", (401,), "arm64"))
)
NEVER_SKIP = ["--pre-import-skip-recent", "0"]
PIPE_BYTES = 4096  # so small that the program waits for its reader after a dozen lines

Action = dict[str, Any]


def run(*flags: str) -> Action:
    return {"argv": ["registry", "database", "import", "-l", *flags, "{config}"]}


def end(by: str, lines: int, *flags: str) -> Action:
    """The signal is sent when so many lines of the log have been read."""
    return {**run(*flags), "signal": by, "after_lines": lines}


PUSH = {"push": "legacy: acme/app:new, zeta/new:v1, acme/app:z-last moved"}
IMPORTS: dict[str, list[Action]] = {
    "step-one-again": [run("-1"), run("-1"), run("-1", *NEVER_SKIP), run("-2"), run("-3")],
    "push-then-step-one-again": [run("-1"), PUSH, run("-1"), run("-1", *NEVER_SKIP), run("-2"), run("-3")],
    "full-import-over-step-one": [run("-1"), run()],
    "full-import-over-killed-step-one": [end("SIGKILL", 10, "-1"), run()],
    "step-one-after-kill": [end("SIGKILL", 10, "-1"), run("-1"), run("-2"), run("-3")],
    "step-one-without-skip-after-kill": [end("SIGKILL", 30, "-1"), run("-1", *NEVER_SKIP), run("-2"), run("-3")],
    "step-two-after-kill": [run("-1"), end("SIGKILL", 3, "-2"), run("-2"), run("-3")],
    "step-three-after-kill": [run("-1"), run("-2"), end("SIGKILL", 3, "-3"), run("-3")],
    "sigterm-in-step-one": [end("SIGTERM", 10, "-1"), run("-1")],
    "sigterm-in-step-two": [run("-1"), end("SIGTERM", 3, "-2"), run("-2")],
    "sigterm-in-full-import": [end("SIGTERM", 40), run()],
    "sigint-in-step-one": [end("SIGINT", 10, "-1"), run("-1")],
    "dry-runs": [run("-1", "-d"), run("-2", "-d"), run("-3", "-d"), run("-d")],
    "steps-again-afterwards": [run(), run("-1"), run("-3"), run("-1", *NEVER_SKIP)],
    "step-two-dry-run-before-step-two": [run("-1"), run("-2", "-d"), run("-2"), run("-3")],
    "counts-of-each-step": [run("-1", "-c"), run("-2", "-c"), run("-3", "-c")],
}


def ask(name: str, method: str, path: str, *, manifest: bool = False, body: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "request": {"method": method, "path": path, "headers": ACCEPT if manifest else {}, "body": body},
    }


IDENTITY = [
    ask("root", "GET", "/v2/"),
    ask("root HEAD", "HEAD", "/v2/"),
    ask("catalog", "GET", "/v2/_catalog?n=1000"),
    ask("v1 root", "GET", "/gitlab/v1/"),
    ask("v1 statistics", "GET", "/gitlab/v1/statistics/"),
]
READS = [
    *IDENTITY,
    ask("tags", "GET", "/v2/acme/app/tags/list?n=1000"),
    ask("tags of an unknown repository", "GET", "/v2/none/such/tags/list?n=1000"),
    ask("manifest HEAD by tag", "HEAD", "/v2/acme/app/manifests/a-first", manifest=True),
    ask("manifest HEAD by digest", "HEAD", f"/v2/acme/app/manifests/{APP.digest}", manifest=True),
    ask("list GET by tag", "GET", "/v2/acme/list/manifests/lista", manifest=True),
    ask("list child HEAD by digest", "HEAD", f"/v2/acme/list/manifests/{LIST.children[1].digest}", manifest=True),
    ask("config HEAD", "HEAD", f"/v2/acme/app/blobs/{images.digest(APP.blobs[0])}"),
    ask("layer HEAD", "HEAD", f"/v2/acme/app/blobs/{images.digest(APP.blobs[1])}"),
    ask("blob of another repository HEAD", "HEAD", f"/v2/zeta/last/blobs/{images.digest(APP.blobs[1])}"),
    ask("v1 repository", "GET", "/gitlab/v1/repositories/acme/app/?size=self"),
    ask("v1 tags", "GET", "/gitlab/v1/repositories/acme/app/tags/list/?n=1000"),
    ask("v1 unknown repository", "GET", "/gitlab/v1/repositories/none/such/"),
]
WRITES = [
    ask("upload POST", "POST", "/v2/acme/app/blobs/uploads/"),
    ask("upload POST to a new repository", "POST", "/v2/acme/new/blobs/uploads/"),
    ask("manifest PUT", "PUT", "/v2/acme/app/manifests/new", body="{}"),
    ask("manifest DELETE by tag", "DELETE", "/v2/acme/app/manifests/a-first"),
    ask("manifest DELETE by digest", "DELETE", f"/v2/acme/app/manifests/{APP.digest}"),
    ask("blob DELETE", "DELETE", f"/v2/acme/app/blobs/{images.digest(APP.blobs[1])}"),
    ask(
        "upload PATCH of an unknown upload", "PATCH", "/v2/acme/app/blobs/uploads/00000000-0000-4000-8000-000000000000"
    ),
]


@dataclass
class Session:
    """A registry with a set-up, and what it is asked. `base`: storage. `before`: imports first."""

    asked: list[dict[str, Any]]
    base: str = "base-main"
    database: bool = False
    before: tuple[Action, ...] = ()
    readonly: bool = False
    auth: bool = False


SESSIONS: dict[str, Session] = {
    "legacy, empty storage": Session(READS, base="empty"),
    "database, empty storage and database": Session(READS, base="empty", database=True),
    "database mode, nothing imported": Session(READS, database=True),
    "database mode, step one imported": Session(READS, database=True, before=(run("-1"),)),
    "database mode, steps one and two imported": Session(READS, database=True, before=(run("-1"), run("-2"))),
    "database mode, imported": Session(READS, database=True, before=(run(),)),
    "legacy mode beside an import": Session(READS, before=(run(),)),
    "legacy, read-only, pushes with a valid token": Session([*IDENTITY, *WRITES], readonly=True, auth=True),
    "database, read-only, pushes with a valid token": Session(
        [*IDENTITY, *WRITES], database=True, before=(run(),), readonly=True, auth=True
    ),
    "database, read-only, nothing imported": Session([*READS, *WRITES], database=True, readonly=True),
}


@dataclass
class Player:
    """Plays scenes in a folder, with databases of a pool."""

    folder: Path
    pool: Pool
    bases: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("base-main", "empty"):
            self.bases[name] = self.folder / "bases" / name
            self.bases[name].mkdir(parents=True)
        images.base_main(self.bases["base-main"])

    @contextlib.contextmanager
    def bench(self, base: str) -> Iterator[Bench]:
        """A fresh storage and database; gone afterwards."""
        root = self.folder / "storage"
        shutil.copytree(self.bases[base], root)
        with self.pool.lent() as name:
            database = settings(self.pool.server, name)
            config = self.folder / "import.yml"
            section = {**database_section(database), "enabled": False, "sslmode": "disable"}
            config.write_text(json.dumps(configuration(root, 1, section)))
            keys = ("host", "port", "user", "password", "dbname")
            connection = KeptConnection.connect(**{key: getattr(database, key) for key in keys}, autocommit=True)
            try:
                yield Bench(root, config, Metadata(connection, database))
            finally:
                psycopg.Connection.close(connection)
                shutil.rmtree(root)

    # --- imports

    def imported(self, name: str) -> dict[str, Any]:
        """One case: what each command did, and what is in the database afterwards."""
        with self.bench("base-main") as bench:
            steps = [self._step(bench, action) for action in IMPORTS[name]]
            found = bench.metadata.dump()
            last = {key: found[key] for key in ("tags", "repositories", "counts")}
            return {
                "name": name,
                "base": "base-main",
                "steps": steps,
                **last,
                "statistics": bench.metadata.statistics(),
            }

    def _step(self, bench: Bench, action: Action) -> dict[str, Any]:
        if "push" in action:
            images.push_legacy(bench.root, "acme/app", images.PUSHED_BETWEEN, ["new"])
            images.push_legacy(bench.root, "zeta/new", images.PUSHED_BETWEEN_2, ["v1"])
            images.push_legacy(bench.root, "acme/app", images.PUSHED_BETWEEN_2, ["z-last"])
            return action
        if "signal" in action:
            return {**action, "exit": _ended(bench, action), "lockfiles_after": bench.lockfiles()}
        status, lines, stderr = bench.run(action["argv"])
        counts = bench.metadata.dump()["counts"]
        return {
            **action,
            "exit": status,
            "stderr": stderr,
            "log": comparable(lines, OVERVIEW, bench),
            "lockfiles_after": bench.lockfiles(),
            "rows_after": {table: counts[table] for table in ("repositories", "manifests", "tags", "blobs")},
        }

    # --- HTTP

    def answers(self, name: str) -> list[dict[str, Any]]:
        """One case per request of a session."""
        session = SESSIONS[name]
        with self.bench(session.base) as bench:
            for action in session.before:
                assert bench.run(action["argv"])[0] == 0
            options: dict[str, Any] = (
                {"database": database_section(bench.metadata.settings)} if session.database else {}
            )
            if session.readonly:
                options["storage"] = {"maintenance": {"readonly": {"enabled": True}}}
            signer = tokens.Signer()
            if session.auth:
                bundle = self.folder / "bundle.crt"
                signer.write_bundle(bundle)
                names = {"realm": tokens.REALM, "service": tokens.SERVICE, "issuer": tokens.ISSUER}
                options["auth"] = {"token": {**names, "rootcertbundle": str(bundle)}}
            return list(self._asked(name, session, Server(self.folder, bench.root, options=options), signer))

    def _asked(self, name: str, session: Session, server: Server, signer: tokens.Signer) -> Iterator[dict[str, Any]]:
        server.start()
        try:
            replay = Replay(server, "further-http")
            rights = [tokens.access(path, "delete", "pull", "push") for path in ("acme/app", "acme/new")]
            rights.append({"type": "registry", "name": "catalog", "actions": ["*"]})
            if session.auth:
                replay.token = signer.sign(tokens.claims(*rights), {"kid": signer.kid})
            for question in session.asked:
                headers = dict(question["request"]["headers"])
                if session.auth:
                    headers["Authorization"] = "Bearer {token}"
                line = {**question, "setup": name, "request": {**question["request"], "headers": headers}}
                answer = replay.answer({**line, "response": {}, "line": 0})
                yield {**line, "response": _without_ids(answer)}
        finally:
            server.stop()


OVERVIEW = [{"msg": "starting metadata import", "dry_run": False}]
"""Asks `comparable` for the lines that tell the course of an import, and for its steps."""


def _ended(bench: Bench, action: Action) -> int:
    """Run the command, send the signal after so many lines; the exit status as Python gives it (-9: by SIGKILL)."""
    words = [str(bench.config) if word == "{config}" else word for word in action["argv"][1:]]
    command = [*registry_program.COMMAND, *words]
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # before it starts: what fits, it may run ahead
    with (
        os.fdopen(reader, "rb", buffering=0) as log,  # what is read ahead here would be more room
        subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process,
    ):
        os.close(writer)
        for _ in range(action["after_lines"]):
            assert log.readline()
        process.send_signal(signal.Signals[action["signal"]])
        log.readall()
        process.communicate()
    bench.metadata.wait_alone()
    return process.returncode


def _without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    """Ids of uploads and of rows are chance."""
    text = json.dumps(answer)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "{uuid}", text)
    text = re.sub(r'(\\"id\\"):\d+', r"\1:1", text)
    return dict(json.loads(text))
