"""P7: do the sites hold the same images, and did the rest of Geo go on? Source: procedures 2.7.

Geo's own word comes first and is never proof by itself; the comparison of the databases is. The canary is a step,
because it writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from georeg_nb.errors import StepFailed, VerificationDiffers
from georeg_nb.procedures import hold_by_hand, state
from georeg_nb.procedures.canary import Canary, CanaryAgain
from georeg_nb.procedures.comparing import asked_for, compare, judged, over_http, why_over_http
from georeg_nb.procedures.hold_sync import everybody_moved, geo_site, ready
from georeg_nb.runbook import (
    Change,
    Check,
    Done,
    Finding,
    Plan,
    Procedure,
    Step,
    check,
    failed,
    later,
    not_applicable,
    passed,
    warning,
)
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site, Sites

LAG_LIMIT = 60
STATUS_PATIENCE = 180.0


NOT_YET = "after every site's import and the release of image sync"
ORDER = ("passed", "not applicable", "later", "warning", "failed")


def of_each_secondary(question: Callable[[Site], Finding]) -> Callable[[Sites], Finding]:
    """Ask a question of every secondary, and make one finding of the answers."""

    def asked(sites: Sites) -> Finding:
        findings = {site.name: question(site) for site in sites.secondaries}
        if len(findings) == 1:
            return next(iter(findings.values()))
        worst = max(findings.values(), key=lambda finding: ORDER.index(finding.verdict))
        found = "; ".join(f"{name}: {finding.found}" for name, finding in findings.items())
        rows = [{"secondary": name, **row} for name, finding in findings.items() for row in finding.rows or ()]
        tables: dict[str, list[dict[str, Any]]] = {}
        for name, finding in findings.items():
            for table, entries in finding.tables.items():
                tables.setdefault(table, []).extend({"secondary": name, **row} for row in entries)
        return Finding(worst.verdict, found, worst.expected, worst.remedy, rows or None, tables)

    asked.__name__, asked.__doc__ = question.__name__, question.__doc__
    return asked


def once_ready(question: Check) -> Check:
    """The same check for a scenario that moves the sites first: before that there is nothing to verify."""

    def asked(sites: Sites) -> Finding:
        return question(sites) if ready(sites) else later(NOT_YET)

    asked.__name__, asked.__doc__ = question.name, question.doc
    return replace(question, function=asked)


# Geo's own word


@check(
    "Geo reports every repository as synced",
    source="procedures 2.7 rows 1 to 3",
    evidence="source",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def geo_reports_synced(site: Site) -> Finding:
    """Necessary, never proof: an error of a single tag is only logged, and the repository still becomes synced."""
    finding = _geo_counts(site)
    deadline, pause = time.monotonic() + STATUS_PATIENCE, 1.0
    while finding.failed and time.monotonic() < deadline:  # the report is a minute old or more
        time.sleep(pause)
        pause = min(5.0, pause * 1.5)
        finding = _geo_counts(site)
    return finding


def _geo_counts(site: Site) -> Finding:
    api = site.sites.primary.gitlab
    status = api.geo_status(geo_site(site).id)
    if status is None:
        return failed("no status was reported", "synced", remedy="see Admin > Geo > Sites")
    names = ("registry_count", "synced_count", "failed_count", "verified_count", "verification_failed_count")
    counts = {name: status.images(name) for name in names}
    total, synced, bad = counts["registry_count"], counts["synced_count"], counts["failed_count"]
    unverified = counts["verification_failed_count"] or 0
    found = f"{synced} of {total} synced, {bad} failed, {unverified} failed verification"
    expected = "all synced, none failed"
    rows = [{"counter": name, "value": value} for name, value in counts.items()]
    if status.replicates_images is False:
        return failed("replication of images is off", expected, remedy="apply section 'release'", rows=rows)
    if not status.healthy:
        return failed(f"{found}; {status.health}", expected, remedy="mend what it names", rows=rows)
    if total is None or synced is None:
        return failed("the report has no counts of images", expected, remedy="wait for the next report", rows=rows)
    if synced == total and not bad and not unverified:
        return passed(found, expected, rows=rows)
    return failed(
        found, expected, remedy="the failed ones are named below; RESYNC them, or run.apply('release')", rows=rows
    )


@check("no record of Geo's has failed", source="procedures 2.7 row 7", evidence="source", scope="pair", verifies=True)
@of_each_secondary
def no_failed_record(site: Site) -> Finding:
    """Each with what Geo says about it."""
    records = site.sites.primary.gitlab.sync_records(geo_site(site), "FAILED")
    rows = [{"repository id": r.repository, "state": r.state, "failure": r.failure} for r in records]
    if records:
        return failed(
            f"{len(records)} failed: {records[0].failure}", "none", remedy="mend the cause, then RESYNC", rows=rows
        )
    return passed("none", "none")


@check(
    "everything else of Geo went on",
    source="procedures 2.6, 2.7 row 9",
    evidence="derived",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def other_types_went_on(site: Site) -> Finding:
    """Lag and counts of the other data types before, during and after: the migration must touch images alone."""
    kept = [*(site.keep.load("other-types") or [])]
    status = site.sites.primary.gitlab.geo_status(geo_site(site).id)
    if status is None:
        return failed("no status was reported", "went on")
    kept.append(
        {
            "phase": "now",
            "lag": status.lag,
            "types": status.other_types(),
            "cursor": status.number("cursor_last_event_id"),
        }
    )
    rows = [
        {"phase": entry["phase"], "type": name, **counts, "lag (s)": entry["lag"]}
        for entry in kept
        for name, counts in entry["types"].items()
    ]
    worse = _worse(kept)
    if worse:
        return failed("; ".join(worse), "no more failures than before, little lag", remedy="see Admin > Geo", rows=rows)
    if len(kept) < 2:
        return passed("nothing to compare with: no earlier observation", "went on", rows=rows)
    types = len(kept[-1]["types"])
    return passed(
        f"{types} other data types, {len(kept)} observations", "no more failures than before, little lag", rows=rows
    )


def _worse(kept: list[dict[str, Any]]) -> list[str]:
    first, last = kept[0], kept[-1]
    worse = []
    for name, counts in last["types"].items():
        before = first["types"].get(name) or {}
        if (counts["failed"] or 0) > (before.get("failed") or 0):
            worse.append(f"{name}: {counts['failed']} failed, {before.get('failed') or 0} before")
        if (counts["synced"] or 0) < (before.get("synced") or 0):
            worse.append(f"{name}: {counts['synced']} synced, {before.get('synced')} before")
    if (last["lag"] or 0) > LAG_LIMIT:
        worse.append(f"database lag {last['lag']} s")
    if (last.get("cursor") or 0) < (first.get("cursor") or 0):
        worse.append("the log cursor went back")
    return worse


# the proof


@check(
    "the secondary holds the primary's images",
    source="registry 7, 8; procedures 2.7 row 6",
    evidence="run",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def same_images(site: Site) -> Finding:
    """Every (repository, tag, digest): in the two metadata databases, narrowed by fingerprints to what differs; over
    HTTP where a database cannot be asked.
    """
    why = why_over_http(site.sites, site)
    return judged(compare(site.sites, site), note=f" (over HTTP: {why})" if why else "")


@check(
    "the registries serve what their databases say",
    source="registry 5.2, 7; procedures 2.7 row 6",
    evidence="run",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def same_over_http(site: Site) -> Finding:
    """The same over HTTP, indexes down to their children, and each registry held to its own database: all of it where
    `verify_with` names api, else a sample of at most 20 repositories with 50 tags each.
    """
    if not asked_for(site, "api"):
        return not_applicable("verify_with does not name api")
    if why_over_http(site.sites, site):
        return not_applicable("all images are compared over HTTP, above")
    return judged(over_http(site.sites, site, "api", cross_check=True), "differences_over_http")


@check(
    "every image can be read to its last byte",
    source="design; registry 7",
    evidence="run",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def same_content(site: Site) -> Finding:
    """Every manifest, config and layer on both sites is read, and hashes to its digest; of all images, or of a share
    (`verify_with`: content:5%).
    """
    if not site.options.content_percent:
        return not_applicable("verify_with does not name content")
    return judged(over_http(site.sites, site, "content"), "differences_of_content")


@check(
    "no manifest lacks a part in the database",
    source="registry 1.6, 8 (d)",
    evidence="run",
    scope="pair",
    verifies=True,
)
@of_each_secondary
def manifests_are_whole(site: Site) -> Finding:
    """Manifests of tagged images whose config, layers or children are not linked: what an import leaves out without
    losing the tag. What the primary lacks too was broken before.
    """
    if why_over_http(site.sites, site):
        return not_applicable("the databases are not asked: see the check of the images")
    primary = site.sites.primary
    found: dict[tuple[str, ...], list[str]] = {}
    for one in (primary, site):
        for row in one.metadata_db.broken_manifests():
            found.setdefault((row["repository"], row["digest"], row["cause"]), []).append(one.name)
    rows = [
        {"repository": path, "digest": digest, "cause": cause, "on": " and ".join(names)}
        for (path, digest, cause), names in sorted(found.items())
    ]
    worse = [row for row in rows if row["on"] == site.name]
    expected = "every part of every tagged image"
    if worse:
        return failed(
            f"{len(worse)} manifests lack a part on {site.name} alone, e.g. in {worse[0]['repository']}: "
            f"{worse[0]['cause']}",
            expected,
            remedy="resync these repositories (Admin > Geo), or push the images again on the primary",
            rows=rows,
        )
    if rows:
        return warning(
            f"{len(rows)} manifests lack a part on {primary.name}, e.g. in {rows[0]['repository']}",
            expected,
            remedy="they were broken before: build these images again, or delete them",
            rows=rows,
        )
    return passed("nothing is missing", expected, rows=rows)


# the end


class Conclude(Step):
    """The last word, after everything else: every tag compared once more, and kept on the primary."""

    name = "conclude"
    title = "Compare every tag once more and keep the result"
    evidence = "run"
    source = "procedures 2.7 row 6"

    def is_done(self, site: Site) -> bool | Done:
        kept = site.keep.load("concluded")
        if not kept or not ready(site.sites):
            return False
        since = [resynced["at"] for s in site.sites.secondaries if (resynced := s.keep.load("resynced"))]
        if since and kept["at"] < max(since):
            return False
        if all(compare(site.sites, other).verdict != "different" for other in site.sites.secondaries):
            return Done(f"equal, as on {kept['at']}")
        return False

    def plan(self, site: Site) -> Plan:
        return Plan([Change("record", site.keep.path("concluded"), after="the sites hold the same images")])

    def apply(self, site: Site) -> None:
        if not ready(site.sites):
            raise StepFailed("not every site is on its database with image sync going on", site=site.name)
        for other in site.sites.secondaries:
            finding = judged(compare(site.sites, other))
            if finding.failed:
                raise VerificationDiffers(finding.found, remedy=finding.remedy, site=other.name)
        site.keep.save("concluded", {"at": state.stamp(), "sites": [other.name for other in site.sites.all]})

    def break_glass(self, site: Site) -> ByHand:
        return hold_by_hand.conclude(site)

    def verify(self, site: Site) -> list[Finding]:
        return [judged(compare(site.sites, other)) for other in site.sites.secondaries]


def measured_windows(sites: Sites) -> list[dict[str, Any]]:
    """How long pushes were refused on each site, for the table."""
    rows = []
    for site in sites.all:
        last = state.window(site)
        if last is not None and last.closed:
            minutes = round(last.seconds / 60, 1)
            opened = datetime.fromisoformat(last.opened)
            rows.append({"site": site.name, "from (UTC)": f"{opened:%Y-%m-%d %H:%M:%S}", "minutes": minutes})
    return rows


@check("pushes were refused no longer than allowed", source="design", evidence="run", scope="pair", verifies=False)
def windows_were_short(sites: Sites) -> Finding:
    """The measured read-only windows."""
    if not everybody_moved(sites):
        return later(NOT_YET)
    rows = measured_windows(sites)
    limit = sites.primary.options.read_only_limit_minutes
    long = [row["site"] for row in rows if row["minutes"] > limit]
    if long:
        return warning(f"longer on {', '.join(long)}", f"at most {limit} min", rows=rows)
    return passed("within the limit" if rows else "not measured: moved earlier", f"at most {limit} min", rows=rows)


CHECKS = (
    geo_reports_synced,
    no_failed_record,
    same_images,
    same_over_http,
    same_content,
    manifests_are_whole,
    other_types_went_on,
)

VERIFY = Procedure(
    "verify-replication",
    title="Verify replication",
    pair_checks=[*map(once_ready, CHECKS), windows_were_short],
    steps=[Canary(), Conclude()],
)
VERIFY_NEW = Procedure(
    "verify-new",
    title="Verify replication",
    pair_checks=list(map(once_ready, CHECKS)),
    steps=[Canary(), Conclude()],
)
VERIFY_AS_THEY_ARE = Procedure(
    "verify-as-they-are",
    title="Verify replication, whatever the registries keep their metadata in",
    pair_checks=CHECKS,
    steps=[CanaryAgain()],
)
