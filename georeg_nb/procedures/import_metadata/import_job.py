"""The importer as a job: one name for all its steps, so that there are never two of them on a site."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from georeg_nb.errors import StepFailed
from georeg_nb.nodes import Job
from georeg_nb.omnibus import REGISTRY_CONFIG, ImportLog
from georeg_nb.procedures import imports_by_log, state
from georeg_nb.procedures.imports_by_log import job_name
from georeg_nb.runbook import Check
from georeg_nb.site import Site

FLAGS = ("--log-to-stdout", "--row-count")
IMPORT = ("gitlab-ctl", "registry-database", "import", *FLAGS)
STEP_ONE, STEP_TWO, STEP_THREE = (
    ("gitlab-ctl", "registry-database", "import", f"--step-{number}", *FLAGS) for number in ("one", "two", "three")
)
# Step one passes over repositories that it read in the last 72 h, pushes since then included; the wrapper does not take
# the option that says otherwise (procedures 2.6 "Commands per version").
STEP_ONE_OF_ALL = (
    *("/opt/gitlab/embedded/bin/chpst", "-u", "registry:registry", "/opt/gitlab/embedded/bin/registry"),
    *("database", "import", "--step-one", *FLAGS, "--pre-import-skip-recent", "0", REGISTRY_CONFIG),
)
IMPORT_LIMIT = 7 * 24 * 3600.0  # seconds; what is too long was decided before


def step_one(site: Site, *, again: bool) -> Sequence[str]:
    """The command of step one; `again`: also of repositories that it has just read."""
    return STEP_ONE_OF_ALL if again and site.profile.supports("step-one-skips-recent") else STEP_ONE


def steps_of(argv: Sequence[str]) -> tuple[int, ...]:
    """Which of the three steps an import command does."""
    for number, name in enumerate(("--step-one", "--step-two", "--step-three"), 1):
        if name in argv:
            return (number,)
    return (1, 2, 3)


def run(site: Site, argv: Sequence[str], total_tags: int, report: str) -> tuple[Job, ImportLog, float]:
    """Run an import command, or follow the one of the same steps that is running, to its end; keep what it said.

    Returns the ended job, its log, and how many seconds it took by the job's clock. Raises StepFailed when another
    step is running, or the wrapper did nothing; JobLost when it was killed.
    """
    present = site.omnibus.node.job(job_name(site))
    if present and present.state == "running" and steps_of(present.argv) != steps_of(argv):
        raise StepFailed(
            f"another import is running on {site.omnibus.node.name}: {' '.join(present.argv)}",
            remedy="let it end; then run this again",
            site=site.name,
        )
    if not site.profile.supports("import-statistics"):
        imports_by_log.keep(site)
    log = ImportLog(total_tags=total_tags, steps=steps_of(argv))

    def follow(text: str) -> None:
        log.feed(text)
        site.progress(str(log), log.fraction)

    job = site.omnibus.run_job(job_name(site), argv, limit=IMPORT_LIMIT, on_output=follow)
    log.close()
    seconds = (datetime.now(UTC) - job.started_at).total_seconds() if job.started_at else 0.0
    said = {
        "status": job.status,
        "seconds": round(seconds, 1),
        "lost": log.lost,
        "warnings": log.warnings[:1000],
        "counts": log.counts,
        "fatal": log.fatal,
    }
    site.keep.save(report, json.loads(json.dumps(said)))
    if job.state == "lost":
        job.check()
    if log.not_enabled:
        raise StepFailed("the import did nothing: the registry is not enabled on this node", site=site.name)
    return job, log, seconds


def must_have_ended_well(site: Site, job: Job, log: ImportLog, remedy: str) -> None:
    """Raises StepFailed with the importer's own words."""
    if job.status != 0 or log.fatal:
        raise StepFailed(
            f"the import ended with status {job.status}: {log.fatal or 'see its output'}", remedy=remedy, site=site.name
        )


def not_now(site: Site, *questions: Check) -> list[str]:
    """What keeps an import from being started at this moment: every guard that the importer lacks (registry 0)."""
    findings = [(question, question(site)) for question in questions]
    return [f"{question.title}: {found.found}" for question, found in findings if found.verdict in ("failed", "later")]


def may_start(site: Site, problems: Sequence[str]) -> None:
    """The last word before an import is started. Raises StepFailed with what is in its way."""
    if problems:
        raise StepFailed("the import was not started: " + "; ".join(problems), site=site.name)
    state.note_import(site)
