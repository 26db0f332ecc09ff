"""Known failure symptoms as data (`symptoms.yml`): how each is recognised, why it comes, how to confirm and mend it.

A symptom is recognised by what is said (`says`, patterns over messages and logs) or by what is there (`when`, patterns
over facts that were read). Source: procedures 6, whose rows `row` counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

MOST_SHOWN = 400  # characters of a line
Facts = Mapping[str, str]
"""What was read of one site: name of the fact → its text; several things of a kind are lines."""
SAID = ("log.", "geo.check")
"""Facts that are what programs say."""


@dataclass(frozen=True)
class Symptom:
    """One row. `when` holds alternatives, each a set of facts that must all fit; `only` must fit in any case; `where`
    names the facts that `says` is looked for in, besides messages: whatever programs say, unless it is given."""

    name: str
    row: int
    symptom: str
    cause: str
    confirm: str
    remedy: str
    source: str
    says: tuple[re.Pattern[str], ...] = ()
    when: tuple[Mapping[str, re.Pattern[str]], ...] = ()
    only: Mapping[str, re.Pattern[str]] | None = None
    where: tuple[str, ...] = ()

    def seen_in(self, facts: Facts) -> str:
        """What of a site's facts shows it, e.g. a log line; empty when nothing does."""
        if self.only and not _all_fit(self.only, facts):
            return ""
        for name, text in facts.items():
            if name in self.where if self.where else name.startswith(SAID):
                for pattern in self.says:
                    if found := pattern.search(text):
                        return f"{name}: {_line_of(text, found)}"
        for alternative in self.when:
            if shown := _all_fit(alternative, facts):
                return shown
        return ""

    def fits(self, message: str) -> bool:
        """Whether a message says it."""
        return any(pattern.search(message) for pattern in self.says)


@cache
def all_symptoms() -> tuple[Symptom, ...]:
    """Every symptom, in the order of the rows."""
    text = files("georeg_nb").joinpath("symptoms.yml").read_text(encoding="utf-8")
    return tuple(_symptom(entry) for entry in yaml.safe_load(text))


def find(name: str) -> Symptom:
    """The symptom of that name. Raises KeyError."""
    return {symptom.name: symptom for symptom in all_symptoms()}[name]


def named_in(message: str) -> list[Symptom]:
    """The symptoms that a message fits."""
    return [symptom for symptom in all_symptoms() if symptom.fits(message)]


def hint(message: str, remedy: str = "") -> str:
    """`remedy`, with the symptoms that the message fits: what a failed check or step shows."""
    known = [f"known symptom {one.name}: {one.cause}; {one.remedy}" for one in named_in(message)]
    return "\n".join([*([remedy] if remedy else []), *known])


def seen(facts: Facts) -> Iterator[tuple[Symptom, str]]:
    """(symptom, what shows it) for each that a site's facts show."""
    for symptom in all_symptoms():
        if shown := symptom.seen_in(facts):
            yield symptom, shown


def _symptom(entry: Mapping[str, Any]) -> Symptom:
    texts = {name: str(entry[name]) for name in ("name", "symptom", "cause", "confirm", "remedy")}
    return Symptom(
        **texts,
        row=int(entry["row"]),
        source=str(entry.get("source") or f"procedures 6, row {entry['row']}"),
        says=tuple(re.compile(text) for text in entry.get("says", ())),
        when=tuple(_patterns(one) for one in entry.get("when", ())),
        only=_patterns(entry["only"]) if "only" in entry else None,
        where=tuple(entry.get("where", ())),
    )


def _patterns(wanted: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
    return {name: re.compile(str(pattern), re.MULTILINE) for name, pattern in wanted.items()}


def _all_fit(wanted: Mapping[str, re.Pattern[str]], facts: Facts) -> str:
    shown: Sequence[str] = ()
    for name, pattern in wanted.items():
        found = pattern.search(facts.get(name, ""))
        if found is None or name not in facts:
            return ""
        shown = [*shown, f"{name}: {_line_of(facts[name], found) or 'nothing'}"]
    return "; ".join(shown)


def _line_of(text: str, found: re.Match[str]) -> str:
    start = text.rfind("\n", 0, found.start()) + 1
    line = text[start:].partition("\n")[0].strip()
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]} …"
