"""What a verdict becomes outside of the notebook: JUnit XML, and the next safe command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from georeg_nb.ledger import RunVerdict

_JUNIT = {"passed": "passed", "done": "passed", "no-op": "passed", "warning": "passed"}
_IMAGES = {"equal": "passed", "accepted": "skipped", "in flight": "skipped", "on both": "skipped"}
_JUNIT_FAILED = {"failed", "timed out", "interrupted"}


def junit_suites(
    verdict: RunVerdict, images: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[dict[str, str]]]:
    """One suite per section: its checks and its steps as cases; and one per comparison: its repositories as cases, and
    one of its single differences.

    `images`: name of a table → its rows, each with `repository` and `verdict`, and of a difference also with `tag`.
    """
    suites: dict[str, list[dict[str, str]]] = {}
    for result in verdict.checks:
        where = f" [{result.site}]" if result.site else ""
        case = {"name": f"{result.title}{where}", "outcome": _junit(result.verdict), "message": result.found}
        suites.setdefault(result.section, []).append(case)
    for outcome in verdict.outcomes:
        case = {"name": outcome.step, "outcome": _junit(outcome.outcome), "message": outcome.reason or outcome.outcome}
        suites.setdefault(outcome.section, []).append(case)
    for name, rows in images.items():
        suites[name] = [
            {
                "name": _name_of(row),
                "outcome": _IMAGES.get(row["verdict"], "failed"),
                "message": ", ".join(f"{column}: {value}" for column, value in row.items() if column != "repository"),
            }
            for row in rows
        ]
    return suites


def _name_of(row: Mapping[str, Any]) -> str:
    """A repository, or repository:tag; with the secondary where there are several."""
    name = ":".join(str(row[key]) for key in ("repository", "tag") if row.get(key))
    return f"{row['secondary']} {name}" if "secondary" in row else name


def _junit(word: str) -> str:
    return "failed" if word in _JUNIT_FAILED else _JUNIT.get(word, "skipped")


def next_command(verdict: RunVerdict, way_back: str) -> str:
    """The next safe command; empty when there is nothing left to do."""
    waiting = [outcome.step for outcome in verdict.outcomes if outcome.outcome == "not approved"]
    if verdict.exit_code == 0 and not waiting:
        return ""
    if verdict.exit_code in (0, 5) and waiting:
        return f"{way_back} --approve {waiting[0]}"
    return way_back
