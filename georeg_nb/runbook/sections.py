"""Section by section: ask its checks, show its plan, apply what is approved of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from georeg_nb.errors import GeoregError, PrerequisiteError
from georeg_nb.ledger import COMPLETE, CheckResult, Outcome, StepOutcome, verdict
from georeg_nb.runbook.buttons import ask as ask_by_button
from georeg_nb.runbook.buttons import someone_is_there
from georeg_nb.runbook.checking import result_of
from georeg_nb.runbook.engine import Engine
from georeg_nb.runbook.findings import Check, Finding, not_applicable
from georeg_nb.runbook.interrupts import Interrupted, exit_code
from georeg_nb.runbook.model import Scenario, Section
from georeg_nb.runbook.refs import Ref
from georeg_nb.runbook.views import CheckTable, PlannedStep, PlanView, SectionResult, check_headline


class Sections:
    """What `Run.check` and `Run.apply` do. Remembers what failed: later sections are not reached then."""

    def __init__(self, scenario: Scenario, engine: Engine, refs: Sequence[Ref], show: Callable[[Any], None]) -> None:
        self.scenario = scenario
        self.engine = engine
        self.refs = refs
        self.show = show
        self.plans: dict[str, dict[str, Any]] = {}
        self._results: dict[str, list[CheckResult]] = {}
        self._stopped: dict[str, str] = {}

    # checks

    def check(self, part: Section) -> CheckTable:
        if blocked := self._blocked_before(part):
            self.engine.ledger.append("section.not_reached", section=part.name, reason=blocked)
            self._results.pop(part.name, None)
            return CheckTable(part.name, [], blocked)
        self.engine.reporter.watch(aloud=False)
        try:
            return CheckTable(part.name, self._ask_all(part))
        except KeyboardInterrupt as error:
            raise self._interrupted(part, error) from error
        finally:
            self.engine.reporter.rest()

    def _ask_all(self, part: Section) -> list[CheckResult]:
        self._results.pop(part.name, None)
        sites = part.sites(self.engine.sites)
        questions: list[tuple[Check, Any]] = [(check, site) for site in sites for check in part.procedure.checks]
        questions += [(check, None) for check in part.procedure.pair_checks]
        results = []
        for check, site in questions:
            name = site.name if site is not None else ""
            self.engine.reporter.progress(name, f"checking: {check.title}")
            finding = self.engine.ask(check, site)
            if finding.failed:
                finding = self._moot(check, site, part) or finding
            result = result_of(check, finding, part.name, name)
            results.append(result)
            self.engine.ledger.append("check", **result.__dict__)
            suffix = name if len(sites) > 1 else ""
            if finding.rows:
                self.engine.record.write_table(self._table_name(check, part, suffix), finding.rows)
            for table, rows in finding.tables.items():
                self.engine.record.write_table(".".join(filter(None, [table, suffix])), rows)
            for file, text in finding.files.items():
                self.engine.record.write(file, text)
        self._results[part.name] = results
        if results:
            self.engine.reporter.progress("", f"{part.name}: {check_headline(results).text}")
        return results

    def _table_name(self, check: Check, part: Section, site: str) -> str:
        """The check's name; with its section or its site where only that makes it unambiguous."""
        several = sum(1 for section in self.scenario if check in section.procedure.all_checks) > 1
        return ".".join(filter(None, [part.name if several else "", check.name, site]))

    def _moot(self, check: Check, site: Any, part: Section) -> Finding | None:
        """A failed precondition of nothing but steps that are done is history: 'no tag yet' after the import, say."""
        needing = [
            ref
            for ref in self._refs_of(part)
            if check in ref.step.needs and (site is None or ref.site.name == site.name)
        ]
        try:
            settled = [self.engine.settled(ref) for ref in needing]
        except Exception:
            return None  # what cannot be looked at is not known to be done
        if needing and all(settled):
            return not_applicable(f"only needed before {needing[-1].step.name}, which is done")
        return None

    def _blocked_before(self, part: Section) -> str:
        """Why this section is not reached: an earlier one whose checks failed, or that stopped."""
        for section in self.scenario:
            if section.name == part.name:
                return ""
            if section.name in self._stopped:
                return f"{section.name} stopped: {self._stopped[section.name]}"
            failed = [result for result in self._results.get(section.name, ()) if result.verdict == "failed"]
            if failed:
                return f"{section.name} has {len(failed)} failed check{'s' if len(failed) > 1 else ''}"
        return ""

    # plans and changes

    def apply(self, part: Section) -> SectionResult:
        refs = self._refs_of(part)
        self.engine.ledger.append("section.started", section=part.name)
        self._stopped.pop(part.name, None)
        try:
            if blocked := self._blocked_before(part):
                return self._not_reached(part, refs, blocked)
            planned = self._plan(part, refs)
            if any(step.approved for step in planned):
                return self._apply_approved(part, planned)
            return SectionResult(part.name, [self._settle(step) for step in planned])
        except Interrupted:
            raise
        except KeyboardInterrupt as error:
            raise self._interrupted(part, error) from error

    def _plan(self, part: Section, refs: Sequence[Ref]) -> list[PlannedStep]:
        planned = [self.engine.prepare(ref) for ref in refs]
        self.plans.update({step.ref.id: step.data() for step in planned})
        self.engine.record.write_json("plan.json", list(self.plans.values()))
        if refs:
            self.engine.sheet.write()
            self.show(PlanView(part.name, planned))
        unplannable = [f"{step.ref.id} {step.reason}" for step in planned if step.status == "failed"]
        if unplannable:
            error = self._prerequisite(part, PrerequisiteError("\n  - ".join(unplannable)))
            if any(self.engine.approvals.wanted(ref) for ref in refs):
                raise error
        elif someone_is_there():
            ask_by_button(planned, self._button_approves, self._button_attests)
        return planned

    def _apply_approved(self, part: Section, planned: list[PlannedStep]) -> SectionResult:
        if waiting := self._waits_for(part):
            reason = f"comes after {waiting}, which is not complete"
            return SectionResult(part.name, [self._settle(step, reason) for step in planned])
        self.engine.reporter.watch()
        try:
            self._require_checks(part)
            return self._apply_in_order(part, planned)
        finally:
            self.engine.reporter.rest()

    def _apply_in_order(self, part: Section, planned: list[PlannedStep]) -> SectionResult:
        """Step by step, to the first that is not approved: the next would stand on ground that is not there."""
        outcomes: list[StepOutcome] = []
        proofs: list[CheckResult] = []
        stop = ""
        for step in planned:
            if stop or not step.approved:
                outcomes.append(self._settle(step, stop))
                if not stop and outcomes[-1].outcome not in COMPLETE:
                    stop = f"comes after {step.ref.id}, which is {outcomes[-1].outcome}"
                continue
            if missing := _missing_to_the_end(step, planned):
                stop = f"begins what {step.ref.step.until} ends, and {missing} is not approved"
                outcomes.append(self._settle(step, stop))
                continue
            try:
                outcome, reason, proof = self.engine.apply(step)
            except PrerequisiteError as error:
                self._end(step.ref, "not reached", error.message.splitlines()[0])
                raise self._prerequisite(part, error) from error
            except GeoregError as error:
                self._stopped[part.name] = error.message.splitlines()[0]
                raise
            outcomes.append(_outcome(step.ref, outcome, reason))
            proofs += proof
        return SectionResult(part.name, outcomes, proofs)

    def _require_checks(self, part: Section) -> None:
        """Before something approved is done, every check of the section is asked again."""
        failed = [result for result in self._ask_all(part) if result.verdict == "failed" and not result.verifies]
        if not failed:
            return
        lines = [f"{result.title}{f' on {result.site}' if result.site else ''}: {result.found}" for result in failed]
        remedies = list(dict.fromkeys(result.remedy for result in failed if result.remedy))
        message = f"{part.name} was not applied, because a check failed:\n  - " + "\n  - ".join(lines)
        raise self._prerequisite(part, PrerequisiteError(message, remedy="\n  ".join(remedies)))

    def _prerequisite(self, part: Section, error: PrerequisiteError) -> PrerequisiteError:
        """The error as it is raised: with what was changed before, and written down."""
        error.changed = verdict(self.engine.ledger.entries()).changed
        self._stopped[part.name] = error.message.splitlines()[0]
        self.engine.ledger.append(
            "section.stopped", section=part.name, exit_code=error.exit_code, message=error.message, remedy=error.remedy
        )
        if error.changed:
            error.message += "\nChanged so far, and still so: " + ", ".join(error.changed)
        return error

    def _not_reached(self, part: Section, refs: Sequence[Ref], reason: str) -> SectionResult:
        outcomes = [self._end(ref, "not reached", reason) for ref in refs]
        if any(self.engine.approvals.wanted(ref) for ref in refs):
            raise self._prerequisite(part, PrerequisiteError(f"{part.name} is not reached: {reason}"))
        return SectionResult(part.name, outcomes)

    def _waits_for(self, part: Section) -> str:
        """The first section that must be complete before this one and is not: by the ledger, or by a look."""
        known = {outcome.step: outcome.outcome for outcome in verdict(self.engine.ledger.entries()).outcomes}
        try:
            for name in part.after:
                for ref in self.refs:
                    unknown = ref.section.name == name and known.get(ref.id) not in COMPLETE
                    if unknown and self.engine.settled(ref) is None:
                        return name
        except GeoregError as error:
            raise self._prerequisite(part, PrerequisiteError(str(error))) from error
        return ""

    def _settle(self, step: PlannedStep, stop: str = "") -> StepOutcome:
        """The outcome of a step that is not applied now."""
        if step.status == "no-op":
            return self._end(step.ref, "no-op", step.reason)
        if step.status == "skipped by rule":
            return self._end(step.ref, "skipped by rule", step.reason)
        if step.open and not step.approved:
            return self._end(step.ref, "not approved", step.reason)
        return self._end(step.ref, "not reached", stop or step.reason)

    def _end(self, ref: Ref, outcome: Outcome, reason: str) -> StepOutcome:
        self.engine.ledger.append("step.ended", step=ref.id, site=ref.site.name, outcome=outcome, reason=reason)
        return _outcome(ref, outcome, reason)

    def _interrupted(self, part: Section, error: KeyboardInterrupt) -> Interrupted:
        code = exit_code(error)
        message = f"{part.name} was interrupted while nothing was being changed"
        self.engine.ledger.append("section.stopped", section=part.name, exit_code=code, message=message)
        return Interrupted(f"Interrupted: {message}.", code)

    def _refs_of(self, part: Section) -> list[Ref]:
        return [ref for ref in self.refs if ref.section.name == part.name]

    def _button_approves(self, step: PlannedStep) -> str:
        return f"{step.ref.id} {self.engine.approvals.approve_shown(step.ref, step.digest, 'button')}"

    def _button_attests(self, step: PlannedStep, text: str) -> str:
        return f"{step.ref.id} {self.engine.approvals.attest(step.ref, text, 'button')}"


def _missing_to_the_end(step: PlannedStep, planned: Sequence[PlannedStep]) -> str:
    """The first step that waits for approval between this one and the one that ends what it begins."""
    if not step.ref.step.until:
        return ""
    for later in planned[planned.index(step) + 1 :]:
        if later.ref.site is step.ref.site:
            if not later.approved and later.open:
                return later.ref.id
            if later.ref.step.name == step.ref.step.until:
                break
    return ""


def _outcome(ref: Ref, outcome: Outcome, reason: str) -> StepOutcome:
    return StepOutcome(ref.id, ref.section.name, ref.site.name, ref.step.title, outcome, reason)
