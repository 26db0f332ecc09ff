"""A site's registry metadata database.

Connections are read-only unless a method says that it writes. Sites are compared by repository path, tag name and
manifest digest alone: ids, partitions and times are local to each database.
Source: registry 4, 8; procedures 2.3, 2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, LiteralString

from psycopg import sql

from georeg_nb.database import Database

_TAGS: LiteralString = """
    FROM tags t JOIN manifests m ON m.top_level_namespace_id = t.top_level_namespace_id
        AND m.repository_id = t.repository_id AND m.id = t.manifest_id
"""
_FINGERPRINT: LiteralString = """
    sha256(string_agg(convert_to(t.name || '@', 'UTF8') || m.digest, ''::bytea ORDER BY t.name COLLATE "C"))
"""
_DIGEST: LiteralString = """(CASE get_byte(m.digest, 0) WHEN 1 THEN 'sha256:' ELSE 'sha512:' END)
    || encode(substring(m.digest FROM 2), 'hex')"""
TAG_LINES = " ".join(
    f"""SELECT r.path || ' ' || t.name || ' ' || {_DIGEST} {_TAGS}
    JOIN repositories r ON r.top_level_namespace_id = t.top_level_namespace_id AND r.id = t.repository_id""".split()
)
"""Every tag as one line, "path tag digest": for psql on a node, by hand."""
# Aggregate tags with manifests first and join repositories to the result, never before (registry 8).
_REPOSITORIES: LiteralString = f"""
    SELECT r.path, x.tags, encode(x.f, 'hex')
    FROM (SELECT t.top_level_namespace_id ns, t.repository_id repo, count(*) tags, {_FINGERPRINT} f
        {_TAGS} GROUP BY 1, 2) x
    JOIN repositories r ON r.top_level_namespace_id = x.ns AND r.id = x.repo
"""
_BUCKET: LiteralString = "get_byte(sha256(convert_to(t.name, 'UTF8')), 0)"
_OF_REPOSITORY: LiteralString = """
    WHERE (t.top_level_namespace_id, t.repository_id) = (
        SELECT top_level_namespace_id, id FROM repositories WHERE path = %(path)s)
"""
_LISTS: LiteralString = """
    ('application/vnd.docker.distribution.manifest.list.v2+json', 'application/vnd.oci.image.index.v1+json')"""
# What an import leaves out without losing the tag shows only against the payload (registry 1.6, 8 d).
_BROKEN: dict[str, LiteralString] = {
    "its configuration blob is not linked to the repository": """
        m.configuration_blob_digest IS NOT NULL AND NOT EXISTS (SELECT FROM repository_blobs b
            WHERE b.top_level_namespace_id = m.top_level_namespace_id AND b.repository_id = m.repository_id
            AND b.blob_digest = m.configuration_blob_digest)""",
    "a layer is not linked to the repository": """
        EXISTS (SELECT FROM layers l WHERE l.top_level_namespace_id = m.top_level_namespace_id
            AND l.repository_id = m.repository_id AND l.manifest_id = m.id
            AND NOT EXISTS (SELECT FROM repository_blobs b
            WHERE b.top_level_namespace_id = l.top_level_namespace_id AND b.repository_id = l.repository_id
            AND b.blob_digest = l.digest))""",
    "it lacks a layer that its payload names": """
        m.configuration_blob_digest IS NOT NULL AND m.non_conformant IS NOT TRUE AND (
            SELECT count(DISTINCT e->>'digest')
            FROM jsonb_path_query(convert_from(m.payload, 'UTF8')::jsonb, '$.layers[*]') e
            WHERE e->>'mediaType' NOT LIKE '%foreign%' AND e->>'mediaType' NOT LIKE '%nondistributable%'
        ) > (SELECT count(*) FROM layers l WHERE l.top_level_namespace_id = m.top_level_namespace_id
            AND l.repository_id = m.repository_id AND l.manifest_id = m.id)""",
    "it lacks a child that its payload names": f"""
        m.configuration_blob_digest IS NULL AND m.non_conformant IS NOT TRUE
        AND m.media_type_id IN (SELECT id FROM media_types WHERE media_type IN {_LISTS}) AND (
            SELECT count(DISTINCT e->>'digest')
            FROM jsonb_path_query(convert_from(m.payload, 'UTF8')::jsonb, '$.manifests[*]') e
        ) > (SELECT count(*) FROM manifest_references c WHERE c.top_level_namespace_id = m.top_level_namespace_id
            AND c.repository_id = m.repository_id AND c.parent_id = m.id)""",
}
# What nobody can pull by a tag is no loss: untagged manifests differ between healthy sites (registry 7).
_IN_USE: LiteralString = """
    (EXISTS (SELECT FROM tags t WHERE t.top_level_namespace_id = m.top_level_namespace_id
        AND t.repository_id = m.repository_id AND t.manifest_id = m.id)
    OR EXISTS (SELECT FROM manifest_references p WHERE p.top_level_namespace_id = m.top_level_namespace_id
        AND p.repository_id = m.repository_id AND p.child_id = m.id))"""


@dataclass(frozen=True)
class Bucket:
    """A number of tags and one fingerprint over all of them: equal fingerprints mean equal (tag, digest) sets."""

    tags: int
    fingerprint: str


class MetadataDB(Database):
    """The registry's database of one site."""

    def tables(self) -> frozenset[str]:
        """Tables of schema public, without partitions."""
        with self.connect() as connection:
            rows = connection.execute("""
                SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')""").fetchall()
        return frozenset(name for (name,) in rows)

    def migrations(self) -> tuple[frozenset[str], frozenset[str]]:
        """Applied migrations, before and after deployment, from the tables: `migrate status` writes (registry 1.2)."""
        there = self.tables()
        with self.connect() as connection:
            sets = [
                frozenset(
                    row[0] for row in connection.execute(sql.SQL("SELECT id FROM {}").format(sql.Identifier(table)))
                )
                if table in there
                else frozenset()
                for table in ("schema_migrations", "post_deploy_schema_migrations")
            ]
        return sets[0], sets[1]

    def count(self, table: str) -> int:
        """Rows of a table; 0 where the table does not exist."""
        if table not in self.tables():
            return 0
        return int(self.value(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))))

    def counts(self, tables: Sequence[str] = ("repositories", "manifests", "blobs", "tags")) -> dict[str, int]:
        """Rows of several tables."""
        return {table: self.count(table) for table in tables}

    def import_statistics(self) -> list[dict[str, Any]]:
        """What earlier imports left: one row per command that ended, oldest first. Source: registry 4.2."""
        if "import_statistics" not in self.tables():
            return []
        with self.connect() as connection:
            cursor = connection.execute("SELECT * FROM import_statistics ORDER BY id")
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def repositories(self) -> dict[str, Bucket]:
        """Repository path → fingerprint over its tags. Repositories without tags are left out."""
        return self._buckets(_REPOSITORIES)

    def tag_buckets(self, repository: str) -> dict[str, Bucket]:
        """Bucket ("0" … "255", by a hash of the tag's name) → fingerprint, of one repository."""
        query: LiteralString = (
            f"SELECT {_BUCKET}::text, count(*), encode({_FINGERPRINT}, 'hex') {_TAGS} {_OF_REPOSITORY} GROUP BY 1"
        )
        return self._buckets(query, {"path": repository})

    def repository_tags(self, repository: str, buckets: Sequence[str] | None = None) -> dict[str, str]:
        """Tag → digest ("sha256:…") of one repository, or of some of its buckets."""
        query: LiteralString = f"""
            SELECT t.name, {_DIGEST} {_TAGS} {_OF_REPOSITORY}"""
        values: dict[str, Any] = {"path": repository}
        if buckets is not None:
            query = query + f" AND {_BUCKET}::text = ANY(%(buckets)s)"
            values["buckets"] = [*buckets]
        with self.connect() as connection:
            connection.execute("RESET enable_nestloop")  # one repository lies in one partition
            return dict(connection.execute(query, values).fetchall())

    def all_tags(self) -> dict[tuple[str, str], str]:
        """(repository, tag) → digest of everything: for comparing with a snapshot. Empty where there is no schema."""
        if "tags" not in self.tables():
            return {}
        query: LiteralString = f"""
            SELECT r.path, t.name, {_DIGEST} {_TAGS}
            JOIN repositories r ON r.top_level_namespace_id = t.top_level_namespace_id AND r.id = t.repository_id"""
        return {(path, tag): digest for path, tag, digest in self.rows(query)}

    def pushed_since(self, moment: datetime) -> dict[tuple[str, str], datetime]:
        """(repository, tag) of tags made or moved since then, and when. No ground for equality: times are local."""
        query: LiteralString = f"""
            SELECT r.path, t.name, greatest(t.created_at, t.updated_at) {_TAGS}
            JOIN repositories r ON r.top_level_namespace_id = t.top_level_namespace_id AND r.id = t.repository_id
            WHERE greatest(t.created_at, t.updated_at) > %(moment)s"""
        return {(path, tag): at for path, tag, at in self.rows(query, {"moment": moment})}

    def manifests(self) -> set[tuple[str, str]]:
        """(repository, digest) of every manifest: what step two need not read any more."""
        if "manifests" not in self.tables():
            return set()
        query: LiteralString = f"""
            SELECT r.path, {_DIGEST} FROM manifests m
            JOIN repositories r ON r.top_level_namespace_id = m.top_level_namespace_id AND r.id = m.repository_id"""
        return {(path, digest) for path, digest in self.rows(query)}

    def traces_of_use(self) -> list[str]:
        """What only a registry at work leaves behind, and never an import (registry 4.4, 4.5, 6.3), in words."""
        known = set(
            self.rows("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
        )
        return [
            what for what, (*place, query) in _TRACES.items() if tuple(place) in known and self.value(query) is True
        ]

    def broken_manifests(self) -> list[dict[str, str]]:
        """Manifests of tagged images, and children of lists, that are there but cannot be pulled whole: repository,
        digest, cause. Source: registry 8 (d).
        """
        if "manifests" not in self.tables():
            return []
        found = []
        with self.connect() as connection:
            for cause, condition in _BROKEN.items():
                query: LiteralString = f"""
                    SELECT r.path, {_DIGEST} FROM manifests m
                    JOIN repositories r ON r.id = m.repository_id
                        AND r.top_level_namespace_id = m.top_level_namespace_id
                    WHERE {condition} AND {_IN_USE} ORDER BY r.path COLLATE "C" """
                found += [
                    {"repository": path, "digest": digest, "cause": cause} for path, digest in connection.execute(query)
                ]
        return found

    def truncate_tags(self) -> None:
        """WRITES: empty the table `tags`, so that a failed import can be run again.

        The caller has proved that this database was never in use: tags that were pushed into it would be gone.
        Source: procedures 2.6 "After a failure".
        """
        with self.connect(write=True) as connection:
            connection.execute("TRUNCATE TABLE tags RESTART IDENTITY CASCADE")

    def _buckets(self, query: LiteralString, values: Any = None) -> dict[str, Bucket]:
        if "tags" not in self._known_tables:
            return {}
        with self.connect() as connection:
            return {name: Bucket(int(count), print_) for name, count, print_ in connection.execute(query, values)}

    @cached_property
    def _known_tables(self) -> frozenset[str]:
        return self.tables()


_TRACES: dict[str, tuple[str, str, LiteralString]] = {  # in words → table, column, query
    "tags were moved in it": ("tags", "updated_at", "SELECT EXISTS (SELECT FROM tags WHERE updated_at IS NOT NULL)"),
    "images were pushed into it": (
        "manifests",
        "artifact_media_type_id",
        "SELECT EXISTS (SELECT FROM manifests WHERE artifact_media_type_id IS NOT NULL OR subject_id IS NOT NULL)",
    ),
    "tags or manifests were deleted in it": (
        "gc_manifest_review_queue",
        "event",
        "SELECT EXISTS (SELECT FROM gc_manifest_review_queue WHERE event <> 'manifest_upload')",
    ),
}
