"""Run: what a notebook holds in its hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from georeg_nb.display import Document, Headline
from georeg_nb.errors import GeoregError, VerificationDiffers
from georeg_nb.ledger import COMPLETE, Ledger, StepOutcome, verdict
from georeg_nb.records import Record, hostname, operator
from georeg_nb.runbook.approvals import Approvals
from georeg_nb.runbook.engine import Engine
from georeg_nb.runbook.locks import SiteLocks, process_identity
from georeg_nb.runbook.model import Scenario, Section
from georeg_nb.runbook.outputs import junit_suites, next_command
from georeg_nb.runbook.refs import Ref, declare, find, find_all, require_names
from georeg_nb.runbook.reporter import Reporter
from georeg_nb.runbook.sections import Sections
from georeg_nb.runbook.views import CheckTable, SectionResult, Summary, TableView


def show(shown: Any) -> None:
    """Display something in the running cell; outside of IPython, print it."""
    from IPython.display import display

    display(shown)


class Run:
    """One execution of a scenario's notebook. Made by `open_run`.

    `options` are the scenario's parameters: `approve` and `attest` are the engine's, the rest is the procedures'.
    `take_over` is the run whose locks may be taken over. Raises ParametersError for steps that there are not.
    """

    def __init__(
        self,
        scenario: Scenario,
        sites: Any,
        options: Any,
        record: Record,
        reporter: Reporter | None = None,
        *,
        take_over: str = "",
        show: Callable[[Any], None] = show,
    ) -> None:
        self.scenario = scenario
        self.options = options
        self.sites = sites
        self.record = record
        self.ledger = Ledger(record.ledger)
        self._show = show
        self._refs = declare(scenario, sites)
        approve, attest = list(options.approve), dict(options.attest)
        require_names(self._refs, approve, attest)
        self._approvals = Approvals(self.ledger.append)
        earlier = self.ledger.entries()
        self._approvals.restore(earlier, wishes=not approve)
        if approve:
            self._approvals.wish(approve, "parameter")
        locks = SiteLocks(record.run, self.ledger.append, take_over)
        self._engine = Engine(
            sites, record, self.ledger, self._approvals, locks, reporter or Reporter(record), scenario, self._refs
        )
        self._sections = Sections(scenario, self._engine, self._refs, show)
        self.ledger.append(
            "run.opened",
            run=record.run,
            scenario=scenario.id,
            attempt=1 + sum(1 for entry in earlier if entry["event"] == "run.opened"),
            who=operator(),
            host=hostname(),
            pid=os.getpid(),
            process=process_identity(os.getpid()),
            approve=self._approvals.wishes(),
            approving=self._approvals.given(),
            sites=[site.name for site in sites.all],
            steps=[_declared(ref) for ref in self._refs],
        )
        for name, text in attest.items():
            for ref in find_all(name, self._refs):
                self._approvals.attest(ref, text, "parameter")

    def __repr__(self) -> str:
        return f"<Run {self.record.run}: {self.scenario.title}>"

    def check(self, section: str) -> CheckTable:
        """Ask every check of a section, read-only. Never raises for what the sites answer.

        After a section with failed checks nothing is contacted any more: the table says 'not reached'.
        """
        try:
            return self._sections.check(self._section(section))
        finally:
            self.sites.rest()

    def apply(self, section: str) -> SectionResult:
        """Show the plan of a section; do what of it is approved, and prove it by reading the sites again.

        Nothing approved is no error: the plan is shown. Raises PrerequisiteError when something that is approved may
        not be done, StepFailed when it did not work, Interrupted on Ctrl-C.
        """
        try:
            return self._sections.apply(self._section(section))
        finally:
            self.sites.rest()

    def approve(self, *names: str) -> Document:
        """Approve steps by name, as they were shown last. Then run the cell of their section again."""
        require_names(self._refs, names)
        self._approvals.wish(names, "call")
        bound = [ref.id for ref in self._refs if self._approvals.bind_shown(ref)]
        return _answer(f"Approved: {', '.join(bound or names)}. Now run the section's cell again.")

    def attest(self, name: str, text: str) -> Document:
        """Put your name to a manual step: what was done, and where it can be found."""
        if not text.strip():
            raise GeoregError("an attestation says what was done", remedy='run.attest("…", "backup 4711 of 10 May, …")')
        refs = find_all(name, self._refs)
        sentences = [f"{ref.id} {self._approvals.attest(ref, text.strip(), 'call')}" for ref in refs]
        return _answer(f"{'; '.join(sentences)}. Now run the section's cell again.")

    def take_over(self, run: str) -> Document:
        """Take the sites' locks from the run of this id, when you are sure that nobody works there any more."""
        self._engine.locks.take_over = run
        return _answer(f"The locks of {run} are taken over when a site is first changed. Now run the cell again.")

    def undo(self, step: str) -> SectionResult:
        """Take one step back, by its name. Raises GeoregError when there is no way back, StepFailed when it failed."""
        ref = find(step, self._refs)
        if not ref.step.has_undo:
            raise GeoregError(
                f"{ref.id} cannot be undone by georeg", remedy="see the section's text", site=ref.site.name
            )
        self._engine.undo(ref)
        outcome = StepOutcome(ref.id, ref.section.name, ref.site.name, ref.step.title, "not approved", "was undone")
        return SectionResult(ref.section.name, [outcome])

    def summary(self) -> Summary:
        """The verdict, from the ledger alone; writes the tables of the record and gives back the sites' locks.

        Raises VerificationDiffers after showing it, when the sites do not hold the same images.
        """
        before = verdict(self.ledger.entries())
        if not before.planned and all(outcome.outcome in COMPLETE for outcome in before.outcomes):
            self._engine.tidy()
        self.close()
        self.ledger.append("run.closed")
        result = verdict(self.ledger.entries())
        self.record.write_json("plan.json", list(self._sections.plans.values()))
        self.record.write_table("outcomes", [dict(outcome.__dict__) for outcome in result.outcomes])
        self.record.write_table("checks", [dict(check.__dict__) for check in result.checks])
        self.record.write_junit("junit.xml", junit_suites(result, self._comparisons()))
        command = next_command(result, self._engine.way_back())
        summary = Summary(result, command, self.record.run, _seal_command(self.record))
        if result.exit_code == VerificationDiffers.exit_code:
            self._show(summary)
            raise VerificationDiffers("; ".join(result.problems), remedy="see the tables of the section that failed")
        return summary

    def _comparisons(self) -> dict[str, list[dict[str, Any]]]:
        """Tables per repository of the checks that compare the sites, and of their single differences."""
        names = [check.name for section in self.scenario for check in section.procedure.all_checks if check.verifies]
        names += sorted(path.stem for path in self.record.path.glob("tables/differences*.json"))
        tables = {name: self.record.read_table(name) for name in names if self.record.has_table(name)}
        return {name: rows for name, rows in tables.items() if rows and {"repository", "verdict"} <= rows[0].keys()}

    def table(self, name: str) -> TableView:
        """A table of the record, by its check's name, such as that of a verification; `.frame` is the pandas table.

        In a plan most are not there yet: that is shown, and is no error. Raises GeoregError for a name that is none.
        """
        if self.record.has_table(name):
            return TableView(name, self.record.read_table(name))
        checks = [check for section in self.scenario for check in section.procedure.all_checks]
        if any(name == check.name or f".{check.name}" in name or name.startswith(f"{check.name}.") for check in checks):
            return TableView(name, None)
        raise GeoregError(
            f"there is no table {name!r}", remedy=f"there are: {', '.join(sorted({check.name for check in checks}))}"
        )

    def close(self) -> None:
        """Give back the sites' locks and end the connections. `summary` does it; so does opening another run in the
        same kernel.
        """
        try:
            self._engine.locks.release()
        finally:
            self.sites.close()

    def _section(self, name: str) -> Section:
        try:
            return self.scenario.section(name)
        except KeyError as error:
            raise GeoregError(str(error.args[0])) from None


def _answer(sentence: str) -> Document:
    return Document("answer", [Headline("approved", sentence)], {"answer": sentence})


def _declared(ref: Ref) -> dict[str, Any]:
    return {
        "step": ref.id,
        "section": ref.section.name,
        "site": ref.site.name,
        "title": ref.step.title,
        "reversible": ref.step.reversible,
    }


def _seal_command(record: Record) -> str:
    """Empty under our runner, which seals the record itself; else the one command that does it."""
    if "GEOREG_RUN" in os.environ:
        return ""
    inside = record.notebook.exists()
    return f"georeg records seal {record.run}" + ("" if inside else " --notebook THE-EXECUTED-NOTEBOOK.ipynb")
