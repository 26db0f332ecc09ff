"""The questions of an assessment: what there is, and what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from georeg_nb.parameters import SCENARIOS
from georeg_nb.procedures.assess import facts
from georeg_nb.procedures.assess.choice import POINTS, VERIFY, Choice, StartingPoint, choose
from georeg_nb.procedures.assess.parameters_file import text_of
from georeg_nb.runbook import Finding, check, failed, passed, warning
from georeg_nb.site import Sites

EXPECTED = "one starting point fits, and nothing stands in the way"


@check("which scenario fits", source="procedures 1.2, 1.3, 1.4", evidence="source", scope="pair")
def scenario_that_fits(sites: Sites) -> Finding:
    """Told by what runs and what is rendered on both sites, never by what somebody remembers having set up."""
    pair = facts.read(sites)
    choice = choose(pair)
    rows = [_row(point, choice) for point in POINTS]
    blockers = [
        {"site": blocker.site or "both", "blocker": blocker.what, "what to do": blocker.remedy}
        for blocker in choice.blockers
    ]
    files = {}
    if choice.point and (text := text_of(choice.point.id, sites.primary.options.sites, choice.why)):
        files[f"{choice.point.id}.yml"] = text
    finding = _finding(choice)
    tables: dict[str, list[dict[str, Any]]] = {"facts": [site.row() for site in pair.all], "blockers": blockers}
    return replace(finding, rows=rows, tables=tables, files=files)


def _finding(choice: Choice) -> Finding:
    found = "; ".join(filter(None, [_named(choice.point), choice.why, choice.note]))
    told = [f"{blocker.site}: {blocker.what}" if blocker.site else blocker.what for blocker in choice.blockers]
    remedies = [blocker.remedy for blocker in choice.blockers]
    if choice.point is None:
        return failed(f"{found}; {'; '.join(told)}", EXPECTED, remedy=" – ".join(remedies))
    if not choice.point.notebook:
        remedies.append(choice.point.advice)
    elif choice.point.id not in SCENARIOS:
        remedies.append(
            f"this version has no notebook {choice.point.notebook} yet: see procedures in GitLab's documentation"
        )
    if told:
        return failed(f"{found}; in the way: {'; '.join(told)}", EXPECTED, remedy=" – ".join(remedies))
    return warning(found, EXPECTED, remedy=" – ".join(remedies)) if remedies else passed(found, EXPECTED)


def _named(point: StartingPoint | None) -> str:
    if point is None:
        return "none fits"
    return point.id + (f" (notebook {point.notebook})" if point.notebook else "")


def _row(point: StartingPoint, choice: Choice) -> dict[str, str]:
    fits = point is choice.point
    return {
        "scenario": point.id,
        "starts from": point.title,
        "fits": "yes" if fits else "no",
        "why": choice.why if fits else choice.why_not[point.id],
    }


@check("the sites are where this scenario starts", source="procedures 1.2, 1.3", evidence="source", scope="pair")
def starting_point_fits(sites: Sites) -> Finding:
    """Another starting point has a scenario of its own, and is told by its name. A pair that is done already may be run
    again: there is nothing to do.
    """
    wanted = sites.primary.scenario
    choice = choose(facts.read(sites))
    expected = f"where {wanted} starts"
    if choice.point is None:
        told = "; ".join(blocker.what for blocker in choice.blockers)
        return warning(f"{choice.why}; {told}", expected, remedy="`georeg run assess-sites` tells more")
    if choice.point.id in (wanted, VERIFY.id):
        return passed("; ".join(filter(None, [choice.why, choice.note])), expected)
    remedy = choice.point.advice or f"use scenario {choice.point.id} (notebook {choice.point.notebook})"
    why_not = choice.why_not.get(wanted, "")
    return failed(f"{choice.why}: {choice.point.id} starts here, not {wanted} ({why_not})", expected, remedy=remedy)
