"""The assessment on labs in every state: it names the scenario that starts there, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workplace import ROOT, Workplace, copy_project

from georeg_lab.sites import LabSites
from georeg_lab.states import STATES, State
from georeg_nb.procedures.assess.choice import POINTS

NOTEBOOKS = {point.notebook.partition("-")[0]: point.id for point in POINTS if point.notebook}
DONE = {"migrated": "verify-replication", "migrated-secondary-new": "rebuild-secondary"}
PARAMETERS = "parameters/lab/assess-sites.yml"


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.parametrize("state", STATES.values(), ids=lambda state: state.name)
def test_the_state_of_a_lab_is_recognised(state: State, tmp_path: Path, lab_base_port: int) -> None:
    expected = NOTEBOOKS.get(state.scenario) or DONE[state.name]
    lab = LabSites.up(tmp_path / "lab", lab_base_port, state=state.name, tags=50)
    try:
        place = Workplace(copy_project(tmp_path, lab), lab)
        before = _settings(lab)
        outcome = place.georeg("run", "assess-sites", "-f", PARAMETERS)
        rows = json.loads((outcome.record / "tables/scenario_that_fits.json").read_text())
        assert [row["scenario"] for row in rows if row["fits"] == "yes"] == [expected], outcome.output
        assert _settings(lab) == before
    finally:
        lab.down(purge=True)


def _settings(lab: LabSites) -> dict[str, bytes]:
    return {site: (lab.lab.dir / site / "etc/gitlab/gitlab.rb").read_bytes() for site in ("primary", "secondary")}


def test_every_state_has_an_expected_scenario() -> None:
    assert all(state.scenario in NOTEBOOKS or state.name in DONE for state in STATES.values())
    assert (ROOT / "notebooks/00-assess-sites.ipynb").exists()
