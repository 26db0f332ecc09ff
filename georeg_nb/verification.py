"""Do two registries hold the same images? Decided by (repository path, tag, digest) alone.

Two metadata databases are compared inside the databases: fingerprints per repository, then per bucket of tags, and only
the rows of buckets that differ cross the wire. So the cost follows the number of differences.
Source: registry 4.5, 6, 7, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from georeg_nb.metadata_db import Bucket, MetadataDB

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["missing", "extra", "differing"]
Tags = Mapping[tuple[str, str], str]
SMALL = 500
"""Tags of a repository up to which its rows are fetched at once, without going through buckets."""


@dataclass(frozen=True, order=True)
class Difference:
    """One tag that is not the same here (the reference) and there. `missing`: not there; `extra`: only there."""

    repository: str
    tag: str
    kind: Kind
    here: str = ""
    there: str = ""
    in_flight: bool = False
    accepted: bool = False

    def row(self) -> dict[str, Any]:
        """Plain values, for tables and files."""
        state = "accepted" if self.accepted else "in flight" if self.in_flight else "stays"
        return {
            "repository": self.repository,
            "tag": self.tag,
            "kind": self.kind,
            "digest here": self.here,
            "digest there": self.there,
            "state": state,
        }


@dataclass(frozen=True)
class Comparison:
    """Here (the reference) against there. `counts`: repository → tags on each; without tags it is left out."""

    here: str
    there: str
    counts: Mapping[str, tuple[int, int]]
    differences: Sequence[Difference] = field(default_factory=tuple)

    @property
    def staying(self) -> list[Difference]:
        """Differences that are neither on their way nor accepted."""
        return [one for one in self.differences if not one.in_flight and not one.accepted]

    @property
    def equal(self) -> bool:
        """Nothing differs but what was accepted."""
        return all(one.accepted for one in self.differences)

    @property
    def verdict(self) -> str:
        """`equal`, `in flight` (nothing else differs), or `different`."""
        if self.equal:
            return "equal"
        return "different" if self.staying else "in flight"

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
        open_ = [one for one in differences if not one.in_flight and not one.accepted]
        on_their_way = sum(one.in_flight and not one.accepted for one in differences)
        here, there = self.counts.get(path, (0, 0))
        return {
            "repository": path,
            f"tags on {self.here}": here,
            f"tags on {self.there}": there,
            **{kind: sum(one.kind == kind for one in open_) for kind in ("missing", "extra", "differing")},
            "in flight": on_their_way,
            "accepted": sum(one.accepted for one in differences),
            "verdict": "different" if open_ else "in flight" if on_their_way else "equal",
        }

    def frame(self) -> pd.DataFrame:
        """The rows as a pandas table."""
        import pandas as pd  # half a second that `georeg status` and a run without tables need not spend

        return pd.DataFrame(self.rows())

    def difference_rows(self) -> list[dict[str, Any]]:
        """Every single difference, sorted by repository and tag."""
        return [one.row() for one in sorted(self.differences)]


def accept_losses(comparison: Comparison, accepted: Iterable[str]) -> Comparison:
    """Mark tags that may be missing (`path:tag`) as accepted. Extra and differing tags are never accepted."""
    names = set(accepted)
    marked = [
        Difference(d.repository, d.tag, d.kind, d.here, d.there, d.in_flight, True)
        if d.kind == "missing" and f"{d.repository}:{d.tag}" in names
        else d
        for d in comparison.differences
    ]
    return Comparison(comparison.here, comparison.there, comparison.counts, marked)


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
        if (difference := _difference(key, here.get(key, ""), there.get(key, "")))
    ]
    return Comparison(*names, counts, differences)


def _difference(key: tuple[str, str], here: str, there: str) -> Difference | None:
    if here == there:
        return None
    kind: Kind = "missing" if not there else "extra" if not here else "differing"
    return Difference(*key, kind, here, there)


def compare_databases(
    here: MetadataDB, there: MetadataDB, *, names: tuple[str, str] = ("primary", "secondary")
) -> Comparison:
    """Compare two metadata databases by narrowing fingerprints. Raises DatabaseRefused."""
    with ThreadPoolExecutor(2) as both:

        def ask(question: Callable[[MetadataDB], Any]) -> tuple[Any, Any]:
            one, other = both.submit(question, here), both.submit(question, there)
            return one.result(), other.result()

        repositories: tuple[dict[str, Bucket], dict[str, Bucket]] = ask(lambda db: db.repositories())
        counts = {
            path: (_count(repositories[0], path), _count(repositories[1], path))
            for path in repositories[0].keys() | repositories[1].keys()
        }
        differences: list[Difference] = []
        for path in sorted(counts):
            if repositories[0].get(path) == repositories[1].get(path):
                continue
            buckets: list[str] | None = None
            if max(counts[path]) > SMALL:
                tags: tuple[dict[str, Bucket], dict[str, Bucket]] = ask(lambda db, path=path: db.tag_buckets(path))  # type: ignore[misc]
                buckets = [name for name in tags[0].keys() | tags[1].keys() if tags[0].get(name) != tags[1].get(name)]
            rows = ask(lambda db, path=path, buckets=buckets: db.repository_tags(path, buckets))  # type: ignore[misc]
            differences += [
                found
                for tag in rows[0].keys() | rows[1].keys()
                if (found := _difference((path, tag), rows[0].get(tag, ""), rows[1].get(tag, "")))
            ]
    return Comparison(*names, counts, sorted(differences))


def _count(buckets: Mapping[str, Bucket], path: str) -> int:
    return buckets[path].tags if path in buckets else 0


def second_look(
    first: Comparison, again: Callable[[], Comparison], *, pending: Callable[[], frozenset[str]] = frozenset
) -> Comparison:
    """Tell differences that are on their way from those that stay.

    `again` compares once more, after a wait of its own. What is gone then was on its way and is left out; what stays is
    in flight only in repositories that `pending` names (Geo has yet to sync them). Raises what `again` raises.
    """
    if first.equal:
        return first
    waiting, second = pending(), again()
    marked = [
        Difference(d.repository, d.tag, d.kind, d.here, d.there, d.repository in waiting, d.accepted)
        for d in second.differences
    ]
    return Comparison(second.here, second.there, second.counts, marked)
