"""One step at a time: look, plan, and, when that is approved, change and prove.

Everything that decides is read again immediately before the change: the preconditions, whether it is done already, and
the plan, which must be the one that was approved. What happens is in the ledger before the next thing happens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from georeg_nb.errors import (
    ApprovalFallen,
    CommandTimeout,
    GeoregError,
    PrerequisiteError,
    StepFailed,
    VerificationDiffers,
)
from georeg_nb.ledger import CheckResult, Ledger, Outcome
from georeg_nb.records import Record
from georeg_nb.runbook.approvals import Approvals, Attestation
from georeg_nb.runbook.break_glass import BreakGlass
from georeg_nb.runbook.checking import ask, log_traceback
from georeg_nb.runbook.crash import AFTER_APPLY, BEFORE, CrashPoint
from georeg_nb.runbook.findings import Check, Finding
from georeg_nb.runbook.interrupts import Interrupted, exit_code, termination_interrupts
from georeg_nb.runbook.locks import SiteLocks, is_dead, read_holder
from georeg_nb.runbook.model import Change, Plan, Scenario
from georeg_nb.runbook.refs import Ref
from georeg_nb.runbook.reporter import Reporter
from georeg_nb.runbook.views import PlannedStep
from georeg_nb.symptoms import hint


@dataclass
class Engine:
    """What the steps of a run share."""

    sites: Any
    record: Record
    ledger: Ledger
    approvals: Approvals
    locks: SiteLocks
    reporter: Reporter
    scenario: Scenario
    refs: Sequence[Ref]
    views: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sheet = BreakGlass(self.scenario, self.refs, self.look, self.record, self.ledger)

    def look(self, site: Any) -> Any:
        """The site, read-only: what checks and plans get."""
        if site.name not in self.views:
            self.views[site.name] = site.read_only_view()
        return self.views[site.name]

    def look_at_all(self) -> Any:
        """All sites, read-only: what pair checks get."""
        if "" not in self.views:
            self.views[""] = self.sites.read_only_view()
        return self.views[""]

    def ask(self, check: Check, site: Any) -> Finding:
        return ask(check, self.look_at_all() if check.scope == "pair" else self.look(site), self.record)

    def settled(self, ref: Ref) -> tuple[Outcome, str] | None:
        """(status, reason) of a step that has nothing to do here; None when there is something to do."""
        site = self.look(ref.site)
        if rule := ref.step.skip(site):
            return "skipped by rule", rule
        if done := ref.step.is_done(site):
            return "no-op", getattr(done, "reason", "the site already is as this step leaves it")
        return None

    def prepare(self, ref: Ref) -> PlannedStep:
        """How the step stands: settled, or planned, and approved or not. Reads only, and never raises for it."""
        try:
            if settled := self.settled(ref):
                return PlannedStep(ref, *settled)
            instruction = ref.step.manual(self.look(ref.site))
            plan = self.plan(ref, instruction)
        except GeoregError as error:
            return PlannedStep(ref, "failed", f"cannot be planned: {error}")
        except Exception as error:
            log_traceback(self.record, f"plan of {ref.id}", error)
            return PlannedStep(ref, "failed", f"cannot be planned: {type(error).__name__}: {error} (see errors.log)")
        planned = PlannedStep(ref, "waits for approval", plan=plan, instruction=instruction or "")
        planned.by_hand = self.sheet.of(ref)
        self.approvals.show(ref, planned.digest)
        if instruction is not None:
            attestation = self._usable_attestation(ref)
            planned.status = "approved" if attestation else "waits for attestation"
            planned.approval = str(attestation or "")
            planned.reason = "" if attestation else "is done by hand and attested"
        else:
            approval = self.approvals.of(ref, planned.digest)
            planned.status = "approved" if approval else "waits for approval"
            planned.approval = str(approval or "")
        self.ledger.append("step.planned", step=ref.id, digest=planned.digest, status=planned.status)
        return planned

    def plan(self, ref: Ref, instruction: str | None) -> Plan:
        if instruction is not None:
            return Plan([Change("manual", ref.site.name, after=instruction)])
        return ref.step.plan(self.look(ref.site))

    def apply(self, planned: PlannedStep) -> tuple[Outcome, str, list[CheckResult]]:
        """Do an approved step and prove it. Returns outcome, reason and the proofs.

        Raises PrerequisiteError (nothing was changed), StepFailed, VerificationDiffers or Interrupted; the last three
        after the outcome stands in the ledger.
        """
        ref = planned.ref
        crash = CrashPoint(ref.id)
        if sentence := self.locks.take(ref.site):
            self.reporter.progress(ref.site.name, sentence)
        crash.reach(BEFORE)
        if settled := self._read_again(planned):
            self._end(ref, *settled)
            return *settled, []
        self.reporter.on_progress = crash.progress
        self.ledger.append("step.started", step=ref.id, site=ref.site.name, digest=planned.digest)
        self.reporter.progress(ref.site.name, f"{ref.id}: {ref.step.title}")
        self._write_sheet(ref)
        try:
            with termination_interrupts():
                crash.applying()
                if planned.instruction:
                    self._take_attestation(ref)
                else:
                    ref.step.apply(ref.site)
                crash.reach(AFTER_APPLY)
                proofs = self._prove(ref)
        except KeyboardInterrupt as error:
            raise self._interrupted(ref, error) from error
        except Exception as error:
            raise self._failed(ref, error) from error
        finally:
            self.reporter.on_progress = lambda: None
        self._end(ref, "done", "", digest=planned.digest)
        return "done", "", proofs

    def undo(self, ref: Ref) -> None:
        """Take a step back. Raises StepFailed."""
        self.locks.take(ref.site)
        self.ledger.append("undo.started", step=ref.id, site=ref.site.name)
        try:
            with termination_interrupts():
                ref.step.undo(ref.site)
        except KeyboardInterrupt as error:
            raise self._interrupted(ref, error) from error
        except Exception as error:
            raise self._failed(ref, error) from error
        self.ledger.append("step.undone", step=ref.id, site=ref.site.name)
        self._write_sheet(ref)
        self.approvals.fall(ref, "")  # or the next 'run all' would do it again

    def tidy(self) -> None:
        """Remove what killed runs left on the sites: their locks, output with secrets, copies of gitlab.rb."""
        for site in self.sites.all:
            with suppress(GeoregError):  # someone else works there now, or it does not answer: the next run does it
                holder = read_holder(site)
                if site.leftovers() or (holder and is_dead(holder)):
                    self.locks.take(site)
                    site.tidy()

    def running_jobs(self, site: Any) -> list[str]:
        """The jobs that go on on the site's nodes by themselves: 'name on node'."""
        names = []
        for node in site.nodes:
            try:
                names += [f"{job.name} on {node.name}" for job in node.jobs() if job.state == "running"]
            except GeoregError:
                continue  # a node that cannot be asked is told by the error that led here
        return names

    def way_back(self) -> str:
        """The command that takes this run up again."""
        file = os.environ.get("GEOREG_PARAMETERS_FILE", "FILE")
        return f"georeg run {self.record.scenario} -f {file} --resume {self.record.run}"

    def _read_again(self, planned: PlannedStep) -> tuple[Outcome, str] | None:
        ref = planned.ref
        blocked = []
        for check in ref.step.needs:
            finding = self.ask(check, ref.site)
            if finding.verdict in ("failed", "later"):
                blocked.append((check, finding))
        # First whether it is done: a step that is done needs nothing, and its preconditions may well be gone.
        try:
            settled = self.settled(ref)
            instruction = ref.step.manual(self.look(ref.site))
            digest = "" if settled or blocked else self.plan(ref, instruction).digest(ref.id, ref.site.name)
        except GeoregError as error:
            raise PrerequisiteError(error.message, remedy=error.remedy, site=error.site, node=error.node) from error
        if settled:
            return settled
        if blocked:
            lines = [f"{check.title}: {finding.found}" for check, finding in blocked]
            remedies = [finding.remedy for _, finding in blocked if finding.remedy]
            raise PrerequisiteError(
                f"{ref.id} was not started, because a precondition does not hold:\n  - " + "\n  - ".join(lines),
                remedy="; ".join(remedies) or "see the check",
                site=ref.site.name,
            )
        if digest != planned.digest:
            self.approvals.fall(ref, digest)
            raise ApprovalFallen(
                f"the plan of {ref.id} is not the approved one any more ({planned.digest[:16]}, now {digest[:16]})",
                remedy="run the cell again, look at the new plan, and approve that",
                site=ref.site.name,
            )
        return None

    def _usable_attestation(self, ref: Ref) -> Attestation | None:
        attestation = self.approvals.attestation(ref)
        # One from the parameters file changes nothing while nothing is approved: a plan stays a plan.
        if attestation and attestation.how == "parameter" and not self.approvals.given():
            return None
        return attestation

    def _take_attestation(self, ref: Ref) -> None:
        attestation = self.approvals.attestation(ref)
        assert attestation is not None
        facts = {"text": attestation.text, "who": attestation.who, "when": attestation.when, "run": self.record.run}
        ref.step.attested(ref.site, facts)

    def _prove(self, ref: Ref) -> list[CheckResult]:
        answer = ref.step.verify(self.look(ref.site))
        findings: Sequence[Finding] = [answer] if isinstance(answer, Finding) else list(answer)
        proofs = []
        for number, finding in enumerate(findings, 1):
            proofs.append(
                CheckResult(
                    ref.section.name,
                    f"{ref.step.name}-proof-{number}",
                    ref.site.name,
                    f"{ref.id}: {ref.step.title}",
                    finding.verdict,
                    finding.found,
                    finding.expected,
                    finding.remedy,
                    ref.step.evidence,
                    ref.step.source,
                )
            )
            if finding.rows:
                self.record.write_table(f"{ref.id.replace('/', '.')}.proof-{number}", finding.rows)
        facts = [{"verdict": proof.verdict, "found": proof.found, "expected": proof.expected} for proof in proofs]
        self.ledger.append("step.verified", step=ref.id, findings=facts)
        wrong = [finding for finding in findings if finding.verdict in ("failed", "later")]
        if wrong:
            texts = "; ".join(f"found {finding.found}, expected {finding.expected}" for finding in wrong)
            remedies = "; ".join(finding.remedy for finding in wrong if finding.remedy)
            raise StepFailed(f"the site does not show the change: {texts}", remedy=remedies, site=ref.site.name)
        return proofs

    def _end(self, ref: Ref, outcome: Outcome, reason: str, **facts: Any) -> None:
        self.ledger.append("step.ended", step=ref.id, site=ref.site.name, outcome=outcome, reason=reason, **facts)
        self.reporter.progress(ref.site.name, f"{ref.id}: {outcome}")
        if outcome == "done":
            self.sheet.renew(ref.site)
        self._write_sheet(ref)

    def _write_sheet(self, ref: Ref) -> None:
        if trouble := self.sheet.write(ref.site):
            self.reporter.progress(ref.site.name, trouble)

    def _interrupted(self, ref: Ref, error: KeyboardInterrupt) -> Interrupted:
        code = exit_code(error)
        jobs = self.running_jobs(ref.site)
        goes_on = f"goes on by itself: {', '.join(jobs)}" if jobs else "no job of it is running"
        self._end(ref, "interrupted", f"interrupted; {goes_on}", exit_code=code, running_jobs=jobs)
        lines = [f"Interrupted during {ref.id}; {goes_on}.", *self._advice(ref)]
        return Interrupted("\n".join(lines), code)

    def _failed(self, ref: Ref, error: Exception) -> StepFailed | VerificationDiffers:
        log_traceback(self.record, f"step {ref.id}", error)
        outcome: Outcome = "timed out" if isinstance(error, CommandTimeout) else "failed"
        message = error.message if isinstance(error, GeoregError) else f"{type(error).__name__}: {error}"
        kind = VerificationDiffers if isinstance(error, VerificationDiffers) else StepFailed
        jobs = self.running_jobs(ref.site)
        self._end(ref, outcome, message, exit_code=kind.exit_code, error=type(error).__name__, running_jobs=jobs)
        advice = [hint(message, getattr(error, "remedy", "")), *self._advice(ref)]
        if jobs:
            advice.append(f"Goes on by itself: {', '.join(jobs)}")
        return kind(
            f"{ref.id} {outcome}: {message}",
            remedy="\n  ".join(line for line in advice if line),
            site=ref.site.name,
            node=getattr(error, "node", ""),
        )

    def _advice(self, ref: Ref) -> list[str]:
        """What a person must know now: the state that the site was left in, and the way back."""
        try:
            state = ref.step.state_after_failure(self.look(ref.site))
        except Exception as error:  # the site may be what failed
            state = f"the state of the site could not be read: {type(error).__name__}: {error}"
        lines = [f"State: {state}"] if state else []
        return [*lines, f"To go on: {self.way_back()}", "(or open the notebook again and run all cells)"]
