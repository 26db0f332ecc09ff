"""Approvals and attestations: who wanted what, when, and of which plan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from georeg_nb.records import operator, stamp
from georeg_nb.runbook.refs import Ref

How = Literal["parameter", "call", "button"]
_SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Approval:
    """One step's approval, bound to the digest of the plan that was approved."""

    step: str
    digest: str
    who: str
    when: str
    how: str

    def __str__(self) -> str:
        return f"approved by {self.who} at {self.when} ({self.how})"


@dataclass(frozen=True)
class Attestation:
    """The operator's word that a manual step was done."""

    step: str
    text: str
    who: str
    when: str
    how: str

    def __str__(self) -> str:
        return f"attested by {self.who} at {self.when} ({self.how}): {self.text}"


@dataclass(frozen=True)
class _Wish:
    name: str
    digest: str
    how: How
    number: int


class Approvals:
    """What was approved in this run. Safe to call from any thread: a button's click may arrive in another one.

    `tell` writes to the ledger: an approval counts when it stands there, bound to the digest of the plan as it was.
    """

    def __init__(self, tell: Callable[..., Any]) -> None:
        self._tell = tell
        self._lock = threading.RLock()
        self._wishes: list[_Wish] = []
        self._fallen: dict[str, int] = {}
        self._shown: dict[str, str] = {}
        self._bound: dict[str, Approval] = {}
        self._attestations: dict[str, Attestation] = {}

    def restore(self, entries: Iterable[Mapping[str, Any]], *, wishes: bool) -> None:
        """Take up the approvals of earlier attempts from the ledger; each stays bound to its plan.

        With `wishes` also what was approved by name for the run, of steps that were not reached yet.
        """
        with self._lock:
            for entry in entries:
                if entry["event"] == "run.opened" and wishes:
                    self._wishes.clear()
                    self._fallen.clear()
                    self.wish(entry.get("approve", ()), "parameter")
                elif entry["event"] == "approval":
                    self._bound[entry["step"]] = Approval(
                        *(entry[key] for key in ("step", "digest", "who", "when", "how"))
                    )
                elif entry["event"] == "approval.fell":
                    self._bound.pop(entry["step"], None)
                    self._fallen[entry["step"]] = len(self._wishes)
                elif entry["event"] == "attestation":
                    kept = Attestation(*(entry[key] for key in ("step", "text", "who", "when", "how")))
                    self._attestations[entry["step"]] = kept

    def wishes(self) -> list[str]:
        """What is approved by name, as it was given."""
        with self._lock:
            return [f"{wish.name}@{wish.digest}" if wish.digest else wish.name for wish in self._wishes]

    def given(self) -> bool:
        """Whether anything at all is approved, so that the run is to change something."""
        with self._lock:
            by_hand = any(attestation.how != "parameter" for attestation in self._attestations.values())
            return bool(self._wishes or self._bound) or by_hand

    def wish(self, names: Iterable[str], how: How) -> None:
        """Approve by name: "all", a section, a step, a full id, or "full id@digest"."""
        with self._lock:
            for name in names:
                plain, _, digest = name.partition("@")
                self._wishes.append(_Wish(plain, digest, how, len(self._wishes)))

    def show(self, ref: Ref, digest: str) -> None:
        """Remember which plan the operator was shown: a click or a call approves that one."""
        with self._lock:
            self._shown[ref.id] = digest

    def bind_shown(self, ref: Ref) -> Approval | None:
        """The approval of the plan that was shown last; None when none was shown, or it is not approved."""
        with self._lock:
            shown = self._shown.get(ref.id)
            return self.of(ref, shown) if shown else None

    def wanted(self, ref: Ref) -> bool:
        """Whether the step is approved or attested by name, whatever its plan is."""
        with self._lock:
            if ref.id in self._bound:
                return True
            return any(self._counts(wish, ref) and _covers(wish, ref, wish.digest) for wish in self._wishes)

    def approve_shown(self, ref: Ref, digest: str, how: How) -> Approval:
        """Approve the plan that the operator has before the eyes, whatever the present one is."""
        with self._lock:
            return self._bind(ref, digest, how)

    def of(self, ref: Ref, digest: str) -> Approval | None:
        """The approval of this plan of the step, if there is one.

        A bound approval of another plan falls here, and what was wished before it fell counts no longer.
        """
        with self._lock:
            bound = self._bound.get(ref.id)
            if bound and bound.digest == digest:
                return bound
            if bound:
                self.fall(ref, digest)
                return None
            for wish in self._wishes:
                if self._counts(wish, ref) and _covers(wish, ref, digest):
                    return self._bind(ref, digest, wish.how)
            return None

    def fall(self, ref: Ref, digest: str) -> None:
        """The plan is no longer the approved one."""
        with self._lock:
            bound = self._bound.pop(ref.id, None)
            self._fallen[ref.id] = len(self._wishes)
            self._tell("approval.fell", step=ref.id, approved=bound.digest if bound else "", digest=digest)

    def attest(self, ref: Ref, text: str, how: How) -> Attestation:
        """Take the operator's word for a manual step."""
        with self._lock:
            known = self._attestations.get(ref.id)
            if known and known.text == text:
                return known
            attestation = Attestation(ref.id, text, operator(), stamp(), how)
            self._attestations[ref.id] = attestation
            self._tell("attestation", **attestation.__dict__)
            return attestation

    def attestation(self, ref: Ref) -> Attestation | None:
        with self._lock:
            return self._attestations.get(ref.id)

    def _counts(self, wish: _Wish, ref: Ref) -> bool:
        return wish.number >= self._fallen.get(ref.id, 0)

    def _bind(self, ref: Ref, digest: str, how: How) -> Approval:
        known = self._bound.get(ref.id)
        if known and known.digest == digest:
            return known
        approval = Approval(ref.id, digest, operator(), stamp(), how)
        self._bound[ref.id] = approval
        self._tell("approval", **approval.__dict__)
        return approval


def _covers(wish: _Wish, ref: Ref, digest: str) -> bool:
    if wish.digest and (len(wish.digest) < _SHORTEST_DIGEST or not digest.startswith(wish.digest)):
        return False
    if wish.name == ref.id:
        return True
    return ref.step.reversible and (wish.name == "all" or wish.name in ref.names())
