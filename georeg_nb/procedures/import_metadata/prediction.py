"""How long pushes will be refused, by either method. Source: procedures 2.6, registry 6.6; derived."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from georeg_nb.errors import CommandTimeout
from georeg_nb.omnibus import Window, predict_step_two, predict_window
from georeg_nb.procedures import forecast, state
from georeg_nb.procedures.forecast import Forecast
from georeg_nb.site import Site

DU_LIMIT = 900.0
STEP_ONE_IS_FRESH = timedelta(days=7)  # "start step two at best within one week of step one" (procedures 2.6)


@dataclass(frozen=True)
class Registry:
    """What there is to import: its tags, what the importer will stumble over, and the storage's size in bytes (None:
    not a file system, or counting takes too long).
    """

    forecast: Forecast
    size: int | None

    @property
    def manifests(self) -> set[tuple[str, str]]:
        """(repository, digest) of what tags name and the importer can read."""
        lost = {trouble.name for trouble in self.forecast.of("lost")}
        return {(path, digest) for (path, tag), digest in self.forecast.tags.items() if f"{path}:{tag}" not in lost}


def registry(site: Site) -> Registry:
    """Looked at anew unless that was less than a minute ago, or than twice the time that it took."""
    kept: tuple[float, Registry] | None = site.__dict__.get("_registry_looked_at")
    if kept and time.monotonic() < kept[0]:
        return kept[1]
    started = time.monotonic()
    made = Registry(forecast.make(site), storage_bytes(site))
    site.__dict__["_registry_looked_at"] = (time.monotonic() + max(60.0, 2 * (time.monotonic() - started)), made)
    return made


def look_again(site: Site) -> None:
    """Something took its time since: what was seen before it is too old."""
    site.__dict__.pop("_registry_looked_at", None)


def storage_bytes(site: Site) -> int | None:
    """Size of the registry's storage on disk; None where it is not a file system, or counting takes too long."""
    config = site.omnibus.registry_config()
    root = config.root_directory if config else None
    if not root:
        return None
    command = ["du", "-sk", f"{root}/docker/registry/v2"]
    try:
        output = site.omnibus.node.run(command, timeout=DU_LIMIT, check=False).stdout
    except CommandTimeout:
        return None
    first = output.split()
    return int(first[0]) * 1024 if first and first[0].isdigit() else None


def one_step(site: Site) -> Window:
    """The window of a one-step import: by the number of tags and the size, or as measured on a site before."""
    made = registry(site)
    others = [state.window(other) for other in site.sites.all if other.name != site.name]
    ended = [w for w in others if w and w.outcome == "migrated" and w.tags and w.method == "one-step"]
    measured = (ended[0].tags, ended[0].import_seconds) if ended else None
    return predict_window(len(made.forecast.tags), made.size, measured=measured)


def step_two(site: Site) -> tuple[Window, Window]:
    """The window of step two as things are, and as it would be right after another step one.

    From what the largest step one of this site took; before the first, from the size.
    """
    made = registry(site)
    ended = [entry for entry in state.ended_imports(site, "pre_import") if entry.complete and entry.tags]
    if ended:
        largest = max(ended, key=lambda entry: entry.tags)
        step_one = (largest.tags, largest.seconds["pre_import"])
    else:
        step_one = (len(made.manifests), predict_window(len(made.forecast.tags), made.size).work / 2)
    missing = len(made.manifests - site.metadata_db.manifests())
    now, best = (predict_step_two(len(made.manifests), count, step_one) for count in (missing, 0))
    if not ended:
        now = replace(now, ground=f"{len(made.manifests)} manifests, by size: step one was not measured yet")
    return now, best


def fits(site: Site, predicted: Window) -> bool:
    """Whether that window may be opened."""
    return predicted.high <= site.options.read_only_limit_minutes * 60


def why_step_one_again(site: Site) -> str:
    """What another run of step one is good for; empty when step two may follow now, or would not become shorter."""
    last = state.last_import(site, "pre_import")
    if last is None:
        return "no step one yet"
    if not last.complete or last.finished is None:
        return f"the last step one failed: {last.errors}"
    if state.now() - last.finished > STEP_ONE_IS_FRESH:
        return f"the last step one ended {last.finished:%Y-%m-%d}, more than a week ago"
    now, best = step_two(site)
    if not fits(site, now) and fits(site, best):
        return f"step two would take too long: {now}"
    return ""
