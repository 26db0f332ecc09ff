"""The engine: plan, approve, read again, apply, prove, and the truth about it afterwards."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
from fakes import ALL, ATTEST, SCRIPT, FakeSite

from georeg_nb.errors import (
    ApprovalFallen,
    CommandTimeout,
    GeoregError,
    ParametersError,
    PrerequisiteError,
    SiteLocked,
    StepFailed,
    VerificationDiffers,
)
from georeg_nb.ledger import broken_links, verdict
from georeg_nb.runbook import (
    Finding,
    Plan,
    Procedure,
    Scenario,
    Section,
    StartingPoint,
    buttons,
    check,
    expect,
    failed,
    later,
    passed,
    sections,
    warning,
)
from georeg_nb.runbook.interrupts import Interrupted
from georeg_nb.runbook.locks import LOCK, is_dead, read_holder

Open = Callable[..., Any]
SECTIONS = [section.name for section in fakes.SCENARIO]


def run_all(run: Any) -> Any:
    """What 'Run All' does: every section's two calls, and the summary, if nothing raises before."""
    for section in SECTIONS:
        run.check(section)
        run.apply(section)
    return run.summary()


def outcomes(run: Any) -> dict[str, str]:
    return {outcome.step: outcome.outcome for outcome in verdict(run.ledger.entries()).outcomes}


def code(run: Any) -> int:
    return verdict(run.ledger.entries()).exit_code


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


class TestPlan:
    def test_nothing_approved_changes_nothing_and_ends_0(self, opened: Open, tmp_path: Path) -> None:
        run = opened(attest=ATTEST)
        before = files(tmp_path / "sites")
        summary = run_all(run)
        assert files(tmp_path / "sites") == before
        assert summary.verdict.exit_code == 0
        assert summary.verdict.planned
        assert set(outcomes(run).values()) == {"not approved"}
        assert "nothing was changed" in summary.document.text()

    def test_shows_each_step_with_its_diff_effect_and_digest(self, opened: Open) -> None:
        run = opened()
        run.apply("migrate")
        text = run.shown[0].document.text()
        assert "migrate[primary]/import" in text
        assert "interrupts  pushes" in text
        assert "+True" in text
        assert "Back up primary." in text
        assert "Cannot be undone" in text

    def test_plans_are_in_the_record(self, opened: Open) -> None:
        run = opened()
        run.apply("migrate")
        plans = json.loads((run.record.path / "plan.json").read_text())
        assert [plan["step"] for plan in plans][:2] == ["migrate[primary]/backup", "migrate[primary]/read-only"]
        assert plans[1]["changes"][0]["after"] == "True"

    def test_is_the_same_text_every_time(self, opened: Open) -> None:
        texts = set()
        for _ in range(2):
            run = opened()
            run.apply("migrate")
            texts.add(run.shown[0].document.text() + run.shown[0].document.html())
        assert len(texts) == 1

    def test_a_step_that_cannot_be_planned_is_a_prerequisite(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plan(self: Any, site: Any) -> Plan:
            raise GeoregError("no such host", remedy="switch it on")

        monkeypatch.setattr(fakes.Hold, "plan", plan)
        run = opened()
        result = run.apply("hold")
        assert result.outcomes[0].outcome == "not reached"
        assert code(run) == 3
        with pytest.raises(PrerequisiteError, match="no such host"):
            opened(approve=["hold"]).apply("hold")

    def test_a_plan_that_writes_is_refused_by_the_read_only_site(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(fakes.Hold, "plan", lambda self, site: site.set(oops=True))
        run = opened()
        result = run.apply("hold")
        assert "tried to write" in result.outcomes[0].reason
        assert files(tmp_path / "sites") == {}


class TestApply:
    def test_everything_approved_is_done_verified_and_a_second_run_is_a_no_op(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        summary = run_all(run)
        assert summary.verdict.exit_code == 0
        assert set(outcomes(run).values()) == {"done"}
        assert not broken_links(run.ledger.entries())
        second = opened(approve=ALL, attest=ATTEST)
        assert run_all(second).verdict.exit_code == 0
        assert set(outcomes(second).values()) == {"no-op"}
        assert verdict(second.ledger.entries()).changed == ()

    def test_a_no_op_says_why(self, opened: Open) -> None:
        run_all(opened(approve=ALL, attest=ATTEST))
        run = opened()
        result = run.apply("migrate")
        assert result.outcomes[1].reason == "imported already"
        assert "imported already" in run.shown[0].document.text()

    def test_all_never_approves_what_cannot_be_undone(self, opened: Open) -> None:
        run = opened(approve=["all", "migrate", "import"], attest=ATTEST)
        run_all(run)
        assert outcomes(run)["migrate[primary]/read-only"] == "done"
        assert outcomes(run)["migrate[primary]/import"] == "not approved"
        assert outcomes(run)["migrate[secondary]/read-only"] == "not reached"
        assert code(run) == 5

    def test_preconditions_are_read_again_immediately_before(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        SCRIPT["read-only"] = lambda site: site.set(tags=3)  # someone imports meanwhile
        with pytest.raises(PrerequisiteError, match="no tag in the metadata database yet: 3"):
            run.apply("migrate")
        assert run.sites.primary.facts["tags"] == 3
        assert outcomes(run)["migrate[primary]/import"] == "not reached"
        assert outcomes(run)["migrate[primary]/read-only"] == "done"
        assert code(run) == 3

    def test_a_step_done_meanwhile_is_a_no_op_even_if_its_precondition_is_gone(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        SCRIPT["read-only"] = lambda site: site.set(tags=7)
        result = run.apply("migrate")
        assert [outcome.outcome for outcome in result.outcomes][:3] == ["done", "done", "no-op"]

    def test_what_begins_something_waits_until_its_end_is_approved_too(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fakes.ReadOnly, "until", "import")
        run = opened(approve=["all"], attest=ATTEST)
        run.apply("hold")
        result = run.apply("migrate")
        assert [outcome.outcome for outcome in result.outcomes][:3] == ["done", "not reached", "not approved"]
        assert "read-only" not in run.sites.primary.facts
        run.approve("migrate[primary]/import")
        result = run.apply("migrate")
        assert [outcome.outcome for outcome in result.outcomes][:3] == ["no-op", "done", "done"]

    def test_no_effect_is_a_failure(self, opened: Open) -> None:
        SCRIPT["hold"] = "no effect"
        run = opened(approve=["hold"])
        with pytest.raises(StepFailed, match="does not show the change"):
            run.apply("hold")
        assert outcomes(run)["hold/hold"] == "failed"
        assert code(run) == 4

    def test_sections_that_must_be_complete_before(self, opened: Open) -> None:
        run = opened(approve=["migrate", "migrate[primary]/import"], attest=ATTEST)
        run.apply("hold")
        result = run.apply("migrate")
        assert [outcome.outcome for outcome in result.outcomes][1] == "not reached"
        assert "hold" in result.outcomes[1].reason
        run.summary()
        assert code(run) == 5

    def test_a_section_before_that_another_run_completed_is_seen_on_the_sites(self, opened: Open) -> None:
        first = opened(approve=["hold"])
        first.apply("hold")
        first.close()
        run = opened(approve=ALL, attest=ATTEST)
        assert run.apply("migrate").complete

    def test_undo(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.apply("hold")
        run.undo("hold")
        assert run.sites.secondary.facts["held"] is False
        assert outcomes(run)["hold/hold"] == "not approved"
        assert verdict(run.ledger.entries()).changed == ()
        assert run.apply("hold").outcomes[0].outcome == "not approved"  # an approval from before counts no longer
        with pytest.raises(GeoregError, match="cannot be undone"):
            run.undo("migrate[primary]/read-only")

    def test_cells_run_again_do_not_unmake_what_was_done(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.apply("hold")
        run.apply("hold")
        assert outcomes(run)["hold/hold"] == "done"


class TestApproval:
    def test_by_call_after_the_plan_was_shown(self, opened: Open) -> None:
        run = opened()
        run.apply("hold")
        run.approve("hold")
        assert run.apply("hold").complete
        approved = [entry for entry in run.ledger.entries() if entry["event"] == "approval"]
        assert [(entry["step"], entry["how"]) for entry in approved] == [("hold/hold", "call")]
        assert approved[0]["who"].count("@") == 1

    def test_stands_in_the_plan_with_who_and_when(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.apply("hold")
        assert "approved by" in run.shown[0].document.text()

    def test_falls_when_the_plan_changed_and_the_old_wish_counts_no_longer(self, opened: Open) -> None:
        run = opened()
        run.apply("hold")
        run.approve("hold")
        run.sites.secondary.set(**{"plan-changes": "!"})
        result = run.apply("hold")
        assert result.outcomes[0].outcome == "not approved"
        assert any(entry["event"] == "approval.fell" for entry in run.ledger.entries())
        run.approve("hold")
        assert run.apply("hold").complete

    def test_falls_between_plan_and_change(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        run = opened(approve=["hold"])
        take = run._engine.locks.take

        def someone_was_faster(site: FakeSite) -> str:
            sentence: str = take(site)
            site.set(**{"plan-changes": "!"})
            return sentence

        monkeypatch.setattr(run._engine.locks, "take", someone_was_faster)
        with pytest.raises(ApprovalFallen):
            run.apply("hold")
        assert "held" not in run.sites.secondary.facts
        assert code(run) == 3

    def test_with_digest_is_for_that_plan_only(self, opened: Open) -> None:
        run = opened()
        run.apply("hold")
        digest = run.shown[0].steps[0].digest
        second = opened(approve=[f"hold/hold@{digest[:12]}"])
        assert second.apply("hold").complete
        second.undo("hold")
        second.close()
        assert not opened(approve=["hold/hold@0123456789ab"]).apply("hold").complete

    def test_survives_a_new_attempt_of_the_same_run_while_the_plan_is_the_same(self, opened: Open) -> None:
        run = opened()
        run.apply("hold")
        run.approve("hold")
        again = opened(run.record)
        assert again.apply("hold").complete

    def test_a_new_attempt_without_approvals_goes_on_with_those_of_the_run(self, opened: Open) -> None:
        SCRIPT["hold"] = "fail"
        run = opened(approve=ALL, attest=ATTEST)
        with pytest.raises(StepFailed):
            run_all(run)
        run.close()
        SCRIPT.clear()
        again = opened(run.record)
        assert run_all(again).verdict.exit_code == 0
        assert set(outcomes(again).values()) == {"done"}
        narrower = opened(opened(approve=["hold"]).record, approve=["migrate[primary]/read-only"])
        assert narrower._approvals.wishes() == ["migrate[primary]/read-only"]

    def test_an_approval_that_fell_does_not_come_back_with_a_new_attempt(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.apply("hold")
        run.undo("hold")
        run.close()
        again = opened(run.record)
        assert again.apply("hold").outcomes[0].outcome == "not approved"

    def test_unknown_names_are_a_parameters_problem_with_a_suggestion(self, opened: Open) -> None:
        with pytest.raises(ParametersError, match="did you mean hold"):
            opened(approve=["hodl"])
        with pytest.raises(ParametersError, match="attest"):
            opened(attest={"bakup": "x"})

    def test_from_many_threads(self, opened: Open) -> None:
        run = opened()
        run.apply("migrate")
        steps = [step for step in run.shown[0].steps if step.status == "waits for approval"]
        threads = [threading.Thread(target=run._sections._button_approves, args=(step,)) for step in steps * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = run.ledger.entries()
        assert sum(1 for entry in entries if entry["event"] == "approval") == len(steps)
        assert not broken_links(entries)

    def test_attestation_is_needed_for_a_manual_step_and_kept_on_the_site(self, opened: Open) -> None:
        run = opened(approve=ALL)
        run.apply("hold")
        result = run.apply("migrate")
        assert result.outcomes[0].outcome == "not approved"
        run.attest("migrate[primary]/backup", "backup 4711")
        result = run.apply("migrate")
        assert [outcome.outcome for outcome in result.outcomes][:4] == ["done", "done", "done", "not approved"]
        kept = run.sites.primary.keep.load("attested-backup")
        assert kept["text"] == "backup 4711"
        assert kept["run"] == run.record.run

    def test_an_attestation_says_something(self, opened: Open) -> None:
        with pytest.raises(GeoregError, match="says what was done"):
            opened().attest("migrate[primary]/backup", " ")


class TestChecks:
    def test_failed_checks_do_not_raise_and_later_sections_contact_nobody(self, opened: Open) -> None:
        run = opened()
        run.sites.primary.set(down=True)
        table = run.check("guard")
        assert [result.site for result in table.failed] == ["primary"]
        assert "start it" in table.document.text()
        contacts = [site.contacts for site in run.sites.all]
        assert run.check("hold").blocked
        assert run.apply("migrate").outcomes[0].outcome == "not reached"
        assert [site.contacts for site in run.sites.all] == contacts
        run.summary()
        assert code(run) == 3

    def test_approved_work_behind_failed_checks_raises(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.sites.primary.set(down=True)
        run.check("guard")
        run.apply("guard")
        with pytest.raises(PrerequisiteError, match="guard has 1 failed check"):
            run.apply("hold")
        assert code(run) == 3

    def test_mended_and_asked_again_they_pass(self, opened: Open) -> None:
        run = opened(approve=["hold"])
        run.sites.primary.set(down=True)
        run.check("guard")
        run.sites.primary.set(down=False)
        run.check("guard")
        assert run.apply("hold").complete

    def test_a_section_s_own_checks_are_asked_again_before_a_change(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        run.check("migrate")
        run.sites.secondary.set(tags=1)
        with pytest.raises(PrerequisiteError, match="on secondary: 1"):
            run.apply("migrate")
        assert "read-only" not in run.sites.primary.facts

    def test_a_precondition_of_steps_that_are_done_is_not_applicable(self, opened: Open) -> None:
        run_all(opened(approve=ALL, attest=ATTEST))
        table = opened().check("migrate")
        assert {result.verdict for result in table.results} == {"not applicable"}

    def test_what_has_been_changed_is_listed(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        run.sites.secondary.set(tags=1)
        with pytest.raises(PrerequisiteError) as caught:
            run.apply("migrate")
        assert caught.value.changed == ("hold/hold",)
        assert "hold/hold" in str(caught.value)

    def test_an_unforeseen_error_in_a_check_fails_it_and_keeps_the_stack(self, opened: Open) -> None:
        @check("breaks")
        def breaks(site: FakeSite) -> Finding:
            raise ZeroDivisionError("oops")

        scenario = Scenario(
            "fake-move", "x", StartingPoint(), [Section("one", Procedure("p", checks=[breaks]), fakes.both)]
        )
        run = opened(scenario=scenario)
        table = run.check("one")
        assert "ZeroDivisionError" in table.failed[0].found
        assert "Traceback" in (run.record.path / "errors.log").read_text()

    def test_differences_after_the_work_end_6(self, opened: Open) -> None:
        SCRIPT["import"] = lambda site: site.set(tags=7)
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        run.apply("migrate")
        run.sites.secondary.set(tags=6)
        run.check("verify")
        run.apply("verify")
        with pytest.raises(VerificationDiffers):
            run.summary()
        assert code(run) == 6
        assert run.table("same_images").frame.to_dict("records")[1] == {"site": "secondary", "tags": 6}
        assert (run.record.path / "tables" / "same_images.csv").read_text().splitlines()[0] == "site,tags"

    def test_a_table_that_is_not_there_yet_is_no_error_in_a_plan(self, opened: Open) -> None:
        run = opened()
        run.check("verify")
        assert "not there yet" in run.table("same_images").document.text()
        with pytest.raises(GeoregError, match="same_images"):
            run.table("same_imges")
        run.record.write_table("same_images", [{"path": f"p{n}", "verdict": "equal", "x": [1, 2]} for n in range(300)])
        text = run.table("same_images").document.text()
        assert "✔ equal" in text
        assert "100 more rows" in text
        run.record.write_table("same_images", [])
        assert "no rows" in run.table("same_images").document.text()

    def test_expect(self) -> None:
        assert expect(1, 1).verdict == "passed"
        assert expect(True, False, remedy="r") == failed("yes", "no", remedy="r")
        assert (passed("x").verdict, warning("x").verdict, later("x").verdict) == ("passed", "warning", "later")

    def test_a_table_is_a_pandas_table_too(self, opened: Open) -> None:
        frame = opened().check("guard").frame
        assert list(frame["verdict"]) == ["passed", "passed"]


class TestFailure:
    def test_says_state_way_back_and_what_goes_on(self, opened: Open) -> None:
        SCRIPT["read-only"] = "fail"
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")
        run.sites.primary.rails_node.running.append(fakes.FakeJob("primary-read-only"))
        with pytest.raises(StepFailed) as caught:
            run.apply("migrate")
        text = str(caught.value)
        assert "the disk is full" in text
        assert "read-only is False" in text
        assert f"--resume {run.record.run}" in text
        assert "primary-read-only on primary-1" in text
        assert caught.value._render_traceback_() == [f"StepFailed: {caught.value}"]
        assert outcomes(run)["migrate[primary]/read-only"] == "failed"
        assert outcomes(run)["migrate[primary]/import"] == "not reached"
        assert code(run) == 4
        assert "RuntimeError" in (run.record.path / "errors.log").read_text()

    def test_a_resumed_run_does_the_rest_only(self, opened: Open) -> None:
        SCRIPT["read-only"] = "fail"
        run = opened(approve=ALL, attest=ATTEST)
        with pytest.raises(StepFailed):
            run_all(run)
        run.close()
        SCRIPT.clear()
        again = opened(run.record, approve=ALL, attest=ATTEST)
        summary = run_all(again)
        assert summary.verdict.exit_code == 0
        assert summary.verdict.attempts == 2
        reasons = {outcome.step: outcome.reason for outcome in summary.verdict.outcomes}
        assert reasons["hold/hold"] == "in attempt 1; still so"
        assert set(outcomes(again).values()) == {"done"}

    def test_a_time_out_is_its_own_outcome(self, opened: Open) -> None:
        def slow(site: FakeSite) -> None:
            raise CommandTimeout(["gitlab-ctl", "reconfigure"], 60)

        SCRIPT["hold"] = slow
        run = opened(approve=["hold"])
        with pytest.raises(StepFailed, match="did not end within 60 s"):
            run.apply("hold")
        assert outcomes(run)["hold/hold"] == "timed out"
        assert code(run) == 4

    def test_ctrl_c_says_which_job_goes_on(self, opened: Open) -> None:
        def interrupted(site: FakeSite) -> None:
            site.rails_node.running.append(fakes.FakeJob("secondary-hold"))
            raise KeyboardInterrupt

        SCRIPT["hold"] = interrupted
        run = opened(approve=["hold"])
        with pytest.raises(Interrupted, match="secondary-hold on secondary-1"):
            run.apply("hold")
        assert outcomes(run)["hold/hold"] == "interrupted"
        assert code(run) == 130

    def test_sigterm_too(self, opened: Open) -> None:
        SCRIPT["hold"] = lambda site: signal.raise_signal(signal.SIGTERM)
        run = opened(approve=["hold"])
        with pytest.raises(Interrupted):
            run.apply("hold")
        assert code(run) == 143
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_ctrl_c_while_checking(self, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(self: Any) -> Any:
            raise KeyboardInterrupt

        run = opened()
        monkeypatch.setattr(FakeSite, "facts", property(interrupted))
        with pytest.raises(Interrupted):
            run.check("guard")
        assert code(run) == 130


class TestLocks:
    def test_a_plan_takes_none_a_change_does_and_the_summary_gives_it_back(self, opened: Open) -> None:
        run = opened()
        run.apply("hold")
        assert read_holder(run.sites.secondary) is None
        run.approve("hold")
        run.apply("hold")
        holder = read_holder(run.sites.secondary)
        assert holder is not None
        assert holder["run"] == run.record.run
        assert read_holder(run.sites.primary) is None
        run.summary()
        assert read_holder(run.sites.secondary) is None

    def test_of_someone_alive_is_respected(self, opened: Open) -> None:
        first = opened(approve=["hold"])
        first.apply("hold")
        first.undo("hold")
        first.close()
        second = opened(approve=["hold"])
        second.sites.secondary.rails_node.write_file(
            LOCK,
            json.dumps(
                {"run": "other", "user": "bob@elsewhere", "host": "elsewhere", "pid": 1, "started": "x"}
            ).encode(),
        )
        with pytest.raises(SiteLocked, match="bob@elsewhere"):
            second.apply("hold")
        assert code(second) == 3
        assert outcomes(second)["hold/hold"] == "not reached"
        third = opened(approve=["hold"])
        third.take_over("other")
        assert third.apply("hold").complete
        assert "as asked" in next(e["sentence"] for e in third.ledger.entries() if e["event"] == "lock.taken")

    def test_and_what_else_killed_runs_left_goes_when_nothing_is_left_to_do(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = {"primary": ["a copy"], "secondary": []}
        monkeypatch.setattr(fakes.FakeSite, "leftovers", lambda site: left[site.name])
        monkeypatch.setattr(fakes.FakeSite, "tidy", lambda site: left[site.name].clear())
        half = opened(approve=["hold"], attest=ATTEST)
        run_all(half)
        run_all(opened(attest=ATTEST))
        assert left["primary"] == ["a copy"]  # someone may still need it
        run_all(opened(approve=ALL, attest=ATTEST))
        assert left == {"primary": [], "secondary": []}

        from georeg_nb.records import hostname

        run = opened(approve=ALL, attest=ATTEST)
        dead = {"run": "x", "host": hostname(), "pid": 1, "process": {"boot": "old", "started": "1"}}
        run.sites.secondary.rails_node.write_file(LOCK, json.dumps(dead).encode())
        run_all(run)
        assert set(outcomes(run).values()) == {"no-op"}
        assert read_holder(run.sites.secondary) is None

    def test_of_a_dead_process_of_this_machine_is_taken_over_and_told(self, opened: Open) -> None:
        from georeg_nb.records import hostname

        run = opened(approve=["hold"])
        dead = {
            "run": "gone",
            "user": "me",
            "host": hostname(),
            "pid": 2**22 - 3,
            "process": {"boot": "b"},
            "started": "x",
        }
        run.sites.secondary.rails_node.write_file(LOCK, json.dumps(dead).encode())
        assert is_dead(dead)
        assert run.apply("hold").complete
        taken = next(entry for entry in run.ledger.entries() if entry["event"] == "lock.taken")
        assert taken["instead_of"]["run"] == "gone"

    def test_a_lock_that_was_taken_from_us_stops_us(self, opened: Open) -> None:
        run = opened(approve=ALL, attest=ATTEST)
        run.apply("hold")

        def stolen(site: FakeSite) -> None:
            thief = {"run": "thief", "user": "eve@x", "host": "x", "pid": 1, "started": "x"}
            site.rails_node.write_file(LOCK, json.dumps(thief).encode())
            site.set(**{"read-only": True})

        SCRIPT["read-only"] = stolen
        with pytest.raises(SiteLocked, match="eve@x"):
            run.apply("migrate")
        run.close()
        assert (read_holder(run.sites.primary) or {})["run"] == "thief"


class TestButtons:
    """Pressed in this process; in a browser they are pressed by the tests in tests/e2e."""

    @pytest.fixture
    def outputs(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        class Output:
            def __init__(self, widget: Any) -> None:
                self.widget = widget
                self.shown: Any = widget

            def update(self, shown: Any) -> None:
                self.shown = shown

        outputs: list[Output] = []
        monkeypatch.setattr(buttons, "_display", lambda widget: outputs.append(Output(widget)) or outputs[-1])
        monkeypatch.setattr(sections, "someone_is_there", lambda: True)
        return outputs

    def test_approve_leaves_a_text_with_who_and_when(self, opened: Open, outputs: list[Any]) -> None:
        run = opened()
        run.apply("hold")
        assert [output.widget.description for output in outputs] == ["Approve hold/hold"]
        threading.Thread(target=outputs[0].widget.click).start()
        while outputs[0].shown is outputs[0].widget:
            threading.Event().wait(0.01)
        text = outputs[0].shown.text()
        assert "approved by" in text
        assert "(button)" in text
        assert run.apply("hold").complete
        assert len(outputs) == 1  # nothing more to ask

    def test_attest_asks_for_words(self, opened: Open, outputs: list[Any]) -> None:
        run = opened()
        run.apply("hold")
        run.approve("hold")
        run.apply("hold")
        outputs.clear()
        run.apply("migrate")
        form = outputs[0].widget
        text, button = form.children
        button.click()
        assert outputs[0].shown is form
        text.value = "backup 4711"
        button.click()
        assert "attested by" in outputs[0].shown.text()
        assert "cannot be undone" in outputs[2].widget.description
        assert run.apply("migrate").outcomes[0].outcome == "done"

    def test_an_error_is_shown_where_the_button_was(
        self, opened: Open, outputs: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = opened()
        run.apply("hold")
        monkeypatch.setattr(run._approvals, "approve_shown", lambda *_: 1 / 0)
        outputs[0].widget.click()
        assert "ZeroDivisionError" in outputs[0].shown.text()

    def test_nobody_is_asked_where_nobody_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("JPY_SESSION_NAME", "VSCODE_PID", "GEOREG_RUN"):
            monkeypatch.delenv(name, raising=False)
        assert not buttons.someone_is_there()
        monkeypatch.setenv("JPY_SESSION_NAME", "x.ipynb")
        assert buttons.someone_is_there()
        monkeypatch.setenv("GEOREG_RUN", "records/x")
        assert not buttons.someone_is_there()


class TestDeclaration:
    def test_ids_name_the_site_where_a_section_has_several(self, opened: Open) -> None:
        assert list(outcomes(opened())) == [
            "hold/hold",
            "migrate[primary]/backup",
            "migrate[primary]/read-only",
            "migrate[primary]/import",
            "migrate[secondary]/backup",
            "migrate[secondary]/read-only",
            "migrate[secondary]/import",
        ]

    def test_every_declared_step_has_an_outcome_from_the_beginning(self, opened: Open) -> None:
        run = opened()
        assert set(outcomes(run).values()) == {"not reached"}
        assert code(run) == 1

    def test_the_words_are_exported_sorted(self) -> None:
        import georeg_nb
        from georeg_nb import runbook

        assert georeg_nb.__all__ == ["open_run"]
        assert runbook.__all__ == sorted(runbook.__all__)
        assert all(hasattr(runbook, name) for name in runbook.__all__)
