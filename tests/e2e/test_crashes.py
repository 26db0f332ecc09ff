"""Dead at every step and taken up again: no tag lost, never read-only unknowingly, never two imports at once."""

from __future__ import annotations

import signal

import pytest
from standing import all_tags, assert_complete, assert_status_is_true
from workplace import Workplace, outcomes

pytestmark = [pytest.mark.lab]


def test_a_crash_injected_at_every_step(fresh_workplace: Workplace) -> None:
    """One chain: each run takes up the one that died, and dies itself at the next step.

    Every step that has something to do is crashed once: immediately before it and immediately after its change in
    turn, so that each point is met on one of the two sites or the other; the imports in their middle.
    """
    workplace = fresh_workplace
    before = all_tags(workplace)
    planned = workplace.run()
    assert planned.status == 0, planned.output
    steps = [step for step, outcome in outcomes(planned.ledger).items() if outcome == "not approved"]
    assert len(steps) >= 20
    record = None
    for number, step in enumerate(steps):
        point = "during" if step.endswith("/import") else ("before", "after-apply")[number % 2]
        crashed = workplace.cells(record, approve=["all"], env={"GEOREG_CRASH_AT": f"{step}:{point}"})
        assert crashed.status == -signal.SIGKILL, f"{step}:{point} did not crash\n{crashed.output}"
        last = [entry for entry in crashed.ledger if entry["event"].startswith(("step.", "lock."))][-1]
        assert point == "before" or (last["event"], last["step"]) == ("step.started", step)
        record = crashed.record
        said = assert_status_is_true(workplace)
        assert f"--resume {record.name}" in said  # the next safe command
    assert record
    last_run = workplace.run("--approve", "all", "--resume", record.name)
    assert_complete(workplace, last_run, before, {"primary": 1, "secondary": 1})
