"""The verify section over two sites in memory: which level decides, what it is held to, and what it says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_migration_steps import run_all
from world import TAGS, World

from georeg_nb import operations
from georeg_nb.errors import VerificationDiffers
from georeg_nb.ledger import CheckResult, verdict
from georeg_nb.procedures import comparing

OTHER = "sha256:" + "8" * 64


pytestmark = pytest.mark.usefixtures("impatient")


def migrated(tmp_path: Path, **options: Any) -> World:
    """A world that has moved; options for what comes then."""
    world = World()
    assert run_all(world, tmp_path).exit_code == 0
    world.options = type(world.options).model_validate({**world.options.model_dump(), **options})
    for site in world.sites.all:
        site.options = world.options
    return world


def asked(world: World, tmp_path: Path) -> tuple[dict[str, CheckResult], Any]:
    """Answers of the section's checks, and a reader of its tables."""
    run = world.open(tmp_path)
    run.check("verify")
    run.close()
    return {check.check: check for check in verdict(run.ledger.entries()).checks}, run.record.read_table


def test_the_databases_decide_and_the_registries_are_held_to_them(tmp_path: Path) -> None:
    found, table = asked(migrated(tmp_path), tmp_path)
    assert {name: check.verdict for name, check in found.items() if name.startswith(("same", "manifests"))} == {
        "same_images": "passed",
        "same_over_http": "passed",
        "same_content": "not applicable",
        "manifests_are_whole": "passed",
    }
    assert "over HTTP" not in found["same_images"].found
    assert [row["repository"] for row in table("same_over_http")] == sorted({path for path, _ in TAGS})
    assert table("differences") == table("differences_over_http") == []


@pytest.mark.parametrize(
    ("options", "refuses", "why"),
    [
        ({}, "no route to host", "secondary: no route to host"),
        ({"verify_with": ["api"]}, "", "as verify_with says"),
        ({"verify_with": ["content"]}, "", "as verify_with says"),
    ],
)
def test_without_the_databases_everything_is_compared_over_http(
    options: dict[str, Any], refuses: str, why: str, tmp_path: Path
) -> None:
    world = migrated(tmp_path, **options)
    world.secondary.registry._tags["acme/app", "latest"] = OTHER
    world.secondary.database.refuses = refuses
    found, table = asked(world, tmp_path)
    check = found["same_images"]
    assert f"(over HTTP: {why})" in check.found
    assert check.verdict == "failed" and "acme/app:latest (differing)" in check.found
    assert [(row["tag"], row["kind"]) for row in table("differences")] == [("latest", "differing")]
    assert found["same_over_http"].verdict == found["manifests_are_whole"].verdict == "not applicable"


def test_legacy_sites_are_compared_over_http(tmp_path: Path) -> None:
    world = World()
    assert comparing.why_over_http(world.sites, world.secondary) == "primary's registry is not on its own database"
    found = comparing.compare(world.sites, world.secondary)
    assert (found.level, found.verdict, found.tags) == ("api", "equal", (len(TAGS), len(TAGS)))
    del world.secondary.storage["acme/app", "latest"]
    assert comparing.compare(world.sites, world.secondary).verdict == "different"


def test_a_side_that_cannot_be_compared_fails_and_proves_nothing(tmp_path: Path) -> None:
    world = migrated(tmp_path)
    world.primary.silent, world.secondary.database.refuses = True, "no route to host"
    with pytest.raises(VerificationDiffers):
        run_all(world, tmp_path, sections=("verify",))
    check = asked(world, tmp_path)[0]["same_images"]
    assert check.verdict == "failed" and "primary: its catalog cannot be read" in check.found
    assert "not compared" in check.found and "nothing is proved" in check.remedy


def test_levels_that_disagree_are_reported(tmp_path: Path) -> None:
    world = migrated(tmp_path)
    world.secondary.served["acme/app", "1.0"] = OTHER
    found, table = asked(world, tmp_path)
    assert found["same_images"].verdict == "passed", "the databases are equal"
    assert found["same_over_http"].verdict == "failed"
    assert [(row["tag"], row["kind"]) for row in table("differences_over_http")] == [
        ("1.0", "differing"),
        ("1.0", "disagreeing"),
    ]
    assert "is the registry's address that of the registry on this database?" in found["same_over_http"].remedy


def test_what_geo_has_yet_to_sync_is_in_flight_on_every_level(tmp_path: Path) -> None:
    world = migrated(tmp_path, verify_with=["api"])
    world.primary.database.tags["acme/app", "new"] = OTHER
    world.records = [replace(record, state="PENDING") for record in world.records]
    found, table = asked(world, tmp_path)
    assert found["same_images"].verdict == "warning"
    assert [row["verdict"] for row in table("differences")] == ["in flight"]


@pytest.mark.parametrize(("level", "percent"), [("content", 100), ("content:50%", 50)])
def test_content_is_read_on_request_alone(level: str, percent: int, tmp_path: Path) -> None:
    world = migrated(tmp_path, verify_with=["metadata", level])
    for site in world.sites.all:  # the images of this world have other bytes than their digests
        site.database.tags.update({("x/y", f"t{n}"): f"sha256:{n:064d}" for n in range(40)})  # type: ignore[attr-defined]
    found, table = asked(world, tmp_path)
    assert (found["same_images"].verdict, found["same_over_http"].verdict) == ("passed", "not applicable")
    assert found["same_content"].verdict == "failed"
    rows = table("differences_of_content")
    assert {row["kind"] for row in rows} == {"corrupt"}
    assert len(rows) == 2 * 43 if percent == 100 else 10 < len(rows) < 70
    assert (f"the content of {percent} % of the images" in found["same_content"].found) == (percent < 100)


@pytest.mark.parametrize(
    ("primary", "secondary", "expected", "where"),
    [
        (True, False, "warning", "primary"),
        (True, True, "warning", "primary and secondary"),
        (False, True, "failed", "secondary"),
    ],
)
def test_manifests_that_lack_a_part(primary: bool, secondary: bool, expected: str, where: str, tmp_path: Path) -> None:
    world = migrated(tmp_path)
    for site, broken in ((world.primary, primary), (world.secondary, secondary)):
        site.database.broken = [("acme/app", OTHER)] if broken else []
    found, table = asked(world, tmp_path)
    assert found["manifests_are_whole"].verdict == expected
    assert [row["on"] for row in table("manifests_are_whole")] == [where]


def test_the_sample_begins_with_what_changed(tmp_path: Path) -> None:
    world = migrated(tmp_path)
    for number in range(60):
        for site in world.sites.all:
            site.database.tags[f"x/{number}", "t"] = OTHER  # type: ignore[attr-defined]
    world.primary.database.pushed_later = {("x/7", "t"), ("x/8", "t")}
    paths = comparing.sample_of_repositories(world.sites, world.secondary)
    assert len(paths) == comparing.SAMPLE_REPOSITORIES and {"x/7", "x/8"} == set(paths[:2])
    world.secondary.options = world.options.model_copy(update={"canary_project": "acme/app"})
    assert comparing.sample_of_repositories(world.sites, world.secondary)[0] == "acme/app"
    found, _ = asked(world, tmp_path)
    assert "(looked at: " not in found["same_images"].found


def test_single_differences_are_in_json_csv_junit_and_html(tmp_path: Path) -> None:
    world = migrated(tmp_path)
    del world.secondary.database.tags["acme/app", "latest"]
    run = world.open(tmp_path, approve=["all"])
    run.check("verify")
    with pytest.raises(VerificationDiffers):
        run.summary()
    tables = run.record.path / "tables"
    for name in ("differences", "differences_over_http"):
        assert [row["tag"] for row in json.loads((tables / f"{name}.json").read_text())] == ["latest"]
        assert "acme/app,latest,missing" in (tables / f"{name}.csv").read_text()
        assert "latest" in run.table(name).document.html()
    suites = ET.parse(run.record.path / "junit.xml").getroot()
    cases = {(suite.get("name"), case.get("name")): case for suite in suites for case in suite}
    for name in ("differences", "differences_over_http"):
        failure = cases[name, "acme/app:latest"].find("failure")
        assert failure is not None and "kind: missing" in str(failure.text or failure.get("message"))
    assert cases["same_images", "acme/app"].find("failure") is not None


@pytest.mark.parametrize("when", ["legacy", "moved"])
@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (lambda world: None, 0, "equal"),
        (lambda world: world.secondary.registry._tags.pop(("acme/app", "latest")), 6, "acme/app:latest (missing)"),
        (lambda world: setattr(world.secondary, "silent", True), 3, "not compared to the end"),
    ],
)
def test_the_command_compares_in_any_mode(
    when: str,
    change: Callable[[World], object],
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = migrated(tmp_path, verify_with=["api"]) if when == "moved" else World()
    change(world)
    monkeypatch.setattr(operations, "_values", lambda *_: ({}, world.options, world.sites))
    monkeypatch.setattr(operations, "_open", lambda *_: world.sites)
    monkeypatch.setattr(operations.parameters, "load_sites", lambda _: None)
    assert operations.compare("migrate-legacy", "f.yml", (), False) == status
    assert says in " ".join(capsys.readouterr().out.split())
    assert operations.compare("migrate-legacy", "f.yml", (), True) == status
    (one,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert one["verdict"] == {0: "equal", 6: "different", 3: "not compared"}[status]
    assert [row["tag"] for row in one["differences"]] == (["latest"] if status == 6 else [])
