"""`registry background-migrate status|pause|resume|run`: the rows of batched background migrations.

Source: registry 1.8, 4.2. The stand-in has nothing to backfill, so that `run` only finishes the rows."""

from __future__ import annotations

import sys

from georeg_lab.registry import db, tables
from georeg_lab.registry.cli_flags import CommandError, Parsed
from georeg_lab.registry.config import load
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.migrations_command import open_database

PAUSED, ACTIVE, FINISHED, FAILED, RUNNING = range(5)
STATUS = {PAUSED: "paused", ACTIVE: "active", FINISHED: "finished", FAILED: "failed", RUNNING: "running"}


def run(action: str, parsed: Parsed) -> int:
    """Run one of the four commands. Returns the exit code. Raises ConfigError, CommandError."""
    if "max-job-retry" in parsed.given and not 1 <= parsed.values["max-job-retry"] <= 10:
        raise CommandError("limit must be between 1 and 10")
    config, _ = load(parsed.arguments, storage=False)
    log = Logger(sys.stderr, formatter="text")
    queries = open_database(config, log)
    log.info("bbm worker using default job interval", bbm_job_interval_s=60)
    log.info("bbm worker using default startup jitter", bbm_startup_jitter_s=60)
    log.info("bbm worker using default max attempts", bbm_max_attempts=5)
    try:
        {"status": _status, "pause": _pause, "resume": _resume, "run": _run}[action](queries)
    except db.DatabaseError as error:
        raise CommandError(f"failed to {action} background migrations: {error}") from None
    finally:
        queries.connection.close()
    return 0


def _status(queries: db.Queries) -> None:
    rows = queries.execute("SELECT name, status FROM batched_background_migrations ORDER BY id").fetchall()
    heading = ("BATCHED BACKGROUND MIGRATION", "STATUS")
    print(tables.render(heading, [(name, STATUS.get(status, "unknown")) for name, status in rows]), end="")


def _set(queries: db.Queries, target: int, *sources: int) -> None:
    queries.execute(
        "UPDATE batched_background_migrations SET status = %s, updated_at = now() WHERE status = ANY(%s)",
        (target, list(sources)),
    )


def _pause(queries: db.Queries) -> None:
    _set(queries, PAUSED, ACTIVE, RUNNING)


def _resume(queries: db.Queries) -> None:
    _set(queries, ACTIVE, PAUSED)


def _run(queries: db.Queries) -> None:
    _set(queries, FINISHED, ACTIVE, RUNNING, FAILED)
