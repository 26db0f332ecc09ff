"""A registry is added to Geo sites in memory: planned, done, done twice, failing, refused, taken back."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from world import STORAGE, NewWorld

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError, StepFailed
from georeg_nb.ledger import verdict
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.procedures import state
from georeg_nb.procedures.add_registry import blocks, checks
from georeg_nb.procedures.add_registry.database import EnableDatabase
from georeg_nb.procedures.add_registry.enable import EnableRegistry

pytestmark = pytest.mark.usefixtures("impatient")
SECTIONS = [section.name for section in NewWorld.scenario]
STEPS = ("enable-registry", "migrate-schema", "enable-database", "send-notifications", "replicate-images")
RECONFIGURE, MIGRATE = "gitlab-ctl reconfigure", "gitlab-ctl registry-database migrate up"


def run_all(world: NewWorld, tmp: Path, *, approve: tuple[str, ...] = ("all",)) -> Any:
    run = world.open(tmp, approve=approve)
    try:
        with suppress(GeoregError):
            for section in SECTIONS:
                run.check(section)
                run.apply(section)
        run.summary()
        return verdict(run.ledger.entries())
    finally:
        run.close()


def outcomes(result: Any) -> dict[str, str]:
    return {outcome.step: outcome.outcome for outcome in result.outcomes}


def failed_checks(result: Any) -> dict[str, str]:
    return {one.check: one.remedy for one in result.checks if one.verdict == "failed"}


def blocks_of(site: Any) -> list[str]:
    return list(gitlab_rb.blocks(site.node.files[GITLAB_RB].decode()))


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    world = NewWorld(canary_project="acme/app")
    before = [dict(node.files) for site in world.sites.all for node in site.nodes]  # type: ignore[attr-defined]
    result = run_all(world, tmp_path, approve=())
    assert [node.files for site in world.sites.all for node in site.nodes] == before  # type: ignore[attr-defined]
    assert not failed_checks(result) and not result.problems
    assert set(outcomes(result).values()) <= {"not approved", "no-op"}
    assert result.exit_code == 0 and not world.events


@pytest.mark.parametrize("size", [{}, {"secondaries": 2}, {"registry_nodes": {"primary": 2, "secondary": 2}}])
def test_all_approved_ends_replicating_and_a_second_run_has_nothing_to_do(size: Any, tmp_path: Path) -> None:
    world = NewWorld(canary_project="acme/app", **size)
    first = run_all(world, tmp_path)
    assert first.exit_code == 0, first.problems
    named = {step for step, outcome in outcomes(first).items() if outcome == "no-op"}
    assert all("connect-database" in step for step in named), "named in one change with P2"
    for site in world.sites.all:
        assert state.on_own_database(site) and site.gitlab.version()
        assert site.database.server_facts  # type: ignore[attr-defined]
    assert [kind for kind, *_ in world.events] == ["push", "delete"]
    started = [list(node.started) for site in world.sites.all for node in site.nodes]  # type: ignore[attr-defined]
    second = run_all(world, tmp_path)
    assert second.exit_code == 0 and set(outcomes(second).values()) == {"no-op"}
    assert [node.started for site in world.sites.all for node in site.nodes] == started  # type: ignore[attr-defined]


def test_the_order_of_what_is_done_on_the_nodes(tmp_path: Path) -> None:
    world = NewWorld()
    run_all(world, tmp_path)
    new = [RECONFIGURE, MIGRATE, f"{MIGRATE} --dry-run", RECONFIGURE]
    assert world.primary.node.started == [*new, RECONFIGURE]  # … and notifications
    assert world.secondary.node.started == [*new, RECONFIGURE]  # … and replication
    assert blocks_of(world.primary) == [blocks.REGISTRY, state.DATABASE, blocks.NOTIFICATIONS]
    assert blocks_of(world.secondary) == [blocks.REGISTRY, state.DATABASE, blocks.REPLICATION]


def test_the_first_start_adopts_no_default_database(tmp_path: Path) -> None:
    """With the registry's address alone, as the documentation has it, 19.x opens the package's own database."""
    world = NewWorld()
    run_all(world, tmp_path, approve=("enable",))
    for site in world.sites.all:
        (config,) = [config for _, config in state.registry_configs(site)]
        assert config is not None and config.mode == "legacy" and state.is_ours(config, site)
        assert not site.omnibus.lockfiles().database


@pytest.mark.parametrize("enabled", ["prefer", True])
def test_a_registry_that_has_opened_an_empty_default_database_is_switched_at_once(enabled: Any, tmp_path: Path) -> None:
    """With `enabled` false in between it would not start (procedures 2.3 notes)."""
    world = NewWorld()
    world.switch_on(world.primary, enabled=enabled)
    result = run_all(world, tmp_path)
    assert result.exit_code == 0, result.problems
    assert outcomes(result)["primary.database/connect-database"] == "skipped by rule"
    assert state.on_own_database(world.primary)
    assert world.primary.node.started == [RECONFIGURE, RECONFIGURE]


def test_endpoints_of_others_stay(tmp_path: Path) -> None:
    """A second array replaces the first: the documentation's one line would drop them."""
    world = NewWorld()
    world.switch_on(world.primary)
    other = {"name": "scanner", "url": "https://scanner.example.com", "maxretries": 3, "threshold": 5}
    world.primary.endpoints = [other]
    world.render(world.primary)
    assert run_all(world, tmp_path).exit_code == 0
    found = world.primary.rendered().endpoints
    assert [one["name"] for one in found] == ["scanner", "geo_event"]
    assert "threshold" not in found[0] and found[1]["headers"] == {"Authorization": ["t" + "0123456789abcdef" * 2]}


def with_images(world: NewWorld) -> None:
    world.switch_on(world.primary)
    world.primary.storage["acme/app", "1"] = "sha256:" + "1" * 64


def on_default_with_images(world: NewWorld) -> None:
    world.switch_on(world.primary, enabled=True)
    world.primary.database.tags["acme/app", "1"] = "sha256:" + "1" * 64


def hidden(world: NewWorld) -> None:
    """Mode prefer, an empty catalog, and a full storage."""
    world.switch_on(world.primary, enabled="prefer")
    world.primary.node.commands["find"] = f"{STORAGE}/docker/registry/v2/repositories/acme/app/_manifests\n"


def left_on_secondary(world: NewWorld) -> None:
    world.secondary.node.commands["find"] = f"{STORAGE}/docker/registry/v2/repositories/acme/app/_manifests\n"


def foreign_database(world: NewWorld) -> None:
    world.switch_on(world.primary, enabled=False, host="db.elsewhere.example.com")


def used_database(world: NewWorld) -> None:
    world.secondary.database.schema = (frozenset({"a"}), frozenset())
    world.secondary.database.tags["acme/app", "1"] = "sha256:" + "1" * 64


def another_token(world: NewWorld) -> None:
    world.token = "another"
    world.switch_on(world.primary)


def one_database_for_both(world: NewWorld) -> None:
    world.secondary.database.server_facts = world.primary.database.server_facts


WRONG = {
    with_images: ("no_images", "migrate-legacy"),
    on_default_with_images: ("no_images", "add-geo-default-database"),
    hidden: ("no_images", "remove the lock file"),
    left_on_secondary: ("no_images", "empty storage"),
    foreign_database: ("no_other_database", "sites file"),
    used_database: ("database_is_unused", "empty database of its own"),
    another_token: ("token_fits", "the token in use"),
    one_database_for_both: ("sites_fit", "its own PostgreSQL server"),
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_start_is_refused_before_anything_changes(wrong: Any, tmp_path: Path) -> None:
    world = NewWorld()
    wrong(world)
    result = run_all(world, tmp_path)
    name, remedy = WRONG[wrong]
    assert remedy in failed_checks(result)[name]
    assert result.exit_code == 3
    assert [site.node.started for site in world.sites.all] == [[], []]


@pytest.mark.parametrize("part", STEPS)
def test_what_fails_is_put_back_and_another_run_goes_on(part: str, tmp_path: Path) -> None:
    world = NewWorld()
    world.fail[part] = "1"
    first = run_all(world, tmp_path)
    assert first.exit_code == 4
    world.fail.clear()
    assert run_all(world, tmp_path).exit_code == 0
    assert all(state.on_own_database(site) for site in world.sites.all)


def test_the_steps_are_taken_back_while_there_is_no_image(tmp_path: Path) -> None:
    world = NewWorld()
    run_all(world, tmp_path)
    site = world.primary
    with pytest.raises(StepFailed, match="undo enable-database first"):
        EnableRegistry().undo(site)
    site.database.tags["acme/app", "1"] = "sha256:" + "1" * 64
    with pytest.raises(StepFailed, match="no way back"):
        EnableDatabase().undo(site)
    site.database.tags.clear()
    EnableDatabase().undo(site)
    assert state.is_legacy(site) and not site.omnibus.lockfiles().database
    EnableRegistry().undo(site)
    assert not checks.enabled_everywhere(site)


def test_where_another_tool_owns_the_file_it_is_done_by_hand(tmp_path: Path) -> None:
    world = NewWorld(registry_nodes={"primary": 2})
    world.primary.manual = True
    run = world.open(tmp_path)
    try:
        run.check("guard")
        text = EnableRegistry().manual(world.primary.read_only_view())
        assert text and "registry_external_url" in text and "world-password" not in text
        assert EnableDatabase().manual(world.secondary.read_only_view()) is None
    finally:
        run.close()


def test_a_node_of_rails_alone_is_told_where_the_registry_is() -> None:
    site = NewWorld(registry_nodes={"primary": 2}).primary
    node = site.nodes[0]
    node.roles = node.roles - {"registry"}  # type: ignore[misc]
    texts = [blocks.registry_block(site, package) for package in site.packages()]
    assert "registry['enable'] = false" in texts[0] and "registry_api_url" in texts[0]
    assert "registry['enable'] = true" in texts[1] and "registry_api_url" not in texts[1]


@pytest.mark.parametrize("token", ["short", "1" * 40, "t-" + "a" * 40])
def test_a_token_that_would_not_survive_the_files_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_NOTIFICATIONS", token)
    assert checks.token_fits(NewWorld().primary).failed


def test_an_unreadable_token_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_NOTIFICATIONS")
    with pytest.raises(GeoregError):
        checks.token_fits(NewWorld().primary)
