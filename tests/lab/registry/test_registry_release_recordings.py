"""The stand-in as 4.10.0, 4.24.0 and 4.28.0 against what the real programs of these releases said and left.

`tests/data/releases/registry.jsonl`: one release a line, recorded by running programs built from GitLab's source over
four repositories of the lab's catalog, on an empty PostgreSQL.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from georeg_lab import images
from georeg_lab.postgres import Cluster

DATA = Path(__file__).resolve().parents[2] / "data/releases/registry.jsonl"
RECORDED = {entry["release"]: entry["said"] for entry in map(json.loads, DATA.read_text().splitlines())}
SEEDS = 4


def without_times(text: str) -> str:
    return re.sub(r"\b\d+(\.\d+)?m?s\b", "T", text)


def all_of_it(program: list[str], release: str, server: Cluster, folder: Path) -> dict[str, Any]:
    """What a program says and leaves: migrations, an import, and a second import over its tags."""
    name = f"release_{release.replace('.', '_')}_{folder.name.replace('-', '_')}"
    server.create_database(name, server.superuser)
    access = {"host": "127.0.0.1", "port": server.port, "user": server.superuser, "password": server.password}
    storage = folder / "storage"
    for seed in images.catalog()[:SEEDS]:
        images.write_legacy(storage, seed)
    config = folder / "config.yml"
    sections = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(storage)}},
        "database": {"enabled": False, **access, "dbname": name, "sslmode": "disable"},
        "log": {"formatter": "json"},
    }
    config.write_text(json.dumps(sections))

    def run(*words: str) -> tuple[int, str, str]:
        environment = {**os.environ, "GEOREG_REGISTRY_VERSION": f"v{release}-gitlab"}
        command = [*program, "database", *words, str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        return done.returncode, without_times(done.stdout), done.stderr.strip()

    def locks() -> list[str]:
        return sorted(path.name for path in (storage / "docker/registry/lockfiles").glob("*"))

    said: dict[str, Any] = {
        "plan": run("migrate", "up", "--dry-run")[:2],
        "up": code_and_last(run("migrate", "up")),
        "version": run("migrate", "version")[:2],
        "up to date": run("migrate", "status", "-u")[:2],
        "up again": run("migrate", "up")[:2],
    }
    code, output, errors = run("import", "-l", "-c")
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    counts = {key: lines[-1].get(key) for key in ("repositories", "tags", "manifests", "blobs")}
    said["import"] = {"exit": code, "counts": counts, "errors": errors}
    said["messages"] = sorted({line["msg"] for line in lines})
    said["lock files"] = locks()
    refused = run("import", "-l", "-2")
    said["import over tags"] = [refused[0], refused[2]]
    said["lock files after the refusal"] = locks()
    with psycopg.connect(**access, dbname=name) as connection:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
        said["tables"] = [row[0] for row in connection.execute(query)]
        if "import_statistics" in said["tables"]:
            said["rows about imports"] = connection.execute("SELECT count(*) FROM import_statistics").fetchone()
    server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    return dict(json.loads(json.dumps(said)))


def code_and_last(result: tuple[int, str, str]) -> list[Any]:
    return [result[0], result[1].splitlines()[-1]]


@pytest.mark.matrix
@pytest.mark.parametrize("release", ["4.10.0", "4.24.0", "4.28.0"])
def test_the_stand_in_says_and_leaves_the_same(release: str, postgres_server: Cluster, tmp_path: Path) -> None:
    said = all_of_it([sys.executable, "-m", "georeg_lab.registry"], release, postgres_server, tmp_path)
    for key, recorded in RECORDED[release].items():
        assert said[key] == recorded, key
    assert said.keys() == RECORDED[release].keys()
