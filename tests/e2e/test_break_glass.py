"""georeg is killed in the middle of a step, and the break-glass sheet on the node is followed by hand from there.

Its lines are run as they stand in the sheet. Afterwards both registries take uploads and hold every tag, and georeg,
when it comes back, sees what was done.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from followed import Sheet, secrets_of
from observe import tags_in_database
from standing import SITES, Tags, all_tags, assert_status_is_true, refuses_pushes
from workplace import Outcome, Workplace, outcomes

from georeg_lab.images import LOST, image

pytestmark = [pytest.mark.lab]
COMPLETE = {"done", "no-op", "skipped by rule"}


def killed(workplace: Workplace, point: str, *arguments: str) -> Outcome:
    """Run until georeg is killed there; what it left on the node goes on by itself."""
    ended = workplace.run("--approve", "all", *arguments, env={"GEOREG_CRASH_AT": point})
    assert "the kernel died" in ended.ledger[-1]["error"], ended.output
    return ended


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


def assert_consistent(workplace: Workplace, before: Mapping[str, Tags]) -> None:
    """Both registries take uploads, serve every tag, and `georeg status` agrees."""
    for site, tags in before.items():
        assert not refuses_pushes(workplace, site)
        served = workplace.tags(site)
        assert {key: served.get(key) for key in tags if key != LOST} == {k: v for k, v in tags.items() if k != LOST}
    assert_status_is_true(workplace)


def test_on_from_every_step(fresh_workplace: Workplace) -> None:
    """One chain to the end: killed, finished by hand, taken up by georeg further on; the last half by hand alone."""
    workplace = fresh_workplace
    before = all_tags(workplace)
    there, here = "secondary.import", "primary.import"

    ended = killed(workplace, "hold/hold-image-sync:during")
    sheet = sheet_of(workplace, "secondary")
    assert sheet.text == (ended.record / "break-glass.md").read_text()
    assert "1. `hold/hold-image-sync` **begun 2" in sheet.text
    sheet.on("hold/hold-image-sync", f"{there}/connect-database")
    assert sheet.stands("secondary") == standing_at(f"{there}/connect-database")

    resume = ("--resume", ended.record.name)
    ended = killed(workplace, f"{there}/migrate-schema:after-apply", *resume)
    assert {outcomes(ended.ledger)[step] for step in SECONDARY[:2]} == {"no-op"}
    sheet.on(*named(there, "migrate-schema", "clear-half-import", "read-only"))
    assert refuses_pushes(workplace, "secondary")
    assert sheet.stands("secondary") == standing_at(f"{there}/read-only")
    sheet.back(f"{there}/read-only")
    assert sheet.stands("secondary") == standing_at(f"{there}/clear-half-import")

    killed(workplace, f"{there}/import:during", *resume)
    sheet.on(*named(there, "import", "compare"))
    assert sheet.stands("secondary") == standing_at(f"{there}/compare")

    ended = killed(workplace, f"{there}/enable-database:during", *resume)
    assert outcomes(ended.ledger)[f"{there}/import"] == "no-op"
    sheet.on(*named(there, "enable-database", "writable"))
    assert sheet.stands("secondary") == standing_at(f"{there}/enable-database")

    killed(workplace, f"{here}/connect-database:during", *resume)
    sheet = sheet_of(workplace, "primary")
    sheet.on(*(step for step in sheet.steps if step.startswith(here)), "release/release-image-sync")
    sheet.on("release/resync-everything", "verify/conclude")
    assert sheet.stands("primary") == dict.fromkeys(named(here, *IMPORTED), True)
    assert sheet.stands("secondary") == standing_at("release/release-image-sync")
    assert_consistent(workplace, before)

    last = workplace.run("--approve", "all", *resume)
    assert last.status == 0, last.output
    assert set(outcomes(last.ledger).values()) <= COMPLETE
    moved = {*SECONDARY, *named(here, *IMPORTED)}
    assert {step for step, outcome in outcomes(last.ledger).items() if outcome != "no-op"}.isdisjoint(moved)
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


def test_back_from_every_step(fresh_workplace: Workplace) -> None:
    """From the middle of an import, and from the last switch: all is legacy, as before, and is planned again."""
    workplace = fresh_workplace
    before = all_tags(workplace)
    there, here = "secondary.import", "primary.import"

    ended = killed(workplace, f"{there}/import:during")
    sheet = sheet_of(workplace, "secondary")
    sheet.back(*named(there, "import", "read-only"))
    assert tags_in_database(workplace.lab, "secondary") == {}
    assert_consistent(workplace, before)

    killed(workplace, f"{here}/enable-database:after-apply", "--resume", ended.record.name)
    sheet = sheet_of(workplace, "primary")
    sheet.back(*reversed(named(here, *IMPORTED)), *reversed(named(there, *IMPORTED)), "hold/hold-image-sync")
    sheet.on("release/resync-everything")
    assert not any(sheet.stands("secondary")[step] or step.endswith("clear-half-import") for step in SECONDARY)
    assert_consistent(workplace, before)
    plan = workplace.run()
    assert plan.status == 0, plan.output
    again = {*SECONDARY, *named(here, *IMPORTED)} - {f"{s}.import/clear-half-import" for s in SITES}
    assert {step for step, outcome in outcomes(plan.ledger).items() if outcome == "not approved"} >= again
