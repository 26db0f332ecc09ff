"""Which scenario fits: decided over facts alone, and read from two sites."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from world import STORAGE, World

from georeg_nb import gitlab_rb
from georeg_nb.errors import Unreachable
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.parameters import SCENARIOS, validate_values
from georeg_nb.procedures import state
from georeg_nb.procedures.assess import facts, scenario_that_fits, starting_point_fits
from georeg_nb.procedures.assess.choice import POINTS, Choice, choose
from georeg_nb.procedures.assess.facts import PairFacts, SiteFacts
from georeg_nb.procedures.assess.parameters_file import text_of

KINDS: dict[str, dict[str, Any]] = {
    "off": {"enabled": False, "images": False},
    "empty legacy": {"mode": "legacy", "images": False, "where": "bundled"},
    "empty prefer": {"mode": "prefer", "on_database": True, "images": False, "where": "bundled"},
    "empty own": {"mode": "database", "on_database": True, "images": False, "where": "own"},
    "legacy": {"mode": "legacy", "on_database": False, "images": True, "stored": True, "where": "bundled"},
    "legacy prefer": {"mode": "prefer", "on_database": False, "images": True, "stored": True, "where": "bundled"},
    "bundled": {"mode": "database", "on_database": True, "images": True, "where": "bundled"},
    "bundled prefer": {"mode": "prefer", "on_database": True, "images": True, "where": "bundled"},
    "own": {"mode": "database", "on_database": True, "images": True, "where": "own"},
    "other": {"mode": "database", "on_database": True, "images": True, "where": "other"},
}


def site(kind: str, role: Any, geo: bool, **more: Any) -> SiteFacts:
    basic: dict[str, Any] = {"gitlab": "18.7.7-ee", "enterprise": True, "enabled": True, "running": True}
    basic |= {"geo": role if geo else "none", "licence": "ultimate" if role == "primary" else None}
    basic |= {"main_database": "writable", "promoted": False, "lockfiles": "none", "healthy": "Healthy"}
    basic |= {"replicates": False} if role == "secondary" else {"notifies": False}
    return SiteFacts(**{"name": role, "role": role} | basic | KINDS[kind] | more)


def pair(primary: str, secondary: str, *, geo: bool, replicating: bool = False, **more: Any) -> PairFacts:
    one, other = site(primary, "primary", geo, notifies=replicating), site(secondary, "secondary", geo)
    return PairFacts(one, (replace(other, replicates=replicating, **more),))


def scenario(choice: Choice) -> str:
    return choice.point.id if choice.point else ""


STARTING_POINTS = [
    ("set-up-new-instance", pair("empty legacy", "off", geo=False)),
    ("set-up-new-instance", pair("empty prefer", "off", geo=False)),
    ("add-registry-to-geo-sites", pair("empty legacy", "off", geo=True)),
    ("add-registry-to-geo-sites", pair("off", "off", geo=True)),
    ("add-registry-to-geo-sites", pair("empty own", "off", geo=True)),
    ("add-registry-to-geo-sites", pair("empty own", "empty own", geo=True)),
    ("add-geo-and-registry", pair("off", "off", geo=False)),
    ("add-geo-external-database", pair("own", "off", geo=False)),
    ("add-geo-external-database", pair("empty own", "off", geo=False)),
    ("add-geo-external-database", pair("legacy", "off", geo=False)),
    ("add-geo-default-database", pair("bundled", "off", geo=False)),
    ("add-geo-default-database", pair("bundled prefer", "off", geo=False)),
    ("add-geo-default-database", pair("bundled", "off", geo=True)),
    ("migrate-legacy", pair("legacy", "legacy", geo=True, replicating=True)),
    ("migrate-legacy", pair("legacy prefer", "legacy", geo=True, replicating=True)),
    ("migrate-legacy", pair("legacy", "own", geo=True, held=True)),
    ("migrate-legacy", pair("own", "own", geo=True, held=True)),
    ("migrate-legacy", pair("own", "legacy", geo=True, replicating=True)),
    ("rebuild-secondary", pair("own", "off", geo=True)),
    ("rebuild-secondary", pair("own", "empty legacy", geo=True)),
    ("rebuild-secondary", pair("own", "bundled", geo=True)),
    ("verify-replication", pair("own", "own", geo=True, replicating=True)),
    ("verify-replication", pair("empty own", "empty own", geo=True, replicating=True)),
    ("verify-replication", pair("own", "empty own", geo=True, replicating=True)),
]


@pytest.mark.parametrize(
    ("expected", "sites"), STARTING_POINTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_starting_point_is_recognised_and_the_others_say_why_not(expected: str, sites: PairFacts) -> None:
    choice = choose(sites)
    assert scenario(choice) == expected
    assert set(choice.why_not) == {point.id for point in POINTS} - {expected}
    assert all(choice.why_not.values())


def test_the_starting_points_of_the_document_are_all_there() -> None:
    chosen = {expected for expected, _ in STARTING_POINTS}
    assert chosen == {point.id for point in POINTS} and len(chosen) == 8


@pytest.mark.parametrize("geo", [False, True])
@pytest.mark.parametrize("replicating", [False, True])
def test_no_pair_fits_two_and_one_that_fits_none_says_what_is_in_the_way(geo: bool, replicating: bool) -> None:
    for primary, secondary in product(KINDS, KINDS):
        choice = choose(pair(primary, secondary, geo=geo, replicating=replicating))
        assert "the secondaries stand differently" not in str(choice.blockers), (primary, secondary)
        assert choice.point or choice.blockers, (primary, secondary)
        if not geo and secondary in ("legacy", "own", "bundled", "other"):
            assert any("replaces what it holds" in blocker.what for blocker in choice.blockers)


def test_a_legacy_primary_without_geo_is_migrated_first() -> None:
    assert "P6" in choose(pair("legacy", "off", geo=False)).note
    assert choose(pair("own", "off", geo=False)).note == ""


def test_a_migration_that_was_begun_goes_on() -> None:
    assert "goes on" in choose(pair("legacy", "own", geo=True, held=True)).note
    assert choose(pair("legacy", "legacy", geo=True)).note == ""
    assert "held before anything else" in choose(pair("own", "legacy", geo=True)).note


BLOCKED = [
    ({"promoted": True}, {}, "promoted"),
    ({"licence": "none"}, {}, "licence: none"),
    ({"licence": "ultimate, expired"}, {}, "expired"),
    ({"running": False}, {}, "is down"),
    ({"lockfiles": "database-in-use and filesystem-in-use"}, {}, "both lock files"),
    ({"lockfiles": "database-in-use"}, {}, "a database is in use"),
    ({"mode": "prefer", "on_database": True, "images": False}, {}, "does not show"),
    ({"mode": "database", "on_database": True, "where": "other"}, {}, "another external database"),
    ({"geo": "secondary"}, {"geo": "primary"}, "swapped"),
    ({"problems": ("GitLab: no answer",)}, {}, "no answer"),
    ({}, {"healthy": "cannot connect"}, "cannot connect"),
    ({}, {"enabled": False, "images": False, "stored": False}, "while the primary's holds images"),
    ({"enabled": False}, {}, "would remove these images"),
    ({}, {"mode": "database", "on_database": True}, "read-only copy"),
]


@pytest.mark.parametrize(
    ("primary", "secondary", "says"), BLOCKED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_is_in_the_way_is_said_with_its_remedy(primary: Any, secondary: Any, says: str) -> None:
    healthy = pair("legacy", "legacy", geo=True, replicating=True)
    assert choose(healthy).blockers == ()
    broken = PairFacts(replace(healthy.primary, **primary), (replace(healthy.secondaries[0], **secondary),))
    blockers = choose(broken).blockers
    assert any(says in f"{blocker.what} {blocker.remedy}" for blocker in blockers), blockers
    assert all(blocker.remedy for blocker in blockers)


def test_swapped_sites_are_no_starting_point_of_another_scenario() -> None:
    right = pair("legacy", "legacy", geo=True, replicating=True)
    swapped = PairFacts(replace(right.primary, geo="secondary"), (replace(right.secondaries[0], geo="primary"),))
    assert choose(swapped).point is None


def test_missing_replication_of_migrated_sites_is_a_blocker() -> None:
    (blocker,) = choose(pair("own", "own", geo=True)).blockers
    assert "P4" in blocker.remedy


def test_secondaries_that_stand_differently_are_taken_one_by_one() -> None:
    one = pair("own", "own", geo=True, replicating=True)
    another = replace(site("off", "secondary", True), name="secondary-2")
    both = PairFacts(one.primary, (*one.secondaries, another))
    assert scenario(choose(both)) == "rebuild-secondary", "the one that is complete has nothing to do"
    third = replace(site("legacy", "secondary", True), name="secondary-3")
    choice = choose(PairFacts(one.primary, (another, third)))
    assert choice.point is None and any("stand differently" in blocker.what for blocker in choice.blockers)


# the parameters file


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_the_parameters_file_is_ready(name: str) -> None:
    values = yaml.safe_load(text_of(name, "my/sites.yml", "because of what was found"))
    fields = SCENARIOS[name].model_fields
    required = {field for field, info in fields.items() if info.is_required()} - {"sites"}
    assert set(values) == set(fields) - required
    assert all(f"# {field}:   # has to be given" in text_of(name, "my/sites.yml", "") for field in required)
    if not required:
        options = validate_values(name, values)
        assert options.sites == "my/sites.yml" and options.approve == []


def test_there_is_no_file_for_a_scenario_that_is_not_there() -> None:
    assert text_of("no-such-scenario", "sites.yml", "") == ""


# read from sites


@pytest.fixture(autouse=True)
def _quick(quick: None) -> None:
    """The sites' secrets."""


def fits(world: World) -> Any:
    return scenario_that_fits(world.sites.read_only_view())


def refused(world: World) -> Any:
    return starting_point_fits(world.sites.read_only_view())


def no_registry(site: Any) -> None:
    site.node.files.pop("/opt/gitlab/service/registry")
    site.storage.clear()


def no_geo(world: World) -> None:
    world.geo_sites = []
    world.secondary.node.commands["gitlab-psql -d gitlabhq"] = "f\n"


def on_own_database(site: Any, enabled: bool = True) -> None:
    database = site.parameters.database
    body = "\n".join(
        [
            "registry['database'] = {",
            f"  'enabled' => {str(enabled).lower()},",
            f"  'host' => '{database.host}',",
            f"  'port' => {database.port},",
            f"  'dbname' => '{database.name}',",
            "}",
        ]
    )
    text = gitlab_rb.put(site.node.files[GITLAB_RB].decode(), state.DATABASE, body)
    site.node.files[GITLAB_RB] = text.encode()
    site.database.tags = dict(site.storage)
    site.world.render(site)


def test_two_legacy_sites_are_read_whole() -> None:
    world = World()
    finding = fits(world)
    assert finding.verdict == "passed" and finding.found.startswith("migrate-legacy (notebook 05-")
    assert [row["not known"] for row in finding.tables["facts"]] == ["", ""]
    assert finding.tables["blockers"] == []
    values = yaml.safe_load(finding.files["migrate-legacy.yml"])
    assert values["sites"] == world.options.sites
    assert refused(world).verdict == "passed"


def test_half_migrated_sites_go_on() -> None:
    world = World()
    on_own_database(world.secondary)
    assert fits(world).found.startswith("migrate-legacy") and "goes on" in fits(world).found
    assert refused(world).verdict == "passed"


def test_migrated_sites_are_verified_and_may_be_run_again() -> None:
    world = World()
    for one in world.sites.all:
        on_own_database(one)
    assert fits(world).found.startswith("verify-replication")
    assert refused(world).verdict == "passed"


def rebuilt(world: World) -> None:
    on_own_database(world.primary)
    no_registry(world.secondary)


def without_registries(world: World) -> None:
    no_registry(world.primary)
    no_registry(world.secondary)


def new_instance(world: World) -> None:
    no_geo(world)
    world.primary.storage.clear()
    world.primary.node.files = {k: v for k, v in world.primary.node.files.items() if not k.startswith(STORAGE)}
    no_registry(world.secondary)


def instance_alone(world: World) -> None:
    no_geo(world)
    without_registries(world)


def external_alone(world: World) -> None:
    no_geo(world)
    rebuilt(world)


def bundled_alone(world: World) -> None:
    no_geo(world)
    world.primary.config["database"] = {"enabled": True}
    world.primary.database.tags = dict(world.primary.storage)
    world.render(world.primary)
    no_registry(world.secondary)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (new_instance, "set-up-new-instance"),
        (without_registries, "add-registry-to-geo-sites"),
        (instance_alone, "add-geo-and-registry"),
        (external_alone, "add-geo-external-database"),
        (bundled_alone, "add-geo-default-database"),
        (rebuilt, "rebuild-secondary"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_another_starting_point_is_refused_with_the_name_of_its_scenario(change: Any, expected: str) -> None:
    world = World()
    change(world)
    finding = refused(world)
    assert finding.failed and f"{expected} starts here, not migrate-legacy" in finding.found, finding
    assert finding.remedy
    assert expected in fits(world).found


def test_what_does_not_answer_is_told_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.token_status = 401
    pair = facts.read(world.sites.read_only_view())
    assert pair.primary.geo is None and any("401" in problem for problem in pair.primary.problems)
    assert fits(world).failed and refused(world).verdict == "warning"

    def down(self: Any) -> Any:
        raise Unreachable("nobody listens there")

    monkeypatch.setattr("world.FakeGitLab.version", down)
    monkeypatch.setattr("world.FakeRegistry.identity", down)
    pair = facts.read(World().sites.read_only_view())
    assert all("nobody listens there" in " ".join(one.problems) for one in pair.all)
    assert fits(World()).failed


def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    finding = fits(World())
    text = f"{finding.found}{finding.rows}{finding.tables}{finding.files}"
    assert "notification-token-of-the-primary" not in text and "world-password" not in text
