"""Where a site stands in its migration, told by reading the site: what it rendered, what it keeps, what its database
holds.

A run that died is resumed from here and never from its ledger. Facts that cannot be read off a site (when pushes were
first refused, what the tags were then) are kept on it as small files (`site.keep`), so that any later run finds them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError
from georeg_nb.omnibus import BUNDLED_DATABASE, Lockfiles, Omnibus, RegistryConfig
from georeg_nb.procedures import imports_by_log
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.runbook import Change
from georeg_nb.site import BlockChanges, Site
from georeg_nb.verification import Comparison, accept_losses, compare_tags

HOLD = "hold-image-sync"
DATABASE = "registry-database"
READ_ONLY = "registry-read-only"
COLLECTION = "registry-garbage-collection"

Answer = TypeVar("Answer")

Tags = Mapping[tuple[str, str], str]  # (repository, tag) → digest ("" where the registry cannot tell it)


def now() -> datetime:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def stamp(moment: datetime | None = None) -> str:
    """A time as text."""
    return (moment or now()).isoformat()


# what is rendered


def registry_configs(site: Site) -> list[tuple[Omnibus, RegistryConfig | None]]:
    """Each registry node with its rendered configuration."""
    return [(package, package.registry_config()) for package in site.packages("registry")]


def is_ours(config: RegistryConfig, site: Site) -> bool:
    """Whether the configuration names the database that the sites file gives this site."""
    database = site.parameters.database
    return config.database_address == (database.host, database.port, database.name)


def is_bundled(config: RegistryConfig) -> bool:
    """Whether it names the package's own PostgreSQL (the default of an unset host)."""
    return config.database_address[0] == BUNDLED_DATABASE


def on_own_database(site: Site) -> bool:
    """Every registry node is configured to work on the site's own external database."""
    configs = [config for _, config in registry_configs(site)]
    return bool(configs) and all(c is not None and c.mode == "database" and is_ours(c, site) for c in configs)


def is_switching(site: Site) -> bool:
    """The switch was begun and is not finished: some registry nodes work on the database, others in the storage still.

    Harmless as long as every node refuses pushes; step enable-database ends it.
    """
    configs = [config for _, config in registry_configs(site)]
    moved = [c is not None and c.mode == "database" and is_ours(c, site) for c in configs]
    return any(moved) and not all(moved) and bool(site.keep.load("enabled")) and open_window(site) is not None


def is_connected(site: Site) -> bool:
    """Every registry node knows the connection to the site's own database, whether it works on it or not."""
    configs = [config for _, config in registry_configs(site)]
    return bool(configs) and all(c is not None and is_ours(c, site) and c.mode != "prefer" for c in configs)


def is_legacy(site: Site) -> bool:
    """Every registry node keeps its metadata in the storage: it is told to, or it prefers a database and has found
    that it must not take one (procedures 3.3). What such a one does is asked of the process, never of the settings.
    """
    modes = {config.mode if config else "none" for _, config in registry_configs(site)}
    if modes == {"legacy"}:
        return True
    return modes <= {"legacy", "prefer"} and bool(modes) and set(running_on_database(site).values()) == {False}


def at_each_node(site: Site, question: Callable[[RegistryAPI], Answer]) -> dict[str, Answer]:
    """What the registry of each node answers, by the node's name. Raises what the first raises, naming the node."""
    answers = {}
    for node in site.registry_nodes:
        try:
            answers[node.name] = question(site.registry_at(node))
        except GeoregError as error:
            error.node = error.node or node.name
            raise
    return answers


def running_on_database(site: Site) -> dict[str, bool | None]:
    """Node → whether its running registry says that it works on a database; None where it does not say.

    Where there is only one it is asked at the site's public address, which so is seen to be its own.
    """
    if len(site.registry_nodes) == 1:
        return {site.registry_nodes[0].name: site.registry.identity().database}
    return at_each_node(site, lambda registry: registry.identity().database)


def read_only_nodes(site: Site) -> list[str]:
    """Registry nodes whose configuration refuses pushes."""
    return [package.node.name for package, config in registry_configs(site) if config and config.read_only]


def lockfiles(site: Site) -> Lockfiles:
    """Lock files in the storage, which all registry nodes share."""
    return site.omnibus.lockfiles()


def is_held(site: Site) -> bool:
    """Image sync is switched off on every Rails node of a secondary, as rendered."""
    return all(not package.gitlab_yml().replication_enabled for package in site.packages("rails", "sidekiq"))


def block_there(site: Site, concern: str) -> bool:
    """Whether one of georeg's blocks of that concern is in a gitlab.rb of the site."""
    return any(concern in gitlab_rb.blocks(package.gitlab_rb()) for package in site.packages())


# the read-only window


@dataclass(frozen=True)
class Window:
    """A time in which pushes were refused. `closed` is empty while it is open; `outcome`: migrated or given up.

    `lockfiles` are those that lay in the storage when it was opened (database, filesystem), to be put back when given
    up.
    """

    opened: str
    closed: str = ""
    outcome: str = ""
    lockfiles: tuple[bool | None, bool | None] = (None, None)
    import_seconds: float = 0.0
    tags: int = 0
    method: str = "one-step"

    @property
    def seconds(self) -> float:
        """Measured length."""
        end = datetime.fromisoformat(self.closed) if self.closed else now()
        return (end - datetime.fromisoformat(self.opened)).total_seconds()


def window(site: Site) -> Window | None:
    """The last window of the site; None before the first."""
    data = site.keep.load("window")
    if not isinstance(data, Mapping):
        return None
    values = dict(data)
    values["lockfiles"] = tuple(values.get("lockfiles") or (None, None))
    return Window(**values)


def save_window(site: Site, value: Window) -> None:
    """Keep it."""
    site.keep.save("window", asdict(value))


def open_window(site: Site) -> Window | None:
    """The window that is open now: kept as open, and every registry node is configured read-only."""
    kept = window(site)
    if kept is None or kept.closed or len(read_only_nodes(site)) != len(site.registry_nodes):
        return None
    return kept


# the snapshot


@dataclass(frozen=True)
class Snapshot:
    """All tags of a site's registry with their digests, read over HTTP while it was read-only in legacy mode."""

    window: str
    taken: str
    tags: Tags = field(repr=False)

    def data(self) -> dict[str, Any]:
        """As it is kept: {repository: {tag: digest}}."""
        nested: dict[str, dict[str, str]] = {}
        for (path, tag), digest in self.tags.items():
            nested.setdefault(path, {})[tag] = digest
        return {"window": self.window, "taken": self.taken, "tags": nested}


def snapshot(site: Site) -> Snapshot | None:
    """The kept snapshot of the site; None where there is none."""
    data = site.keep.load("snapshot")
    if not isinstance(data, Mapping):
        return None
    tags = {(path, tag): digest for path, names in data["tags"].items() for tag, digest in names.items()}
    return Snapshot(data["window"], data["taken"], tags)


def valid_snapshot(site: Site) -> Snapshot | None:
    """The snapshot of the window that is open now, or, on a site that has moved, of the window in which it moved."""
    kept, last = snapshot(site), window(site)
    if kept is None or last is None or kept.window != last.opened:
        return None
    if open_window(site) is not None or last.outcome == "migrated" or on_own_database(site):
        return kept
    return None


# the database


ImportPart = Literal["pre_import", "tag_import", "blob_import"]  # steps one, two, three, as the registry names them
IMPORT_PARTS: tuple[ImportPart, ...] = ("pre_import", "tag_import", "blob_import")


@dataclass(frozen=True)
class EndedImport:
    """The row that an import command wrote when it ended: which steps it did, and how. A killed one writes none.

    `tags` of step one counts the manifests that it read, `seconds` is the time of each step. Source: registry 4.2.
    """

    id: int
    seconds: Mapping[str, float]
    errors: str
    complete: bool
    finished: datetime | None
    tags: int


def ended_imports(site: Site, part: ImportPart) -> list[EndedImport]:
    """What the import commands that did this step say about themselves in the database, oldest first; where their
    release writes nothing there, what their logs say.
    """
    rows = site.metadata_db.import_statistics()
    if not rows and not site.profile.supports("import-statistics"):
        rows = imports_by_log.rows(site)
    return [_ended(row) for row in rows if row[part]]


def last_import(site: Site, part: ImportPart) -> EndedImport | None:
    """The last of them, however it ended."""
    return next(reversed(ended_imports(site, part)), None)


def _ended(row: Mapping[str, Any]) -> EndedImport:
    parts = [part for part in IMPORT_PARTS if row[part]]
    errors = "; ".join(str(row[f"{part}_error"]) for part in parts if row[f"{part}_error"])
    ends = {part: row[f"{part}_finished_at"] for part in parts}
    return EndedImport(
        int(row["id"]),
        {part: (end - row[f"{part}_started_at"]).total_seconds() for part, end in ends.items() if end},
        errors,
        not errors and all(ends.values()),
        max((end for end in ends.values() if end), default=None),
        int(row["tags_count"]),
    )


def other_sessions(site: Site) -> list[str]:
    """Who else is connected to the site's metadata database: an import on any machine shows here, whoever started
    it.
    """
    rows = site.metadata_db.rows(
        "SELECT coalesce(usename, '?') || ' from ' || coalesce(host(client_addr), 'a socket') || ' since '"
        " || to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'georeg'"
        " AND backend_type = 'client backend' ORDER BY backend_start"
    )
    return [str(row[0]) for row in rows]


UNREADABLE = "unreadable"


def compare(site: Site, before: Tags, after: Tags) -> Comparison:
    """A snapshot against what is there now; tags whose loss the operator agreed to are marked as accepted.

    A tag whose digest the legacy registry could not tell has only to be there.
    """
    known = {key: digest or after.get(key, UNREADABLE) for key, digest in before.items()}
    return accept_losses(compare_tags(known, after, names=("before", "now")), accepted_losses(site))


def accepted_losses(site: Site) -> frozenset[str]:
    """Tags ("path:tag") that the operator agrees to lose; once the site has moved, also those that were agreed to
    then.
    """
    now_agreed = frozenset(site.options.accept_losses)
    then = proof(site) if on_own_database(site) else None
    return now_agreed | frozenset(then["accepted"] if then else ())


def imported(site: Site) -> bool:
    """The database holds exactly the tags of the open window's snapshot (less what was agreed to), and the import ended
    without an error, with every step that it was to do.
    """
    kept, last = valid_snapshot(site), last_import(site, "tag_import")
    if kept is None or last is None or not last.complete:
        return False
    return compare(site, kept.tags, site.metadata_db.all_tags()).equal


def proof(site: Site) -> Mapping[str, Any] | None:
    """The kept proof that the database equals the snapshot, if it is of the last window; None otherwise."""
    data, last = site.keep.load("proof"), window(site)
    return data if isinstance(data, Mapping) and last is not None and data.get("window") == last.opened else None


def applied_schema(site: Site) -> dict[str, Any]:
    """What is applied of the registry's schema: numbers and last ids, before and after deployment (registry 4.3)."""
    before, after = site.metadata_db.migrations()
    return {
        "pre": len(before),
        "post": len(after),
        "last_pre": max(before, default=""),
        "last_post": max(after, default=""),
    }


def blobs_are_known(site: Site) -> EndedImport | None:
    """The step three that came with or after the last import of tags, and ended well: then garbage collection knows
    every blob. Source: registry 6.1, 7.
    """
    tags, blobs = last_import(site, "tag_import"), last_import(site, "blob_import")
    return blobs if blobs and blobs.complete and (tags is None or blobs.id >= tags.id) else None


def signs_of_use(site: Site) -> list[str]:
    """Why this database may be, or have been, the one that a registry works on. Empty: never, and all of it is ours.

    Emptying its tags would lose every tag pushed since, and step two alone turns the lock files round (registry 0
    fact 2).
    """
    reasons = []
    if not is_legacy(site) or any(running_on_database(site).values()):
        reasons.append("the registry is not in legacy mode")
    if site.keep.load("enabled"):
        reasons.append("the database was enabled once")
    last = window(site)
    if lockfiles(site).database and (last is None or last.lockfiles[0] is not False):
        reasons.append("the lock file database-in-use was there before our import")
    if not _imports_are_ours(site) and any(site.metadata_db.counts().values()):
        reasons.append("it has rows, and no import of ours is known on this site")
    return [*reasons, *site.metadata_db.traces_of_use()]


def note_import(site: Site) -> None:
    """Keep that imports of ours write into the database from now on: before the first, with nothing in it yet."""
    if not _imports_are_ours(site):
        site.keep.save("our-imports", {"since": stamp(), "database": site.metadata_db.address})


def _imports_are_ours(site: Site) -> bool:
    kept = site.keep.load("our-imports")
    return isinstance(kept, Mapping) and kept.get("database") == site.metadata_db.address


# plans


def file_changes(site: Site, changes: BlockChanges, *roles: str) -> list[Change]:
    """How gitlab.rb changes on the nodes of these roles, and the reconfigure that follows."""
    planned: list[Change] = []
    for package in site.packages(*roles):
        text = package.gitlab_rb()
        present = gitlab_rb.blocks(text)
        wanted = changes(package) if callable(changes) else changes
        before = "\n\n".join(present[concern] for concern in wanted if concern in present)
        after = "\n\n".join(body for body in wanted.values() if body is not None)
        removed = [concern for concern, body in wanted.items() if body is None]
        intent = after + "".join(f"\nwithout {concern}" for concern in removed)
        where = f"{gitlab_rb.PATH} on {package.node.name}"
        # the name of a mask says where a secret was met first, which is no part of what is intended
        binds = re.sub(r"\[secret: [^\]]*\]", "[secret]", site.masked(intent))
        planned.append(Change("file", where, site.masked(before), site.masked(after), binds=binds))
        planned.append(Change("command", package.node.name, after="gitlab-ctl reconfigure"))
    return planned
