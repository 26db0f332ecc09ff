"""The table of differences: complete, used, and true of the recordings of every release."""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import versions_page
import yaml

import georeg_nb
from georeg_nb.omnibus import RegistryConfig
from georeg_nb.runbook import findings
from georeg_nb.versions import BUNDLED_REGISTRY, DIFFERENCES, REHEARSED, Difference, Profile, parse_version

DATA = Path(__file__).parents[1] / "data" / "omnibus"
RECORDED = ("17.5.5", "18.2.8", "18.5.5", "18.7.7", "19.1.6")


def recorded(name: str, version: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(case, its result in that release) of a file of recordings."""
    for line in (DATA / name).read_text().splitlines():
        case = json.loads(line)
        for result in case["results"]:
            if version in result["versions"]:
                yield case, result["result"]


# the table


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_a_row_is_complete(row: Difference) -> None:
    assert row.holds and all(first < end for first, end in row.holds)
    assert row.what and row.detected and row.source
    assert row.evidence in get_args(findings.Evidence)
    assert row.used_by


def resolve(name: str) -> Any:
    """What a row names as its user: `module.Thing` below georeg_nb, or below its procedures."""
    for start in ("georeg_nb", "georeg_nb.procedures"):
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            try:
                found: Any = importlib.import_module(".".join([start, *parts[:length]]))
            except ModuleNotFoundError:
                continue
            for part in parts[length:]:
                found = getattr(found, part, None)
            if found is not None:
                return found
    return None


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_who_uses_a_row_is_there(row: Difference) -> None:
    assert [name for name in row.used_by if resolve(name) is None] == []


def asked_for() -> set[str]:
    """Names that the code gives to `supports`."""
    names = set()
    for path in Path(georeg_nb.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "supports":
                names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def test_what_only_the_version_tells_is_asked_for_by_name() -> None:
    by_version = {row.name for row in DIFFERENCES if row.detected.startswith("version")}
    assert by_version <= asked_for() <= {row.name for row in DIFFERENCES}


def test_names_are_unique() -> None:
    assert len({row.name for row in DIFFERENCES}) == len(DIFFERENCES)


def test_the_page_is_current() -> None:
    assert versions_page.PAGE.read_text() == versions_page.page(), "run `make versions`"


# profiles


@pytest.mark.parametrize(
    ("text", "version"),
    [("18.7.7-ee", (18, 7, 7)), ("gitlab-ee 18.7.7", (18, 7, 7)), ("v4.32.0-gitlab", (4, 32, 0))],
)
def test_versions(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("gitlab", "registry"),
    [
        ("17.2.0", (4, 7, 0)),
        ("17.5.5-ee", (4, 10, 0)),
        ("18.6.1", (4, 31, 0)),
        ("18.6.2", (4, 31, 1)),
        ("gitlab-ee 18.7.7", (4, 32, 0)),
        ("19.0.1", (4, 40, 0)),
        ("19.1.6", (4, 40, 1)),
        ("21.0.0", (4, 41, 0)),
    ],
)
def test_the_registry_in_a_package(gitlab: str, registry: tuple[int, int, int]) -> None:
    assert Profile.of(gitlab).registry == registry


def test_the_registry_that_is_there_counts_more_than_the_one_in_the_package() -> None:
    assert not Profile.of("18.2.8").supports("import-statistics")
    assert Profile.of("18.2.8", "v4.25.0-gitlab").supports("import-statistics")


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("import-supported", ("17.5.0", "20.0.0"), ("17.4.9",)),
        ("hides-legacy-images", ("19.0.0", "19.0.1"), ("18.11.9", "19.0.2")),
        ("injects-threshold", ("17.5.5", "18.10.7", "18.11.4", "19.0.1"), ("18.10.8", "18.11.5", "19.0.2", "19.1.0")),
        ("lockfiles-enforced", ("18.6.0", "18.9.0", "19.1.6"), ("18.5.5", "18.6.2", "18.7.7", "18.8.0")),
        ("importer-writes-lockfiles", ("18.6.1", "18.7.7", "19.1.6"), ("17.5.5", "18.5.5", "18.6.2")),
        ("migrate-asks-to-stop", ("17.5.5", "17.9.8"), ("17.10.0", "18.2.8")),
    ],
)
def test_where_a_difference_holds(name: str, inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    assert all(Profile.of(version).supports(name) for version in inside)
    assert not any(Profile.of(version).supports(name) for version in outside)


def test_ranges_in_words() -> None:
    words = {row.name: row.range for row in DIFFERENCES}
    assert words["prefer-default"] == "GitLab from 19.0 on"
    assert words["migrate-asks-to-stop"] == "GitLab below 17.10"
    assert words["hides-legacy-images"] == "GitLab 19.0 to below 19.0.2"
    assert words["needs-postgresql-15"] == "registry from 4.24 on"


def test_an_unknown_name_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Profile.of("18.7.7").supports("flying-carpets")


def test_rehearsed_and_unknown_releases() -> None:
    assert all(Profile.of(f"{major}.{minor}.3").is_rehearsed for major, minor in REHEARSED)
    assert not Profile.of("18.6.6").is_rehearsed
    assert Profile.of("19.4.0").is_newer_than_known and not Profile.of("19.3.2").is_newer_than_known
    assert list(BUNDLED_REGISTRY) == sorted(BUNDLED_REGISTRY)


# what the recordings of the packaging's own code say


@pytest.mark.parametrize("version", RECORDED)
def test_what_the_package_renders(version: str) -> None:
    profile = Profile.of(version)
    cases = {case["name"]: result for case, result in recorded("gitlab-rb.jsonl", version)}
    bare = RegistryConfig.parse(yaml.safe_dump(cases["registry url only"]["config_yml"]))
    assert (bare.mode == "prefer") is profile.supports("prefer-default")
    assert bool(bare.database) is profile.supports("bundled-registry-database")
    silent = RegistryConfig.parse(yaml.safe_dump(cases["neither threshold nor maxretries"]["config_yml"]))
    assert ("threshold" in silent.endpoints[0]) is profile.supports("injects-threshold")


@pytest.mark.parametrize("version", RECORDED)
def test_every_rendered_configuration_is_read(version: str) -> None:
    modes = {False: "legacy", "false": "legacy", None: "legacy", True: "database", "true": "database"}
    read = 0
    for _, result in recorded("gitlab-rb.jsonl", version):
        if config := result.get("config_yml"):
            found = RegistryConfig.parse(yaml.safe_dump(config))
            enabled = (config.get("database") or {}).get("enabled")
            assert found.mode == modes.get(enabled, "prefer")
            assert found.drivers == sorted(
                set(config["storage"] or {}) - {"cache", "delete", "maintenance", "redirect"}
            )
            read += 1
    assert read > 50


@pytest.mark.parametrize("version", [*RECORDED, "17.9.8", "18.6.6"])
def test_what_the_wrapper_does(version: str) -> None:
    profile = Profile.of(version)
    cases = {case["name"]: result for case, result in recorded("registry-database.jsonl", version)}
    asks = profile.supports("migrate-asks-to-stop")
    assert ("Stop the registry before" in cases["migrate up"]["stdout"]) is asks
    assert (cases["migrate up"]["exit"] != 0) is asks
    answered = cases["migrate up, running, answer y"]
    assert answered["exit"] == 0
    assert answered["service_actions"] == (["stop registry", "start registry"] if asks else [])


@pytest.mark.parametrize("version", ["18.2.8", "18.5.5", "18.7.7", "19.1.6"])
def test_where_the_wrapper_looks_for_the_configuration(version: str) -> None:
    cases = {case["name"]: result for case, result in recorded("registry-database.jsonl", version)}
    command = cases["migrate up, registry folder elsewhere"]["executed"][0]
    default = Profile.of(version).supports("wrapper-reads-default-folder")
    assert command[-1] == ("/var/opt/gitlab/registry/config.yml" if default else "/srv/registry/config.yml")
