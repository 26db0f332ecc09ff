"""The canary: a small image that is pushed to the primary and awaited at each secondary. It writes, so it is a step."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from georeg_nb.errors import GeoregError, HttpRefused, VerificationDiffers
from georeg_nb.procedures import state
from georeg_nb.procedures.hold_sync import ready
from georeg_nb.runbook import Change, Done, Finding, Plan, Step, failed, passed
from georeg_nb.site import Site

CANARY_LIMIT = 10 * 60.0  # seconds (procedures 2.7 row 5)
FRESH = timedelta(hours=12)  # a nightly run pushes a new one; one that is resumed does not


class Canary(Step):
    """A small image is pushed to the primary and awaited at each secondary; then its tag is removed again."""

    name = "canary"
    title = "Push a small image and await it at every secondary"
    evidence = "source"
    source = "procedures 2.7 row 5"

    def skip(self, site: Site) -> str | None:
        return None if site.options.canary_project else "no canary_project is named"

    def is_done(self, site: Site) -> bool | Done:
        return _arrived(site) if ready(site.sites) else False

    def plan(self, site: Site) -> Plan:
        project = site.options.canary_project
        return Plan(
            [
                Change("api", f"{site.parameters.registry.url}/{project}", after="push one image of one small layer"),
                Change("api", f"{site.parameters.registry.url}/{project}", after="remove its tag again"),
            ],
            duration=f"some seconds; at most {CANARY_LIMIT / 60:.0f} min",
            note="Geo records the repository if it is new; its untagged manifest is left to garbage collection",
        )

    def apply(self, site: Site) -> None:
        project, moment, left = site.options.canary_project, state.now(), site.keep.load("canary")
        if left and left.get("delays") is None:  # pushed by a run that was killed
            _remove(site, left.get("project", project), left["tag"])
        tag = f"georeg-{moment:%Y%m%d-%H%M%S}"
        started = time.monotonic()
        site.keep.save("canary", {"project": project, "tag": tag, "at": state.stamp(moment), "delays": None})
        digest = site.registry.push_image(project, tag, f"georeg canary {tag}\n")
        try:
            delays = {other.name: _await(other, project, tag, digest, started) for other in site.sites.secondaries}
        finally:
            _remove(site, project, tag)
        for other in site.sites.secondaries:
            _await(other, project, tag, None, time.monotonic())
        site.keep.save("canary", {"project": project, "tag": tag, "at": state.stamp(moment), "delays": delays})

    def break_glass(self, site: Site) -> str:
        return (
            "it changes nothing but a tag of its own, georeg-<time> in the canary's project: delete it if it is there"
        )

    def verify(self, site: Site) -> Finding:
        kept = site.keep.load("canary") or {}
        rows = [{"secondary": name, "seconds": seconds} for name, seconds in (kept.get("delays") or {}).items()]
        if not rows:
            return failed("it did not arrive", "at every secondary")
        left = [s.name for s in site.sites.all if s.registry.digest(site.options.canary_project, kept["tag"])]
        if left:
            return failed(f"its tag is still on {', '.join(left)}", "removed", remedy=f"delete the tag {kept['tag']}")
        return passed("arrived at every secondary, and is removed again", "arrived, and removed", rows=rows)


class CanaryAgain(Canary):
    """The same, for sites that are verified again and again: an arrival of some hours ago proves nothing today."""

    def is_done(self, site: Site) -> bool | Done:
        arrived = _arrived(site)
        at = (site.keep.load("canary") or {}).get("at")
        return arrived if at and state.now() - datetime.fromisoformat(at) < FRESH else False


def _arrived(site: Site) -> bool | Done:
    """Whether the last canary reached every secondary, after the last time that everything was synced again."""
    kept = site.keep.load("canary")
    if not kept or kept.get("delays") is None:
        return False
    since = [resynced["at"] for s in site.sites.secondaries if (resynced := s.keep.load("resynced"))]
    if since and kept["at"] < max(since):
        return False
    delays = ", ".join(f"{name} after {seconds:.0f} s" for name, seconds in kept["delays"].items())
    return Done(f"arrived: {delays}")


def _await(site: Site, project: str, tag: str, wanted: str | None, started: float) -> float:
    """Wait until the site's registry has the digest (or, None, has not) and return the seconds since `started`."""
    deadline = time.monotonic() + CANARY_LIMIT
    what = "to arrive" if wanted else "to be removed"
    while True:
        try:
            if site.registry.digest(project, tag) == wanted:
                return round(time.monotonic() - started, 1)
        except HttpRefused as error:
            if error.status not in (404, 500, 502, 503):
                raise
        if time.monotonic() > deadline:
            raise VerificationDiffers(
                f"{project}:{tag} did not get {'there' if wanted else 'away'} within {CANARY_LIMIT / 60:.0f} min",
                remedy="see failure symptoms 24 to 32: notifications, their token, primary_api_url, keys; geo.log",
                site=site.name,
            )
        site.progress(f"waiting for {project}:{tag} {what}")
        time.sleep(1)


def _remove(site: Site, project: str, tag: str) -> None:
    try:
        site.registry.delete_tag(project, tag)
    except GeoregError as error:
        site.progress(f"the canary's tag {project}:{tag} could not be removed: {error.message}")
