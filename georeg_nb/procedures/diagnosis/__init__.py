"""Diagnosis: everything that is known to go wrong, looked for in what both sites' logs and states say at once.

Source: procedures 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from georeg_nb import symptoms
from georeg_nb.display import Block, Document, Facts, Heading, Headline
from georeg_nb.procedures.diagnosis.reading import read_all
from georeg_nb.runbook import Finding, Procedure, check, failed, passed
from georeg_nb.site import Sites
from georeg_nb.symptoms import Symptom

__all__ = ["DIAGNOSE", "Diagnosis", "diagnose", "judge", "report"]


@dataclass(frozen=True)
class Diagnosis:
    """A symptom that a site shows, and what shows it."""

    site: str
    symptom: Symptom
    shown_by: str

    @property
    def row(self) -> dict[str, str]:
        """For tables."""
        one = self.symptom
        return {
            "site": self.site,
            "symptom": one.name,
            "shown by": self.shown_by,
            "cause": one.cause,
            "confirm": one.confirm,
            "remedy": one.remedy,
            "source": one.source,
        }


def judge(facts: Mapping[str, symptoms.Facts]) -> list[Diagnosis]:
    """Site → facts: every symptom that they show."""
    return [Diagnosis(site, *found) for site, of_site in facts.items() for found in symptoms.seen(of_site)]


def diagnose(sites: Sites) -> tuple[list[Diagnosis], dict[str, str]]:
    """(what the sites show, what could not be read). Contacts everything once, and changes nothing."""
    facts = read_all(sites)
    unread = {
        f"{site}: {name.removesuffix('.problem')}": text
        for site, of_site in facts.items()
        for name, text in of_site.items()
        if name.endswith(".problem")
    }
    return judge(facts), unread


def told(found: Sequence[Diagnosis], unread: dict[str, str]) -> str:
    """One sentence."""
    names = ", ".join(dict.fromkeys(one.symptom.name for one in found)) or "none of the known symptoms"
    return names + (f"; not read: {', '.join(unread)}" if unread else "")


def report(found: Sequence[Diagnosis], unread: dict[str, str]) -> Document:
    """The whole as one object to show."""
    count = len(symptoms.all_symptoms())
    names = list(dict.fromkeys(one.symptom.name for one in found))
    headline = Headline("failed", f"The sites show {', '.join(names)}.")
    if not found:
        word, end = ("warning", ", as far as they could be read") if unread else ("passed", "")
        headline = Headline(word, f"The sites show none of {count} known symptoms{end}.")
    blocks: list[Block] = [headline]
    for one in found:
        facts = [(name, text) for name, text in one.row.items() if name not in ("site", "symptom")]
        blocks += [Heading(f"{one.site} · {one.symptom.name}: {one.symptom.symptom}"), Facts(facts)]
    if unread:
        blocks += [Heading("Not read"), Facts(list(unread.items()))]
    return Document("diagnosis", blocks, {"diagnoses": [one.row for one in found], "unread": unread})


@check("the sites show no known symptom", source="procedures 6", evidence="source", scope="pair")
def no_known_symptom(sites: Sites) -> Finding:
    """Reads logs and states of all sites once, and holds every known symptom against them."""
    found, unread = diagnose(sites)
    known = f"none of {len(symptoms.all_symptoms())} symptoms"
    if not found:
        return passed(told(found, unread), known)
    remedy = "\n".join(f"{one.site}, {one.symptom.name}: {one.symptom.remedy}" for one in found)
    return failed(told(found, unread), known, remedy=remedy, rows=[one.row for one in found])


DIAGNOSE = Procedure("diagnose", title="What is known to go wrong", pair_checks=[no_known_symptom])
