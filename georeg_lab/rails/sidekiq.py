"""Sidekiq: Geo's background work on a site.

    python -m georeg_lab.rails.sidekiq --root ROOT

On the primary: checksums and the site's own status. On a secondary: records for what has none (consistency worker),
the sync of what is pending, or failed and due, verification, the status report; the other data types as well, whatever
the registry's switches say. gitlab.yml is read at the start alone: a changed switch counts from the next restart.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from georeg_lab.layout import Lab, root_from_environment
from georeg_lab.rails import datatypes, geo_verification, jobs, records, repositories, status
from georeg_lab.rails.config import Config, Databases, Row, current_site
from georeg_lab.rails.service import run_until_stopped
from georeg_lab.rails.sync import Shutdown, sync_repository

THREADS = 3
CRON_SECONDS = 2.0
REPORT_SECONDS = 30.0
COUNT_CACHE_SECONDS = 30.0  # GitLab keeps the primary's count for up to an hour; lab.json may name another value
VOLATILE = ("last_successful_status_check_at", "replication_slots_max_retained_wal_bytes", "db_replication_lag_seconds")


class Sidekiq:
    """The worker of one node."""

    def __init__(self, config: Config) -> None:
        self.databases = Databases(config)
        self.stopping = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS + 1, thread_name_prefix="sidekiq")
        self._jobs: dict[int, Future[None]] = {}
        self._verification: Future[int] | None = None
        self._next_cron = self._last_report = 0.0
        self._reported: Row = {}

    @property
    def replicating(self) -> bool:
        """Container registry replication is on, as of the start."""
        return self.databases.config.replication_enabled

    def work(self) -> bool:
        """One round: take jobs, and every two seconds the scheduled work. True while jobs run."""
        if self.databases.config.has_tracking:
            self._take_jobs()
        if time.monotonic() >= self._next_cron:
            self._next_cron = time.monotonic() + CRON_SECONDS
            self._scheduled()
        return bool(self._jobs)

    def stop(self) -> None:
        """Jobs give up between two tags and are queued again; waits for them."""
        self.stopping.set()
        self._pool.shutdown(wait=True)
        if self.databases.config.has_tracking:
            jobs.requeue(self.databases)

    def run_job(self, job: Row) -> None:
        """Run one job of the queue to its end."""
        try:
            self._perform(job["class"], job["args"])
        except Shutdown:
            return  # it is still in the queue as started, and is put back
        jobs.finish(self.databases, job["id"])

    def _perform(self, class_name: str, arguments: list[object]) -> None:
        if not self.replicating:
            return
        number, event = _subject(class_name, arguments)
        repository = repositories.by_id(self.databases, number)
        if event == "checksum_succeeded":
            records.verification_pending(self.databases, number)
        elif repository is not None:
            sync_repository(self.databases, repository, stopping=self.stopping.is_set)

    def _take_jobs(self) -> None:
        self._jobs = {number: job for number, job in self._jobs.items() if not _ended(job)}
        while len(self._jobs) < THREADS:
            job = jobs.claim(self.databases)
            if job is None:
                return
            self._jobs[job["id"]] = self._pool.submit(self.run_job, job)

    def _scheduled(self) -> None:
        site = current_site(self.databases)
        if site is None:
            return
        if site["primary"]:
            datatypes.checksum_others(self.databases)
            if self.databases.config.registry_enabled:
                geo_verification.checksum_on_primary(self.databases)
        else:
            datatypes.sync_others(self.databases)
            jobs.requeue(self.databases, working=self._jobs)  # of a killed process, or ended by an error
            if self.replicating:
                self._schedule_syncs(site)
                self._verify()
        self._report(site)

    def _schedule_syncs(self, site: Row) -> None:
        ensure_records(self.databases)
        records.fail_timed_out(self.databases)
        waiting = self.databases.all("SELECT class, args FROM sidekiq_jobs", database="geo")
        busy = {_subject(row["class"], row["args"])[0] for row in waiting}
        held = {int(key.removeprefix(jobs.LEASE_PREFIX)) for key in jobs.leases(self.databases)}
        for number in records.due(self.databases, site["container_repositories_max_capacity"]):
            if number not in busy | held:
                jobs.enqueue(self.databases, jobs.SYNC_WORKER, jobs.REPLICABLE, number)

    def _verify(self) -> None:
        if self._verification is None or _ended(self._verification):
            self._verification = self._pool.submit(geo_verification.verify_on_secondary, self.databases)

    def _report(self, site: Row) -> None:
        """Hand in the status when its numbers changed, else twice a minute."""
        if site["primary"]:
            facts = status.compute_primary(self.databases, site, self._count_cache())
        else:
            facts = status.compute_secondary(self.databases, site)
        numbers = {name: value for name, value in facts.items() if name not in VOLATILE}
        now = time.monotonic()
        if numbers != self._reported or now - self._last_report >= REPORT_SECONDS:
            status.hand_in(self.databases, site, facts)
            self._reported, self._last_report = numbers, now

    def _count_cache(self) -> float:
        try:
            settings = Lab.of_root(self.databases.config.root).settings
        except FileNotFoundError:
            settings = {}
        return float(str(settings.get("count_cache_seconds", COUNT_CACHE_SECONDS)))


def ensure_records(databases: Databases) -> None:
    """The consistency worker: a pending record for each repository that has none, none for what is gone (rails 1.4)."""
    there = {row["id"] for row in databases.all("SELECT id FROM container_repositories")}
    query = f"SELECT container_repository_id AS id FROM {records.TABLE}"
    known = {row["id"] for row in databases.all(query, database="geo")}
    for number in sorted(there - known):
        records.pending(databases, number)
    for number in sorted(known - there):
        databases.run(f"DELETE FROM {records.TABLE} WHERE container_repository_id = %s", [number], database="geo")


def _subject(class_name: str, arguments: list[object]) -> tuple[int, str]:
    """Container repository and event of a job; the event of a plain sync is ""."""
    if class_name == jobs.EVENT_WORKER:
        payload = arguments[2]
        return (int(payload["model_record_id"]) if isinstance(payload, dict) else 0), str(arguments[1])
    return int(str(arguments[-1])), ""


def _ended(work: Future[None] | Future[int]) -> bool:
    """Whether it ended; an exception that ended it goes to the log."""
    if not work.done():
        return False
    problem = work.exception()
    if problem is not None:
        print("".join(traceback.format_exception(problem)), file=sys.stderr, flush=True)
    return True


def main(root: Path) -> None:
    """Work until SIGTERM."""
    sidekiq = Sidekiq(Config.load(root))
    run_until_stopped(sidekiq.work, sidekiq.stopping)
    sidekiq.stop()


if __name__ == "__main__":
    main(root_from_environment())
