"""What GitLab's own API asks the metadata database. Source: registry 4, 5.5."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from georeg_lab.registry import digests
from georeg_lab.registry.database_backend import find_repository
from georeg_lab.registry.db import Queries
from georeg_lab.registry.importer_store import Repository

PUBLISHED = "GREATEST(t.created_at, t.updated_at)"


@dataclass(frozen=True)
class Place:
    """A marker of a tag list: a name, or a time and a name."""

    name: str
    published_at: datetime | None = None


@dataclass(frozen=True)
class Listing:
    """Which tags are wanted. `by_time`: sorted by publication. At most one of `last` and `before` is set."""

    limit: int = 100
    last: Place | None = None
    before: Place | None = None
    name: str = ""
    exact: str = ""
    by_time: bool = False
    descending: bool = False


@dataclass(frozen=True)
class Tag:
    """A row of the tag list."""

    name: str
    digest: str
    config_digest: str
    media_type: str
    size: int
    created_at: datetime
    updated_at: datetime | None
    published_at: datetime
    manifest: int


def repository(queries: Queries, path: str) -> tuple[Repository, datetime, datetime | None] | None:
    """A repository with the times of its creation and last change."""
    found = find_repository(queries, path)
    if found is None:
        return None
    row = queries.one(
        "SELECT created_at, updated_at FROM repositories WHERE top_level_namespace_id = %s AND id = %s",
        (found.namespace, found.id),
    )
    return None if row is None else (found, row[0], row[1])


def size(queries: Queries, found: Repository, descendants: bool) -> int:
    """Bytes of the distinct layers of tagged manifests and their children, of one repository or with those below it."""
    where = "AND (r.path = %s OR starts_with(r.path, %s || '/'))" if descendants else "AND r.path = %s"
    row = queries.one(
        "WITH RECURSIVE chosen AS (SELECT r.id FROM repositories r WHERE r.top_level_namespace_id = %s "
        f"AND r.deleted_at IS NULL {where}), "
        "used (repository_id, id) AS (SELECT t.repository_id, t.manifest_id FROM tags t "
        "WHERE t.top_level_namespace_id = %s AND t.repository_id IN (SELECT id FROM chosen) "
        "UNION SELECT f.repository_id, f.child_id FROM manifest_references f JOIN used u "
        "ON f.repository_id = u.repository_id AND f.parent_id = u.id WHERE f.top_level_namespace_id = %s) "
        "SELECT coalesce(sum(x.size), 0)::bigint FROM (SELECT DISTINCT ON (l.digest) l.digest, l.size FROM layers l "
        "JOIN used u ON u.repository_id = l.repository_id AND u.id = l.manifest_id "
        "WHERE l.top_level_namespace_id = %s) x",
        (
            found.namespace,
            *((found.path, found.path) if descendants else (found.path,)),
            found.namespace,
            found.namespace,
            found.namespace,
        ),
    )
    return int(row[0]) if row else 0


def _key(listing: Listing) -> str:
    return f"({PUBLISHED}, t.name)" if listing.by_time else "(t.name)"


def _beyond(listing: Listing, place: Place, forward: bool) -> tuple[str, tuple[Any, ...]]:
    """The condition for tags after a marker in the list's order (`forward`), or before it."""
    sign = ">" if forward != listing.descending else "<"
    if listing.by_time:
        return f"{_key(listing)} {sign} (%s, %s)", (place.published_at, place.name)
    return f"t.name {sign} %s", (place.name,)


def _filtered(found: Repository, listing: Listing) -> tuple[str, tuple[Any, ...]]:
    where, values = "t.top_level_namespace_id = %s AND t.repository_id = %s", (found.namespace, found.id)
    if listing.exact:
        return f"{where} AND t.name = %s", (*values, listing.exact)
    if listing.name:
        return f"{where} AND position(%s IN t.name) > 0", (*values, listing.name)
    return where, values


def tags(queries: Queries, found: Repository, listing: Listing) -> list[Tag]:
    """One page of the tags, in the list's order."""
    where, values = _filtered(found, listing)
    backwards = listing.before is not None
    place = listing.before or listing.last
    if place is not None:
        condition, more = _beyond(listing, place, forward=not backwards)
        where, values = f"{where} AND {condition}", (*values, *more)
    direction = "DESC" if listing.descending != backwards else "ASC"
    order = f"{PUBLISHED} {direction}, t.name {direction}" if listing.by_time else f"t.name {direction}"
    rows = queries.execute(
        "SELECT t.name, m.digest, m.configuration_blob_digest, mt.media_type, m.total_size, t.created_at, "
        f"t.updated_at, {PUBLISHED}, m.id FROM tags t JOIN manifests m ON "
        "m.top_level_namespace_id = t.top_level_namespace_id AND m.repository_id = t.repository_id "
        f"AND m.id = t.manifest_id JOIN media_types mt ON mt.id = m.media_type_id WHERE {where} "
        f"ORDER BY {order} LIMIT %s",
        (*values, listing.limit),
    ).fetchall()
    page = [
        Tag(row[0], digests.from_bytes(row[1]), digests.from_bytes(row[2]) if row[2] else "", *row[3:]) for row in rows
    ]
    return page[::-1] if backwards else page


def has_tags_beyond(queries: Queries, found: Repository, listing: Listing, tag: Tag, forward: bool) -> bool:
    """Whether tags follow (or precede) this one in the filtered list."""
    where, values = _filtered(found, listing)
    condition, more = _beyond(listing, Place(tag.name, tag.published_at), forward)
    row = queries.one(f"SELECT EXISTS (SELECT FROM tags t WHERE {where} AND {condition})", (*values, *more))
    return bool(row and row[0])


def referrers(
    queries: Queries, found: Repository, manifests: list[int], artifact_types: list[str]
) -> dict[int, list[dict[str, str]]]:
    """Manifests whose subject is one of these, by subject."""
    where = "AND mt.media_type = ANY(%s)" if artifact_types else ""
    rows = queries.execute(
        "SELECT m.subject_id, mt.media_type, m.digest FROM manifests m JOIN media_types mt ON mt.id = "
        "coalesce(m.artifact_media_type_id, m.configuration_media_type_id) WHERE m.top_level_namespace_id = %s "
        f"AND m.repository_id = %s AND m.subject_id = ANY(%s) {where} ORDER BY m.id",
        (found.namespace, found.id, manifests, *((artifact_types,) if artifact_types else ())),
    )
    result: dict[int, list[dict[str, str]]] = {}
    for subject, artifact, digest in rows:
        entry = {"artifactType": artifact, "digest": digests.from_bytes(digest)}
        result.setdefault(subject, []).append(entry)
    return result


@dataclass(frozen=True)
class Image:
    """A manifest with its config."""

    id: int
    digest: str
    media_type: str
    size: int
    config_digest: str
    config_media_type: str
    config_payload: bytes


_IMAGE = (
    "SELECT m.id, m.digest, mt.media_type, m.total_size, m.configuration_blob_digest, ct.media_type, "
    "m.configuration_payload FROM manifests m JOIN media_types mt ON mt.id = m.media_type_id "
    "LEFT JOIN media_types ct ON ct.id = m.configuration_media_type_id "
)
_IN_REPOSITORY = "WHERE m.top_level_namespace_id = %s AND m.repository_id = %s "


def _image(row: tuple[Any, ...]) -> Image:
    config = digests.from_bytes(row[4]) if row[4] else ""
    return Image(row[0], digests.from_bytes(row[1]), row[2], row[3], config, row[5] or "", bytes(row[6] or b""))


def tag(queries: Queries, found: Repository, name: str) -> tuple[Image, datetime, datetime | None] | None:
    """A tag's image, and the times of the tag's creation and last change."""
    row = queries.one(
        "SELECT manifest_id, created_at, updated_at FROM tags "
        "WHERE top_level_namespace_id = %s AND repository_id = %s AND name = %s",
        (found.namespace, found.id, name),
    )
    if row is None:
        return None
    image = queries.one(_IMAGE + _IN_REPOSITORY + "AND m.id = %s", (found.namespace, found.id, row[0]))
    return None if image is None else (_image(image), row[1], row[2])


def children(queries: Queries, found: Repository, parent: int) -> list[Image]:
    """The images of a list."""
    rows = queries.execute(
        _IMAGE + "JOIN manifest_references f ON f.top_level_namespace_id = m.top_level_namespace_id AND "
        "f.repository_id = m.repository_id AND f.child_id = m.id " + _IN_REPOSITORY + "AND f.parent_id = %s "
        "ORDER BY f.id",
        (found.namespace, found.id, parent),
    )
    return [_image(row) for row in rows]


def namespace(queries: Queries, name: str) -> int | None:
    """The id of a top-level namespace."""
    row = queries.one("SELECT id FROM top_level_namespaces WHERE name = %s", (name,))
    return None if row is None else int(row[0])


def repositories(
    queries: Queries, namespace_id: int, path: str, limit: int, last: str
) -> list[tuple[str, str, datetime, datetime | None]]:
    """(name, path, created, changed) of a repository and those below it that have a tag."""
    rows = queries.execute(
        "SELECT r.name, r.path, r.created_at, r.updated_at FROM repositories r WHERE r.top_level_namespace_id = %s "
        "AND r.deleted_at IS NULL AND (r.path = %s OR starts_with(r.path, %s || '/')) AND r.path > %s AND EXISTS "
        "(SELECT FROM tags t WHERE t.top_level_namespace_id = r.top_level_namespace_id AND t.repository_id = r.id) "
        "ORDER BY r.path LIMIT %s",
        (namespace_id, path, path, last, limit),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def import_statistics(queries: Queries) -> list[dict[str, Any]]:
    """Rows of `import_statistics` without their NULLs."""
    cursor = queries.execute("SELECT * FROM import_statistics ORDER BY id")
    names = [column.name for column in cursor.description or ()]
    return [{k: v for k, v in zip(names, row, strict=True) if v is not None} for row in cursor]
