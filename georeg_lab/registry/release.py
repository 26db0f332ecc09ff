"""What differs between the releases of the registry that the stand-in answers as.

Read in the source of the releases (registry 10; their change log); of 4.40 only what is published is known.
"""

from __future__ import annotations

import re

from georeg_lab.registry import VERSION

Number = tuple[int, int, int]
CURRENT: Number = tuple(map(int, re.findall(r"\d+", VERSION)[:3]))  # type: ignore[assignment]
# since when a flag of a command is there
FLAGS: dict[str, Number] = {
    "post-deploy-limit": (4, 21, 0),
    "import-statistics": (4, 25, 0),
    "pre-import-skip-recent": (4, 28, 0),
    "log-directory": (4, 31, 0),
}
# release -> time of its last migration, before and after deployment; a later release has all that are known
LAST_MIGRATIONS: dict[Number, tuple[str, str]] = {
    (4, 10, 0): ("20240828064749", ""),
    (4, 24, 0): ("20250623090017", "20250414074500"),
    (4, 28, 0): ("20250819132100", "20250414074500"),
    (4, 32, 0): ("99999999999999", "99999999999999"),
}


def since(*first: int) -> bool:
    """Whether this release is that one or a later one."""
    return first <= CURRENT


ENFORCES_LOCKFILES = (4, 29, 0) <= CURRENT < (4, 31, 1) or since(4, 36, 0)  # unless its variable says otherwise
ALWAYS_ENFORCES_LOCKFILES = since(4, 38, 0)  # the variable is gone
LOCKS_DATABASE_ALWAYS = not since(4, 11, 0)  # `serve` writes database-in-use; there is no other lock file yet
IMPORT_LOCKS = (4, 29, 0) <= CURRENT < (4, 31, 1) or since(4, 32, 0)
REFUSES_STANDBY = since(4, 15, 0)
NEEDS_POSTGRESQL_15 = since(4, 24, 0)
POST_DEPLOYMENT_APART = since(4, 21, 0)
IMPORT_STATISTICS = since(4, 25, 0)
SKIPS_RECENT = since(4, 28, 0)
PREFER = since(4, 31, 0)  # `database.enabled` is no plain boolean any more


def last_migrations() -> tuple[str, str]:
    """Times of the last migration of either kind that this release has."""
    return [last for first, last in LAST_MIGRATIONS.items() if first <= CURRENT or first == min(LAST_MIGRATIONS)][-1]
