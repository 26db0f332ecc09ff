"""The migration's steps on other releases: what they do differently there, and that they end alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_migration_steps import assert_migrated, run_all
from world import World

from georeg_nb.errors import StepFailed
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.procedures.import_metadata import IMPORT
from georeg_nb.runbook import Step

pytestmark = pytest.mark.usefixtures("impatient")

MIGRATE = "gitlab-ctl registry-database migrate up"
AUTO_CREATE = b"postgresql['registry']['auto_create'] = false"


def step(name: str) -> Step:
    return next(step for step in IMPORT.steps if step.name == name)


@pytest.mark.parametrize("release", ["18.5.5", "18.7.7", "19.1.6"])
def test_a_migration_is_done_and_a_second_run_changes_nothing(release: str, tmp_path: Path) -> None:
    world = World()
    world.install(release)
    assert run_all(world, tmp_path).exit_code == 0
    assert_migrated(world)
    started = list(world.primary.node.started)
    assert MIGRATE in started and not any("<<<" in line for line in started)
    assert AUTO_CREATE in world.primary.node.files[GITLAB_RB]
    assert run_all(world, tmp_path).exit_code == 0
    assert world.primary.node.started == started


def test_a_wrapper_that_asks_to_stop_the_registry_gets_its_answer() -> None:
    world = World()
    world.install("17.9.8")
    shown = step("migrate-schema").plan(world.secondary.read_only_view())
    assert shown.changes[0].after == f"echo y | {MIGRATE}"
    assert "stops the registry" in shown.note


@pytest.mark.parametrize(("release", "there"), [("18.2.8", False), ("18.3.0", True)])
def test_the_bundled_database_is_spoken_of_only_where_there_is_one(release: str, there: bool) -> None:
    world = World()
    world.install(release)
    change = step("connect-database").plan(world.secondary.read_only_view()).changes[0]
    assert (AUTO_CREATE.decode() in change.after) is there


def test_where_the_wrapper_stopped_the_registry_and_failed_it_is_started_again(tmp_path: Path) -> None:
    world = World()
    world.install("17.9.8")
    world.fail = {"migrate-schema": "1"}
    with pytest.raises(StepFailed):
        run_all(world, tmp_path)
    assert f"{MIGRATE} <<< y" in world.secondary.node.started
    assert world.secondary.node.started[-1] == "gitlab-ctl start registry"
