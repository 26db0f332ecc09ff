"""Two metadata databases, compared inside the databases.

Fingerprints per repository, then per bucket of tags, and only the rows of buckets that differ cross the wire. So the
cost follows the number of differences. Source: registry 4.5, 6, 7, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from georeg_nb.metadata_db import Bucket, MetadataDB
from georeg_nb.verification.model import Comparison, Difference, difference_of

SMALL = 500
"""Tags of a repository up to which its rows are fetched at once, without going through buckets."""


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
                if (found := difference_of((path, tag), rows[0].get(tag, ""), rows[1].get(tag, "")))
            ]
    return Comparison(*names, counts, sorted(differences))


def _count(buckets: Mapping[str, Bucket], path: str) -> int:
    return buckets[path].tags if path in buckets else 0
