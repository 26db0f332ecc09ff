"""Steps, and how they are put together to procedures, sections and scenarios."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from georeg_nb.runbook.by_hand import ByHand, Place
from georeg_nb.runbook.findings import Check, Evidence, Finding

if TYPE_CHECKING:
    from georeg_nb.site import Site, Sites

ChangeKind = Literal["file", "command", "api", "sql", "record", "manual"]


@dataclass(frozen=True)
class Change:
    """One thing that a step will change: `where` names it, `before` and `after` show it.

    An approval is bound to `after`. Where `after` also shows what earlier steps change (a whole file of which this step
    adds one block), `binds` is the part that this step intends.
    """

    kind: ChangeKind
    where: str
    before: str = ""
    after: str = ""
    binds: str = ""


@dataclass(frozen=True)
class Plan:
    """What a step will change. `duration` is a prediction in words; `note` is what the operator should know besides."""

    changes: Sequence[Change] = ()
    duration: str = ""
    note: str = ""

    def digest(self, step_id: str, site: str) -> str:
        """What an approval is bound to: the intended result, not the present state; so it survives earlier steps."""
        intended = [
            step_id,
            site,
            [[change.kind, change.where, change.binds or change.after] for change in self.changes],
        ]
        return hashlib.sha256(json.dumps(intended, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True)
class Done:
    """The answer of `Step.is_done` that also says why there is nothing to do. Its truth value is True."""

    reason: str

    def __bool__(self) -> bool:
        return True


class Step:
    """One change on one node or API.

    A step is applied only when `is_done` says no, its plan is approved, and every check in `needs` passes; all three
    are read again immediately before. `plan`, `is_done`, `skip` and `manual` get a site that cannot be written. One
    with `until` is not begun before every step up to the named one is approved too: what it begins must be able to end.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    interrupts: ClassVar[str] = "nothing"
    reversible: ClassVar[bool] = True
    evidence: ClassVar[Evidence] = "source"
    source: ClassVar[str] = ""
    needs: ClassVar[Sequence[Check]] = ()
    until: ClassVar[str] = ""  # the step that ends what this one begins, such as a time without pushes

    def skip(self, site: Site) -> str | None:
        """The rule by which this step is not for this site, or None."""
        return None

    def manual(self, site: Site) -> str | None:
        """The instruction, word for word, when this step must be done by hand and attested; else None."""
        return None

    def is_done(self, site: Site) -> bool | Done:
        """Whether the site already is as this step would leave it. Reads only."""
        return False

    def plan(self, site: Site) -> Plan:
        """What will change. Reads only."""
        return Plan()

    def apply(self, site: Site) -> None:
        """The change itself. Raises when it did not work, after putting back what it changed where that is safe."""

    def verify(self, site: Site) -> Finding | Sequence[Finding]:
        """The proof, by reading the site again."""
        raise TypeError(f"step {self.name} has no proof")

    def undo(self, site: Site) -> None:
        """Take the change back. Override it where there is a way."""
        raise TypeError(f"step {self.name} cannot be undone")

    def break_glass(self, site: Site) -> ByHand | str:
        """Plain shell lines that finish or undo this step without georeg, or the reason why it needs none.

        Reads only. Its lines are made from the same constants and blocks as `apply`.
        """
        return ""

    def attested(self, site: Site, attestation: dict[str, str]) -> None:
        """Keep on the site who did a manual step (`text`, `who`, `when`, `run`): later runs look there in `is_done`."""
        site.keep.save(f"attested-{self.name}", attestation)

    def state_after_failure(self, site: Site) -> str:
        """What a person must know after a failure, such as whether the registry is read-only. Reads only."""
        return ""

    @property
    def has_undo(self) -> bool:
        return type(self).undo is not Step.undo


@dataclass(frozen=True)
class Procedure:
    """Checks and steps that belong together. `pair_checks` are asked once, of all sites."""

    name: str
    checks: Sequence[Check] = ()
    pair_checks: Sequence[Check] = ()
    steps: Sequence[Step] = ()
    title: str = ""

    @property
    def all_checks(self) -> list[Check]:
        """What its sections ask."""
        return [*self.checks, *self.pair_checks]


@dataclass(frozen=True)
class Section:
    """A part of a scenario with a natural stop after it: a procedure on some of the sites.

    `after` names the sections that must be complete before a step of this one is applied.
    """

    name: str
    procedure: Procedure
    sites: Callable[[Sites], list[Site]]
    after: Sequence[str] = ()
    title: str = ""


@dataclass(frozen=True)
class StartingPoint:
    """What a scenario starts from, in words."""

    geo: str = ""
    primary: str = ""
    secondary: str = ""


@dataclass(frozen=True)
class Scenario:
    """One starting point, one notebook, a list of sections."""

    id: str
    title: str
    starts_from: StartingPoint
    sections: Sequence[Section] = field(default_factory=tuple)
    place: Callable[[Site], Place] | None = None
    """What the break-glass lines of a site rely on."""

    def __iter__(self) -> Iterator[Section]:
        return iter(self.sections)

    def section(self, name: str) -> Section:
        """The section of that name. Raises KeyError with the names there are."""
        for section in self.sections:
            if section.name == name:
                return section
        raise KeyError(f"no section {name!r} in {self.id}; there are: {', '.join(s.name for s in self.sections)}")
