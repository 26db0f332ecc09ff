"""georeg is killed in the middle of a step, and the break-glass sheet on the node is followed by hand from there.

Its lines are run as they stand in the sheet. Afterwards both registries take uploads and hold every tag, and georeg,
when it comes back, sees what was done.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from followed import Sheet, secrets_of
from observe import tags_in_database, tags_on_disk
from standing import SITES, Tags, all_tags, assert_status_is_true, refuses_pushes
from workplace import Outcome, Workplace, changes, outcomes

from georeg_lab.images import LOST, image

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
COMPLETE = {"done", "no-op", "skipped by rule"}


def killed(workplace: Workplace, point: str, *arguments: str) -> Outcome:
    """Run until georeg is killed there; what it left on the node goes on by itself."""
    ended = workplace.run("--approve", "all", *arguments, env={"GEOREG_CRASH_AT": point})
    assert "the kernel died" in ended.ledger[-1]["error"], ended.output
    return ended


def begun(ended: Outcome) -> set[str]:
    """Steps that the last attempt of a run began: what it did not find done."""
    opened = max(number for number, entry in enumerate(ended.ledger) if entry["event"] == "run.opened")
    return set(changes(ended.ledger[opened:]))


def sheet_of(workplace: Workplace, site: str) -> Sheet:
    return Sheet(workplace.lab, site, secrets_of(workplace.lab, SITES))


def named(section: str, *steps: str) -> list[str]:
    return [f"{section}/{step}" for step in steps]


IMPORTED = (
    *("connect-database", "migrate-schema", "clear-half-import", "read-only", "import", "compare", "enable-database"),
)
SECONDARY = ("hold/hold-image-sync", *named("secondary.import", *IMPORTED), "release/release-image-sync")


def standing_at(step: str) -> dict[str, bool]:
    """What the secondary's sheet says when this step is the last one that is done."""
    number = SECONDARY.index(step)
    return {name: number >= place for place, name in enumerate(SECONDARY)}


def assert_consistent(workplace: Workplace, before: Mapping[str, Tags], *, moved: bool) -> None:
    """Both registries take uploads and hold every tag where they look for it, and `georeg status` agrees."""
    for site, tags in before.items():
        assert not refuses_pushes(workplace, site)
        found = (tags_in_database if moved else tags_on_disk)(workplace.lab, site)
        assert {key: found.get(key) for key in tags if key != LOST} == {k: v for k, v in tags.items() if k != LOST}
        mode = workplace.lab.registry_client(site).request("GET", "/v2/", "").headers
        assert mode["Gitlab-Container-Registry-Database-Enabled"] == str(moved).lower()
    assert_status_is_true(workplace)


def test_on_from_every_step(fresh_workplace: Workplace) -> None:
    """One chain to the end: killed, finished by hand, taken up by georeg and killed further on."""
    workplace = fresh_workplace
    before = all_tags(workplace)
    there, here = "secondary.import", "primary.import"

    ended = killed(workplace, "hold/hold-image-sync:during")
    sheet = sheet_of(workplace, "secondary")
    assert sheet.text == (ended.record / "break-glass.md").read_text()
    assert "1. `hold/hold-image-sync` **begun 2" in sheet.text
    sheet.on("hold/hold-image-sync", *named(there, *IMPORTED[:4]))
    assert refuses_pushes(workplace, "secondary")
    assert sheet.stands("secondary") == standing_at(f"{there}/read-only")
    sheet.back(f"{there}/read-only")
    assert sheet.stands("secondary") == standing_at(f"{there}/clear-half-import")

    resume = ("--resume", ended.record.name)
    ended = killed(workplace, f"{there}/import:during", *resume)
    assert begun(ended).isdisjoint(SECONDARY[:2])
    sheet.on(*named(there, "import", "compare"))
    assert sheet.stands("secondary") == standing_at(f"{there}/compare")
    sheet.on(*named(there, "enable-database", "writable"))
    assert sheet.stands("secondary") == standing_at(f"{there}/enable-database")

    ended = killed(workplace, f"{here}/enable-database:during", *resume)
    assert begun(ended).isdisjoint(SECONDARY)
    sheet = sheet_of(workplace, "primary")
    sheet.on(*named(here, "enable-database", "writable", "recompute-checksums"), "release/release-image-sync")
    sheet.on("release/resync-everything", "verify/conclude")
    assert sheet.stands("primary") == dict.fromkeys(named(here, *IMPORTED), True)
    assert sheet.stands("secondary") == standing_at("release/release-image-sync")
    assert_consistent(workplace, before, moved=True)

    last = workplace.run("--approve", "all", *resume)
    assert last.status == 0, last.output
    assert set(outcomes(last.ledger).values()) <= COMPLETE
    assert begun(last).isdisjoint({*SECONDARY, *named(here, *IMPORTED)})
    a_push_closes_the_way_back(workplace, sheet, here)


def a_push_closes_the_way_back(workplace: Workplace, sheet: Sheet, section: str) -> None:
    """The lines refuse to go back over an image that is in the database alone, and pushes can be let in again."""
    workplace.lab.registry_client("primary").push("lab/canary", image("pushed since", "oci"), "since")
    refuse, proof, question = sheet.steps[f"{section}/enable-database"].back[:3]
    for paste in (refuse, proof):
        status, output = sheet.sh("primary", paste["shell"])
        assert status == 0, output
    status, output = sheet.sh("primary", question["shell"])
    assert status != 0
    assert "> lab/canary since sha256:" in output
    for paste in sheet.steps[f"{section}/read-only"].back[1:]:
        status, output = sheet.sh("primary", paste["shell"])
        assert status == 0, output
    assert sheet.stands("primary")[f"{section}/enable-database"]


@pytest.mark.matrix
def test_back_from_every_step(fresh_workplace: Workplace) -> None:
    """From the middle of an import, and from the last switch: all is legacy, as before, and is planned again."""
    workplace = fresh_workplace
    before = all_tags(workplace)
    there, here = "secondary.import", "primary.import"

    ended = killed(workplace, f"{there}/import:during")
    sheet = sheet_of(workplace, "secondary")
    sheet.back(*named(there, "import", "read-only"))
    assert tags_in_database(workplace.lab, "secondary") == {}
    assert_consistent(workplace, before, moved=False)

    killed(workplace, f"{here}/enable-database:after-apply", "--resume", ended.record.name)
    sheet = sheet_of(workplace, "primary")
    sheet.back(*reversed(named(here, *IMPORTED)), *reversed(named(there, *IMPORTED)), "hold/hold-image-sync")
    sheet.on("release/resync-everything")
    assert sheet.stands("secondary") == dict.fromkeys(SECONDARY, False)
    assert_consistent(workplace, before, moved=False)
    plan = workplace.run()
    assert plan.status == 0, plan.output
    empty = {f"{site}.import/{step}" for site in SITES for step in ("migrate-schema", "clear-half-import")}
    again = {*SECONDARY, *named(here, *IMPORTED)} - empty  # the tables were left, and nothing is in them
    assert {step for step, outcome in outcomes(plan.ledger).items() if outcome == "not approved"} >= again
