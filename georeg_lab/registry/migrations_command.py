"""`registry database migrate up|down|status|version`.

Source: registry 1.2–1.4."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime

from georeg_lab.registry import db, durations, release, schema, tables
from georeg_lab.registry.cli_flags import CommandError, Parsed
from georeg_lab.registry.config import Config, load
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.migrations import MigrationError, Migrator
from georeg_lab.registry.schema import Kind

_QUESTION = "Preparing to apply the above down migrations. Are you sure? [y/N] "


def open_database(config: Config, log: Logger) -> db.Queries:
    """The connection of commands that change the schema: to `database.primary` if it is set. Raises CommandError."""
    try:
        connection = db.connect(config.database, host=config.database.primary or None, log=log.bare(), prepare=False)
        db.check_version(connection)
    except db.DatabaseError as error:
        raise CommandError(f"failed to construct database connection: {error}") from None
    return db.Queries(connection, log.bare())


def run(action: str, parsed: Parsed) -> int:
    """Run one of the four commands. Returns the exit code. Raises ConfigError, CommandError."""
    if action == "up":
        _check_limits(parsed)
    config, _ = load(parsed.arguments, storage=False)
    queries = open_database(config, Logger(sys.stderr, formatter="text"))
    try:
        {"up": _up, "down": _down, "status": _status, "version": _version}[action](queries, parsed)
    finally:
        queries.connection.close()
    return 0


def _check_limits(parsed: Parsed) -> None:
    limits = [parsed.values[name] for name in ("limit", "post-deploy-limit") if name in parsed.given]
    if len(limits) == 2 and min(limits) < 1:
        raise CommandError("both pre and post migration limits must be greater than or equal to 1")


def _skips_post_deployment(parsed: Parsed) -> bool:
    """The flag, else `SKIP_POST_DEPLOYMENT_MIGRATIONS`."""
    if "skip-post-deployment" in parsed.given:
        return bool(parsed.values["skip-post-deployment"])
    return os.environ.get("SKIP_POST_DEPLOYMENT_MIGRATIONS", "") in ("true", "1")


def _wanted(parsed: Parsed) -> dict[Kind, int | None]:
    """How many migrations of each kind, None = none, 0 = all: a limit on one kind leaves out the other."""
    pre, post = parsed.values["limit"], parsed.values.get("post-deploy-limit", 0)
    return {
        "pre-deployment": None if post and not pre else pre,
        "post-deployment": None if pre and not post else post,
    }


def _print_plan(kind: Kind, names: list[str]) -> None:
    print(*([f"{kind}:"] if release.POST_DEPLOYMENT_APART else []), *names, sep="\n", flush=True)


def _up(queries: db.Queries, parsed: Parsed) -> None:
    wanted = _wanted(parsed)
    if _skips_post_deployment(parsed):
        wanted["post-deployment"] = None
    started = time.monotonic()
    counts = dict.fromkeys(schema.KINDS, 0)
    for kind in schema.KINDS:
        limit = wanted[kind]
        if limit is None:
            continue
        migrator = Migrator(queries, kind)
        try:
            names = migrator.plan_up(limit)
        except (db.DatabaseError, MigrationError) as error:
            raise CommandError(f"failed to prepare Up plan: {error}") from None
        if not names:
            continue
        _print_plan(kind, names)
        if parsed.values["dry-run"]:
            continue
        try:
            migrator.up(names)
        except MigrationError as error:
            raise CommandError(f"failed to run database migrations: {error}") from None
        counts[kind] = len(names)
    if not parsed.values["dry-run"] and not release.POST_DEPLOYMENT_APART:
        spent = f"in {time.monotonic() - started:.3f}s"
        print(f"OK: applied {counts['pre-deployment']} migrations and 0 background migrations {spent}")
    elif not parsed.values["dry-run"]:
        applied = f"{counts['pre-deployment']} pre-deployment migration(s), "
        applied += f"{counts['post-deployment']} post-deployment migration(s) and 0 background migration(s)"
        print(f"OK: applied {applied} in {time.monotonic() - started:.3f}s")


def _down(queries: db.Queries, parsed: Parsed) -> None:
    wanted = _wanted(parsed)
    for kind in reversed(schema.KINDS):
        limit = wanted[kind]
        if limit is None:
            continue
        migrator = Migrator(queries, kind)
        try:
            names = migrator.plan_down(limit)
        except (db.DatabaseError, MigrationError) as error:
            raise CommandError(f"failed to prepare Down plan: {error}") from None
        if not names:
            continue
        _print_plan(kind, names)
        if parsed.values["dry-run"]:
            continue
        if not parsed.values["force"] and not _confirmed():
            return
        started = time.monotonic()
        try:
            migrator.down(names)
        except MigrationError as error:
            raise CommandError(f"failed to run database migrations: {error}") from None
        spent = durations.text(time.monotonic() - started, 0.001)
        print(f"OK: applied {len(names)} {kind} migration(s) in {spent}")


def _confirmed() -> bool:
    print(_QUESTION, end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        raise CommandError("failed to scan user input: EOF")
    return answer.strip().lower() in ("y", "yes")


def _time(applied_at: datetime | None) -> str:
    """A time as Go prints it: microseconds without trailing zeros, UTC."""
    if applied_at is None:
        return ""
    moment = applied_at.astimezone(UTC)
    fraction = f".{moment:%f}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"


def _status(queries: db.Queries, parsed: Parsed) -> None:
    only_pre = _skips_post_deployment(parsed)
    if parsed.values["up-to-date"]:
        # post-deployment migrations are never looked at, and with -s nothing is: that answer is always "true"
        try:
            pending = Migrator(queries, "pre-deployment").pending()
        except db.DatabaseError as error:
            raise CommandError(f"failed to detect database status: {error}") from None
        print("true" if only_pre or not pending else "false")
        return
    for kind in schema.KINDS:
        if only_pre and kind == "post-deployment":
            continue
        migrator = Migrator(queries, kind)
        try:
            applied = migrator.applied()
        except db.DatabaseError as error:
            raise CommandError(f"failed to detect database status: {error}") from None
        rows = [
            (name if name in migrator.known else f"{name} (unknown)", _time(applied.get(name)))
            for name in sorted({*migrator.known, *applied})
        ]
        if release.POST_DEPLOYMENT_APART:
            print(kind)
        print(tables.render(("MIGRATION", "APPLIED"), rows), end="")


def _version(queries: db.Queries, parsed: Parsed) -> None:
    for kind in schema.KINDS:
        try:
            version = Migrator(queries, kind).version()
        except db.DatabaseError as error:
            raise CommandError(f"failed to detect database version: {error}") from None
        heading = f"{kind}:" if release.POST_DEPLOYMENT_APART else ""
        print(f"{heading}{version or 'Unknown'}", flush=True)
