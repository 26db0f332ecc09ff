"""What must hold before an import: every guard that the importer itself does not have (registry 0)."""

from __future__ import annotations

from collections.abc import Callable

from georeg_nb.procedures import directions, forecast, state
from georeg_nb.procedures.import_metadata import prediction
from georeg_nb.procedures.imports_by_log import job_name
from georeg_nb.runbook import Finding, check, expect, failed, later, not_applicable, passed, warning
from georeg_nb.site import Site

MOVED = "the registry works on its database already"
SWITCHING = "some nodes work on the database already: step enable-database ends the switch"


def import_runs(site: Site) -> bool:
    """Whether an import of ours is at work on any registry node."""
    jobs = [node.job(job_name(site)) for node in site.registry_nodes]
    return any(job is not None and job.state == "running" for job in jobs)


def import_died(site: Site) -> bool:
    """Whether an import in the window that is open now was killed in the middle: it cannot be continued."""
    if state.open_window(site) is None or import_runs(site):
        return False
    return site.metadata_db.count("tags") > 0 and not state.imported(site)


def _unless_moved(question: Callable[[Site], Finding]) -> Callable[[Site], Finding]:
    """A question that only matters before the site has moved."""

    def asked(site: Site) -> Finding:
        if state.on_own_database(site):
            return not_applicable(MOVED)
        return not_applicable(SWITCHING) if state.is_switching(site) else question(site)

    asked.__name__, asked.__doc__ = question.__name__, question.__doc__
    return asked


@check("no tag will be left behind unnoticed", source="registry 1.6", evidence="run")
@_unless_moved
def no_unnamed_loss(site: Site) -> Finding:
    """The importer loses tags with status 0, and dies of a few corruptions: both are found here, with their cause."""
    if state.open_window(site) and state.valid_snapshot(site):
        return passed("judged before pushes were refused; nothing can have changed since", "no unnamed loss")
    made = prediction.registry(site).forecast
    rows = [trouble.row() for trouble in made.troubles]
    fatal = made.of("fatal")
    if fatal:
        return failed(
            f"the import would end at {fatal[0].name}: {fatal[0].cause}" + _more(fatal),
            "nothing that ends the import",
            remedy="mend or delete these in the storage or through the registry; the table names each with its cause",
            rows=rows,
        )
    accepted = state.accepted_losses(site)
    lost = [trouble for trouble in made.of("lost") if trouble.name not in accepted]
    if lost:
        return failed(
            f"{len(lost)} tags would be lost: {', '.join(t.name for t in lost[:5])}" + (" …" if len(lost) > 5 else ""),
            "no tag lost that is not named in accept_losses",
            remedy="push these images again, or delete their tags, or agree to lose them: accept_losses: ["
            + ", ".join(t.name for t in lost[:5])
            + "]",
            rows=rows,
        )
    expected = f"{len(made.tags)} tags, each imported or named"
    if made.troubles:
        agreed, broken = len(made.of("lost")), len(made.of("incomplete"))
        return warning(
            f"{agreed} agreed to be lost, {broken} images broken before and after",
            expected,
            remedy="the table names each with its cause",
            rows=rows,
        )
    return passed(f"{len(made.tags)} tags, none in trouble", expected)


def _more(items: list[forecast.Trouble]) -> str:
    return f" (and {len(items) - 1} more)" if len(items) > 1 else ""


@check("image sync is held on every secondary", source="procedures 2.6", evidence="derived")
@_unless_moved
def image_sync_is_held(site: Site) -> Finding:
    """Geo would remove from a secondary what an import has lost."""
    open_ = [other.name for other in site.sites.secondaries if not state.is_held(other)]
    if open_:
        return later(f"held by section 'hold' (not yet on {', '.join(open_)})")
    return passed("held", "held")


@check("every secondary's import is proved", source="procedures 2.6", evidence="derived")
@_unless_moved
def secondaries_are_proved(site: Site) -> Finding:
    """A legacy secondary that syncs from a database-backed primary is the combination to avoid (procedures 1.3)."""
    if site.role == "secondary":
        return not_applicable("this is a secondary")
    left = [other.name for other in site.sites.secondaries if not state.on_own_database(other)]
    if left:
        return later(f"after the import of {', '.join(left)}")
    findings = {other.name: directions.equals_its_snapshot(other) for other in site.sites.secondaries}
    wrong = [f"{name}: {finding.found}" for name, finding in findings.items() if finding.verdict == "failed"]
    if wrong:
        return failed("; ".join(wrong), "as in its snapshot", remedy="see the secondary's section")
    return passed("on their databases, as in their snapshots", "proved")


@check("the schema is current", source="registry 0 fact 3, 4.3", evidence="run")
@_unless_moved
def schema_is_current(site: Site) -> Finding:
    """An import without schema does not say so, and an old schema passes too and dies in the middle.

    Read from the bookkeeping tables: `migrate status` writes, and its short form looks at half of them.
    """
    applied = state.applied_schema(site)
    kept = site.keep.load("schema")
    if not kept or not any(applied.values()):
        return later("made by step migrate-schema")
    if kept["registry"] != site.omnibus.registry_version():
        return later(f"the registry is now {site.omnibus.registry_version()}: step migrate-schema runs again")
    found = f"{applied['pre']} and {applied['post']} migrations"
    return expect(found, f"{kept['pre']} and {kept['post']} migrations", remedy="apply step migrate-schema again")


@check("no tag in the metadata database yet", source="procedures 2.6", evidence="run")
@_unless_moved
def tags_table_is_empty(site: Site) -> Finding:
    """The importer refuses to import over tags, and then turns the lock files round (registry 0 fact 2)."""
    if import_runs(site):
        return passed("an import of ours is running", "no tag, or an import of ours")
    count = site.metadata_db.count("tags")
    if count and state.imported(site):
        return passed(f"{count} tags, exactly those of the snapshot", "no tag, or an import of ours")
    if count and half_import_is_ours(site).verdict == "passed":
        return later(f"{count} tags of a half-finished import of ours: step clear-half-import removes them")
    return expect(
        f"{count} tags",
        "0 tags",
        remedy="this database is or was in use: never truncate it. Give the site an empty database of its own",
    )


@check("the database was never in use by a registry", source="registry 0 fact 2, 4.4, 6.3", evidence="run")
@_unless_moved
def never_in_use(site: Site) -> Finding:
    """An import into a database that a registry works on, or worked on, turns its lock files round and, once `tags` was
    emptied, loses every tag pushed since. The importer does not look.
    """
    expected = "never enabled, and empty or written by our own imports alone"
    if state.open_window(site) and state.imported(site):
        return passed("imported in the window that is open; step enable-database is next", expected)
    signs = state.signs_of_use(site)
    if signs:
        return failed(
            "; ".join(signs),
            expected,
            remedy="do not truncate. Find out which registry works on this database, or give the site an empty one",
        )
    return passed(expected, expected)


@check("what is in the database is a half-finished import of ours", source="procedures 2.6, registry 0", evidence="run")
@_unless_moved
def half_import_is_ours(site: Site) -> Finding:
    """Emptying `tags` of a registry in use would lose every tag pushed since. So: never enabled, and all of it ours."""
    reasons = state.signs_of_use(site)
    kept = state.snapshot(site)
    if kept is None or state.window(site) is None:
        reasons.append("no import of ours is known on this site")
    tags = site.metadata_db.all_tags()
    foreign = [key for key in tags if kept is None or kept.tags.get(key) not in (tags[key], "")]
    if foreign:
        reasons.append(f"{len(foreign)} tags are not those of our snapshot, e.g. {':'.join(foreign[0])}")
    if reasons:
        return failed(
            "; ".join(reasons),
            "never enabled, and nothing but tags of our snapshot",
            remedy="do not truncate. Find out which registry works on this database",
        )
    return passed(f"{len(tags)} tags, all of our snapshot; never enabled", "never enabled, and nothing but our tags")


@check("nobody else is connected to the metadata database", source="registry 0", evidence="derived")
@_unless_moved
def nobody_else_connected(site: Site) -> Finding:
    """An import that somebody started elsewhere, or a registry that works on this database already, shows as a
    session.
    """
    sessions = [] if import_runs(site) else state.other_sessions(site)
    return expect(
        "; ".join(sessions) or "nobody",
        "nobody",
        remedy="find out what connects there (an import by hand? another registry?) and end it",
    )


@check("the registry is in legacy mode", source="registry 3.3", evidence="run")
@_unless_moved
def registry_is_legacy(site: Site) -> Finding:
    """By configuration and by what the running process says."""
    enabled = state.running_on_database(site)
    configured = "legacy" if state.is_legacy(site) else "not legacy"
    running = sorted({"database" if value else "legacy" for value in enabled.values()})
    return expect(
        f"configured: {configured}; running: {' and '.join(running)}",
        "configured: legacy; running: legacy",
        remedy="reconfigure the nodes; if the registry works on another database, this runbook is not for it",
    )


@check("the registry works on its database", source="procedures 2.6 Three-step", evidence="run")
def registry_works_on_its_database(site: Site) -> Finding:
    """By configuration and by what the running process says."""
    if not state.on_own_database(site):
        return later("after step enable-database")
    running = all(state.running_on_database(site).values())
    return expect(
        "database" if running else "legacy", "database", remedy="`gitlab-ctl restart registry`, then run this again"
    )
