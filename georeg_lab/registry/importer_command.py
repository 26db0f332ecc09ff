"""The command `registry database import`: flags, connection, where the log goes.

Source: registry 1.5, 1.6."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TextIO

from georeg_lab.registry import db, import_log, release
from georeg_lab.registry.cli_flags import CommandError, Parsed
from georeg_lab.registry.config import Config, load
from georeg_lab.registry.importer import Importer, Options
from georeg_lab.registry.importer_errors import FAILED
from georeg_lab.registry.importer_progress import Progress, Silent, Spinner
from georeg_lab.registry.storage import Storage


def _options(parsed: Parsed) -> Options:
    values = parsed.values
    one = values["step-one"] or values["pre-import"]
    two = values["step-two"] or values["all-repositories"]
    three = values["step-three"] or values["common-blobs"]
    if one and (two or three):
        raise CommandError("steps two or three can't be used with step one")
    if two and three:
        raise CommandError("step three can't be used with step two")
    concurrency = values["tag-concurrency"]
    if "tag-concurrency" in parsed.given and not 1 <= concurrency <= 5:
        raise CommandError("tag-concurrency must be between 1 and 5")
    every = not (one or two or three)
    return Options(
        step_one=one or every,
        step_two=two or every,
        step_three=three or every,
        dry_run=values["dry-run"],
        row_count=values["row-count"],
        dynamic_media_types=values["dynamic-media-types"],
        statistics=values.get("import-statistics", False),
        skip_recent=values.get("pre-import-skip-recent", 0.0),
    )


def _output(config: Config) -> TextIO:
    return sys.stderr if config.log.output == "stderr" else sys.stdout


def run(parsed: Parsed) -> int:
    """Run one import. Returns the exit code. Raises ConfigError, CommandError."""
    options = _options(parsed)
    config, _ = load(parsed.arguments)
    if parsed.values["tag-concurrency"] > 1 and config.storage.driver != "gcs":
        raise CommandError("the tag concurrency option is only compatible with a gcs backed registry storage")
    if config.storage.driver != "filesystem":
        raise CommandError(f"failed to construct {config.storage.driver} driver: not part of this stand-in")
    fields = {**import_log.BUILD, "instance_id": import_log.instance_id()}
    log = import_log.Logger(_output(config), config.log.level, config.log.formatter, fields)
    if config.storage.parameters.get("parallelwalk"):
        log.info("the 'parallelwalk' configuration parameter has been disabled")
    try:
        connection = db.connect(config.database, log=log.bare())
    except db.DatabaseError as error:
        raise CommandError(f"failed to construct database connection: {error}") from None
    with connection:
        queries = db.Queries(connection, log.bare())
        try:
            if not release.POST_DEPLOYMENT_APART:
                _must_be_migrated(queries)
            else:
                # the check looks into a list of its own that is empty: it passes on any schema and leaves this table
                queries.execute(
                    "CREATE TABLE IF NOT EXISTS gorp_migrations (id text NOT NULL PRIMARY KEY, applied_at timestamptz)"
                )
        except db.DatabaseError as error:
            raise CommandError(f"failed to check database migrations status: {error}") from None
        files = Storage(config.storage.root)
        if parsed.values["log-to-stdout"]:
            _import(files, queries, options, log, Silent())
            return 0
        spinner = Spinner(sys.stdout)
        spinner.start()
        path, stream = _open_log(parsed.values.get("log-directory", ""))
        with stream:
            spinner.describe(f"registry import starting, detailed log written to: {path}")
            to_file = import_log.Logger(stream, config.log.level, config.log.formatter, fields)
            queries.log = to_file.bare()
            _import(files, queries, options, to_file, spinner)
    return 0


def _must_be_migrated(queries: db.Queries) -> None:
    """What releases before 4.21 ask for. Raises CommandError, DatabaseError."""
    from georeg_lab.registry import migrations

    if not migrations.is_up_to_date(queries):
        raise CommandError(
            "there are pending database migrations, use the 'registry database migrate' CLI command to check and "
            "apply them"
        )


def _open_log(folder: str) -> tuple[Path, TextIO]:
    name = f"{datetime.now().astimezone().isoformat(timespec='seconds').replace('+00:00', 'Z')}-registry-import.log"
    path = (Path(folder) if folder else Path.cwd()) / name
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        reason = f"opening log file: open {path}: {(error.strerror or str(error)).lower()}"
        raise CommandError(f"failed to import metadata: {reason}") from None
    return path, os.fdopen(descriptor, "a")


def _import(files: Storage, queries: db.Queries, options: Options, log: import_log.Logger, progress: Progress) -> None:
    try:
        Importer(files, queries, options, log, progress).run()
    except FAILED as error:
        raise CommandError(f"failed to import metadata: {error}") from None
