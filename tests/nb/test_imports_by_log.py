"""How imports ended, by the logs of real jobs, where the importer writes nothing into the database."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from georeg_nb.nodes import LocalNode
from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures import imports_by_log

RECORDED = Path(__file__).parents[1] / "data/nb/import_logs.jsonl"
CASES = {case["name"]: case for case in map(json.loads, RECORDED.read_text().splitlines())}
ALL = ("pre_import", "tag_import", "blob_import")


class Keep:
    """What is kept, in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def load(self, name: str) -> Any:
        return self.kept.get(name)

    def save(self, name: str, data: Any) -> None:
        self.kept[name] = json.loads(json.dumps(data))


class Database:
    """As many repositories as an import brought."""

    repositories = 3

    def count(self, table: str) -> int:
        assert table == "repositories"
        return self.repositories


class Place:
    """As much of a site as is asked for: a real node, what is kept, and a count."""

    name = "secondary"

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.node = LocalNode("one", ["registry"], root)
        self.omnibus = Omnibus(self.node)
        self.keep = Keep()
        self.metadata_db = Database()
        self.root = root

    def imports(self, case: str, *options: str, status: int | None = None) -> None:
        """Run a job that prints a recorded log, as an import with these options."""
        recorded = CASES[case]
        lines = [json.dumps(entry) for entry in recorded["log"]]
        (self.root / "log").write_text("\n".join(lines) + "\n" + recorded["stderr"])
        program = self.root / "usr/bin/gitlab-ctl"
        program.parent.mkdir(parents=True, exist_ok=True)
        ended = recorded["exit"] if status is None else status
        program.write_text(f"#!/bin/sh\ncat {self.root}/log\nexit {ended}\n")
        program.chmod(0o755)
        job = self.node.start_job("secondary-import", ["gitlab-ctl", "registry-database", "import", *options])
        job.wait(30)


@pytest.fixture
def place(tmp_path: Path) -> Any:
    return Place(tmp_path / "root")


def test_nothing_before_the_first_import(place: Any) -> None:
    assert imports_by_log.rows(place) == []


def test_a_full_import_that_ended_well(place: Any) -> None:
    place.imports("happy-path")
    (row,) = imports_by_log.rows(place)
    assert all(row[part] for part in ALL) and all(row[f"{part}_error"] is None for part in ALL)
    assert row["tags_count"] == (imports_by_log._entries(place)[0]["tags"])
    began, ended = row["tag_import_started_at"], row["tag_import_finished_at"]
    assert began <= ended <= datetime.now(UTC)


def test_one_step_is_that_step_alone(place: Any) -> None:
    place.imports("happy-path", "--step-one", "--log-to-stdout")
    (row,) = imports_by_log.rows(place)
    assert [row[part] for part in ALL] == [True, False, False]
    assert row["tag_import_finished_at"] is None


def test_what_the_importer_died_of(place: Any) -> None:
    place.imports("manifest-not-json")
    (row,) = imports_by_log.rows(place)
    assert row["tag_import_error"].startswith("failed to import metadata")


@pytest.mark.parametrize(("status", "says"), [(9, "status 9"), (0, "does not say")])
def test_a_log_without_its_end_is_no_success(place: Any, status: int, says: str) -> None:
    CASES["cut short"] = {"log": CASES["happy-path"]["log"][:20], "stderr": "", "exit": status}
    place.imports("cut short")
    (row,) = imports_by_log.rows(place)
    assert says in row["tag_import_error"]


def test_an_import_that_nobody_watched_is_kept_before_the_next(place: Any) -> None:
    place.imports("manifest-not-json", "--step-one")
    imports_by_log.keep(place)
    place.imports("happy-path", "--step-one")
    first, second = imports_by_log.rows(place)
    assert (first["id"], second["id"]) == (1, 2)
    assert first["pre_import_error"] and second["pre_import_error"] is None
    imports_by_log.keep(place)
    imports_by_log.keep(place)
    assert len(place.keep.kept["ended-imports"]) == 2


def test_over_an_empty_database_nothing_was_imported(place: Any) -> None:
    place.imports("happy-path")
    place.metadata_db.repositories = 0
    assert imports_by_log.rows(place) == []
