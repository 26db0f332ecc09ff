"""What `serve` does before it listens, in the order of the real program, and why it refuses to start.

Source: registry 1.1, 2.2 (`prefer`), 3.3."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from georeg_lab.registry import auth, db, migrations, release, uploads
from georeg_lab.registry.backend import Backend, UnavailableError
from georeg_lab.registry.config import Config
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.db import Queries
from georeg_lab.registry.health import HealthChecks
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.import_log import Logger, instance_id
from georeg_lab.registry.legacy_backend import LegacyBackend
from georeg_lab.registry.lockfiles import Lockfiles
from georeg_lab.registry.notifications import Broadcaster
from georeg_lab.registry.storage import PathNotFoundError, Storage, StorageError

DOCUMENTATION = "https://docs.gitlab.com/ee/administration/packages/container_registry_metadata_database.html"
FILESYSTEM_IN_USE = (
    "registry filesystem metadata in use, please import data before enabling the database, "
    f"see {DOCUMENTATION}#existing-registries"
)
DATABASE_IN_USE = f"registry metadata database in use, please enable the database {DOCUMENTATION}"
BOTH_IN_USE = f"database-in-use and filesystem-in-use lockfiles present, see {DOCUMENTATION}#troubleshooting"
PENDING = (
    "there are pending database migrations, use the 'registry database migrate' CLI command to check and apply them"
)
FRESH = "database in prefer mode on a fresh install: configured and reachable metadata database required to start"
IN_RECOVERY = "the database is in read-only mode (in recovery)"
RANDOM_KEY = (
    "No HTTP secret provided - generated random secret. This may cause problems with uploads if multiple registries "
    "are behind a load-balancer. To provide a shared secret, fill in http.secret in the configuration file or set the "
    "REGISTRY_HTTP_SECRET environment variable."
)


class StartError(Exception):
    """The registry does not start; the message follows `configuring application: `."""


def is_enforced() -> bool:
    """Whether lockfiles are looked at: `REGISTRY_FF_ENFORCE_LOCKFILES`, off by default. Source: registry fact 6."""
    said = os.environ.get("REGISTRY_FF_ENFORCE_LOCKFILES", "").lower()
    if said and not release.ALWAYS_ENFORCES_LOCKFILES:
        return said in ("true", "1", "t")
    return release.ENFORCES_LOCKFILES


def logger(config: Config) -> Logger:
    """The server's log: output, level and format as configured."""
    stream = sys.stderr if config.log.output == "stderr" else sys.stdout
    return Logger(stream, config.log.level, config.log.formatter).bind(instance_id=instance_id(), **config.log.fields)


def read_only(config: Config) -> bool:
    """`storage.maintenance.readonly.enabled`. Raises StartError."""
    section = config.storage.maintenance.get("readonly")
    if section is None:
        return False
    if not isinstance(section, dict):
        raise StartError("readonly config key must contain additional keys")
    if not isinstance(section.get("enabled", False), bool):
        raise StartError("readonly's enabled config key must have a boolean value")
    return bool(section.get("enabled", False))


def purging(config: Config, is_read_only: bool) -> uploads.Purging:
    """The upload purger's settings; off in read-only mode. Raises StartError."""
    if is_read_only:
        return uploads.Purging(enabled=False)
    try:
        return uploads.Purging.read(config.storage.maintenance.get("uploadpurging"))
    except ValueError as error:
        raise StartError(str(error)) from None


@dataclass(frozen=True)
class _Choice:
    """Which metadata is used. `fell_back`, `fresh`: what `prefer` found, if lockfiles are looked at."""

    database: bool
    fell_back: bool = False
    fresh: bool = False


def _choose(config: Config, locks: Lockfiles, log: Logger) -> _Choice:
    """Decide by the configuration and the lockfiles. Raises StartError."""
    mode = config.database.mode
    if not is_enforced():
        return _Choice(mode != "false")
    in_filesystem, in_database = locks.filesystem.is_locked(log), locks.database.is_locked(log)
    if in_filesystem and in_database:
        raise StartError(BOTH_IN_USE)
    if mode == "prefer" and in_filesystem:
        log.warning("database prefer mode enabled, but found filesystem metadata: falling back to legacy metadata")
        return _Choice(False, fell_back=True)
    if mode == "false" and in_database:
        raise StartError(DATABASE_IN_USE)
    if mode == "true" and in_filesystem:
        raise StartError(FILESYSTEM_IN_USE)
    return _Choice(mode != "false", fresh=mode == "prefer" and not in_database)


def _check_database(pool: Pool, log: Logger) -> None:
    """Raise StartError where the real program does not start on this database."""
    try:
        connection = pool.connect()
    except db.DatabaseConnectionError as error:
        raise StartError(
            f"failed to initialize database connections: failed to open primary database connection: {error}"
        ) from None
    with connection:
        queries = Queries(connection, log.bare())
        try:
            db.check_version(connection)
            row = queries.one("SELECT pg_is_in_recovery()")
        except db.DatabaseError as error:
            raise StartError(str(error)) from None
        if row and row[0] and release.REFUSES_STANDBY:
            _explain_recovery(log)
            raise StartError(IN_RECOVERY)
        try:
            up_to_date = migrations.is_up_to_date(queries)
        except db.DatabaseError as error:
            raise StartError(f"failed to check database migrations status: {error}") from None
    if not up_to_date:
        raise StartError(PENDING)


def _explain_recovery(log: Logger) -> None:
    log.error("could not connect to database", error=IN_RECOVERY)
    log.warning(
        "if this is a Geo secondary instance, the registry must not point to the default replicated database. Please "
        "configure the registry to connect to a separate, writable database on the Geo secondary site."
    )
    log.warning(
        "if this is not a Geo secondary instance, the database must not be in read-only mode. Please ensure the "
        "database is correctly configured and set to read-write mode."
    )


def _lock_filesystem(files: Storage, locks: Lockfiles, log: Logger) -> None:
    """Write `filesystem-in-use` if the storage has a repository."""
    try:
        found = next(files.repositories(), None)
    except PathNotFoundError:
        found = None
    if found is not None:
        log.info("there are existing repositories in the filesystem, locking filesystem")
        locks.filesystem.lock()


def build(config: Config, log: Logger) -> Registry:
    """Everything that a running registry needs, short of the listener. Raises StartError."""
    if config.storage.driver != "filesystem":
        raise StartError(f"StorageDriver not registered: {config.storage.driver}")
    files = Storage(config.storage.root)
    is_read_only = read_only(config)
    purging(config, is_read_only)
    if not config.http.secret:
        log.warning(RANDOM_KEY)
    try:
        return _build(config, log, files, is_read_only)
    except StorageError as error:
        raise StartError(str(error)) from None


def _build(config: Config, log: Logger, files: Storage, is_read_only: bool) -> Registry:
    log.warning("rate-limiter is disabled")
    log.info(f"storage backend redirection {'disabled' if config.storage.redirect_disabled else 'enabled'}")
    locks = Lockfiles(files)
    choice = _choose(config, locks, log)
    pool: Pool | None = None
    backend: Backend
    if choice.database:
        from georeg_lab.registry.database_backend import DatabaseBackend

        log.info("using the metadata database")
        if choice.fresh:
            log.info(FRESH)
        if config.gc.disabled:
            log.warning("garbage collection is disabled")
        pool = Pool(config.database, log)
        _check_database(pool, log)
        backend = DatabaseBackend(pool, files)
    else:
        if is_enforced():
            _lock_filesystem(files, locks, log)
        log.info("registry filesystem metadata in use")
        backend = LegacyBackend(files)
    try:
        authorization = auth.create(config.auth)
    except auth.AuthConfigError as error:
        raise StartError(str(error)) from None
    health = HealthChecks(log)
    health.configure(config.health, lambda: _probe_storage(files), (lambda: _probe_database(pool)) if pool else None)
    if choice.database and (is_enforced() or release.LOCKS_DATABASE_ALWAYS):
        locks.database.lock()
    return Registry(
        config,
        log,
        files,
        config.http.secret or secrets.token_hex(32),
        authorization,
        Broadcaster(config.notifications, config.http.addr, log),
        health,
        backend,
        pool,
        is_read_only,
        choice.fell_back,
    )


def _probe_storage(files: Storage) -> None:
    """The driver's check: the storage must answer, even if it is that the root folder is not there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        Path(files.root).stat()


def _probe_database(pool: Pool) -> None:
    """Raises with the text that the debug server shows."""
    try:
        pool.run(lambda queries: queries.one("SELECT 1"))
    except UnavailableError as error:
        reason = str(error).removeprefix("verification failed: ")
        raise UnavailableError(f"1 error occurred:\n\t* {reason}\n\n") from None
