"""Schema migrations: what is applied, what is missing, applying and taking back.

Source: registry 1.2–1.4, 4.3."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from datetime import datetime

from georeg_lab.registry import schema
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.schema import Kind


class MigrationError(Exception):
    """A migration could not be planned or run; the message is the registry's, without the command's prefix."""


class Migrator:
    """Migrations of one kind on one database.

    The first look creates the bookkeeping table where it is missing: even looking writes, and fails on a standby.
    """

    def __init__(self, queries: Queries, kind: Kind) -> None:
        self.queries = queries
        self.kind = kind
        self.table = schema.BOOKS[kind]
        self.known = schema.ids(kind)
        self._prepared = False

    def applied(self) -> dict[str, datetime | None]:
        """Applied ids with the time, those unknown to this version included, sorted by id. Raises DatabaseError."""
        if not self._prepared:
            self.queries.execute(
                f"CREATE TABLE IF NOT EXISTS {self.table} (id text NOT NULL PRIMARY KEY, applied_at timestamptz)"
            )
            self._prepared = True
        rows = self.queries.execute(f'SELECT id, applied_at FROM {self.table} ORDER BY id COLLATE "C"').fetchall()
        return dict(rows)

    def version(self) -> str:
        """The last applied id, empty when there is none. Raises DatabaseError."""
        return max(self.applied(), default="")

    def pending(self) -> list[str]:
        """Known ids that are not applied, in order. Raises DatabaseError."""
        applied = self.applied()
        return [name for name in self.known if name not in applied]

    def plan_up(self, limit: int = 0) -> list[str]:
        """Ids to apply, at most `limit` (0 = all). Raises DatabaseError, MigrationError."""
        self._refuse_unknown()
        pending = self.pending()
        return pending[:limit] if limit else pending

    def plan_down(self, limit: int = 0) -> list[str]:
        """Ids to take back, the newest first. Raises DatabaseError, MigrationError."""
        self._refuse_unknown()
        applied = self.applied()
        names = [name for name in reversed(self.known) if name in applied]
        return names[:limit] if limit else names

    def _refuse_unknown(self) -> None:
        for name in self.applied():
            if name not in self.known:
                raise MigrationError(
                    f"Unable to create migration plan because of {name}: unknown migration in database"
                )

    def up(self, names: Iterable[str]) -> None:
        """Apply migrations; what was applied before a failure stays. Raises MigrationError."""
        changes = schema.changes()
        for has_sql, group in itertools.groupby(names, key=lambda name: name in changes):
            # ids that are only kept in the books go together: one round trip
            for batch in [[name] for name in group] if has_sql else [list(group)]:
                sql = changes[batch[0]].up if has_sql else ""
                rows = ", ".join(f"('{name}', clock_timestamp())" for name in batch)
                self._run(batch[0], f"{sql}\nINSERT INTO {self.table} (id, applied_at) VALUES {rows};")

    def down(self, names: Iterable[str]) -> None:
        """Take migrations back in the given order. Raises MigrationError."""
        changes = schema.changes()
        for has_sql, group in itertools.groupby(names, key=lambda name: bool(name in changes and changes[name].down)):
            for batch in [[name] for name in group] if has_sql else [list(group)]:
                sql = changes[batch[0]].down if has_sql else ""
                listed = ", ".join(f"'{name}'" for name in batch)
                self._run(batch[0], f"{sql}\nDELETE FROM {self.table} WHERE id IN ({listed});")

    def _run(self, name: str, sql: str) -> None:
        try:
            self.queries.execute(f"BEGIN;\n{sql}\nCOMMIT;")
        except DatabaseError as error:
            self.queries.execute("ROLLBACK")
            raise MigrationError(f"applying migration {name}: {error} handling {name}") from None


def is_up_to_date(queries: Queries) -> bool:
    """Whether every pre-deployment migration is applied: what `serve` and `status -u` look at. Raises DatabaseError."""
    return not Migrator(queries, "pre-deployment").pending()


def apply_all(queries: Queries) -> float:
    """Bring a database to the newest schema. Returns the seconds it took. Raises DatabaseError, MigrationError."""
    started = time.monotonic()
    for kind in schema.KINDS:
        migrator = Migrator(queries, kind)
        migrator.up(migrator.plan_up())
    return time.monotonic() - started
