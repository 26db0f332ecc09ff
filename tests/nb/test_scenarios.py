"""The scenarios are whole: every section can be reached, every step can be proved, every name is one."""

from __future__ import annotations

import inspect

import pytest
from world import World

from georeg_nb import scenarios
from georeg_nb.errors import ParametersError
from georeg_nb.parameters import SCENARIOS as MODELS
from georeg_nb.runbook import Check, Scenario, Step

ALL = [entry.scenario for entry in scenarios.SCENARIOS.values()]
EVIDENCE = {"run", "source", "derived", "unconfirmed"}


def checks_of(scenario: Scenario) -> list[Check]:
    found: list[Check] = []
    for section in scenario:
        found += [*section.procedure.checks, *section.procedure.pair_checks]
        found += [check for step in section.procedure.steps for check in step.needs]
    return found


def steps_of(scenario: Scenario) -> list[Step]:
    return [step for section in scenario for step in section.procedure.steps]


def test_every_scenario_has_parameters_and_a_notebook() -> None:
    assert set(scenarios.SCENARIOS) == set(MODELS)
    for name, entry in scenarios.SCENARIOS.items():
        assert entry.scenario.id == name and entry.parameters is MODELS[name]
        assert entry.notebook.endswith(".ipynb")


def test_an_unknown_scenario_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ParametersError, match="did you mean migrate-legacy"):
        scenarios.find("migrate-legaci")


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
def test_sections_follow_one_another(scenario: Scenario) -> None:
    names = [section.name for section in scenario]
    assert len(names) == len(set(names))
    for number, section in enumerate(scenario):
        assert set(section.after) <= set(names[:number])
    world = World()
    assert all(section.sites(world.sites) for section in scenario)


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
def test_checks_have_a_title_a_ground_and_a_reason(scenario: Scenario) -> None:
    for check in checks_of(scenario):
        assert check.title and check.source and check.evidence in EVIDENCE, check
        assert len(check.doc) > 20, f"{check.name} does not say why"
        assert check.name == check.function.__name__
    by_name: dict[str, set[int]] = {}
    for check in checks_of(scenario):
        by_name.setdefault(check.name, set()).add(id(check))
    assert all(len(ids) == 1 for ids in by_name.values()), "two checks of the same name"


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
def test_steps_can_be_told_planned_proved(scenario: Scenario) -> None:
    for step in steps_of(scenario):
        kind = type(step)
        assert step.name and step.title and step.source and step.evidence in EVIDENCE
        assert (kind.__doc__ or "").strip(), f"{step.name} does not say what it is"
        assert kind.is_done is not Step.is_done, f"{step.name} cannot tell whether it is done"
        assert kind.verify is not Step.verify, f"{step.name} has no proof"
        assert kind.apply is not Step.apply or kind.manual is not Step.manual, f"{step.name} does nothing"
        assert step.reversible or not step.has_undo


def test_what_cannot_be_undone_is_marked() -> None:
    marked = {step.name for scenario in ALL for step in steps_of(scenario) if not step.reversible}
    assert marked == {"clear-half-import", "restore-backup", "sign-off"}


def test_a_scenario_is_a_short_list() -> None:
    source = inspect.getsource(scenarios)
    start = source.index("MIGRATE_LEGACY = ")
    assert len(source[start : source.index("\n)\n", start)].splitlines()) <= 40
