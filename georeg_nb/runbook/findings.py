"""Checks: what is read before, between and after changes, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["passed", "failed", "warning", "not applicable", "later"]
Evidence = Literal["run", "source", "derived", "unconfirmed"]
Scope = Literal["site", "pair"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What a check, or a step's proof, saw: the verdict, what was found, what was expected, and what to do about it.

    `rows` is a table of details (plain JSON values); it is kept in the record under the check's name, and further
    `tables` under names of their own. `files` are kept there as they are: name → text.
    """

    verdict: Verdict
    found: str = ""
    expected: str = ""
    remedy: str = ""
    rows: Sequence[Row] | None = None
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return self.verdict == "failed"


def passed(found: object = "", expected: object = "", *, rows: Sequence[Row] | None = None) -> Finding:
    """As it should be."""
    return Finding("passed", _text(found), _text(expected), rows=rows)


def failed(found: object, expected: object = "", *, remedy: str = "", rows: Sequence[Row] | None = None) -> Finding:
    """Not as it should be; what it guards must not be done. `remedy` says what the operator can do."""
    return Finding("failed", _text(found), _text(expected), remedy, rows)


def warning(found: object, expected: object = "", *, remedy: str = "", rows: Sequence[Row] | None = None) -> Finding:
    """Worth knowing, no obstacle."""
    return Finding("warning", _text(found), _text(expected), remedy, rows)


def not_applicable(reason: str) -> Finding:
    """The question does not arise on this site."""
    return Finding("not applicable", reason)


def later(reason: str) -> Finding:
    """Cannot be known before an earlier section is applied: the honest answer in a plan, and no failure."""
    return Finding("later", reason)


def expect(found: object, expected: object, *, remedy: str = "", rows: Sequence[Row] | None = None) -> Finding:
    """Passed when `found` equals `expected`, else failed with `remedy`."""
    if found == expected:
        return passed(found, expected, rows=rows)
    return failed(found, expected, remedy=remedy, rows=rows)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Check:
    """A question that is answered by reading. Call it with a site (scope "site") or with all sites (scope "pair").

    `evidence` says how well its ground is known: run, source, derived, unconfirmed. `verifies` marks a check that
    compares the sites after the work: when it fails, the run ends with exit status 6 instead of 3.
    """

    name: str
    title: str
    function: Callable[[Any], Finding] = field(repr=False)
    source: str = ""
    evidence: Evidence = "source"
    scope: Scope = "site"
    verifies: bool = False

    def __call__(self, site_or_sites: Any) -> Finding:
        return self.function(site_or_sites)

    @property
    def doc(self) -> str:
        return (self.function.__doc__ or "").strip()


def check(
    title: str,
    *,
    source: str = "",
    evidence: Evidence = "source",
    scope: Scope = "site",
    verifies: bool = False,
) -> Callable[[Callable[[Any], Finding]], Check]:
    """Make a check of a function that takes a site (or, with scope="pair", all sites) and returns a Finding."""

    def decorate(function: Callable[[Any], Finding]) -> Check:
        return Check(function.__name__, title, function, source, evidence, scope, verifies)

    return decorate
