"""How imports ended where the importer keeps no row about it (registry below 4.25): by the end of their jobs' logs.

In the shape of rows of `import_statistics`, so that nobody else need know the difference. As there, an import that was
killed leaves none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from georeg_nb.nodes import Job
from georeg_nb.omnibus import ImportLog
from georeg_nb.site import Site

KEPT = "ended-imports"
PARTS = {"--step-one": "pre_import", "--step-two": "tag_import", "--step-three": "blob_import"}
LAST_LINES = "50"


def job_name(site: Site) -> str:
    """Name of the site's import job: one name, so that there are never two of them."""
    return f"{site.name}-import"


def rows(site: Site) -> list[dict[str, Any]]:
    """One for each import command that ended, oldest first; none over an empty database, whatever there was before."""
    if not site.metadata_db.count("repositories"):
        return []
    return [_row(number, entry) for number, entry in enumerate(_entries(site), 1)]


def keep(site: Site) -> None:
    """Keep what the last import said, before the next one takes its job's name."""
    entries = _entries(site)
    if entries != (site.keep.load(KEPT) or []):
        site.keep.save(KEPT, entries)


def _entries(site: Site) -> list[dict[str, Any]]:
    entries = list(site.keep.load(KEPT) or [])
    job = site.omnibus.node.job(job_name(site))
    if job is None or job.state != "exited" or job.started_at is None:
        return entries
    known = {(entry["started"], entry["generation"]) for entry in entries}
    if (job.started_at.isoformat(), job.generation) in known:
        return entries
    return [*entries, _entry(site, job, job.started_at)]


def _entry(site: Site, job: Job, started: datetime) -> dict[str, Any]:
    node = site.omnibus.node
    log = ImportLog()
    log.feed(node.run(["tail", "-n", LAST_LINES, f"{job.folder}/output"]).stdout)
    log.close()
    ended = float(node.run(["stat", "-c", "%Y", f"{job.folder}/exit"]).stdout)
    parts = [part for option, part in PARTS.items() if option in job.argv] or list(PARTS.values())
    error = log.fatal or (f"status {job.status}" if job.status else "")
    if not error and not log.complete:
        error = "its log does not say that it was complete"
    counts = log.counts or {}
    return {
        "started": started.isoformat(),
        "generation": job.generation,
        "finished": max(started, datetime.fromtimestamp(ended, UTC)).isoformat(),
        "parts": parts,
        "error": error,
        "tags": counts.get("manifests" if parts == ["pre_import"] else "tags", 0),
    }


def _row(number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": number, "tags_count": entry["tags"]}
    for part in PARTS.values():
        done = part in entry["parts"]
        row[part] = done
        row[f"{part}_started_at"] = datetime.fromisoformat(entry["started"]) if done else None
        row[f"{part}_finished_at"] = datetime.fromisoformat(entry["finished"]) if done else None
        row[f"{part}_error"] = (entry["error"] or None) if done else None
    return row
