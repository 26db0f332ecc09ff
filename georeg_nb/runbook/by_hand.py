"""What stands in for a step when georeg is gone: plain shell for root on the nodes, to finish it or to undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paste:
    """Lines for a root shell on each of these nodes, one node after the other, pasted at once.

    They end with status 0 when they did what `says` says, and may be pasted again.
    """

    nodes: Sequence[str]
    shell: str
    says: str = ""


@dataclass(frozen=True)
class ByHand:
    """One step at a node's prompt.

    `done` are tests that end with status 0 once the step is done. `no_undo` says why nothing is to be undone, or why
    nothing can be; `loses` what going on or back costs, where it costs anything.
    """

    done: Sequence[Paste] = ()
    finish: Sequence[Paste] = ()
    undo: Sequence[Paste] = ()
    no_undo: str = ""
    loses: str = ""
    notes: Sequence[str] = ()
    source: str = ""
    evidence: str = ""

    def data(self) -> dict[str, Any]:
        """As plan.json holds it."""

        def plain(pastes: Sequence[Paste]) -> list[dict[str, Any]]:
            return [{"nodes": list(paste.nodes), "says": paste.says, "shell": paste.shell} for paste in pastes]

        return {
            "done": plain(self.done),
            "finish": plain(self.finish),
            "undo": plain(self.undo),
            "no_undo": self.no_undo,
            "loses": self.loses,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Place:
    """What a site's lines rely on. `names` is pasted first into every shell: it sets names, and changes nothing.

    `ready` is pasted behind it by itself, because it waits for something to be typed. `facts` are shown at the top.
    """

    names: str
    ready: str = ""
    facts: Sequence[tuple[str, str]] = ()
