"""What the calls of a notebook return: objects that show themselves, and that programs can ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from georeg_nb.display import Block, Code, Diff, Document, Facts, Heading, Headline, Table, Text
from georeg_nb.ledger import COMPLETE, CheckResult, RunVerdict, StepOutcome
from georeg_nb.runbook.break_glass import blocks as by_hand_blocks
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.runbook.model import Change, Plan
from georeg_nb.runbook.refs import Ref

if TYPE_CHECKING:
    import pandas


class View:
    """Something to show. In a notebook its display is the table; `frame` is the same as a pandas table."""

    document: Document
    rows: Sequence[Mapping[str, Any]]

    @property
    def frame(self) -> pandas.DataFrame:
        import pandas  # half a second that a headless run without tables need not spend

        return pandas.DataFrame([dict(row) for row in self.rows])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return self.document._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        return self.document.text()


class CheckTable(View):
    """The answers of a section's checks. `failed` are the titles of those that failed."""

    def __init__(self, section: str, results: Sequence[CheckResult], blocked: str = "") -> None:
        self.section = section
        self.results = tuple(results)
        self.blocked = blocked
        several = len({result.site for result in results}) > 1
        self.rows = [_check_row(result, several) for result in sorted(results, key=_urgency)]
        self.document = Document(
            "checks", self._blocks(several), {"section": section, "blocked": blocked, "checks": self.data()}
        )

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.verdict == "failed")

    def data(self) -> list[dict[str, Any]]:
        return [dict(result.__dict__) for result in self.results]

    def _blocks(self, several: bool) -> list[Block]:
        if self.blocked:
            return [Headline("not reached", self.blocked)]
        if not self.results:
            return [Headline("passed", "This section has nothing to check.")]
        columns = ["verdict", "check", *(["site"] if several else []), "expected", "found", "ground"]
        below = "what to do" if any(row["what to do"] for row in self.rows) else ""
        table = Table([*columns, *([below] if below else [])], self.rows, ("verdict",), below)
        return [check_headline(self.results), table]


def _urgency(result: CheckResult) -> int:
    """What needs someone comes first; among equals the order in which it was asked."""
    return {"failed": 0, "warning": 1}.get(result.verdict, 2)


def _check_row(result: CheckResult, several: bool) -> dict[str, Any]:
    needs_action = result.verdict in ("failed", "warning")
    return {
        "verdict": result.verdict,
        "check": result.title,
        **({"site": result.site or "both"} if several else {}),
        "expected": result.expected,
        "found": result.found,
        "ground": _ground(result.evidence, result.source),
        "what to do": result.remedy if needs_action else "",
    }


def check_headline(results: Sequence[CheckResult]) -> Headline:
    """One sentence for a list of answers."""
    count = {word: sum(1 for r in results if r.verdict == word) for word in ("passed", "failed", "warning", "later")}
    if count["failed"]:
        return Headline("failed", f"{count['failed']} of {_plural(len(results), 'check')} failed.")
    extras = [
        f"{number} {word}"
        for word, number in (("with a warning", count["warning"]), ("to be known later", count["later"]))
        if number
    ]
    rest = len(results) - sum(count.values())
    if rest:
        extras.append(f"{rest} not applicable")
    text = f"{_plural(count['passed'], 'check')} passed" + (f"; {', '.join(extras)}" if extras else "") + "."
    word = "warning" if count["warning"] else "passed" if count["passed"] or not count["later"] else "later"
    return Headline(word, text)


class TableView(View):
    """A table of details, such as the tags of each repository on both sites. `rows` None: not there yet."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]] | None) -> None:
        self.rows = rows or []
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        shown = [{key: _cell(value) for key, value in row.items()} for row in self.rows[:MOST_ROWS]]
        words = [column for column in columns if column in ("verdict", "outcome")]
        blocks: list[Block] = [Table(columns, shown, words)] if columns else []
        if rows is None:
            blocks = [Headline("later", f"{name}: not there yet; it is made when its check has something to compare.")]
        elif not rows:
            blocks = [Headline("passed", f"{name}: no rows.")]
        if len(self.rows) > MOST_ROWS:
            blocks.append(Text(f"{len(self.rows) - MOST_ROWS} more rows: tables/{name}.csv in the record"))
        self.document = Document("table", blocks, {"name": name, "rows": shown, "total": len(self.rows)})


MOST_ROWS = 200
"""Rows that are shown; the record has all of them."""


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


class PlannedStep:
    """A step as it is planned now: its status, its plan with the digest that an approval is bound to."""

    def __init__(
        self,
        ref: Ref,
        status: str,
        reason: str = "",
        plan: Plan | None = None,
        instruction: str = "",
        approval: str = "",
    ) -> None:
        self.ref = ref
        self.status = status
        self.reason = reason
        self.plan = plan or Plan()
        self.instruction = instruction
        self.approval = approval
        self.by_hand: ByHand | str = ""
        self.digest = self.plan.digest(ref.id, ref.site.name) if plan else ""

    @property
    def open(self) -> bool:
        return self.status in ("approved", "waits for approval", "waits for attestation")

    @property
    def approved(self) -> bool:
        return self.status == "approved"

    def data(self) -> dict[str, Any]:
        return {
            "step": self.ref.id,
            "site": self.ref.site.name,
            "title": self.ref.step.title,
            "status": self.status,
            "reason": self.reason,
            "interrupts": self.ref.step.interrupts,
            "reversible": self.ref.step.reversible,
            "evidence": self.ref.step.evidence,
            "source": self.ref.step.source,
            "duration": self.plan.duration,
            "note": self.plan.note,
            "digest": self.digest,
            "changes": [dict(change.__dict__) for change in self.plan.changes],
            "break_glass": self.by_hand.data() if isinstance(self.by_hand, ByHand) else self.by_hand,
        }

    def blocks(self) -> list[Block]:
        step = self.ref.step
        way_back = "georeg can take it back" if step.has_undo else "by hand, see the section's text"
        facts = [
            ("interrupts", step.interrupts),
            ("takes", self.plan.duration),
            ("way back", way_back if step.reversible else "NONE: this cannot be undone"),
            ("needs", "; ".join(check.title for check in step.needs)),
            ("ground", _ground(step.evidence, step.source)),
            ("plan", self.digest[:16]),
            ("approval", self.approval),
        ]
        blocks: list[Block] = [
            Heading(f"{self.ref.id} · {step.title}"),
            Facts([(label, value) for label, value in facts if value]),
        ]
        if not step.reversible:
            blocks.append(Text("Cannot be undone. Only its own full name approves it, never 'all'.", "bad"))
        if self.plan.note:
            blocks.append(Text(self.plan.note, "care"))
        return [*blocks, *(change_block(change) for change in self.plan.changes), *by_hand_blocks(self.by_hand)]


def change_block(change: Change) -> Block:
    """One change of a plan: a diff where something is replaced, the text itself where it is new or a command."""
    caption = f"{_CHANGE_VERBS.get(change.kind, change.kind)} {change.where}".strip()
    if change.before or change.kind in ("file", "record"):
        return Diff(change.before, change.after, caption)
    return Code(change.after, caption)


_CHANGE_VERBS = {
    "file": "changes",
    "command": "runs on",
    "api": "calls",
    "sql": "executes in",
    "record": "keeps",
    "manual": "to be done by hand on",
}


class PlanView(View):
    """What a section would change: an overview, then each open step with its diff and effect."""

    def __init__(self, section: str, steps: Sequence[PlannedStep]) -> None:
        self.section = section
        self.steps = tuple(steps)
        several = len({step.ref.site.name for step in steps}) > 1
        self.rows = [_plan_row(step, several) for step in steps]
        # the lines by hand are in the page, in plan.json and in the sheet: once more here would be too often
        shown = [{key: value for key, value in step.data().items() if key != "break_glass"} for step in steps]
        data = {"section": section, "steps": shown}
        self.document = Document("plan", self._blocks(several), data)

    def _blocks(self, several: bool) -> list[Block]:
        if not self.steps:
            return [Headline("nothing to do", "This section changes nothing.")]
        columns = ["status", "step", *(["site"] if several else []), "what it does", "interrupts", "takes", "because"]
        shown = [column for column in columns if any(row.get(column) for row in self.rows)]
        blocks: list[Block] = [self._headline(), Table(shown, self.rows, ("status",))]
        for step in self.steps:
            if step.open:
                blocks.extend(step.blocks())
        return blocks

    def _headline(self) -> Headline:
        waiting = [step for step in self.steps if step.open and not step.approved]
        approved = [step for step in self.steps if step.approved]
        unknown = [step for step in self.steps if step.status in ("failed", "later")]
        if unknown:
            return Headline("failed", f"{_plural(len(unknown), 'step')} cannot be planned.")
        if waiting and approved:
            text = f"{_plural(len(approved), 'step')} approved; {_plural(len(waiting), 'step')} not yet."
            return Headline("waits for approval", text)
        if waiting:
            return Headline("waits for approval", f"{_plural(len(waiting), 'step')} planned, nothing changed yet.")
        if approved:
            return Headline("approved", f"{_plural(len(approved), 'step')} approved.")
        return Headline("nothing to do", "Everything here is as it should be.")


def _plan_row(step: PlannedStep, several: bool) -> dict[str, Any]:
    return {
        "status": step.status,
        "step": step.ref.id,
        **({"site": step.ref.site.name} if several else {}),
        "what it does": step.ref.step.title,
        "interrupts": step.ref.step.interrupts if step.open else "",
        "takes": step.plan.duration if step.open else "",
        "because": step.reason,
    }


class SectionResult(View):
    """How the steps of a section ended. `complete`: nothing of it is left to do."""

    def __init__(self, section: str, outcomes: Sequence[StepOutcome], proofs: Sequence[CheckResult] = ()) -> None:
        self.section = section
        self.outcomes = tuple(outcomes)
        self.proofs = tuple(proofs)
        self.rows = [_outcome_row(outcome) for outcome in outcomes]
        data = {
            "section": section,
            "outcomes": [_outcome_data(outcome) for outcome in outcomes],
            "proofs": [dict(proof.__dict__) for proof in proofs],
        }
        self.document = Document("section", self._blocks(), data)

    @property
    def complete(self) -> bool:
        return all(outcome.outcome in COMPLETE for outcome in self.outcomes)

    def _blocks(self) -> list[Block]:
        if not self.outcomes:
            return [Headline("nothing to do", "This section changes nothing.")]
        blocks: list[Block] = [section_headline(self.outcomes)]
        if any(outcome.outcome not in ("no-op", "skipped by rule", "not approved") for outcome in self.outcomes):
            blocks.append(outcome_table(self.outcomes))  # else the plan above has said it
        if self.proofs:
            rows = [_check_row(proof, False) for proof in self.proofs]
            blocks += [
                Heading("Read again afterwards"),
                Table(["verdict", "check", "expected", "found"], rows, ("verdict",)),
            ]
        if any(outcome.outcome == "not approved" for outcome in self.outcomes):
            blocks.append(
                Text('To go on: press Approve, or run.approve("…") with a step\'s name; then run this cell again.')
            )
        return blocks


def section_headline(outcomes: Sequence[StepOutcome]) -> Headline:
    for word in ("failed", "timed out", "interrupted", "not reached", "not approved"):
        number = sum(1 for outcome in outcomes if outcome.outcome == word)
        if number:
            return Headline(word, f"{_plural(number, 'step')} of {len(outcomes)} {word}.")
    done = sum(1 for outcome in outcomes if outcome.outcome == "done")
    if done:
        return Headline("done", f"{_plural(done, 'step')} done, and verified by reading the site again.")
    return Headline("no-op", "Nothing was left to do.")


def _outcome_row(outcome: StepOutcome) -> dict[str, Any]:
    return {"outcome": outcome.outcome, "step": outcome.step, "what it does": outcome.title, "because": outcome.reason}


def _outcome_data(outcome: StepOutcome) -> dict[str, Any]:
    return {key: value for key, value in outcome.__dict__.items() if key != "attempt"}


def outcome_table(outcomes: Sequence[StepOutcome]) -> Table:
    rows = [_outcome_row(outcome) for outcome in outcomes]
    because = ["because"] if any(row["because"] for row in rows) else []
    return Table(["outcome", "step", "what it does", *because], rows, ("outcome",))


class Summary(View):
    """The verdict of a run, from its ledger alone."""

    def __init__(self, verdict: RunVerdict, next_command: str, record: str = "", seal_command: str = "") -> None:
        self.verdict = verdict
        self.rows = [_outcome_row(outcome) for outcome in verdict.outcomes]
        data = {
            "exit_code": verdict.exit_code,
            "headline": verdict.headline,
            "outcomes": [_outcome_data(outcome) for outcome in verdict.outcomes],
            "changed": list(verdict.changed),
            "problems": list(verdict.problems),
        }
        self.document = Document("summary", self._blocks(next_command, record, seal_command), data)

    def _blocks(self, next_command: str, record: str, seal_command: str) -> list[Block]:
        verdict = self.verdict
        blocks: list[Block] = [Headline(_SUMMARY_WORDS.get(verdict.exit_code, "failed"), verdict.headline)]
        if verdict.planned and verdict.exit_code == 0:
            word = "waits for approval" if any(o.outcome == "not approved" for o in verdict.outcomes) else "no-op"
            blocks = [Headline(word, verdict.headline)]
        problems: list[Block] = []
        if verdict.problems:
            problems = [Heading("What stands in the way")]
            problems += [Text(problem, "bad" if verdict.exit_code != 5 else "care") for problem in verdict.problems]
        if verdict.outcomes and all(outcome.outcome == "not reached" for outcome in verdict.outcomes):
            nothing = "" if verdict.changed else " Nothing was changed."
            blocks.append(Text(f"None of {_plural(len(verdict.outcomes), 'step')} was reached.{nothing}"))
        elif verdict.outcomes:
            blocks.append(outcome_table(verdict.outcomes))
        reads = not verdict.outcomes  # a scenario without steps: its answer is what it found of the sites as a pair
        told = [result for result in verdict.checks if result.verifies or (reads and not result.site)]
        if told:
            rows = [_check_row(result, True) for result in told]
            blocks += [
                Heading("What was found" if reads else "Verification"),
                Table(
                    ["verdict", "check", "site", "expected", "found"], rows, ("verdict",), "what to do" if reads else ""
                ),
            ]
        blocks += problems
        if verdict.exit_code and verdict.changed:
            blocks.append(Text("Changed so far, and still so: " + ", ".join(verdict.changed), "care"))
        if next_command:
            blocks += [Heading("What comes next"), Code(next_command)]
        if record:
            blocks.append(Facts([("record", record), ("exit status", str(verdict.exit_code))]))
        if seal_command:
            blocks += [
                Text("This record is not sealed yet. When this notebook is saved, seal it:", "care"),
                Code(seal_command),
            ]
        return blocks


_SUMMARY_WORDS = {0: "done", 5: "not approved", 130: "interrupted", 143: "interrupted"}


def _ground(evidence: str, source: str) -> str:
    """How well it is known that this is the right question or the right change, and from where."""
    return f"{evidence} ({source})" if source else evidence


def _plural(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
