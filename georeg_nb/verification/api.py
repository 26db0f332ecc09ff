"""Two registries, compared over HTTP: for sites whose database cannot be reached or is still legacy.

Repository by repository: the tags of both sides, the digest of each, indexes down to their children, and on the level
`content` every manifest, config and layer. What cannot be told is a difference of its own, never left out.
Source: registry 5, 7; procedures 2.7 row 6.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from georeg_nb.errors import DatabaseRefused
from georeg_nb.metadata_db import MetadataDB
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.verification import questions
from georeg_nb.verification.model import Comparison, Difference, Kind, Level, difference_of, not_compared
from georeg_nb.verification.questions import Answer

REPOSITORIES_AT_ONCE = 8
REQUESTS_AT_ONCE = 16
FAILURES_IN_A_ROW = 40
"""After so many answers that were failures, and no other, a registry is not asked any further."""
REMEMBERED = 200_000
"""Blobs that are remembered as read, on each side: layers are shared by many repositories."""

Progress = Callable[[str, float | None], object]
Objects = dict[str, Answer]
KINDS: Mapping[questions.State, Kind] = {
    "absent": "incomplete",
    "corrupt": "corrupt",
    "fails": "unreadable",
    "unsupported": "unsupported",
}


@dataclass(frozen=True)
class Sample:
    """What is looked at when not everything is. Chosen by hashes: each site and each run looks at the same.

    `tags`: at most so many of each repository's tags, besides those that only one side lists. `percent`: share of the
    images whose content is read.
    """

    tags: int | None = None
    percent: int = 100

    def of_tags(self, names: Iterable[str]) -> list[str]:
        """The tags to look at."""
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        return ordered if self.tags is None else ordered[: self.tags]

    def has(self, digest: str) -> bool:
        """Whether this image's content is read."""
        return int(hashlib.sha256(digest.encode()).hexdigest()[:8], 16) % 100 < self.percent


EVERYTHING = Sample()


@dataclass
class _Side:
    """One side of a walk."""

    name: str
    registry: RegistryAPI
    database: MetadataDB | None = None
    failures: int = 0
    read: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def remember(self, digest: str) -> None:
        self.read[digest] = None
        if len(self.read) > REMEMBERED:
            self.read.popitem(last=False)


@dataclass
class _Repository:
    path: str
    counts: tuple[int, int] = (0, 0)
    looked_at: int = 0
    differences: list[Difference] = field(default_factory=list)


class _Lost(Exception):
    """One side cannot be compared any further."""


def compare_registries(
    here: RegistryAPI,
    there: RegistryAPI,
    *,
    names: tuple[str, str] = ("primary", "secondary"),
    level: Level = "api",
    repositories: Iterable[str] | None = None,
    sample: Sample = EVERYTHING,
    databases: tuple[MetadataDB, MetadataDB] | None = None,
    executor: Executor | None = None,
    progress: Progress = lambda text, fraction: None,
) -> Comparison:
    """Compare two registries over HTTP. Never raises for what they answer: see `Comparison.reason`.

    `level` is api or content. `repositories`: only these, else all of both catalogs. `databases`: hold what each
    registry says to what its own database says. `executor` runs the single requests, here or elsewhere; without it,
    threads do.
    """
    sides = [_Side(names[n], registry, databases[n] if databases else None) for n, registry in enumerate((here, there))]
    own = ThreadPoolExecutor(REQUESTS_AT_ONCE) if executor is None else None
    walk = _Walk(sides, level, sample, executor or own)  # type: ignore[arg-type]
    compared = not_compared(names, level, "")
    counts: dict[str, tuple[int, int]] = {}
    differences: list[Difference] = []
    looked_at = 0
    try:
        paths = sorted(set(repositories)) if repositories is not None else walk.catalogs()
        for number, one in enumerate(_in_order(walk.repository, paths), 1):
            if any(one.counts):
                counts[one.path] = one.counts
            differences += one.differences
            looked_at += one.looked_at
            progress(f"comparing over HTTP: {number} of {len(paths)} repositories", number / len(paths))
    except (_Lost, DatabaseRefused) as error:
        compared = not_compared(names, level, str(error).splitlines()[0])
    finally:
        if own:
            own.shutdown(cancel_futures=True)
    listed = sum(max(pair) for pair in counts.values())
    parts = [f"{looked_at} of {listed} tags in {len(counts)} repositories"] if looked_at < listed else []
    if level == "content" and sample.percent < 100:
        parts.append(f"the content of {sample.percent} % of the images")
    return replace(compared, counts=counts, differences=sorted(differences), sample=", ".join(parts))


def _in_order(work: Callable[[str], _Repository], paths: Sequence[str]) -> Iterator[_Repository]:
    """Results in the order of the paths; only few repositories are in work, or wait to be taken, at any time."""
    waiting: deque[Future[_Repository]] = deque()
    with ThreadPoolExecutor(REPOSITORIES_AT_ONCE) as pool:
        try:
            for path in paths:
                waiting.append(pool.submit(work, path))
                if len(waiting) >= 2 * REPOSITORIES_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Walk:
    """Asks both sides the same. Its threads wait for the executor's, which never wait for others."""

    def __init__(self, sides: Sequence[_Side], level: Level, sample: Sample, executor: Executor) -> None:
        self._sides = sides
        self._level = level
        self._sample = sample
        self._executor = executor

    def catalogs(self) -> list[str]:
        """Repositories of both sides. Raises _Lost."""
        found = self._ask(questions.repositories, [[()], [()]])
        for side, answers in zip(self._sides, found, strict=True):
            if answers[()].state != "there":
                raise _Lost(f"{side.name}: its catalog cannot be read: {answers[()].text}")
        return sorted({path for answers in found for path in answers[()].names})

    def repository(self, path: str) -> _Repository:
        """Compare one repository. Raises _Lost."""
        listed = [answers[path,] for answers in self._ask(questions.tags, [[(path,)], [(path,)]])]
        if any(answer.state != "there" for answer in listed):
            failing = self._reasons(listed)
            return _Repository(path, differences=[Difference(path, "", "unreadable", detail=failing)])
        names = [set(answer.names) for answer in listed]
        chosen = self._sample.of_tags(names[0] & names[1]) + sorted(names[0] ^ names[1])
        asked = self._ask(questions.tag, [[(path, tag) for tag in chosen if tag in own] for own in names])
        tags = [{tag: answer for (_, tag), answer in answers.items()} for answers in asked]
        result = _Repository(path, (len(names[0]), len(names[1])), len(chosen))
        for tag in chosen:
            result.differences += self._of_tag(path, tag, tags[0].get(tag), tags[1].get(tag))
        roots = [_roots(answers) for answers in tags]
        objects = self._descend(path, roots)
        result.differences += self._of_objects(path, roots, objects)
        for side, own, answers in zip(self._sides, names, tags, strict=True):
            result.differences += _of_database(side, path, own, answers)
        return result

    def _of_tag(self, path: str, tag: str, *answers: Answer | None) -> Iterator[Difference]:
        if any(answer and answer.state == "fails" for answer in answers):
            yield Difference(path, tag, "unreadable", detail=self._reasons(answers))
            return
        here, there = (answer.digest if answer and answer.state == "there" else "" for answer in answers)
        empty = [
            side.name for side, answer in zip(self._sides, answers, strict=True) if answer and answer.state == "absent"
        ]
        detail = f"listed on {' and '.join(empty)} without a manifest" if empty else ""
        if not here and not there:
            yield Difference(path, tag, "incomplete", state="on both", detail=detail)
        elif found := difference_of((path, tag), here, there):
            yield replace(found, detail=detail)

    def _descend(self, path: str, roots: Sequence[Mapping[str, tuple[str, list[str]]]]) -> list[Objects]:
        """Read what has to be read on each side, level by level: digest → answer."""
        read: list[Objects] = [
            {digest: questions.unsupported(digest) for digest, (kind, _) in own.items() if is_schema_1(kind)}
            for own in roots
        ]
        frontier = [
            {digest for digest, (kind, _) in own.items() if digest not in known and self._is_read(digest, kind)}
            for own, known in zip(roots, read, strict=True)
        ]
        while any(frontier):
            found = self._ask(questions.manifest, [[(path, digest) for digest in sorted(own)] for own in frontier])
            new = [{digest: answer for (_, digest), answer in answers.items()} for answers in found]
            for known, answers in zip(read, new, strict=True):
                known.update(answers)
            frontier = [
                {one.digest for a in answers.values() for one in a.below if one.kind == "manifest"} - known.keys()
                for known, answers in zip(read, new, strict=True)
            ]
        self._read_blobs(path, read)
        return read

    def _is_read(self, digest: str, media_type: str) -> bool:
        return media_type not in questions.IMAGES or (self._level == "content" and self._sample.has(digest))

    def _read_blobs(self, path: str, read: Sequence[Objects]) -> None:
        whole = self._level == "content"
        wanted = [
            {
                one.digest: whole and one.digest not in side.read
                for answer in own.values()
                for one in answer.below
                if one.kind == "blob" and (whole or one.child)
            }
            for side, own in zip(self._sides, read, strict=True)
        ]
        found = self._ask(questions.blob, [[(path, *item) for item in sorted(own.items())] for own in wanted])
        for side, own, answers in zip(self._sides, read, found, strict=True):
            for (_, digest, _), answer in answers.items():
                own[digest] = answer
                if answer.state == "there" and whole:
                    side.remember(digest)

    def _of_objects(
        self, path: str, roots: Sequence[Mapping[str, tuple[str, list[str]]]], read: Sequence[Objects]
    ) -> Iterator[Difference]:
        """One difference for each object that cannot be had as it should be, with the first tag that leads to it."""
        owners: dict[str, tuple[str, str]] = {}
        for own, known in zip(roots, read, strict=True):
            seen: set[str] = set()
            for digest, (_, tags) in sorted(own.items(), key=lambda item: min(item[1][1])):
                _name_owners(digest, min(tags), "manifest", known, owners, seen)
        for digest in sorted(read[0].keys() | read[1].keys()):
            answers = [known.get(digest) for known in read]
            states = [answer.state if answer else None for answer in answers]
            here, there = (digest if state == "there" else "" for state in states)
            tag, label = owners[digest]
            if answers[0] and states[0] == states[1] and answers[0].state in ("absent", "unsupported"):
                detail = f"{label}: {answers[0].text}"
                yield Difference(path, tag, KINDS[answers[0].state], here, there, "on both", digest, detail)
                continue
            for side, answer in zip(self._sides, answers, strict=True):
                if answer and answer.state in KINDS:
                    detail = f"{side.name}: {label}: {answer.text}"
                    yield Difference(path, tag, KINDS[answer.state], here, there, "different", digest, detail)

    def _ask(
        self, question: Callable[..., Answer], arguments: Sequence[Sequence[tuple[Any, ...]]]
    ) -> list[dict[tuple[Any, ...], Answer]]:
        """The same question of both sides at once, once for each tuple of arguments. Raises _Lost."""
        futures = [
            {values: self._executor.submit(question, side.registry, *values) for values in own}
            for side, own in zip(self._sides, arguments, strict=True)
        ]
        return [
            {values: self._taken(side, future.result()) for values, future in own.items()}
            for side, own in zip(self._sides, futures, strict=True)
        ]

    def _taken(self, side: _Side, answer: Answer) -> Answer:
        side.failures = side.failures + 1 if answer.grave else 0
        if answer.state == "lost":
            raise _Lost(f"{side.name}: {answer.text}")
        if side.failures > FAILURES_IN_A_ROW:
            raise _Lost(f"{side.name}: {side.failures} failures in a row, the last: {answer.text}")
        return answer

    def _reasons(self, answers: Iterable[Answer | None]) -> str:
        return "; ".join(
            f"{side.name}: {answer.text}"
            for side, answer in zip(self._sides, answers, strict=True)
            if answer and answer.state == "fails"
        )


def is_schema_1(media_type: str) -> bool:
    """Whether a manifest of this type is of schema 1."""
    return media_type.startswith(questions.SCHEMA_1)


def _roots(answers: Mapping[str, Answer]) -> dict[str, tuple[str, list[str]]]:
    """Digest → its media type and its tags."""
    roots: dict[str, tuple[str, list[str]]] = {}
    for tag, answer in answers.items():
        if answer.state == "there":
            roots.setdefault(answer.digest, (answer.media_type, []))[1].append(tag)
    return roots


def _name_owners(
    digest: str, tag: str, label: str, read: Objects, owners: dict[str, tuple[str, str]], seen: set[str]
) -> None:
    """Note for each object below a manifest by which tag and as what it was met first."""
    if digest in seen:
        return
    seen.add(digest)
    owners.setdefault(digest, (tag, label))
    for one in read[digest].below if digest in read else ():
        place = one.label if label == "manifest" else f"{label}, {one.label}"
        _name_owners(one.digest, tag, place, read, owners, seen)


def _of_database(side: _Side, path: str, names: set[str], answers: Mapping[str, Answer]) -> Iterator[Difference]:
    """Where a registry and its own database disagree, in what was looked at. Raises DatabaseRefused."""
    if side.database is None:
        return
    rows = side.database.repository_tags(path)
    for tag in sorted(names | rows.keys()):
        answer, row = answers.get(tag), rows.get(tag, "")
        if tag not in names:
            yield Difference(path, tag, "disagreeing", detail=f"{side.name}: in its database, not listed over HTTP")
        elif not row:
            yield Difference(path, tag, "disagreeing", detail=f"{side.name}: listed over HTTP, not in its database")
        elif answer and answer.state == "there" and answer.digest != row:
            detail = f"{side.name}: served is {answer.digest}, its database says {row}"
            yield Difference(path, tag, "disagreeing", detail=detail)
