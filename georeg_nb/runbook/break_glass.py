"""The break-glass sheet: how to finish or to undo a run at the nodes' prompts when georeg is gone in the middle of it.

It lies in the record, and on each site's first registry node from the first approved change on, where it says after
every step how far georeg was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from georeg_nb.display import Block, Code, Details, Facts, Text
from georeg_nb.errors import GeoregError
from georeg_nb.ledger import Ledger
from georeg_nb.records import Record, stamp
from georeg_nb.redaction import redact
from georeg_nb.runbook.by_hand import ByHand, Paste, Place
from georeg_nb.runbook.checking import log_traceback
from georeg_nb.runbook.model import Scenario
from georeg_nb.runbook.refs import Ref

NAME = "break-glass.md"
ON_NODE = f"/var/lib/georeg/{NAME}"

_HEAD = """\
# Break-glass sheet: {title}

Run {run}, written {now}. For when georeg is gone in the middle of it. Everything here is typed at the nodes, as root.

1. **Nobody else may work here.** End what is left of the run at its workstation. What it started on a node goes on by
   itself; the lines below wait for it.
2. On every node that you work on: paste its site's *names* into a root shell, then type an access token. Later lines
   need this same shell. Paste one block at a time; each ends with status 0 (`echo $?`) or says what is wrong. All of
   them may be pasted again.
3. **Where am I?** Paste *where it stands* on each node: every step answers `done` or `OPEN`.
4. **ON**: in the order below, from the first step that is OPEN down to the last; of each step its lines under *ON*.
   **BACK**: in the opposite order, from the last step that is done up to the first, its lines under *BACK*: so the
   primary before the secondaries, and image sync last of all. A step with nothing to do says why.

The order, and georeg's last word on each step:

{order}
"""


class Gap(str):
    """Why lines are missing that should be there."""


class BreakGlass:
    """The sheet of one run. `look` gives the read-only view of a site."""

    def __init__(
        self, scenario: Scenario, refs: Sequence[Ref], look: Callable[[Any], Any], record: Record, ledger: Ledger
    ) -> None:
        self._scenario = scenario
        self._refs = refs
        self._look = look
        self._record = record
        self._ledger = ledger
        self._lines: dict[str, ByHand | str] = {}
        self._current: set[str] = set()
        self._places: dict[str, Place | None] = {}

    def of(self, ref: Ref) -> ByHand | str:
        """The lines of a step, or why it needs none. Never raises: a sheet with a gap is better than none."""
        if ref.id not in self._current:
            found = self._asked(f"by hand {ref.id}", lambda: ref.step.break_glass(self._look(ref.site)))
            if not isinstance(found, Gap) or ref.id not in self._lines:
                self._lines[ref.id] = found
            self._current.add(ref.id)
        return self._lines[ref.id]

    def renew(self, site: Any) -> None:
        """What was decided since, such as the method of an import, shows in the site's lines from now on."""
        self._current -= {ref.id for ref in self._refs if ref.site.name == site.name}

    def write(self, site: Any = None) -> str:
        """Write it into the record and, with a site that is being changed, onto its first registry node.

        Returns what a person should be told: that the node did not take it; else nothing.
        """
        if not self._refs:
            return ""
        text = self.markdown()
        self._record.write(NAME, text)
        if site is None or self._scenario.place is None:
            return ""
        try:
            site.registry_nodes[0].write_file(ON_NODE, redact(text).encode(), mode=0o600)
        except GeoregError as error:
            return f"the break-glass sheet could not be written to the node: {error.message}"
        return ""

    def markdown(self) -> str:
        """The whole sheet."""
        words = self._last_words()
        order = [f"{number}. `{ref.id}` {words.get(ref.id, '')}".rstrip() for number, ref in enumerate(self._refs, 1)]
        head = _HEAD.format(title=self._scenario.title, run=self._record.run, now=stamp(), order="\n".join(order))
        sites = {ref.site.name: ref.site for ref in self._refs}
        return "\n".join([head, *(self._site(site) for site in sites.values())])

    def _site(self, site: Any) -> str:
        refs = [ref for ref in self._refs if ref.site.name == site.name]
        parts = [f"## Site {site.name} ({site.role}): {', '.join(node.name for node in site.nodes)}\n"]
        if place := self._place(site):
            parts += [f"- {label}: {text}" for label, text in place.facts]
            parts += ["", "### Names, on every node of this site\n", _fence(place.names), _fence(place.ready)]
        parts.append("### Where it stands\n")
        parts += [_pasted(paste) for paste in self._where(refs)]
        parts += [self._step(ref) for ref in refs]
        return "\n".join(parts)

    def _where(self, refs: Sequence[Ref]) -> list[Paste]:
        """Every step's test, put together for the nodes on which it is asked."""
        tests: dict[tuple[str, ...], list[str]] = {}
        for ref in refs:
            lines = self.of(ref)
            for paste in lines.done if isinstance(lines, ByHand) else ():
                quoted = paste.shell.replace("'", "'\\''")
                tests.setdefault(tuple(paste.nodes), []).append(f"stands {ref.id} '{quoted}'")
        jobs = "at_work   # what of georeg's goes on by itself: nothing, or folders with its output"
        return [Paste(nodes, "\n".join([*lines, jobs])) for nodes, lines in tests.items()]

    def _step(self, ref: Ref) -> str:
        lines = self.of(ref)
        parts = [f"### {ref.id}: {ref.step.title}\n"]
        if isinstance(lines, str):
            return "\n".join([*parts, f"Nothing by hand: {lines}.\n"])
        parts += [f"{note[:1].upper()}{note[1:]}.\n" for note in _said(lines)]
        if lines.finish:
            parts += ["**ON**\n", *(_pasted(paste) for paste in lines.finish)]
        parts += ["**BACK**\n", *(_pasted(paste) for paste in lines.undo)]
        if lines.no_undo:
            parts.append(f"Nothing: {lines.no_undo}.\n")
        return "\n".join([*parts, f"(ground: {ref.step.evidence}, {ref.step.source})\n"])

    def _last_words(self) -> Mapping[str, str]:
        """Step → the last thing the ledger says of it, where it was begun."""
        words: dict[str, str] = {}
        for entry in self._ledger.entries():
            if entry["event"] == "step.started":
                words[entry["step"]] = f"**begun {entry['time']}**"
            elif entry["event"] == "step.undone":
                words[entry["step"]] = f"taken back {entry['time']}"
            elif entry["event"] == "step.ended" and entry["outcome"] not in ("not approved", "not reached"):
                words[entry["step"]] = f"{entry['outcome']} {entry['time']}"
        return words

    def _place(self, site: Any) -> Place | None:
        if site.name not in self._places:
            make = self._scenario.place
            found = self._asked(f"by hand {site.name}", lambda: make(self._look(site))) if make else None
            self._places[site.name] = found if isinstance(found, Place) else None
        return self._places[site.name]

    def _asked(self, what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:
            log_traceback(self._record, what, error)
            return Gap(f"THESE LINES COULD NOT BE MADE ({error})")


def blocks(lines: ByHand | str) -> list[Block]:
    """A step's lines as a folded block of its plan."""
    if isinstance(lines, str):
        return []
    shown: list[Block] = [Text(f"{note}.") for note in _said(lines)]
    for title, pastes in (("ON", lines.finish), ("BACK", lines.undo)):
        shown += [Code(paste.shell, f"{title} · {', '.join(paste.nodes)}: {paste.says}") for paste in pastes]
    if lines.no_undo:
        shown.append(Facts([("BACK", f"nothing: {lines.no_undo}")]))
    return [Details(f"By hand, without georeg (all of it: {NAME})", shown, page_only=True)]


def _said(lines: ByHand) -> list[str]:
    return [*lines.notes, *([f"What it costs: {lines.loses}"] if lines.loses else [])]


def _pasted(paste: Paste) -> str:
    says = f": {paste.says}" if paste.says else ""
    return f"On {', '.join(paste.nodes)}{says}.\n\n{_fence(paste.shell)}"


def _fence(shell: str) -> str:
    return f"```sh\n{shell}\n```\n"
