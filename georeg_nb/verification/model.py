"""What a comparison of two registries says, the same on every level: decided by (repository path, tag, digest)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Level = Literal["metadata", "api", "content"]
Kind = Literal["missing", "extra", "differing", "incomplete", "corrupt", "unreadable", "unsupported", "disagreeing"]
State = Literal["different", "in flight", "accepted", "on both"]
Tags = Mapping[tuple[str, str], str]

OF_TAGS: tuple[Kind, ...] = ("missing", "extra", "differing")
BELOW_TAGS: tuple[Kind, ...] = ("incomplete", "corrupt", "unreadable", "unsupported", "disagreeing")
ON_THEIR_WAY: tuple[Kind, ...] = (*OF_TAGS, "incomplete")
"""Kinds that Geo's next sync can mend."""


@dataclass(frozen=True, order=True)
class Difference:
    """One thing that is not the same here (the reference) and there, or cannot be told.

    missing, extra, differing: a tag that is not there, only there, on another manifest. incomplete: something that an
    image names (`object`) cannot be had. corrupt: bytes that do not hash to their digest. unreadable: the registry
    fails at it. unsupported: a manifest of schema 1. disagreeing: a registry and its own database say different things.
    `state` on both: broken in the same way on both sides, which is no difference between them.
    """

    repository: str
    tag: str
    kind: Kind
    here: str = ""
    there: str = ""
    state: State = "different"
    object: str = ""
    detail: str = ""

    def row(self) -> dict[str, Any]:
        """Plain values, for tables and files."""
        return {
            "repository": self.repository,
            "tag": self.tag,
            "kind": self.kind,
            "digest here": self.here,
            "digest there": self.there,
            "verdict": self.state,
            "object": self.object,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Comparison:
    """Here (the reference) against there. `counts`: repository → tags on each; without tags it is left out.

    `reason` says why the sides could not be compared, or not to the end; empty when they were. `sample` says what was
    looked at when it was not everything.
    """

    here: str
    there: str
    counts: Mapping[str, tuple[int, int]]
    differences: Sequence[Difference] = field(default_factory=tuple)
    level: Level = "metadata"
    reason: str = ""
    sample: str = ""

    @property
    def staying(self) -> list[Difference]:
        """Differences that are neither on their way, nor accepted, nor the same on both sides."""
        return [one for one in self.differences if one.state == "different"]

    @property
    def equal(self) -> bool:
        """Both sides were compared, and nothing differs but what was accepted."""
        return not self.reason and all(one.state in ("accepted", "on both") for one in self.differences)

    @property
    def verdict(self) -> str:
        """`equal`, `in flight` (nothing else differs), `different`, or `not compared`."""
        if self.staying:
            return "different"
        if self.reason:
            return "not compared"
        return "equal" if self.equal else "in flight"

    @property
    def tags(self) -> tuple[int, int]:
        """Tags on each side."""
        return sum(a for a, _ in self.counts.values()), sum(b for _, b in self.counts.values())

    def rows(self) -> list[dict[str, Any]]:
        """One row per repository, by path: tags on each side, and how many differ, and how."""
        by_repository: dict[str, list[Difference]] = {}
        for one in self.differences:
            by_repository.setdefault(one.repository, []).append(one)
        return [
            self._row(path, by_repository.get(path, ())) for path in sorted(self.counts.keys() | by_repository.keys())
        ]

    def _row(self, path: str, differences: Sequence[Difference]) -> dict[str, Any]:
        open_ = [one.kind for one in differences if one.state == "different"]
        states = [one.state for one in differences]
        here, there = self.counts.get(path, (0, 0))
        below = [*BELOW_TAGS] if self.level != "metadata" else []
        return {
            "repository": path,
            f"tags on {self.here}": here,
            f"tags on {self.there}": there,
            **{kind: open_.count(kind) for kind in (*OF_TAGS, *below)},
            **({"on both": states.count("on both")} if below else {}),
            "in flight": states.count("in flight"),
            "accepted": states.count("accepted"),
            "verdict": "different" if open_ else "in flight" if "in flight" in states else "equal",
        }

    def difference_rows(self) -> list[dict[str, Any]]:
        """Every single difference, sorted by repository and tag."""
        return [one.row() for one in sorted(self.differences)]


def not_compared(names: tuple[str, str], level: Level, reason: str) -> Comparison:
    """The answer where one side cannot be asked: never `equal`."""
    return Comparison(*names, {}, (), level, reason)


def accept_losses(comparison: Comparison, accepted: Iterable[str]) -> Comparison:
    """Mark tags that may be missing (`path:tag`) as accepted. Extra and differing tags are never accepted."""
    names = set(accepted)
    marked = [
        replace(d, state="accepted") if d.kind == "missing" and f"{d.repository}:{d.tag}" in names else d
        for d in comparison.differences
    ]
    return replace(comparison, differences=marked)


def compare_tags(here: Tags, there: Tags, *, names: tuple[str, str] = ("here", "there")) -> Comparison:
    """Compare two sets of (repository, tag) → digest that are in memory: a snapshot with a site, or two snapshots."""
    counts: dict[str, tuple[int, int]] = {}
    for repository, _ in here:
        a, b = counts.get(repository, (0, 0))
        counts[repository] = (a + 1, b)
    for repository, _ in there:
        a, b = counts.get(repository, (0, 0))
        counts[repository] = (a, b + 1)
    differences = [
        difference
        for key in sorted(here.keys() | there.keys())
        if (difference := difference_of(key, here.get(key, ""), there.get(key, "")))
    ]
    return Comparison(*names, counts, differences)


def difference_of(key: tuple[str, str], here: str, there: str) -> Difference | None:
    """The difference between two digests of a tag, "" where there is none; None when they are the same."""
    if here == there:
        return None
    kind: Kind = "missing" if not there else "extra" if not here else "differing"
    return Difference(*key, kind, here, there)


def second_look(
    first: Comparison,
    again: Callable[[frozenset[str]], Comparison],
    *,
    pending: Callable[[], frozenset[str]] = frozenset,
) -> Comparison:
    """Tell differences that are on their way from those that stay.

    `again` compares once more, at least the repositories that it is given, after a wait of its own. What is gone then
    was on its way and is left out; what stays is in flight only in repositories that `pending` names (Geo has yet to
    sync them), and only if a sync can mend it. Raises what `again` raises.
    """
    if not first.differences or first.equal:
        return first
    waiting = pending()
    second = again(frozenset(one.repository for one in first.differences))
    if second.reason:
        return replace(first, reason=second.reason)
    marked = [
        replace(d, state="in flight")
        if d.state == "different" and d.repository in waiting and d.kind in ON_THEIR_WAY
        else d
        for d in second.differences
    ]
    return replace(first, counts={**first.counts, **second.counts}, differences=marked)
