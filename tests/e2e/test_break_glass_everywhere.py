"""georeg is killed behind every step of an import, in one step and in three; from each of them the break-glass sheet is
followed by hand, once on to the end and once back to the beginning. And the same from some of them on other sites: over
SSH, with two registry nodes, and with a release whose importer keeps no statistics.

A run is killed behind one step after the other, always going on from where it was killed before. The state at each
kill is kept, and both ways begin there.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from followed import Sheet
from standing import Tags, all_tags
from test_break_glass import COMPLETE, IMPORTED, SECONDARY, assert_consistent, begun, named, sheet_of
from workplace import Workplace, copy_project, outcomes

from georeg_lab.sites import LabSites
from georeg_lab.sshd import SshdError, find_sshd

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(900)]
KEPT = "killed"
IMPORTS = {
    "one-step": ("read-only", "snapshot", "import", "compare", "enable-database", "writable"),
    "three-step": (
        "pre-import",
        "read-only",
        "snapshot",
        "import",
        "compare",
        "enable-database",
        "writable",
        "import-blobs",
    ),
}
SITES = {
    "one-step": {},
    "three-step": {},
    "one-step 17.5": {"gitlab_version": "17.5"},
    "three-step 17.5": {"gitlab_version": "17.5"},
    "one-step two-nodes": {"registry_nodes": {"primary": 2}},
    "three-step ssh": {"ssh": True},
}
"""The import's method, and what is special of the sites."""


def steps(method: str) -> list[str]:
    """What a run does, in its order, as far as a kill behind it leaves something to do or to undo."""
    imports = [
        f"{site}.import/{step}"
        for site in ("secondary", "primary")
        for step in ("connect-database", "migrate-schema", *IMPORTS[method])
    ]
    return ["hold/hold-image-sync", *imports, "release/release-image-sync", "release/resync-everything"]


ELSEWHERE = ("secondary.import/import", "primary.import/read-only", "primary.import/enable-database")
CASES = [(sites, step) for sites in SITES for step in (steps(sites) if sites in IMPORTS else ELSEWHERE)]
RUN_AGAIN = {"secondary.import/import", "primary.import/enable-database", "release/release-image-sync"}
"""Steps behind which georeg is run afterwards: it finds nothing left to do, or begins anew."""


@dataclass
class Chain:
    """A run that is killed behind one step after the other."""

    workplace: Workplace
    before: dict[str, Tags]
    order: Sequence[str]
    record: Path | None = None
    at: str = ""

    def killed_behind(self, step: str) -> tuple[Sheet, list[str], int]:
        """The sheet of the site that was at work, its order of steps, and where in it the kill was."""
        lab = self.workplace.lab
        if self.at and self.order.index(self.at) <= self.order.index(step):
            lab.reset(KEPT)
        else:
            self.record, self.at = None, ""
            lab.reset()
        if self.at != step:
            ended = self.workplace.cells(self.record, approve=["all"], env={"GEOREG_CRASH_AT": f"{step}:after-apply"})
            assert ended.status == -signal.SIGKILL, ended.output
            self.record, self.at = self.record or ended.record, step
            lab.keep(KEPT)
        sheet = sheet_of(self.workplace, "primary" if step.startswith("primary") else "secondary")
        assert "COULD NOT BE MADE" not in sheet.text
        order = re.findall(r"^\d+\. `(\S+)`", sheet.text, re.M)
        return sheet, order, order.index(step)


@pytest.fixture(scope="module")
def chain_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, int], Chain]]:
    """The chain of a kind of sites; the lab of the kind before is taken down."""
    made: dict[str, Chain] = {}

    def take_down() -> None:
        for chain in made.values():
            chain.workplace.lab.down(purge=True)
        made.clear()

    def of(sites: str, port: int) -> Chain:
        if sites not in made:
            take_down()
            made[sites] = make(sites, port, tmp_path_factory)
        return made[sites]

    yield of
    take_down()


def make(sites: str, port: int, folders: pytest.TempPathFactory) -> Chain:
    """A small lab of this kind, and a project on it."""
    options: dict[str, Any] = SITES[sites]
    if options.get("ssh"):
        try:
            find_sshd()
        except SshdError as error:
            pytest.skip(str(error))
    lab = LabSites.up(folders.mktemp("glass") / "lab", port, tags=50, progress=print, **options)
    workplace = Workplace(copy_project(folders.mktemp("workplace"), lab), lab)
    method = sites.partition(" ")[0]
    workplace.set_parameters(import_method=method)
    return Chain(workplace, all_tags(workplace), steps(method))


@pytest.fixture
def chain(chain_of: Callable[[str, int], Chain], sites: str, lab_base_port: int) -> Chain:
    return chain_of(sites, lab_base_port)


@pytest.mark.parametrize(("sites", "step", "way"), [(*case, way) for case in CASES for way in ("on", "back")])
def test_from_every_step(chain: Chain, step: str, way: str) -> None:
    sheet, order, number = chain.killed_behind(step)
    if way == "on":
        on(chain, sheet, order[number:], step)
    else:
        back(chain, sheet, order[: number + 1])


def on(chain: Chain, sheet: Sheet, left: Sequence[str], step: str) -> None:
    """All that is left is done by hand, from the very step that was begun."""
    sheet.on(*left)
    assert_consistent(chain.workplace, chain.before, moved=True)
    for site in chain.before:
        assert all(sheet.stands(site).values()), sheet.stands(site)
    if step in RUN_AGAIN:
        last = chain.workplace.run("--approve", "all")
        assert last.status == 0, last.output
        assert set(outcomes(last.ledger).values()) <= COMPLETE
        assert begun(last).isdisjoint({*SECONDARY, *named("primary.import", *IMPORTED)})


def back(chain: Chain, sheet: Sheet, done: Sequence[str]) -> None:
    """All that was done is taken back by hand, the last first."""
    sheet.back(*reversed(done))
    assert_consistent(chain.workplace, chain.before, moved=False)
    stands = sheet.stands("secondary") | sheet.stands("primary")
    assert not any(
        stands[name] for name in stands if name.endswith(("/hold-image-sync", "/read-only", "/enable-database"))
    )
    if done[-1] in RUN_AGAIN:
        plan = chain.workplace.run()
        assert plan.status == 0, plan.output
        assert outcomes(plan.ledger)["primary.import/enable-database"] == "not approved"
