"""Online garbage collection: two workers that go through the review queues. Source: registry 4.2, 7."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from georeg_lab.registry import digests, storage
from georeg_lab.registry.backend import UnavailableError
from georeg_lab.registry.config import GC
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.storage import PathNotFoundError, Storage, StorageError

FIRST_RUN = 60.0
JITTER = 0.33
GROWTH = 1.5
RETRY_MINUTES = 5
MAX_RETRY_DOUBLINGS = 8


@dataclass(frozen=True)
class Run:
    """What one run of a worker did. `found`: there was a task; `removed`: it was dangling and is gone."""

    found: bool = False
    removed: bool = False
    failed: bool = False


class Worker(ABC):
    """One queue. Each run handles at most one task, in one transaction."""

    name: str

    def __init__(self, pool: Pool, files: Storage, log: Logger, timeout: float) -> None:
        self.pool = pool
        self.files = files
        self.log = log.bind(component=f"registry.gc.worker.{type(self).__name__}")
        self.timeout = timeout

    def run(self) -> Run:
        """Handle the task that is due longest. Nothing is raised: a failure is logged and postpones the task."""
        failed: list[tuple[Any, ...]] = []
        try:
            return self.pool.transaction(lambda queries: self._task(queries, failed))
        except (DatabaseError, UnavailableError, StorageError, OSError) as error:
            self.log.error("failed to process task", error=str(error))
            for task in failed:
                with suppress(DatabaseError, UnavailableError):
                    self.pool.run(lambda queries, task=task: self.postpone(queries, task))  # type: ignore[misc]
            return Run(found=bool(failed), failed=True)

    def _task(self, queries: Queries, failed: list[tuple[Any, ...]]) -> Run:
        queries.execute(f"SET LOCAL statement_timeout = {max(1, int(self.timeout * 1000))}")
        task = self.next(queries)
        if task is None:
            return Run()
        failed.append(task)
        dangling = self.is_dangling(queries, task)
        if dangling:
            self.remove(queries, task)
            self.log.info(f"the {self.name} is dangling, removed", **self.describe(task))
        self.forget(queries, task)
        return Run(found=True, removed=dangling)

    @abstractmethod
    def next(self, queries: Queries) -> tuple[Any, ...] | None:
        """The due task, locked."""

    @abstractmethod
    def is_dangling(self, queries: Queries, task: tuple[Any, ...]) -> bool:
        """Whether nothing needs what the task names."""

    @abstractmethod
    def remove(self, queries: Queries, task: tuple[Any, ...]) -> None:
        """Remove what the task names."""

    @abstractmethod
    def forget(self, queries: Queries, task: tuple[Any, ...]) -> None:
        """Remove the task."""

    @abstractmethod
    def postpone(self, queries: Queries, task: tuple[Any, ...]) -> None:
        """Count a failure and put the task off, twice as long each time."""

    @abstractmethod
    def describe(self, task: tuple[Any, ...]) -> dict[str, Any]:
        """Fields of the log line."""


_POSTPONED = (
    "SET review_count = review_count + 1, review_after = now() + "
    f"make_interval(mins => {RETRY_MINUTES} * (1 << least(review_count, {MAX_RETRY_DOUBLINGS})))"
)


class BlobWorker(Worker):
    """Blobs that no layer and no config names: the file first, the row second."""

    name = "blob"

    def next(self, queries: Queries) -> tuple[Any, ...] | None:
        return queries.one(
            "SELECT digest FROM gc_blob_review_queue WHERE review_after < now() ORDER BY review_after "
            "FOR UPDATE SKIP LOCKED LIMIT 1"
        )

    def is_dangling(self, queries: Queries, task: tuple[Any, ...]) -> bool:
        row = queries.one(
            "SELECT NOT EXISTS (SELECT FROM gc_blobs_layers WHERE digest = %s) "
            "AND NOT EXISTS (SELECT FROM gc_blobs_configurations WHERE digest = %s)",
            (task[0], task[0]),
        )
        return bool(row and row[0])

    def remove(self, queries: Queries, task: tuple[Any, ...]) -> None:
        with suppress(PathNotFoundError):
            self.files.delete(storage.blob_folder(digests.from_bytes(task[0])))
        queries.execute("DELETE FROM blobs WHERE digest = %s", (task[0],))

    def forget(self, queries: Queries, task: tuple[Any, ...]) -> None:
        queries.execute("DELETE FROM gc_blob_review_queue WHERE digest = %s", (task[0],))

    def postpone(self, queries: Queries, task: tuple[Any, ...]) -> None:
        queries.execute(f"UPDATE gc_blob_review_queue {_POSTPONED} WHERE digest = %s", (task[0],))

    def describe(self, task: tuple[Any, ...]) -> dict[str, Any]:
        return {"digest": digests.from_bytes(task[0])}


class ManifestWorker(Worker):
    """Manifests without tag, parent list and referrer."""

    name = "manifest"
    _where = "top_level_namespace_id = %s AND repository_id = %s AND "

    def next(self, queries: Queries) -> tuple[Any, ...] | None:
        return queries.one(
            "SELECT top_level_namespace_id, repository_id, manifest_id FROM gc_manifest_review_queue "
            "WHERE review_after < now() ORDER BY review_after FOR UPDATE SKIP LOCKED LIMIT 1"
        )

    def is_dangling(self, queries: Queries, task: tuple[Any, ...]) -> bool:
        row = queries.one(
            f"SELECT NOT EXISTS (SELECT FROM tags WHERE {self._where} manifest_id = %s) "
            f"AND NOT EXISTS (SELECT FROM manifest_references WHERE {self._where} child_id = %s) "
            f"AND NOT EXISTS (SELECT FROM manifests WHERE {self._where} subject_id = %s)",
            (*task, *task, *task),
        )
        return bool(row and row[0])

    def remove(self, queries: Queries, task: tuple[Any, ...]) -> None:
        queries.execute(f"DELETE FROM manifests WHERE {self._where} id = %s", task)

    def forget(self, queries: Queries, task: tuple[Any, ...]) -> None:
        queries.execute(f"DELETE FROM gc_manifest_review_queue WHERE {self._where} manifest_id = %s", task)

    def postpone(self, queries: Queries, task: tuple[Any, ...]) -> None:
        queries.execute(f"UPDATE gc_manifest_review_queue {_POSTPONED} WHERE {self._where} manifest_id = %s", task)

    def describe(self, task: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(("namespace_id", "repository_id", "manifest_id"), task, strict=True))


def pause_after(run: Run, pause: float, interval: float, settings: GC) -> float:
    """Seconds (without jitter) to wait after a run: the interval, more and more when idle or failing."""
    idle = not run.found and not settings.no_idle_backoff
    if run.failed:
        return max(settings.error_cooldown_period, min(max(pause, interval) * GROWTH, settings.max_backoff))
    return min(max(pause, interval) * GROWTH, settings.max_backoff) if idle else interval


class OnlineGC:
    """Both workers, as tasks of the running event loop. Nothing runs where `gc.disabled` is set."""

    def __init__(self, settings: GC, pool: Pool, files: Storage, log: Logger) -> None:
        self.settings = settings
        self.pool = pool
        self.log = log
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: list[tuple[Worker, float]] = []
        if settings.disabled:
            return
        timeout = settings.transaction_timeout
        if not settings.blobs.disabled:
            self._workers.append((BlobWorker(pool, files, log, timeout), settings.blobs.interval))
        if not settings.manifests.disabled:
            self._workers.append((ManifestWorker(pool, files, log, timeout), settings.manifests.interval))

    def start(self, executor: ThreadPoolExecutor) -> None:
        """Start the workers; their first runs are up to a minute away."""
        loop = asyncio.get_running_loop()

        async def repeat(worker: Worker, interval: float) -> None:
            self.log.info("starting online GC agent", component="registry.gc.Agent", worker=worker.name)
            await asyncio.sleep(random.uniform(0, FIRST_RUN))  # noqa: S311
            pause = interval
            while True:
                run = await loop.run_in_executor(executor, worker.run)
                pause = pause_after(run, pause, interval, self.settings)
                await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311

        async def set_defaults() -> None:
            await asyncio.sleep(random.uniform(0, FIRST_RUN))  # noqa: S311
            await loop.run_in_executor(executor, self.apply_review_after)

        self._tasks = [asyncio.create_task(repeat(worker, interval)) for worker, interval in self._workers]
        if self._workers and self.settings.review_after:
            self._tasks.append(asyncio.create_task(set_defaults()))

    def apply_review_after(self) -> None:
        """Write `gc.reviewafter` to the defaults of all events; a negative one means no delay."""
        seconds = max(self.settings.review_after, 0.0)
        work: Callable[[Queries], Any] = lambda queries: queries.execute(  # noqa: E731
            "UPDATE gc_review_after_defaults SET value = make_interval(secs => %s)", (seconds,)
        )
        try:
            self.pool.run(work)
        except (DatabaseError, UnavailableError) as error:
            self.log.error("failed to update review after default", error=str(error))

    def close(self) -> None:
        """Stop the workers; a run that is under way ends by itself."""
        for task in self._tasks:
            task.cancel()
