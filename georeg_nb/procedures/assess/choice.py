"""Which scenario fits a pair of sites, why the others do not, and what stands in the way: a pure function over facts.

The starting points are those of procedures 1.2 in their correct reading (1.3), and the case that the document lacks:
the primary works on its database already, and a secondary is added or rebuilt later (1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from georeg_nb.procedures.assess.blockers import Blocker, found, of_both, of_site, replicating, unset_geo
from georeg_nb.procedures.assess.facts import REGISTRIES, PairFacts, SiteFacts

Condition = Callable[[SiteFacts, SiteFacts], str]
"""Asked of the primary and one secondary: empty where it holds, else what was found instead."""


@dataclass(frozen=True)
class StartingPoint:
    """A scenario and what it starts from. `notebook` is empty where no notebook does it: `advice` says what to do."""

    id: str
    title: str
    notebook: str
    conditions: Sequence[Condition]
    advice: str = ""


@dataclass(frozen=True)
class Choice:
    """The result. `why_not` has a reason for every starting point that does not apply; `note`: what is special."""

    point: StartingPoint | None
    why: str
    why_not: dict[str, str]
    blockers: tuple[Blocker, ...]
    note: str = ""


# conditions


def _geo_is_not_set_up(primary: SiteFacts, secondary: SiteFacts) -> str:
    if primary.geo is None or secondary.geo is None:
        return "whether Geo is set up is not known"
    if primary.geo == "secondary":
        return f"{primary.name} is registered as secondary: are the sites swapped in the sites file?"
    return "" if unset_geo(primary, secondary) else "Geo is set up already"


def _primary_is(*kinds: str) -> Condition:
    def condition(primary: SiteFacts, secondary: SiteFacts) -> str:
        return "" if primary.registry in kinds else found(primary)

    return condition


def _secondary_is(*kinds: str) -> Condition:
    def condition(primary: SiteFacts, secondary: SiteFacts) -> str:
        return "" if secondary.registry in kinds else found(secondary)

    return condition


def _new_database_on_own(site: SiteFacts) -> bool:
    """Works on its own, empty database."""
    return site.registry == "empty" and site.database and site.where == "own"


def _primary_has_no_own_database(primary: SiteFacts, secondary: SiteFacts) -> str:
    if primary.registry == "empty" and primary.database and primary.where in ("own", "other"):
        return f"{primary.name}'s registry works on an external database already"
    return ""


def _primary_on_external(primary: SiteFacts, secondary: SiteFacts) -> str:
    return "" if primary.registry in ("own", "other", "legacy") or _new_database_on_own(primary) else found(primary)


def _on_own(primary: SiteFacts, secondary: SiteFacts) -> bool:
    """Both registries work on their own databases, with images or not."""
    return all(site.registry == "own" or _new_database_on_own(site) for site in (primary, secondary))


def _unfinished(primary: SiteFacts, secondary: SiteFacts) -> bool:
    return bool(primary.unfinished or secondary.unfinished)


def _registry_is_left(primary: SiteFacts, secondary: SiteFacts) -> str:
    if _on_own(primary, secondary) and replicating(primary, secondary):
        return "both registries work on their own databases and replicate"
    return ""


def _is_complete(primary: SiteFacts, secondary: SiteFacts) -> str:
    """Where the primary has images, missing replication is a blocker of this one; where it has none, of another."""
    left = [f"{site.name}: {', '.join(site.unfinished)}" for site in (primary, secondary) if site.unfinished]
    left += [found(site) for site in (primary, secondary) if site.registry != "own" and not _new_database_on_own(site)]
    if not left and primary.registry == "empty" and not replicating(primary, secondary):
        left.append("images are not replicated")
    return "; ".join(left)


def _legacy_is_left(primary: SiteFacts, secondary: SiteFacts) -> str:
    """Legacy with images on a site, whichever moved first; or what a migration that was begun has left open."""
    kinds = {primary.registry, secondary.registry}
    if primary.registry == "legacy" and secondary.registry in ("off", "empty"):
        return ""
    if kinds <= {"legacy", "own"} and ("legacy" in kinds or _unfinished(primary, secondary)):
        return ""
    return "; ".join(found(site) for site in (primary, secondary))


def _primary_moved_alone(primary: SiteFacts, secondary: SiteFacts) -> str:
    if primary.registry not in ("own", "other"):
        return found(primary)
    if _on_own(primary, secondary):
        return "both registries work on their own databases"
    return found(secondary) if secondary.registry == "legacy" else ""


SET_UP_NEW = StartingPoint(
    "set-up-new-instance",
    "New instance whose registry is empty, no Geo",
    "01-set-up-new-instance",
    (_geo_is_not_set_up, _primary_is("empty"), _primary_has_no_own_database),
)
ADD_REGISTRY = StartingPoint(
    "add-registry-to-geo-sites",
    "Geo sites without images: a registry on each",
    "02-add-registry-to-geo-sites",
    (unset_geo, _primary_is("off", "empty"), _secondary_is("off", "empty"), _registry_is_left),
)
ADD_GEO_AND_REGISTRY = StartingPoint(
    "add-geo-and-registry",
    "Instance without a registry, no Geo",
    "03-add-geo-and-registry",
    (_geo_is_not_set_up, _primary_is("off")),
)
ADD_GEO_EXTERNAL = StartingPoint(
    "add-geo-external-database",
    "Instance whose registry works on an external database, no Geo",
    "04a-add-geo-external-database",
    (_geo_is_not_set_up, _primary_on_external),
)
ADD_GEO_DEFAULT = StartingPoint(
    "add-geo-default-database",
    "Instance whose registry works on the package's own database",
    "04b-add-geo-default-database",
    (_primary_is("bundled"),),
)
MIGRATE_LEGACY = StartingPoint(
    "migrate-legacy",
    "Geo sites with legacy metadata and images",
    "05-migrate-legacy-metadata",
    (unset_geo, _legacy_is_left),
)
REBUILD_SECONDARY = StartingPoint(
    "rebuild-secondary",
    "The primary works on its database, the secondary is added or rebuilt later",
    "",
    (unset_geo, _primary_moved_alone),
    """start the secondary's registry with an empty storage and a fresh database: switch image replication off there,
    stop its registry, delete what its storage holds (after a backup, and a second look at which site this is), drop and
    create its database, name it in registry['database'] with enabled false, reconfigure, `gitlab-ctl registry-database
    migrate up`, enabled true, reconfigure; then set up replication (procedure P4) and verify. Compare catalogs, tags
    and digests, never the number of objects: the primary's storage still holds its legacy metadata""",
)
VERIFY = StartingPoint(
    "verify-replication",
    "Both registries work on their own databases",
    "06-verify-replication",
    (unset_geo, _is_complete),
)
POINTS = (
    SET_UP_NEW,
    ADD_REGISTRY,
    ADD_GEO_AND_REGISTRY,
    ADD_GEO_EXTERNAL,
    ADD_GEO_DEFAULT,
    MIGRATE_LEGACY,
    REBUILD_SECONDARY,
    VERIFY,
)


def choose(pair: PairFacts) -> Choice:
    """The starting point of the sites. With several secondaries it is the one that still has work to do on any of them;
    where they differ in more than that, none fits and the blockers say so.
    """
    results = [_of_pair(pair.primary, secondary) for secondary in pair.secondaries]
    fitting = {secondary.name: points for (points, _), secondary in zip(results, pair.secondaries, strict=True)}
    work = list(dict.fromkeys(point for points in fitting.values() for point in points if point is not VERIFY))
    chosen = work[0] if len(work) == 1 else None
    if not work and all(fitting.values()):
        chosen = VERIFY
    blockers = [blocker for site in pair.all for blocker in of_site(site)]
    for secondary in pair.secondaries:
        blockers += of_both(pair.primary, secondary, [point.id for point in fitting[secondary.name]])
    if len(work) > 1:
        told = "; ".join(f"{name}: {', '.join(point.id for point in points)}" for name, points in fitting.items())
        remedy = "take them one after the other, with a sites file that names the primary and one of them"
        blockers.append(Blocker("", f"the secondaries stand differently: {told}", remedy))
    if chosen is None and not blockers:
        blockers.append(Blocker("", "no starting point is like this", "see why each of them does not fit"))
    why_not = {
        point.id: next((reasons[point.id] for _, reasons in results if point.id in reasons), "another one comes first")
        for point in POINTS
        if point is not chosen
    }
    return Choice(chosen, _why(pair), why_not, tuple(dict.fromkeys(blockers)), _note(pair, chosen))


def _of_pair(primary: SiteFacts, secondary: SiteFacts) -> tuple[list[StartingPoint], dict[str, str]]:
    points, reasons = [], {}
    for point in POINTS:
        reason = next((text for condition in point.conditions if (text := condition(primary, secondary))), "")
        if reason:
            reasons[point.id] = reason
        else:
            points.append(point)
    return points, reasons


def _why(pair: PairFacts) -> str:
    geo = "Geo is set up" if not any(unset_geo(pair.primary, s) for s in pair.secondaries) else "no Geo"
    return "; ".join([geo, *(f"{site.name}: {REGISTRIES[site.registry]}" for site in pair.all)])


def _note(pair: PairFacts, chosen: StartingPoint | None) -> str:
    primary = pair.primary
    if chosen is ADD_GEO_EXTERNAL and primary.registry == "legacy":
        return "the primary's metadata is legacy: it is first imported into its database (procedure P6)"
    if chosen is ADD_GEO_DEFAULT and primary.geo == "primary":
        return "Geo is set up already: its part is found done; the database is moved out first (procedure P5)"
    if chosen is MIGRATE_LEGACY and primary.registry == "own" and any(s.registry == "legacy" for s in pair.secondaries):
        return "the primary has moved first, which is the combination to avoid: image sync is held before anything else"
    if chosen is MIGRATE_LEGACY and any(site.registry == "own" or site.unfinished for site in pair.all):
        return "it was begun already: it goes on where it stands"
    if chosen is ADD_REGISTRY and any(_new_database_on_own(site) for site in pair.all):
        return "one part is there already: it is found done"
    return ""
