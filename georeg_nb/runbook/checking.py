"""Asking checks: a check never raises, it fails."""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any

from georeg_nb.errors import GeoregError, ReadOnlySite
from georeg_nb.ledger import CheckResult
from georeg_nb.records import Record, stamp
from georeg_nb.runbook.findings import Check, Finding, failed
from georeg_nb.symptoms import hint


def ask(check: Check, subject: Any, record: Record) -> Finding:
    """The answer of a check; what keeps it from answering is a failed check with the reason, and its remedy.

    A failed one names the known symptoms that its words fit.
    """
    finding = _answer(check, subject, record)
    return replace(finding, remedy=hint(finding.found, finding.remedy)) if finding.failed else finding


def _answer(check: Check, subject: Any, record: Record) -> Finding:
    try:
        return check(subject)
    except ReadOnlySite as error:
        log_traceback(record, f"check {check.name}", error)
        return failed(f"the check tried to change something: {error}", remedy="report this as a mistake in georeg")
    except GeoregError as error:
        return failed(_first_words(error), remedy=error.remedy)
    except Exception as error:
        log_traceback(record, f"check {check.name}", error)
        return failed(
            f"could not be asked: {type(error).__name__}: {error}",
            remedy=f"the traceback is in {record.path.name}/errors.log",
        )


def result_of(check: Check, finding: Finding, section: str, site: str) -> CheckResult:
    return CheckResult(
        section,
        check.name,
        site,
        check.title,
        finding.verdict,
        finding.found,
        finding.expected,
        finding.remedy,
        check.evidence,
        check.source,
        check.verifies,
    )


def log_traceback(record: Record, what: str, error: BaseException) -> None:
    """Keep a stack for whoever looks into it; people at work see the message only."""
    text = "".join(traceback.format_exception(error))
    log = record.path / "errors.log"
    old = log.read_text() if log.exists() else ""
    record.write("errors.log", f"{old}{stamp()} {what}\n{text}\n")


def _first_words(error: GeoregError) -> str:
    place = " on ".join(part for part in (error.node, error.site) if part)
    return f"{place}: {error.message}" if place else error.message
