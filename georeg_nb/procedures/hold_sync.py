"""Hold image sync while the sites differ, and release it: H1, H3 and H4 of procedures 2.6.

Geo's sync removes from the secondary what it does not see on the primary. If the primary's import loses tags, or
opens a wrong or empty database, the secondary's good copies are gone before anyone has compared. So between the first
import and the proof of the last one no image is synced; every other data type goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError, StepFailed
from georeg_nb.gitlab_api import GeoSite, synced_since
from georeg_nb.omnibus import Omnibus
from georeg_nb.procedures import hold_by_hand, standing, state
from georeg_nb.procedures.directions import ONTO_DATABASE, Direction
from georeg_nb.readers import REPLICATION_ENABLED, RUNNING_SYNC_JOBS, SYNC_LEASES
from georeg_nb.runbook import (
    Change,
    Done,
    Finding,
    Plan,
    Procedure,
    Step,
    failed,
    passed,
)
from georeg_nb.runbook.by_hand import ByHand
from georeg_nb.site import Site, Sites

HOLD_SETTING = gitlab_rb.assignment("gitlab_rails", ["geo_registry_replication_enabled"], False)
DRAIN_LIMIT = 30 * 60.0  # seconds that running syncs get to end; a lease lasts up to 8 h (procedures 2.4)
RESTART_LIMIT = 300.0  # puma needs a minute or more on a real node
RESYNC_LIMIT = 4 * 3600.0
RUNNER_LIMIT = 180.0  # `gitlab-rails runner` needs 20 to 60 s on a real node


def ask_rails(site: Site, expression: str) -> str:
    """What `gitlab-rails runner` prints for one of the known expressions."""
    result = site.rails_node.run(["gitlab-rails", "runner", expression], timeout=RUNNER_LIMIT)
    lines = result.stdout.strip().splitlines()
    return lines[-1].strip() if lines else ""


def syncs_running(site: Site) -> int:
    """Image syncs at work on a secondary: Sidekiq jobs, or leases of repositories, whichever shows more."""
    return max(int(ask_rails(site, expression) or 0) for expression in (RUNNING_SYNC_JOBS, SYNC_LEASES))


def geo_site(site: Site) -> GeoSite:
    """The site's entry among GitLab's Geo sites, asked on the primary. Raises StepFailed when there is none."""
    name = site.parameters.geo_site_name
    found = [entry for entry in site.sites.primary.gitlab.geo_sites() if entry.name == name]
    if not found:
        remedy = "see geo_name in the sites file"
        raise StepFailed(f"GitLab knows no Geo site named {name!r}", remedy=remedy, site=site.name)
    return found[0]


def observe_other_types(site: Site, phase: str) -> None:
    """Keep how far Geo's other data types are, to show later that they went on. Never fails a step for it."""
    try:
        status = site.sites.primary.gitlab.geo_status(geo_site(site).id)
    except GeoregError:
        return
    if status is None:
        return
    kept = [entry for entry in site.keep.load("other-types") or [] if entry["phase"] != phase]
    kept.append(
        {
            "phase": phase,
            "time": state.stamp(),
            "lag": status.lag,
            "cursor": status.number("cursor_last_event_id"),
            "types": status.other_types(),
        }
    )
    site.keep.save("other-types", kept)


def observe_everywhere(sites: Sites, phase: str) -> None:
    """The same for every secondary."""
    for site in sites.secondaries:
        observe_other_types(site, phase)


def everybody_moved(sites: Sites) -> bool:
    """Every site's registry works on its own database."""
    return all(state.on_own_database(site) for site in sites.all)


def ready(sites: Sites) -> bool:
    """Whether there is something to verify: every site on its database, and image sync going on."""
    return everybody_moved(sites) and not any(state.is_held(site) for site in sites.secondaries)


# hold


class HoldImageSync(Step):
    """No image is synced to this secondary until the release. Source: procedures 2.6 H1; derived from source, nobody
    ran it.
    """

    name = "hold-image-sync"
    title = "Hold image sync"
    interrupts = "image sync to this site; puma, sidekiq and geo-logcursor restart (seconds)"
    evidence = "derived"
    source = "procedures 2.6 H1"

    def __init__(self, direction: Direction = ONTO_DATABASE) -> None:
        self.direction = direction

    def is_done(self, site: Site) -> bool | Done:
        if self.direction.arrived(site.sites) and not state.is_held(site):
            return Done(f"every site is {self.direction.words}: there is nothing to hold image sync for")
        if not state.is_held(site):
            return False
        if ask_rails(site, REPLICATION_ENABLED) != "false":
            return False
        return Done("image sync is held") if syncs_running(site) == 0 else False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, {state.HOLD: HOLD_SETTING}, "rails", "sidekiq")

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, {state.HOLD: HOLD_SETTING}, "rails", "sidekiq"),
            duration="1 to 5 min, and until running syncs have ended",
            note="every other data type of Geo goes on",
        )

    def apply(self, site: Site) -> None:
        observe_other_types(site, "before")
        site.keep.remove("resynced")  # of an earlier hold
        site.keep.save("hold", {"at": state.stamp()})
        _set_hold(site, self.name, HOLD_SETTING)
        deadline = time.monotonic() + DRAIN_LIMIT
        while running := syncs_running(site):
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"{running} image syncs are still running after {DRAIN_LIMIT / 60:.0f} min",
                    remedy="they end by themselves (a lease lasts up to 8 h); run this again later",
                    site=site.name,
                )
            site.progress(f"waiting for {running} running image syncs")
            time.sleep(2)

    def verify(self, site: Site) -> Finding:
        enabled, running = ask_rails(site, REPLICATION_ENABLED), syncs_running(site)
        found = f"replication of images: {enabled}; running syncs: {running}"
        if enabled == "false" and running == 0:
            return passed(found, "false; 0")
        return failed(found, "false; 0", remedy="run this again; see geo.log on the secondary")

    def break_glass(self, site: Site) -> ByHand:
        return hold_by_hand.hold(site, HOLD_SETTING, self.direction.in_shell)

    def undo(self, site: Site) -> None:
        if moved := [other.name for other in site.sites.all if self.direction.there(other)]:
            raise StepFailed(
                f"{' and '.join(moved)} moved already: image sync must stay held until every site is proved",
                remedy="finish the other site; section 'release' ends the hold",
                site=site.name,
            )
        _set_hold(site, f"{self.name}-undo", None)
        site.keep.remove("hold")

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)


def _set_hold(site: Site, job: str, setting: str | None) -> None:
    """Put the setting on every Rails node, or (None) take it away; done when it is rendered and GitLab answers
    again.
    """
    wanted = setting is None

    def differences(package: Omnibus) -> list[str]:
        if package.gitlab_yml().replication_enabled is not wanted:
            return [f"gitlab.yml does not have replication of images {'on' if wanted else 'off'}"]
        site.gitlab.version()  # puma was restarted: the next steps ask this site through the primary
        return []

    site.change_gitlab_rb(job, {state.HOLD: setting}, differences, "rails", "sidekiq", patience=RESTART_LIMIT)


def by_hand(site: Site, changes: dict[str, str | None], *roles: str, only: Sequence[str] | None = None) -> str | None:
    """The instruction where another tool owns the gitlab.rb of a node of these roles: for all of them (or those of them
    that these `changes` are for), because a step is done either by georeg or by hand. None where it owns none.
    """
    owned = [node.name for node in site.with_role(*roles) if site.is_manual(node)]
    nodes = [node for node in site.with_role(*roles) if only is None or node.name in only]
    if not owned:
        return None
    lines = [f"On {', '.join(node.name for node in nodes)}, with the tool that owns {gitlab_rb.PATH}:"]
    if len(owned) < len(nodes):
        lines = [
            f"Another tool owns {gitlab_rb.PATH} on {', '.join(owned)}, so this is done by hand on every node of the "
            f"site: {', '.join(node.name for node in nodes)}."
        ]
    for concern, body in changes.items():
        if body is None:
            lines.append(f"  remove what was set for {concern}")
        else:
            lines += ["  set, behind everything else in the file:", *(f"    {line}" for line in body.splitlines())]
    lines.append("Then run `gitlab-ctl reconfigure` there. Attest it; georeg then reads what GitLab rendered.")
    return site.masked("\n".join(lines))


# release


class ReleaseImageSync(Step):
    """Image sync goes on, as it was set before. Source: procedures 2.6 H3."""

    name = "release-image-sync"
    title = "Release image sync"
    interrupts = "puma, sidekiq and geo-logcursor restart (seconds)"
    evidence = "derived"
    source = "procedures 2.6 H3"

    def __init__(self, direction: Direction = ONTO_DATABASE) -> None:
        self.direction = direction

    def is_done(self, site: Site) -> bool | Done:
        if not state.is_held(site) and self.direction.arrived(site.sites):
            return Done(f"image sync goes on, and every site is {self.direction.words}")
        return False

    def manual(self, site: Site) -> str | None:
        return by_hand(site, {state.HOLD: None}, "rails", "sidekiq")

    def plan(self, site: Site) -> Plan:
        return Plan(
            state.file_changes(site, {state.HOLD: None}, "rails", "sidekiq"),
            duration="1 to 5 min",
            note="Geo then removes from this site what the primary does not have",
        )

    def apply(self, site: Site) -> None:
        if wrong := self.direction.wrong(site.sites):
            raise StepFailed(
                f"{', '.join(wrong)} does not equal its snapshot: image sync stays held",
                remedy=f"see the check '{self.direction.proof.title}'",
                site=site.name,
            )
        _set_hold(site, self.name, None)
        site.keep.remove("hold")

    def verify(self, site: Site) -> Finding:
        found = f"replication of images: {ask_rails(site, REPLICATION_ENABLED)}"
        if found.endswith(": true"):
            return passed(found, "true")
        return failed(found, "true", remedy="is it switched off elsewhere in gitlab.rb?")

    def break_glass(self, site: Site) -> ByHand:
        return hold_by_hand.release(site, HOLD_SETTING, self.direction.in_shell)

    def undo(self, site: Site) -> None:
        site.keep.save("hold", {"at": state.stamp()})
        _set_hold(site, f"{self.name}-undo", HOLD_SETTING)

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)


class ResyncEverything(Step):
    """Every repository is synced again: events that came while sync was held were skipped. Source: procedures 2.6
    H4.
    """

    name = "resync-everything"
    title = "Sync every repository again"
    reversible = True
    evidence = "derived"
    source = "procedures 2.6 H4, 5.4"

    def __init__(self, direction: Direction = ONTO_DATABASE) -> None:
        self.direction = direction

    def is_done(self, site: Site) -> bool | Done:
        kept = site.keep.load("resynced")
        if not kept or state.is_held(site) or not self.direction.arrived(site.sites):
            return False
        since = datetime.fromisoformat(kept["at"])
        # a record that was synced then and failed later is the verification's business, which names it
        records = site.sites.primary.gitlab.sync_records(geo_site(site))
        left = [record for record in records if record.last_synced_at is None or record.last_synced_at < since]
        return Done("every repository was synced after the release") if not left else False

    def plan(self, site: Site) -> Plan:
        known = len(site.sites.primary.gitlab.sync_records(geo_site(site)))
        return Plan(
            [
                Change(
                    "api",
                    f"{site.sites.primary.parameters.gitlab.url} for {site.parameters.geo_site_name}",
                    after="GraphQL geoRegistriesBulkUpdate: CONTAINER_REPOSITORY_REGISTRY, RESYNC_ALL",
                )
            ],
            duration=f"some minutes for {known} repositories; layers that are there already are not sent again",
        )

    def apply(self, site: Site) -> None:
        entry, api = geo_site(site), site.sites.primary.gitlab
        kept = site.keep.load("resynced")
        if not kept:
            kept = {"at": _time_of(site)}
            api.resync_all(entry)
            site.keep.save("resynced", kept)
        left = api.wait_until_synced(
            entry, datetime.fromisoformat(kept["at"]), limit=RESYNC_LIMIT, progress=site.progress
        )
        if left:
            site.keep.remove("resynced")
            raise StepFailed(
                f"{len(left)} repositories were not synced again: {_names(left)}",
                remedy="see geo.log on the secondary; run this again to ask for another sync of everything",
                site=site.name,
            )

    def break_glass(self, site: Site) -> ByHand:
        return hold_by_hand.resync(site, geo_site(site).id)

    def verify(self, site: Site) -> Finding:
        since = datetime.fromisoformat(site.keep.load("resynced")["at"])
        records = site.sites.primary.gitlab.sync_records(geo_site(site))
        left = [record for record in records if not synced_since(record, since)]
        rows = [{"repository id": r.repository, "state": r.state, "failure": r.failure} for r in left]
        if left:
            return failed(f"{len(left)} of {len(records)} not synced since", "all synced", rows=rows)
        return passed(f"{len(records)} repositories synced since the release", "all")

    def state_after_failure(self, site: Site) -> str:
        return standing.describe_all(site)


def _time_of(site: Site) -> str:
    """The node's clock, to the second: the records' times come from the same site, not from this machine."""
    seconds = int(site.rails_node.run(["date", "-u", "+%s"]).stdout.strip())
    return state.stamp(datetime.fromtimestamp(seconds, UTC))


def _names(records: Sequence[Any]) -> str:
    shown = [f"{record.repository} ({record.state}: {record.failure or 'no message'})" for record in records[:5]]
    return ", ".join(shown) + (" …" if len(records) > 5 else "")


HOLD = Procedure("hold-sync", steps=[HoldImageSync()], title="Hold image sync")
RELEASE = Procedure(
    "release-sync",
    steps=[ReleaseImageSync(), ResyncEverything()],
    title="Release image sync and resync everything",
)
