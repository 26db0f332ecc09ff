"""The way back in memory: open, closed and why, held open, refused by the storage, killed in the middle, signed off."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from world import TAGS, World

from georeg_nb import gitlab_rb, scenarios
from georeg_nb.errors import GeoregError
from georeg_nb.ledger import verdict
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.parameters import RevertToLegacyParameters, VerifyReplicationParameters
from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata.way_back import way_back

pytestmark = pytest.mark.usefixtures("impatient")
COMPLETE = {"done", "no-op", "skipped by rule"}


def run_all(world: World, tmp: Path, *, approve: tuple[str, ...] = ("all",)) -> Any:
    run = world.open(tmp, approve=approve)
    try:
        with suppress(GeoregError):
            for section in world.scenario:
                run.check(section.name)
                run.apply(section.name)
        run.summary()
    except GeoregError:
        pass
    finally:
        run.close()
    return verdict(run.ledger.entries())


def outcomes(result: Any) -> dict[str, str]:
    return {outcome.step: outcome.outcome for outcome in result.outcomes}


def moved(tmp: Path, *, hold: bool = False, secondaries: int = 1) -> World:
    """Sites that scenario migrate-legacy has moved."""
    world = World(secondaries=secondaries)
    for site in world.sites.all:
        registry = site.parameters.registry.model_copy(update={"hold_garbage_collection": hold})
        site.parameters = site.parameters.model_copy(update={"registry": registry})
    result = run_all(world, tmp)
    assert result.exit_code == (5 if hold else 0), result.problems
    return world


def turned(world: World, **options: Any) -> World:
    """The same sites under the scenario that takes them back."""
    world.scenario, world.attest = scenarios.REVERT_TO_LEGACY, {}
    world.options = RevertToLegacyParameters.model_validate({"sites": "sites.yml", **options})  # type: ignore[assignment]
    return world


def age(site: Any, days: int) -> None:
    """The site moved, and its garbage collection was held, that many days ago."""
    for name in ("enabled", "collection-held"):
        if kept := site.keep.load(name):
            at = datetime.fromisoformat(kept["at"]) - timedelta(days=days)
            site.keep.save(name, {**kept, "at": at.isoformat()})


def blocks(site: Any) -> list[str]:
    return list(gitlab_rb.blocks(site.node.files[GITLAB_RB].decode()))


def assert_back(world: World) -> None:
    for site in world.sites.all:
        assert state.is_legacy(site) and not state.read_only_nodes(site) and blocks(site) == [state.DATABASE]
        assert not site.omnibus.lockfiles().database and not site.keep.load("enabled")
        assert not any(state.running_on_database(site).values())
    assert not any(map(state.is_held, world.sites.secondaries))


@pytest.mark.parametrize("secondaries", [1, 2])
def test_back_while_nothing_was_pushed_and_a_second_run_has_nothing_to_do(secondaries: int, tmp_path: Path) -> None:
    world = turned(moved(tmp_path, secondaries=secondaries))
    plan = run_all(world, tmp_path, approve=())
    assert plan.exit_code == 0 and not plan.problems and state.on_own_database(world.primary)
    first = run_all(world, tmp_path)
    assert first.exit_code == 0, first.problems
    assert_back(world)
    started = [list(site.node.started) for site in world.sites.all]
    second = run_all(world, tmp_path)
    assert second.exit_code == 0 and set(outcomes(second).values()) <= {"no-op", "skipped by rule"}
    assert [site.node.started for site in world.sites.all] == started


def test_sites_that_never_moved_have_no_way_back_to_go(tmp_path: Path) -> None:
    result = run_all(turned(World()), tmp_path)
    assert result.exit_code == 0 and set(outcomes(result).values()) <= {"no-op", "skipped by rule"}


def push(world: World) -> None:
    for site in world.sites.all:
        site.database.tags[("acme/app", "3")] = "sha256:x"
        site.database.pushed_later.add(("acme/app", "3"))


def test_a_push_closes_it_and_it_is_said_what_and_when(tmp_path: Path) -> None:
    world = turned(moved(tmp_path))
    push(world)
    result = run_all(world, tmp_path)
    assert result.exit_code == 3 and "acme/app:3" in "".join(result.problems) and "first at" in "".join(result.problems)
    assert "by_restore" in "".join(result.problems)
    assert set(outcomes(result).values()) == {"not reached"}
    (row,) = way_back(world.primary).by_repository()
    assert (row["repository"], row["pushed"], row["moved"], row["deleted"]) == ("acme/app", 1, 0, 0)
    assert row["first (UTC)"].startswith(str(datetime.now(UTC).year))
    assert state.on_own_database(world.primary) and not state.is_held(world.secondary)


def test_by_restore_gives_up_what_was_pushed_once_the_restore_is_attested(tmp_path: Path) -> None:
    world = turned(moved(tmp_path), by_restore=True)
    push(world)
    restores = ("primary.revert/restore-backup", "secondary.revert/restore-backup")
    refused = run_all(world, tmp_path, approve=("all", *restores))
    assert refused.exit_code != 0 and state.on_own_database(world.primary)
    world.attest = dict.fromkeys(restores, "snapshot 4711 restored, by the storage team")
    result = run_all(world, tmp_path, approve=("all", *restores))
    assert result.exit_code == 0, result.problems
    assert_back(world)


@pytest.mark.parametrize("hold", [True, False])
def test_garbage_collection_closes_it_after_a_day_unless_it_is_held(hold: bool, tmp_path: Path) -> None:
    world = turned(moved(tmp_path, hold=hold))
    assert (state.COLLECTION in blocks(world.primary)) is hold
    for site in world.sites.all:
        age(site, 30)
    result = run_all(world, tmp_path)
    if hold:
        assert result.exit_code == 0, result.problems
        assert_back(world)
    else:
        assert result.exit_code == 3 and "garbage collection" in "".join(result.problems)


def test_the_sign_off_is_asked_for_by_name_and_lets_garbage_collection_run(tmp_path: Path) -> None:
    world = moved(tmp_path, hold=True)
    names = [f"sign-off[{site.name}]/sign-off" for site in world.sites.all]
    result = run_all(world, tmp_path, approve=("all", *names))
    assert result.exit_code == 0 and [outcomes(result)[name] for name in names] == ["done", "done"]
    assert all(state.COLLECTION not in blocks(site) for site in world.sites.all)
    again = run_all(world, tmp_path)
    assert again.exit_code == 0 and set(outcomes(again).values()) <= {"no-op", "skipped by rule"}
    age(world.primary, 2)
    assert "garbage collection" in way_back(world.primary).reasons[0]


def test_a_storage_that_does_not_serve_the_snapshot_sends_the_site_forward_again(tmp_path: Path) -> None:
    world = turned(moved(tmp_path))
    lost = world.primary.storage.popitem()  # type: ignore[attr-defined]
    result = run_all(world, tmp_path)
    assert result.exit_code == 4 and ":".join(lost[0]) in "".join(result.problems)
    assert state.on_own_database(world.primary) and not state.read_only_nodes(world.primary)
    assert not world.primary.omnibus.lockfiles().filesystem and world.primary.database.tags == dict(TAGS)
    assert state.is_held(world.secondary), "the other site is as it was, and no image is synced"


@pytest.mark.parametrize("job", ["back-1", "back-legacy", "back-2"])
def test_cut_off_at_any_job_it_goes_on(job: str, tmp_path: Path) -> None:
    world = turned(moved(tmp_path))
    world.fail = {f"primary-{job}": "lost"}
    assert run_all(world, tmp_path).exit_code == 4
    world.fail = {}
    result = run_all(world, tmp_path)
    assert result.exit_code == 0, result.problems
    assert_back(world)


@pytest.mark.parametrize("stage", ["legacy", "mixed", "database"])
def test_the_nightly_comparison_takes_sites_as_they_are(stage: str, tmp_path: Path) -> None:
    world = World() if stage == "legacy" else moved(tmp_path)
    if stage == "mixed":
        turned(world)
        run_all(world, tmp_path, approve=("hold", "primary.revert"))
        world.secondary.node.files[GITLAB_RB] = gitlab_rb.remove(
            world.secondary.node.files[GITLAB_RB].decode(), state.HOLD
        ).encode()
        world.render(world.secondary)
        assert state.is_legacy(world.primary) and state.on_own_database(world.secondary)
    world.scenario, world.attest = scenarios.VERIFY_REPLICATION, {}
    values = {"sites": "sites.yml", "canary_project": "acme/app"}
    world.options = VerifyReplicationParameters.model_validate(values)  # type: ignore[assignment]
    files = [dict(site.node.files) for site in world.sites.all]
    equal = run_all(world, tmp_path, approve=())
    assert equal.exit_code == 0, equal.problems
    assert [site.node.files for site in world.sites.all] == files and outcomes(equal) == {
        "verify/canary": "not approved"
    }
    tags = world.secondary.registry._tags
    tags.pop(next(iter(tags)))
    assert run_all(world, tmp_path, approve=()).exit_code == 6
