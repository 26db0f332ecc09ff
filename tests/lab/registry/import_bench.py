"""What the tests of the import work on: storages, a metadata database, and the comparison with the recordings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contract_cases
import metadata_pool
import psycopg
import pytest
import recorded_images as images
import registry_program

from georeg_lab.registry import db, digests
from georeg_lab.registry.config import Database
from georeg_lab.registry.schema import PARTITIONED_TABLES

FILE = "registry/import.jsonl"
CASES = contract_cases.recorded(FILE)
STEP_FIELDS = ("common_blobs", "dry_run", "pre_import", "repository_import")
BUILD_FIELDS = ("time", "version", "go_version", "instance_id")
DETAIL = (  # info lines that some recordings leave out
    "processing tag",
    "pre-importing manifest",
    "pre-importing manifest list",
    "importing manifest",
    "importing manifest list",
    "importing manifest referenced in list",
    "importing configuration",
    "importing layer",
    "importing tag",
    "importing blob",
)
COUNTED = (
    "top_level_namespaces",
    "repositories",
    "repository_blobs",
    "blobs",
    "manifests",
    "manifest_references",
    "layers",
    "tags",
    "gc_blob_review_queue",
    "gc_manifest_review_queue",
    "import_statistics",
)


@dataclass
class Workshop:
    """A base storage, and a copy of it that each case works on and that is repaired afterwards."""

    base: Path
    root: Path

    def restore(self) -> None:
        _restore(self.base, self.root)


def _restore(base: Path, root: Path) -> None:
    wanted = {entry.name: entry for entry in os.scandir(base)}
    found = {entry.name: entry for entry in os.scandir(root)}
    for name, entry in found.items():
        if name not in wanted or wanted[name].is_dir() != entry.is_dir():
            shutil.rmtree(entry.path) if entry.is_dir() else Path(entry.path).unlink()
    for name, entry in wanted.items():
        target = root / name
        if entry.is_dir():
            target.mkdir(exist_ok=True)
            _restore(Path(entry.path), target)
        elif not target.exists() or target.stat().st_mtime_ns != entry.stat().st_mtime_ns:
            shutil.copy2(entry.path, target)


@pytest.fixture(scope="module", name="workshops")
def workshops_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Workshop]:
    made = {}
    for name, make in images.BASES.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = Workshop(folder / "base", folder / "storage")
        make(made[name].base)
        made[name].root.mkdir()
        made[name].restore()
    return made


class KeptConnection(psycopg.Connection[Any]):
    """Stays open when a command is through with it: a new one would read the catalogue of 512 partitions again."""

    def close(self) -> None:
        """Nothing: `Metadata.connection` is the same one."""


@dataclass
class Metadata:
    """A migrated database, emptied before each case."""

    connection: KeptConnection
    settings: Database

    def empty(self) -> None:
        assert self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        metadata_pool.empty(self.connection)

    def rows(self, sql: str) -> list[Any]:
        return [list(row) for row in self.connection.execute(sql).fetchall()]

    def dump(self) -> dict[str, Any]:
        """The content as the recordings have it. Joined here: planning over 64 partitions per table takes longer."""
        types = dict(self.rows("SELECT id, media_type FROM media_types"))
        paths = dict(self.rows("SELECT id, path FROM repositories"))
        manifests, found = {}, []
        for id_, repository, digest, kind, config, size, odd, length in self.rows(
            "SELECT id, repository_id, digest, media_type_id, configuration_media_type_id, total_size, non_conformant, "
            "octet_length(configuration_payload) FROM manifests"
        ):
            manifests[id_] = (paths[repository], digests.from_bytes(digest))
            found.append(
                {
                    "path": paths[repository],
                    "digest": manifests[id_][1],
                    "media_type": types[kind],
                    "config_media_type": types.get(config),
                    "total_size": size,
                    "non_conformant": odd,
                    "config_payload_bytes": length,
                }
            )
        tags = [[*manifests[id_], name] for id_, name in self.rows("SELECT manifest_id, name FROM tags")]
        layers = self.rows("SELECT manifest_id, digest, media_type_id, size FROM layers")
        references = self.rows("SELECT parent_id, child_id FROM manifest_references")
        counts = self.rows("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in COUNTED))[0]
        return {
            "tags": sorted([path, name, digest] for path, digest, name in tags),
            "manifests": found,
            "layers": [[*manifests[id_], digests.from_bytes(d), types[kind], size] for id_, d, kind, size in layers],
            "references": [[*manifests[parent], manifests[child][1]] for parent, child in references],
            "repositories": sorted(paths.values()),
            "counts": dict(zip(COUNTED, counts, strict=True)),
        }

    def wait_alone(self) -> None:
        """Wait until the server has noticed that another client is gone."""
        sql = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while self.rows(sql):
            time.sleep(0.02)

    def statistics(self) -> list[Any]:
        return self.rows(
            "SELECT pre_import, tag_import, blob_import, pre_import_error, tag_import_error, blob_import_error, "
            "repositories_count, tags_count, manifests_count, blobs_count, blobs_size_bytes, storage_driver, "
            "finished_at IS NOT NULL FROM import_statistics ORDER BY id"
        )


@pytest.fixture(scope="module", name="metadata")
def metadata_fixture(new_metadata: Callable[[], Database]) -> Iterator[Metadata]:
    settings = dataclasses.replace(new_metadata(), enabled="false", sslmode="disable")
    connection = KeptConnection.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password=settings.password,
        dbname=settings.dbname,
        autocommit=True,
    )
    assert len(PARTITIONED_TABLES) == 8
    yield Metadata(connection, settings)
    psycopg.Connection.close(connection)


@dataclass
class Bench:
    """One case's storage and configuration, and what runs on them."""

    root: Path
    config: Path
    metadata: Metadata

    def plant(self, actions: list[dict[str, Any]]) -> None:
        for action in actions:
            if "write" in action:
                path = self.root / action["write"]
                path.parent.mkdir(parents=True, exist_ok=True)
                if "content" in action:
                    path.write_bytes(action["content"].encode())
                else:  # a config too big to be read: its bytes do not matter, only how many they are
                    path.write_bytes(images.known_blobs().get(action["sha256"], b"\0" * action["length"]))
                    assert path.stat().st_size == action["length"]
            elif "remove" in action:
                path = self.root / action["remove"]
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            else:
                (self.root / action["mkdir"]).mkdir(parents=True)

    def lockfiles(self) -> dict[str, str]:
        folder = self.root / "docker/registry/lockfiles"
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: path.read_text() for path in found if path.is_file()}

    def run(self, argv: list[str]) -> tuple[int, list[dict[str, Any]], str]:
        """A command: exit status, log lines, stderr."""
        found = registry_program.run([str(self.config) if word == "{config}" else word for word in argv[1:]])
        return found.status, [json.loads(line) for line in found.out.splitlines()], self.redact(found.err)

    def redact(self, text: str) -> str:
        return text.replace(str(self.root), "{root}")


@pytest.fixture(name="bench")
def bench_fixture(
    request: pytest.FixtureRequest,
    metadata: Metadata,
    workshops: dict[str, Workshop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    case = request.param
    metadata.empty()
    root = workshops[case["base"]].root
    monkeypatch.setattr(db, "connect", lambda *_, **__: metadata.connection)
    config = tmp_path / "config.yml"
    settings = metadata.settings
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"level": "info", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(root)}},
                "database": {
                    "enabled": False,
                    "host": settings.host,
                    "port": settings.port,
                    "user": settings.user,
                    "password": settings.password,
                    "dbname": settings.dbname,
                    "sslmode": settings.sslmode,
                },
            }
        )
    )
    yield Bench(root, config, metadata)
    workshops[case["base"]].restore()


def comparable(lines: list[dict[str, Any]], recorded: list[dict[str, Any]], bench: Bench) -> list[dict[str, Any]]:
    """The lines in the form and selection of the recording."""
    messages = {line["msg"] for line in recorded}
    everything = any(message in DETAIL for message in messages)
    overview = "starting metadata import" in messages
    with_steps = any("dry_run" in line for line in recorded)
    left_out = BUILD_FIELDS if with_steps else (*BUILD_FIELDS, *STEP_FIELDS)
    result = []
    for line in lines:
        message, plain = line["msg"], line["level"] == "info" and not line["msg"].startswith("skipping ")
        if plain and not everything and message in DETAIL:
            continue
        if plain and not overview and message != "metadata import complete":
            continue
        kept = {key: value for key, value in line.items() if key not in left_out}
        for key, placeholder in (
            ("duration_s", "{duration}"),
            ("last_preimport_date", "{time}"),
            ("skip_cutoff_date", "{time}"),
        ):
            if key in kept:
                kept[key] = placeholder
        result.append({key: bench.redact(value) if isinstance(value, str) else value for key, value in kept.items()})
    return result


@functools.cache
def happy_path() -> dict[str, Any]:
    return CASES[0]


def expected_rows(case: dict[str, Any], what: str) -> list[Any]:
    """The rows, also where the recording only has the difference to the base's import."""
    recorded = case[what]
    if isinstance(recorded, list):
        return recorded
    rows = [row for row in happy_path()[what] if row not in recorded["missing"]]
    return [*rows, *recorded["extra"]]


def in_order(rows: list[Any]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def check_database(bench: Bench, case: dict[str, Any]) -> None:
    found = bench.metadata.dump()
    if "tags_sha256" in case:
        lines = sorted("|".join(row).encode() for row in found["tags"])
        assert hashlib.sha256(b"\n".join(lines)).hexdigest() == case["tags_sha256"]
        counts = [[path, len(list(rows))] for path, rows in itertools.groupby(found["tags"], key=lambda row: row[0])]
        assert counts == case["tags_per_repository"]
    else:
        assert found["tags"] == case["tags"]
    for what in ("manifests", "layers", "references", "repositories"):
        if case["base"] == "base-main" or isinstance(case[what], list):
            assert in_order(found[what]) == in_order(expected_rows(case, what)), what
    assert found["counts"] == case["counts"]
    assert bench.lockfiles() == case["lockfiles"]


def check_command(bench: Bench, step: dict[str, Any]) -> None:
    status, lines, stderr = bench.run(step["argv"])
    assert (status, stderr) == (step["exit"], step["stderr"])
    assert comparable(lines, step["log"], bench) == step["log"]
    assert bench.lockfiles() == step["lockfiles_after"]


def parameters(chosen: Callable[[dict[str, Any]], bool]) -> Any:
    """The test runs once per recorded import that `chosen` says yes to; its bench is prepared for it."""
    return pytest.mark.parametrize("bench", contract_cases.parameters(FILE, name_of, chosen), indirect=True)


def name_of(case: dict[str, Any]) -> str:
    return " ".join([case["name"], case["method"], *(case.get("flags") or [])])
