"""Declared steps: a step of a section on one site, with its full id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from georeg_nb.errors import GeoregError, ParametersError, Problem
from georeg_nb.runbook.model import Scenario, Section, Step


@dataclass(frozen=True)
class Ref:
    """One declared step. `id` is "<section>/<step>", or "<section>[<site>]/<step>" in a section with several sites."""

    id: str
    section: Section
    step: Step
    site: Any

    def own_names(self) -> set[str]:
        """What it is called by itself; on several sites the shorter ones mean all of them."""
        return {self.id, f"{self.section.name}/{self.step.name}", self.step.name}

    def names(self) -> set[str]:
        """What an approval may call it besides 'all'."""
        return {*self.own_names(), self.section.name}


def declare(scenario: Scenario, sites: Any) -> list[Ref]:
    """Every step of a scenario, in the order in which it is applied: section by section, site by site."""
    refs: list[Ref] = []
    for section in scenario:
        chosen = section.sites(sites)
        for site in chosen:
            place = f"{section.name}[{site.name}]" if len(chosen) > 1 else section.name
            refs.extend(Ref(f"{place}/{step.name}", section, step, site) for step in section.procedure.steps)
    ids = [ref.id for ref in refs]
    assert len(set(ids)) == len(ids), f"two steps have the same id: {sorted(i for i in set(ids) if ids.count(i) > 1)}"
    return refs


def require_names(refs: list[Ref], approve: Iterable[str], attest: Iterable[str] = ()) -> None:
    """Raise ParametersError when a name to be approved or attested is no step's, with suggestions."""
    known = {"all"}.union(*(ref.names() for ref in refs))
    problems = []
    for name in approve:
        if name.split("@")[0] not in known:
            close = ", ".join(difflib.get_close_matches(name.split("@")[0], sorted(known), 3, 0.5))
            hint = f"did you mean {close}?" if close else ""
            problems.append(Problem(f"no step or section is called {name!r}", "approve", suggestion=hint))
    for name in attest:
        try:
            find_all(name, refs)
        except GeoregError as error:
            problems.append(Problem(error.message, "attest", suggestion=error.remedy))
    if problems:
        raise ParametersError(problems)


def find_all(name: str, refs: list[Ref]) -> list[Ref]:
    """Every step that is called so: one by its full id, or the same step of several sites. Raises GeoregError."""
    found = [ref for ref in refs if name in ref.own_names()]
    return found or [find(name, refs)]


def find(name: str, refs: list[Ref]) -> Ref:
    """The one step that is called so. Raises GeoregError when there is none, or more than one."""
    exact = [ref for ref in refs if ref.id == name]
    found = exact or [ref for ref in refs if name in ref.own_names()]
    if len(found) == 1:
        return found[0]
    if found:
        raise GeoregError(
            f"{name!r} is the name of several steps", remedy="use one of " + ", ".join(r.id for r in found)
        )
    close = difflib.get_close_matches(name, [ref.id for ref in refs], 3, 0.4) or [ref.id for ref in refs]
    raise GeoregError(f"there is no step {name!r}", remedy="there are: " + ", ".join(close))
