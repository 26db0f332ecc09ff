"""The runbook engine: check, plan, approve, apply, verify, undo; and the words that procedures are written in."""

from georeg_nb.runbook.findings import (
    Check,
    Finding,
    check,
    expect,
    failed,
    later,
    not_applicable,
    passed,
    warning,
)
from georeg_nb.runbook.model import (
    Change,
    Done,
    Plan,
    Procedure,
    Scenario,
    Section,
    StartingPoint,
    Step,
)

__all__ = [
    "Change",
    "Check",
    "Done",
    "Finding",
    "Plan",
    "Procedure",
    "Scenario",
    "Section",
    "StartingPoint",
    "Step",
    "check",
    "expect",
    "failed",
    "later",
    "not_applicable",
    "passed",
    "warning",
]
