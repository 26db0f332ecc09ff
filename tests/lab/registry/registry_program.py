"""The program under test: the stand-in, or with GEOREG_REGISTRY_BINARY the real registry, to see if tests are true."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from georeg_lab.registry import cli, db, migrations
from georeg_lab.registry.config import Database

BINARY = os.environ.get("GEOREG_REGISTRY_BINARY")
COMMAND = [BINARY] if BINARY else [sys.executable, "-m", "georeg_lab.registry"]
SECONDS = 180


class Finished(NamedTuple):
    status: int
    out: str
    err: str


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The process's environment without settings of a registry, and `more`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "SKIP_POST_"))}
    return {**kept, **(more or {})}


def run(
    argv: list[str], stdin: str = "", variables: Mapping[str, str] | None = None, folder: Path | None = None
) -> Finished:
    """Run one command to its end: the stand-in in this process, which is quicker, the real one as a process."""
    if BINARY:
        done = subprocess.run(
            [BINARY, *argv],
            input=stdin,
            env=environment(variables),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        return Finished(done.returncode, done.stdout.replace(BINARY, "{argv0}"), done.stderr.replace(BINARY, "{argv0}"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in set(os.environ) - set(environment()):
            patch.delenv(name)
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        patch.setattr("sys.stdin", io.StringIO(stdin))
        stack.enter_context(contextlib.chdir(folder or Path.cwd()))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        status = cli.main(argv, "{argv0}")
    return Finished(status, out.getvalue(), err.getvalue())


def migrate(database: Database) -> None:
    """Give an empty database the schema, with the program's own migrations."""
    if not BINARY:
        with db.connect(database) as connection:
            migrations.apply_all(db.Queries(connection))
        return
    keys = ("host", "port", "user", "password", "dbname")
    section = {key: getattr(database, key) for key in keys} | {"sslmode": "disable"}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(json.dumps({"version": "0.1", "database": section}))
        file.flush()
        done = run(["database", "migrate", "up", file.name])
    assert done.status == 0, done.err
