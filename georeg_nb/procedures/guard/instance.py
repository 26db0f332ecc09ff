"""GitLab and Geo themselves: version, edition, licence, roles, health, token. Source: procedures 1.4, 2.0, 2.1, 2.7."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from georeg_nb.errors import HttpRefused, NodeFileMissing
from georeg_nb.gitlab_api import GeoSite
from georeg_nb.nodes import Node
from georeg_nb.omnibus import GITLAB_YML, REGISTRY_CONFIG
from georeg_nb.procedures import state
from georeg_nb.procedures.hold_sync import ask_rails
from georeg_nb.readers import GEO_ROLE
from georeg_nb.runbook import Finding, check, expect, failed, not_applicable, passed, warning
from georeg_nb.site import Site, Sites
from georeg_nb.versions import NEWEST, REHEARSED, Profile, parse_version, text

FRESH = timedelta(minutes=10)
NEXT_REPORT = 90.0  # seconds; a site reports once a minute
CLOCK_SECONDS = 60


@check("the version of GitLab is supported", source="procedures 1.3, 1.4, 3", evidence="source")
def version_is_supported(site: Site) -> Finding:
    """17.5 is the oldest that the import pages know; 19.0.0 and 19.0.1 make populated legacy registries unreachable."""
    texts = {site.gitlab.version().version, *(package.version() for package in site.packages())}
    expected = "17.5 or later, 18.3 or later recommended"
    try:  # what runs, and what is installed on every node
        profiles = sorted({Profile.of(found) for found in texts}, key=lambda profile: profile.gitlab)
    except ValueError:
        return failed(" and ".join(sorted(texts)), expected, remedy="is this a released GitLab Linux package?")
    shown = " and ".join(".".join(map(str, profile.gitlab)) for profile in profiles)
    if not all(profile.supports("import-supported") for profile in profiles):
        return failed(shown, expected, remedy="upgrade both sites first")
    if any(profile.supports("hides-legacy-images") for profile in profiles):
        return failed(
            shown, expected, remedy="upgrade both sites to 19.0.2 or later first: 19.0.0 and 19.0.1 hide images"
        )
    if any(profile.is_newer_than_known for profile in profiles):
        return warning(
            shown,
            f"{expected}; known up to {text(NEWEST)}",
            remedy="this runbook does not know the release: what it shows itself is in the table; rehearse on a test "
            "pair first",
            rows=_probed(site, profiles[-1]),
        )
    if not all(profile.supports("import-recommended") for profile in profiles):
        return warning(shown, expected, remedy="consider to upgrade both sites to 18.3 or later first")
    if not all(profile.is_rehearsed for profile in profiles):
        return warning(
            shown, expected, remedy=f"rehearsed with {', '.join(map(text, REHEARSED))}: rehearse on a test pair first"
        )
    return passed(shown, expected)


def _probed(site: Site, profile: Profile) -> list[dict[str, str]]:
    """What an unknown release shows of itself, and what is assumed of it: the same as of the newest known one."""
    identity, config = site.registry.identity(), site.omnibus.registry_config()
    found = {
        "registry": identity.version,
        "registry mode, running": {True: "database", False: "legacy", None: "does not say"}[identity.database],
        "registry mode, configured": config.mode if config else "not configured",
        "lock files": str(state.lockfiles(site)),
    }
    seen = [{"what": name, "found": value} for name, value in found.items()]
    return seen + [{"what": f"assumed: {row.what}", "found": row.detected} for row in profile.differences]


@check("the installed package is the one that runs", source="procedures 2.0", evidence="source")
def package_runs(site: Site) -> Finding:
    """A package that was upgraded without reconfigure and restart runs the old programs with the new files."""
    running = parse_version(site.gitlab.version().version)
    nodes = {package.node.name: package.version() for package in site.packages()}
    found = "; ".join(f"{text} on {name}" for name, text in nodes.items())
    expected = f"{'.'.join(map(str, running))} on every node"
    if all(parse_version(text) == running for text in nodes.values()):
        return passed(found, expected)
    return failed(found, expected, remedy="finish the upgrade (reconfigure, restart) on every node of the site")


@check("Geo is licensed", source="procedures 2.1", evidence="source")
def geo_is_licensed(site: Site) -> Finding:
    """Premium or Ultimate, on the primary; a secondary takes it from the replicated database."""
    if site.role == "secondary":
        return not_applicable("the primary's licence counts")
    if not site.gitlab.version().enterprise:
        return failed("Community Edition", "Enterprise Edition", remedy="Geo needs GitLab Enterprise Edition")
    found = site.gitlab.license()
    shown = (found.plan or "no licence") + (", expired" if found.expired else "")
    if found.plan in ("premium", "ultimate") and not found.expired:
        return passed(shown, "premium or ultimate")
    return failed(shown, "premium or ultimate", remedy="renew or upload the licence on the primary")


@check("the token is an administrator's", source="procedures 5", evidence="source")
def token_is_administrators(site: Site) -> Finding:
    """Only an administrator sees the Geo sites, and only with scope `api`."""
    try:
        count = len(site.gitlab.geo_sites())
    except HttpRefused as error:
        if error.status in (401, 403):
            meaning = {401: "wrong, expired or revoked", 403: "valid, but not an administrator's, or without scope api"}
            return failed(
                meaning[error.status],
                "an administrator's",
                remedy="make a personal access token of an administrator with scopes api, admin_mode, read_registry "
                "and "
                "write_registry, and put it where the sites file refers to",
            )
        raise
    return passed(f"accepted; sees {count} Geo sites", "an administrator's")


def entry_of(site: Site) -> GeoSite | None:
    """The site's entry among the Geo sites, by its name; asked of the site itself."""
    name = site.parameters.geo_site_name
    return next((entry for entry in site.gitlab.geo_sites() if entry.name == name), None)


@check("the site has the role that the sites file gives it", source="procedures 2.0", evidence="source")
def role_is_as_named(site: Site) -> Finding:
    """Swapped sites would have the secondary's images removed, or the primary migrated first."""
    entry = entry_of(site)
    if entry is None:
        names = ", ".join(sorted(item.name for item in site.gitlab.geo_sites())) or "none"
        return failed(
            f"no Geo site is named {site.parameters.geo_site_name!r} (there are: {names})",
            f"a {site.role} of that name",
            remedy="correct geo_name in the sites file; it is gitlab_rails['geo_node_name']",
        )
    registered = "primary" if entry.primary else "secondary"
    on_node = ask_rails(site, GEO_ROLE)
    found = f"registered as {registered}; its Rails node says {on_node}; at {entry.url.rstrip('/')}"
    expected = f"{site.role}, at {site.parameters.gitlab.url}"
    if not entry.current:
        return failed(
            f"{site.parameters.gitlab.url} answers as another Geo site",
            expected,
            remedy="are the two sites' addresses swapped?",
        )
    if registered != site.role or on_node != site.role:
        return failed(found, expected, remedy="are primary and secondary swapped in the sites file?")
    if not entry.enabled:
        return failed("the site is switched off in Geo", "enabled", remedy="enable it in Admin > Geo > Sites")
    if entry.url.rstrip("/") != site.parameters.gitlab.url:
        return warning(
            found, expected, remedy="the workstation reaches it by another address than Geo does: is it the same?"
        )
    return passed(found, expected)


@check("the site was never promoted", source="procedures 2.0, 4.1", evidence="source")
def never_promoted(site: Site) -> Finding:
    """`gitlab-ctl geo promote` leaves a file that overrules the roles in gitlab.rb."""
    promoted = [package.node.name for package in site.packages() if package.promoted()]
    if promoted:
        return failed(
            f"gitlab-cluster.json on {', '.join(promoted)}",
            "none",
            remedy="fold its settings into gitlab.rb and remove it (GitLab's documentation on promoted sites), then "
            "reconfigure",
        )
    return passed("none", "none")


@check("the main database is the one that the role needs", source="procedures 2.0", evidence="source")
def main_database_fits(site: Site) -> Finding:
    """The primary's is writable, the secondary's a streaming standby of it."""
    command = ["gitlab-psql", "-d", "gitlabhq_production", "-tAc", "SELECT pg_is_in_recovery()"]
    answer = site.rails_node.run(command).stdout.strip()
    words = {"f": "writable", "t": "standby"}
    return expect(
        words.get(answer, answer),
        "writable" if site.role == "primary" else "standby",
        remedy="are primary and secondary swapped in the sites file? Else mend Geo's database replication first",
    )


@check("Geo is healthy", source="procedures 2.7", evidence="source")
def geo_is_healthy(site: Site) -> Finding:
    """A pair that is ill before is not migrated."""
    if site.role == "primary":
        return not_applicable("asked of the secondaries")
    finding, deadline, pause = _health(site), time.monotonic() + NEXT_REPORT, 1.0
    while finding.failed and time.monotonic() < deadline:  # a site that was just started has yet to report
        site.progress("waiting for the next report of Geo")
        time.sleep(pause)
        pause = min(5.0, pause * 1.5)
        finding = _health(site)
    return finding


def _health(site: Site) -> Finding:
    entry = next((e for e in site.sites.primary.gitlab.geo_sites() if e.name == site.parameters.geo_site_name), None)
    status = site.sites.primary.gitlab.geo_status(entry.id) if entry else None
    if status is None:
        return failed("no status was ever reported", "Healthy", remedy="see Admin > Geo > Sites on the primary")
    age = datetime.now(UTC) - status.updated_at if status.updated_at else None
    if not status.healthy:
        return failed(status.health, "Healthy", remedy="mend what it names: `gitlab-rake gitlab:geo:check` there")
    if age is None or age > FRESH:
        minutes = "unknown" if age is None else f"{age.total_seconds() / 60:.0f} min"
        return failed(f"last report: {minutes} ago", "less than 10 min", remedy="is Sidekiq running on the secondary?")
    rows = [{"database lag (s)": status.lag, "last report": str(status.updated_at)}]
    return passed("Healthy, reported less than 10 min ago", "Healthy, reported less than 10 min ago", rows=rows)


@check("image replication is switched on", source="procedures 2.4, 2.7", evidence="source")
def replication_is_on(site: Site) -> Finding:
    """The state that this runbook restores at its end."""
    if site.role == "primary":
        return not_applicable("a setting of the secondaries")
    if state.block_there(site, state.HOLD) or site.keep.load("hold"):
        return passed("held by georeg", "on, or held by georeg")
    on = site.rails.gitlab_yml().replication_enabled
    return expect(
        "on" if on else "off",
        "on",
        remedy="set up registry replication first (procedure P4): gitlab_rails['geo_registry_replication_enabled'] "
        "= true",
    )


@check("gitlab.rb can be changed safely", source="procedures 4.1", evidence="source")
def gitlab_rb_is_sound(site: Site) -> Finding:
    """It parses, georeg's own fences in it are whole, and nothing in it waits for a reconfigure."""
    waiting = []
    for package in site.packages():
        if problem := package.syntax_error():
            return failed(f"{package.node.name}: {problem}", "Syntax OK", remedy="mend the file first")
        state.block_there(site, state.HOLD)  # raises where the fences were edited by hand
        try:
            changed, applied = (
                int(package.node.run(["stat", "-c", "%Y", path]).stdout)
                for path in ("/etc/gitlab/gitlab.rb", _last_rendered(package.node))
            )
        except (NodeFileMissing, ValueError):
            continue
        if changed > applied and not _reconfigured_since(package.node, changed):
            waiting.append(package.node.name)
    if waiting:
        return warning(
            f"changed after the last reconfigure on {', '.join(waiting)}",
            "parses; reconfigured",
            remedy="the first reconfigure here will also apply those changes: look at them, and reconfigure "
            "yourself first",
        )
    return passed("parses; reconfigured", "parses; reconfigured")


def _last_rendered(node: Node) -> str:
    return GITLAB_YML if node.roles & {"rails", "sidekiq"} else REGISTRY_CONFIG


def _reconfigured_since(node: object, moment: int) -> bool:
    """gitlab.yml keeps its time when nothing in it changes: the newest log of a reconfigure tells more."""
    run = node.run  # type: ignore[attr-defined]
    output = run(["find", "/var/log/gitlab/reconfigure", "-type", "f", "-newer", "/etc/gitlab/gitlab.rb"], check=False)
    return bool(output.stdout.strip())


@check("no other work of georeg is going on here", source="design", evidence="derived")
def no_foreign_jobs(site: Site) -> Finding:
    """Jobs of this runbook are followed; any other would meet it."""
    prefix = f"{site.name}-"
    running = [
        f"{job.name} on {node.name}"
        for node in site.nodes
        for job in node.jobs()
        if job.state == "running" and not job.name.startswith(prefix)
    ]
    return expect("; ".join(running) or "none", "none", remedy="wait until it has ended: `georeg status` shows it")


@check("both sites have the same versions", source="procedures 2.0, 2.1", evidence="source", scope="pair")
def versions_are_equal(sites: Sites) -> Finding:
    """Down to the patch, of GitLab and of the registry."""
    rows = [
        {
            "site": site.name,
            "gitlab": site.gitlab.version().version,
            "registry": _registry_version(site),
        }
        for site in sites.all
    ]
    found = "; ".join(f"{row['site']}: {row['gitlab']}, registry {row['registry'] or 'none'}" for row in rows)
    if all(len({row[what] for row in rows if row[what]}) <= 1 for what in ("gitlab", "registry")):
        return passed(found, "equal", rows=rows)
    return failed(found, "equal", remedy="upgrade the sites to the same version first", rows=rows)


def _registry_version(site: Site) -> str:
    """Empty where no registry was ever set up."""
    try:
        return site.omnibus.registry_version()
    except NodeFileMissing:
        return ""


@check("the clocks agree", source="procedures 2.1", evidence="source", scope="pair")
def clocks_agree(sites: Sites) -> Finding:
    """More than about a minute apart breaks the sites' tokens for each other."""
    offsets = {}
    for site in sites.all:
        before = time.time()
        seconds = int(site.rails_node.run(["date", "-u", "+%s"]).stdout)
        offsets[site.name] = seconds - (before + time.time()) / 2
    apart = max(offsets.values()) - min(offsets.values())
    found = "less than 10 s apart" if apart < 10 else f"{apart:.0f} s apart"  # asking takes its own seconds
    if apart < CLOCK_SECONDS:
        return passed(found, f"less than {CLOCK_SECONDS} s apart")
    return failed(found, f"less than {CLOCK_SECONDS} s apart", remedy="synchronise the nodes' clocks (NTP)")
