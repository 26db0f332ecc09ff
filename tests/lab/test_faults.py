"""Every fault that the lab can bring about is diagnosed by its name, and healthy sites show none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from georeg_lab.cli import fault as command
from georeg_lab.faults import FAULTS, active, clear, switch_on
from georeg_lab.sites import LabError, LabSites
from georeg_nb import operations, parameters, site, symptoms
from georeg_nb.operations import _Nobody
from georeg_nb.procedures.diagnosis import diagnose
from georeg_nb.procedures.diagnosis.reading import read_all
from georeg_nb.site import Sites

QUICK = frozenset(
    """
    database-read-only bytea-output-escape schema-not-writable images-hidden-by-release replication-address-missing
    rails-password-wrong replication-slot-missing localhost-refused oauth-application-missing internal-url-points-back
    primary-url-outdated secondary-migrates-itself endpoint-without-header signing-keys-differ registry-url-with-path
    both-lockfiles
    """.split()  # noqa: SIM905 - a text is easier to extend
)


def opened(lab: LabSites) -> Sites:
    """The sites, to be looked at."""
    file = str(lab.sites_file)
    options = parameters.ScenarioParameters(sites=file)
    return site.open_sites(parameters.load_sites(file), options, _Nobody(), "diagnose").read_only_view()


def named(lab: LabSites) -> set[str]:
    """The symptoms that the sites show."""
    sites = opened(lab)
    try:
        return {one.symptom.name for one in diagnose(sites)[0]}
    finally:
        sites.close()


@pytest.fixture(scope="module")
def sites_to_break(lab: LabSites) -> Iterator[LabSites]:
    """One reset before all faults and one after: each takes back what it did."""
    lab.reset()
    yield lab
    lab.reset()


def test_every_fault_is_one_of_the_known_symptoms() -> None:
    assert {name: symptoms.find(name).row for name in FAULTS} == {fault.name: fault.row for fault in FAULTS.values()}
    assert len(FAULTS) >= 40


@pytest.mark.lab
def test_healthy_sites_show_nothing_and_can_be_read_whole(sites_to_break: LabSites) -> None:
    lab = sites_to_break
    sites = opened(lab)
    facts = read_all(sites)
    sites.close()
    assert [name for of_site in facts.values() for name in of_site if name.endswith(".problem")] == []
    assert named(lab) == set()


@pytest.mark.lab
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in FAULTS]
)
def test_a_fault_is_diagnosed_by_its_name(sites_to_break: LabSites, name: str) -> None:
    switch_on(sites_to_break, FAULTS[name])
    try:
        assert name in named(sites_to_break)
    finally:
        assert clear(sites_to_break, FAULTS) == [name]


@pytest.mark.lab
def test_faults_that_are_gone_show_nothing(sites_to_break: LabSites) -> None:
    switch_on(sites_to_break, FAULTS["bytea-output-escape"])
    assert active(sites_to_break) == ["bytea-output-escape"]
    with pytest.raises(LabError, match="switched on already"):
        switch_on(sites_to_break, FAULTS["bytea-output-escape"])
    assert operations.diagnose(str(sites_to_break.sites_file), True) == 3
    clear(sites_to_break, FAULTS)
    assert active(sites_to_break) == []
    assert operations.diagnose(str(sites_to_break.sites_file), True) == 0


def test_the_command_lists_faults_and_knows_no_others(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, ["--dir", str(tmp_path), "--list"])
    assert shown.exit_code == 0 and all(name in shown.output for name in FAULTS)
    wrong = CliRunner().invoke(command, ["--dir", str(tmp_path), "no-such-fault"])
    assert wrong.exit_code == 2 and "--list" in wrong.output
    assert CliRunner().invoke(command, ["--dir", str(tmp_path)]).exit_code == 2
    nowhere = CliRunner().invoke(command, ["--dir", str(tmp_path), "both-lockfiles"])
    assert nowhere.exit_code == 1 and "There is no lab" in nowhere.output
