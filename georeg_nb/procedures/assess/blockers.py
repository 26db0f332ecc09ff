"""What must be mended before a scenario is begun, told by facts alone. Source: procedures 1.3 to 2.1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from georeg_nb.procedures.assess.facts import REGISTRIES, SiteFacts


@dataclass(frozen=True)
class Blocker:
    """What is in the way on a site (of the sites as a pair: no name), and what to do about it."""

    site: str
    what: str
    remedy: str


def unset_geo(primary: SiteFacts, secondary: SiteFacts) -> str:
    """Empty where Geo is set up between these two; else what there is instead."""
    if primary.geo == "primary" and secondary.geo == "secondary":
        return ""
    return f"Geo is not set up: {primary.name} is {_role(primary)}, {secondary.name} is {_role(secondary)}"


def _role(site: SiteFacts) -> str:
    return {"none": "no Geo site", None: "not known"}.get(site.geo) or f"registered as {site.geo}"


def found(site: SiteFacts) -> str:
    """What a site's registry is, in words."""
    return f"{site.name}'s registry: {REGISTRIES[site.registry]}"


def replicating(primary: SiteFacts, secondary: SiteFacts) -> bool:
    """Image replication is set up on both sides."""
    return bool(secondary.replicates and primary.notifies)


OfSite = Callable[[SiteFacts], str]
OF_SITE: tuple[tuple[OfSite, str], ...] = (
    (lambda site: "; ".join(site.problems), "mend what keeps it from answering: what cannot be read is not guessed"),
    (
        lambda site: "it was promoted: gitlab-cluster.json overrules the roles in gitlab.rb" if site.promoted else "",
        "fold its settings into gitlab.rb, remove it, reconfigure",
    ),
    (
        lambda site: f"licence: {site.licence}" if site.licence and not _licensed(site.licence) else "",
        "Geo needs a valid licence, Premium or Ultimate, on the primary: upload or renew it",
    ),
    (
        lambda site: "its registry is down" if site.enabled and site.running is False else "",
        "`gitlab-ctl status registry`, and see its log",
    ),
    (
        lambda site: "both lock files are there" if " and " in (site.lockfiles or "") else "",
        "decide from the database and the history which one is true, and delete the other",
    ),
    (
        lambda site: (
            "its storage holds repositories that its registry does not show: it works on a database that lacks them"
            if site.images is False and site.stored and site.database
            else ""
        ),
        "if nothing was pushed since: registry['database']['enabled'] = false, remove the lock file database-in-use, "
        "reconfigure, and assess again",
    ),
    (
        lambda site: (
            "configured legacy, and its lock file says that a database is in use"
            if site.mode == "legacy" and site.lockfiles == "database-in-use" and not site.window
            else ""
        ),
        "its newest images may be in a database alone: find that out first, never delete the lock file blindly",
    ),
    (
        lambda site: found(site) if site.registry == "other" else "",
        "name that database in the sites file, if it is the right one",
    ),
    (
        lambda site: f"Geo: {site.healthy}" if site.geo == site.role == "secondary" and _ill(site) else "",
        "mend what it names: `gitlab-rake gitlab:geo:check` there",
    ),
    (
        lambda site: (
            f"GitLab has it as {site.geo}, the sites file as {site.role}"
            if site.geo not in (None, "none", site.role)
            else ""
        ),
        "are the two sites swapped in the sites file?",
    ),
)


def _licensed(licence: str) -> bool:
    return licence in ("premium", "ultimate")


def _ill(site: SiteFacts) -> bool:
    return site.healthy not in (None, "Healthy")


def of_site(site: SiteFacts) -> list[Blocker]:
    """What is in the way on one site, whatever the scenario."""
    return [Blocker(site.name, what, remedy) for tell, remedy in OF_SITE if (what := tell(site))]


def of_both(primary: SiteFacts, secondary: SiteFacts, fitting: Sequence[str]) -> list[Blocker]:
    """Combinations that no scenario takes as they are. `fitting`: ids of the starting points that apply."""
    geo, there = not unset_geo(primary, secondary), found(secondary)
    kind, holds = secondary.registry, secondary.registry in ("legacy", "bundled", "own", "other")
    pairs = (
        (
            not geo and secondary.geo == "none" and holds,
            f"{there}; setting up Geo replaces what it holds",
            "use a freshly installed instance, or empty this one if nobody needs it",
        ),
        (
            geo and holds and primary.registry in ("off", "empty"),
            f"{there}, and {found(primary)}: replication would remove these images",
            "find out where the images belong before image replication is switched on",
        ),
        (
            geo and kind == "bundled",
            there,
            "a secondary's own PostgreSQL is a read-only copy of the primary's: give its registry an external "
            "database, and rebuild it as a secondary that is added later",
        ),
        (
            "migrate-legacy" in fitting and kind in ("off", "empty"),
            f"{there}, while the primary's holds images",
            "enable its registry with registry['database']['enabled'] = false, set up replication (procedure P4) and "
            "wait until every image is synced; then migrate both sites",
        ),
        (
            "verify-replication" in fitting and not replicating(primary, secondary),
            "image replication is not set up on both sides",
            "set up registry replication (procedure P4)",
        ),
    )
    return [Blocker(secondary.name, what, remedy) for there_is, what, remedy in pairs if there_is]
