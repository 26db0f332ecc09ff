"""What differs between releases, as one table: where it holds, how it is seen on a live site, who acts on it.

A release is never asked for where the site itself can be asked: `detected` says how. Ranges are half open: from the
first release that has it to the first that has not. Source: procedures 3, registry 10, and the registry's own change
log and source of the releases that GitLab ships.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Version = tuple[int, int, int]
Evidence = Literal["run", "source", "derived", "unconfirmed"]
Program = Literal["gitlab", "registry"]
START: Version = (0, 0, 0)
END: Version = (999, 0, 0)

REHEARSED = ((17, 5), (18, 2), (18, 5), (18, 7), (19, 1))
"""Releases that the lab stands in for, and that the packaging's own code was recorded of."""
NEWEST = (19, 3)
"""The newest release that the table was made for."""

BUNDLED_REGISTRY: dict[Version, Version] = {
    (17, 3, 0): (4, 7, 0),
    (17, 4, 0): (4, 8, 0),
    (17, 5, 0): (4, 10, 0),
    (17, 8, 0): (4, 13, 0),
    (17, 9, 0): (4, 15, 2),
    (17, 10, 0): (4, 17, 1),
    (17, 11, 0): (4, 19, 2),
    (18, 0, 0): (4, 21, 4),
    (18, 1, 0): (4, 23, 2),
    (18, 2, 0): (4, 24, 0),
    (18, 3, 0): (4, 25, 0),
    (18, 4, 0): (4, 27, 0),
    (18, 5, 0): (4, 28, 0),
    (18, 6, 0): (4, 31, 0),
    (18, 6, 2): (4, 31, 1),
    (18, 7, 0): (4, 32, 0),
    (18, 8, 0): (4, 33, 0),
    (18, 9, 0): (4, 36, 0),
    (18, 10, 0): (4, 38, 0),
    (18, 11, 0): (4, 39, 0),
    (19, 0, 0): (4, 40, 0),
    (19, 0, 2): (4, 40, 1),
    (19, 2, 0): (4, 40, 2),
    (19, 3, 0): (4, 41, 0),
}
"""First release of GitLab → the registry in its package (procedures 3.1)."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in all releases. `holds`: ranges of the program's versions that have it."""

    name: str
    what: str
    program: Program
    holds: tuple[tuple[Version, Version], ...]
    detected: str
    used_by: tuple[str, ...]
    source: str
    evidence: Evidence

    def holds_in(self, version: Version) -> bool:
        """Whether a version of the program has it."""
        return any(first <= version < end for first, end in self.holds)

    @property
    def range(self) -> str:
        """The ranges in words, e.g. `GitLab 18.3 to below 18.7`."""
        title = {"gitlab": "GitLab", "registry": "registry"}[self.program]
        return f"{title} {', '.join(_words(first, end) for first, end in self.holds)}"


def _words(first: Version, end: Version) -> str:
    if first == START:
        return f"below {text(end)}"
    return f"from {text(first)} on" if end == END else f"{text(first)} to below {text(end)}"


def text(version: Sequence[int]) -> str:
    """(18, 3, 0) → `18.3`; (18, 10, 8) → `18.10.8`."""
    shown = version[:2] if len(version) == 3 and version[2] == 0 else version
    return ".".join(map(str, shown))


def since(*first: int) -> tuple[tuple[Version, Version], ...]:
    """From this version on."""
    return ((_full(first), END),)


def before(*end: int) -> tuple[tuple[Version, Version], ...]:
    """In every version below this one."""
    return ((START, _full(end)),)


def between(first: Sequence[int], end: Sequence[int]) -> tuple[tuple[Version, Version], ...]:
    """From `first` to below `end`."""
    return ((_full(first), _full(end)),)


def _full(parts: Sequence[int]) -> Version:
    major, minor, patch = (*parts, 0, 0)[:3]
    return major, minor, patch


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "import-supported",
        "GitLab's documentation has the import of legacy metadata, by this wrapper",
        "gitlab",
        since(17, 5),
        "version only: the documentation's own boundary",
        ("guard.instance.version_is_supported",),
        "procedures 1.3 row 7, 3.2",
        "source",
    ),
    Difference(
        "import-recommended",
        "GitLab recommends the database, and the package keeps its settings complete",
        "gitlab",
        since(18, 3),
        "version only: the documentation's own boundary",
        ("guard.instance.version_is_supported",),
        "procedures 1.3 row 7, 3.2",
        "source",
    ),
    Difference(
        "hides-legacy-images",
        "a populated legacy registry without lock file becomes unreachable with the default of registry['database']",
        "gitlab",
        between((19, 0), (19, 0, 2)),
        "version, and an empty catalog over a full storage (check 'the catalog can be read, and is not empty')",
        ("guard.instance.version_is_supported", "guard.registry.catalog_is_readable"),
        "procedures 1.4 step 2, 6 row 16",
        "source",
    ),
    Difference(
        "prefer-default",
        "registry['database']['enabled'] is \"prefer\" unless set: legacy only while the lock file "
        "filesystem-in-use lies in the storage",
        "gitlab",
        since(19, 0),
        "`enabled` in the rendered config.yml, the lock files, and what the running registry says",
        ("guard.registry.registry_is_legacy_or_moved", "import_metadata.prepare.ConnectDatabase"),
        "procedures 3.2, 3.3",
        "run",
    ),
    Difference(
        "migrate-asks-to-stop",
        "`registry-database migrate up` asks on standard input to stop a running registry, and dies at end of input",
        "gitlab",
        before(17, 10),
        "version: the command cannot be asked without running it",
        ("import_metadata.prepare.MigrateSchema",),
        "procedures 3.2; recordings of registry-database",
        "run",
    ),
    Difference(
        "bundled-registry-database",
        "the package makes a role and a database for the registry in its own PostgreSQL, unless told not to",
        "gitlab",
        since(18, 3),
        "version: postgresql['registry'] is a setting from here on; below it is an unknown key",
        ("import_metadata.blocks.database_block",),
        "procedures 2.3 notes, 3.2",
        "run",
    ),
    Difference(
        "any-truth-enables",
        'reconfigure takes every truthy `enabled` for true when it decides to migrate, the string "false" too',
        "gitlab",
        between((18, 3), (18, 7)),
        "not needed: georeg writes real booleans in every release",
        ("gitlab_rb.external_database",),
        "procedures 3.2",
        "run",
    ),
    Difference(
        "wrapper-reads-default-folder",
        "`registry-database` reads /var/opt/gitlab/registry/config.yml, whatever registry['dir'] says",
        "gitlab",
        before(19, 1),
        "the registry's folder in public_attributes.json; georeg reads the default folder alone in every release",
        ("guard.registry.registry_runs",),
        "procedures 3.2; recordings of registry-database",
        "run",
    ),
    Difference(
        "injects-threshold",
        "the package adds the deprecated `threshold` to every notification endpoint; without `maxretries` it "
        "retries for ever",
        "gitlab",
        ((START, (18, 10, 8)), ((18, 11, 0), (18, 11, 5)), ((19, 0, 0), (19, 0, 2))),
        "`threshold` without `maxretries` in the rendered config.yml",
        ("guard.registry.notifications_fit",),
        "procedures 3.2",
        "run",
    ),
    Difference(
        "record-fields-vary",
        "GraphQL's records of container repositories lack some fields",
        "gitlab",
        before(18, 0),
        'the schema itself: `__type(name: "ContainerRepositoryRegistry")`',
        ("gitlab_api.GitLabAPI.sync_records",),
        "procedures 5.4",
        "unconfirmed",
    ),
    Difference(
        "enabled-is-a-boolean",
        '`database.enabled` has to be a real boolean: a string, "false" and "prefer" too, stops the registry',
        "registry",
        before(4, 31),
        "not needed: georeg writes real booleans in every release",
        ("gitlab_rb.external_database",),
        "the programs 4.10.0, 4.24.0 and 4.28.0, built from their source",
        "run",
    ),
    Difference(
        "needs-postgresql-15",
        "the registry does not start on a PostgreSQL older than 15.0",
        "registry",
        since(4, 24),
        "the server's version, held against the registry's",
        ("guard.database.database_is_new_enough",),
        "procedures 2.3; registry 4; the registry's change log",
        "source",
    ),
    Difference(
        "refuses-standby",
        "the registry does not start on a PostgreSQL in recovery; below, it starts and every write fails",
        "registry",
        since(4, 15),
        "pg_is_in_recovery() of the server, asked whatever the version is",
        ("guard.database.database_is_writable",),
        "registry 0 fact 8; the registry's change log and source",
        "source",
    ),
    Difference(
        "post-deployment-apart",
        "migrations after deployment are kept in a table of their own, and counted apart",
        "registry",
        since(4, 21),
        "whether the table post_deploy_schema_migrations is there",
        ("metadata_db.MetadataDB.migrations",),
        "registry 4.3; the registry's change log and source",
        "source",
    ),
    Difference(
        "import-statistics",
        "every import command that ends writes a row into import_statistics; below, only its log tells how it ended",
        "registry",
        since(4, 25),
        "a row in import_statistics; the table alone is no proof (4.24 has it and writes nothing)",
        ("state.ended_imports", "imports_by_log.rows"),
        "registry 4.2; the registry's change log and source",
        "source",
    ),
    Difference(
        "step-one-skips-recent",
        "step one passes over repositories that it read in the last 72 h, pushes since then included, unless "
        "--pre-import-skip-recent says otherwise",
        "registry",
        since(4, 28),
        "the option in `registry database import --help`; the wrapper rejects it in every release",
        ("import_metadata.import_job.step_one",),
        "procedures 2.6 Commands per version; registry 1.5, 6.5, 10",
        "run",
    ),
    Difference(
        "importer-writes-lockfiles",
        "step two and the full import remove filesystem-in-use and write database-in-use; below, they leave both alone",
        "registry",
        (((4, 29, 0), (4, 31, 1)), ((4, 32, 0), END)),
        "the lock files in the storage, after the import",
        ("import_metadata.switch.EnableDatabase", "import_metadata.window.restore_lockfiles"),
        "registry 3.1; the registry's change log and source",
        "source",
    ),
    Difference(
        "lockfiles-enforced",
        "the registry does not start against its lock files, and writes them at its start",
        "registry",
        (((4, 29, 0), (4, 31, 1)), ((4, 36, 0), END)),
        "the lock files in the storage, held against what the running registry says",
        ("guard.registry.lockfiles_agree", "import_metadata.window.restore_lockfiles"),
        "procedures 3.2, 3.3; registry 0 fact 6, 3.3",
        "source",
    ),
)

_BY_NAME = {difference.name: difference for difference in DIFFERENCES}


def parse_version(found: str) -> Version:
    """`18.7.7-ee`, `gitlab-ee 18.7.7`, `v4.32.0-gitlab` → (18, 7, 7). Raises ValueError."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", found)
    if not match:
        raise ValueError(f"no version in {found!r}")
    return int(match[1]), int(match[2]), int(match[3])


@dataclass(frozen=True)
class Profile:
    """One installation's versions, and with them which differences hold there."""

    gitlab: Version
    registry: Version

    @classmethod
    def of(cls, gitlab: str, registry: str = "") -> Profile:
        """The profile of `18.7.7-ee` or `gitlab-ee 18.7.7`; without a registry's version, that of the one in the
        package. Raises ValueError.
        """
        release = parse_version(gitlab)
        return cls(release, parse_version(registry) if registry else bundled_registry(release))

    def supports(self, name: str) -> bool:
        """Whether the difference of that name holds here. Raises KeyError for a name that is not in the table."""
        difference = _BY_NAME[name]
        return difference.holds_in(self.gitlab if difference.program == "gitlab" else self.registry)

    @property
    def differences(self) -> Iterator[Difference]:
        """What holds here."""
        return (difference for difference in DIFFERENCES if self.supports(difference.name))

    @property
    def is_rehearsed(self) -> bool:
        """Whether the lab stands in for this release."""
        return self.gitlab[:2] in REHEARSED

    @property
    def is_newer_than_known(self) -> bool:
        """Whether the table says nothing about this release: what it shows itself has to be judged."""
        return self.gitlab[:2] > NEWEST


def bundled_registry(gitlab: Version) -> Version:
    """Version of the registry in a package; of the oldest or newest known one outside the table."""
    known = [registry for first, registry in BUNDLED_REGISTRY.items() if gitlab >= first]
    return known[-1] if known else next(iter(BUNDLED_REGISTRY.values()))
