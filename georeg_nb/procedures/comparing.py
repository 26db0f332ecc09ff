"""How the sites' images are compared: on which level, how much of them, and what of it is only on its way.

Where both metadata databases can be asked, they decide, and the registries are held to them over HTTP in a sample.
Where one cannot, or a registry is legacy, everything is compared over HTTP. Source: procedures 2.7; registry 7, 8.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from georeg_nb.errors import DatabaseRefused
from georeg_nb.procedures import state
from georeg_nb.procedures.hold_sync import geo_site
from georeg_nb.runbook import Finding, failed, passed, warning
from georeg_nb.site import Site, Sites
from georeg_nb.verification import (
    Comparison,
    Level,
    Sample,
    accept_losses,
    compare_databases,
    compare_registries,
    second_look,
)

SETTLE_SECONDS = 20.0
SAMPLE_REPOSITORIES = 20
SAMPLE_TAGS = 50


def asked_for(site: Site, level: Level) -> bool:
    """Whether the parameters want this level: those that are named, and none named means georeg's own choice."""
    return not site.options.verify_with or level in site.options.verify_with


def why_over_http(sites: Sites, secondary: Site) -> str:
    """Why the images are compared over HTTP and not in the databases; empty when the databases decide."""
    if not asked_for(secondary, "metadata"):
        return "as verify_with says"
    for site in (sites.primary, secondary):
        if not state.on_own_database(site):
            return f"{site.name}'s registry is not on its own database"
        try:
            site.metadata_db.tables()
        except DatabaseRefused as error:
            return f"{site.name}: {error.message}"
    return ""


def compare(sites: Sites, secondary: Site) -> Comparison:
    """The secondary's images against the primary's, in the databases or else over HTTP."""
    if why_over_http(sites, secondary):
        return over_http(sites, secondary, "api")
    primary, names = sites.primary, (sites.primary.name, secondary.name)
    return _looked_twice(
        sites,
        secondary,
        "metadata",
        lambda _: compare_databases(primary.metadata_db, secondary.metadata_db, names=names),
    )


def every_level(secondary: Site) -> Iterator[tuple[str, Comparison]]:
    """Every comparison that the parameters ask for, with its title; whatever the sites' metadata mode is."""
    sites = secondary.sites
    why, title = why_over_http(sites, secondary), f"{secondary.name} against {sites.primary.name}"
    yield f"{title}, {f'over HTTP ({why})' if why else 'in the databases'}", compare(sites, secondary)
    if not why and "api" in secondary.options.verify_with:
        yield f"{title}, over HTTP", over_http(sites, secondary, "api", cross_check=True)
    if secondary.options.content_percent:
        yield f"{title}, every byte", over_http(sites, secondary, "content")


def over_http(sites: Sites, secondary: Site, level: Level, *, cross_check: bool = False) -> Comparison:
    """The same over both registries' HTTP. `cross_check`: a sample, in which each is also held to its own database."""
    primary = sites.primary
    part = cross_check and level not in secondary.options.verify_with
    paths = sample_of_repositories(sites, secondary) if part else None
    sample = Sample(SAMPLE_TAGS if part else None, secondary.options.content_percent)

    def once(only: frozenset[str] | None) -> Comparison:
        return compare_registries(
            primary.registry,
            secondary.registry,
            names=(primary.name, secondary.name),
            level=level,
            repositories=paths if only is None else only,
            sample=sample,
            databases=(primary.metadata_db, secondary.metadata_db) if cross_check else None,
            progress=secondary.progress,
        )

    return _looked_twice(sites, secondary, f"{level} {'sample' if part else 'whole'}", once)


def sample_of_repositories(sites: Sites, secondary: Site) -> list[str]:
    """Repositories for the cross-check: the canary's, those with tags pushed since the import, and others by a hash.

    Raises DatabaseRefused.
    """
    primary = sites.primary
    paths = primary.metadata_db.repositories().keys() | secondary.metadata_db.repositories().keys()
    window = state.window(primary)
    since = datetime.fromisoformat(window.closed or window.opened) if window else None
    touched = {path for path, _ in primary.metadata_db.pushed_since(since)} if since else set()
    canary = secondary.options.canary_project

    def order(path: str) -> tuple[bool, bool, str]:
        return path != canary, path not in touched, hashlib.sha256(path.encode()).hexdigest()

    return sorted(paths, key=order)[:SAMPLE_REPOSITORIES]


def _looked_twice(
    sites: Sites, secondary: Site, scope: str, compared: Callable[[frozenset[str] | None], Comparison]
) -> Comparison:
    """`scope` says what is compared: differences that were there at the last look of it are not waited for again."""
    primary = sites.primary

    def once(only: frozenset[str] | None = None) -> Comparison:
        found = accept_losses(compared(only), state.accepted_losses(primary))
        seen, now = secondary.differences_seen.get(scope, {}), time.monotonic()
        secondary.differences_seen[scope] = {one: seen.get(one, now) for one in found.differences}
        return found

    def again(only: frozenset[str]) -> Comparison:
        youngest = max(secondary.differences_seen[scope].values())
        if (left := youngest + SETTLE_SECONDS - time.monotonic()) > 0:
            secondary.progress("some images differ: looking again, they may be on their way")
            time.sleep(left)
        return once(only)

    def pending() -> frozenset[str]:
        """Repositories that differ and that Geo has yet to sync."""
        states = {record.repository: record.state for record in primary.gitlab.sync_records(geo_site(secondary))}
        paths = {one.repository for one in first.differences}
        ids = {path: primary.gitlab.repository_id(path) for path in paths}
        waiting = ("PENDING", "STARTED")
        return frozenset(p for p, n in ids.items() if n is not None and states.get(str(n), "PENDING") in waiting)

    first = once()
    return _without_canary(primary, second_look(first, again, pending=pending))


def _without_canary(primary: Site, found: Comparison) -> Comparison:
    """The tag of a canary that was killed half-way is on its way out: the next canary removes it."""
    kept = primary.keep.load("canary") or {}
    own = (kept.get("project"), kept.get("tag"))
    marked = [replace(d, state="in flight") if (d.repository, d.tag) == own else d for d in found.differences]
    return replace(found, differences=marked)


REMEDIES = {
    "missing": "missing and differing ones: resync the repository (Admin > Geo), and see geo.log on the secondary",
    "extra": "extra ones: delete them on the secondary only with consent",
    "incomplete": "incomplete ones: resync the repository, or push the image again on the primary",
    "corrupt": "corrupt ones: the storage gives other bytes than were pushed: restore them, or push the image again",
    "unreadable": "unreadable ones: see the registry's log; a 401 is a repository without a project in GitLab",
    "disagreeing": "disagreeing ones: is the registry's address that of the registry on this database?",
}


def judged(compared: Comparison, table: str = "differences", note: str = "") -> Finding:
    """A comparison as a finding, with its table per repository, and one (`table`) of all single differences."""
    here, there = compared.tags
    sample = f" (looked at: {compared.sample})" if compared.sample else ""
    found = f"{there} tags on {compared.there}, {here} on {compared.here}: {compared.verdict}{sample}{note}"
    if compared.reason:
        found += f"; not compared to the end: {compared.reason}"
    alike = [one for one in compared.differences if one.state == "on both"]
    staying = compared.staying
    if staying:
        names = ", ".join(f"{one.repository}:{one.tag} ({one.kind})" for one in staying[:5])
        kinds = {"missing" if one.kind == "differing" else one.kind for one in staying}
        finding = failed(
            f"{found}; {names}" + (" …" if len(staying) > 5 else ""),
            "equal",
            remedy="; ".join(text for kind, text in REMEDIES.items() if kind in kinds),
        )
    elif compared.reason:
        finding = failed(found, "equal", remedy="mend what it names, and check again: until then nothing is proved")
    elif compared.verdict == "in flight":
        finding = warning(found, "equal", remedy="look again in a few minutes")
    elif alike:
        remedy = f"{len(alike)} images are broken on both sites alike, see {table}: build them again, or delete them"
        finding = warning(found, "equal, and whole", remedy=remedy)
    else:
        finding = passed(found, "equal")
    return replace(finding, rows=compared.rows(), tables={table: compared.difference_rows()})
