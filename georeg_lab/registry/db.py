"""Connections to the metadata database, with the error texts of the registry's own driver.

Source: registry 1.5 (driver texts), 1.2 (version check). Texts for causes that were never recorded follow the driver's
pattern."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from georeg_lab.registry import release
from georeg_lab.registry.config import Database
from georeg_lab.registry.import_log import Logger

MINIMUM_VERSION = 150000
_STATES = (  # libpq's messages during start-up carry no SQLSTATE
    ("password authentication failed", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("is not permitted to log in", "28000"),
    ("role ", "28000"),
    ("permission denied for database", "42501"),
    ("database ", "3D000"),
    ("too many", "53300"),
    ("remaining connection slots", "53300"),
    ("the database system is", "57P03"),
    ("terminating connection", "57P01"),
)


class DatabaseError(Exception):
    """The database refused something; the message is the driver's. `sqlstate` is empty for connection problems."""

    def __init__(self, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class DatabaseConnectionError(DatabaseError):
    """No connection could be made. The caller puts its own prefix before the message."""


def sql_error(error: psycopg.Error) -> DatabaseError:
    """The registry's form of a server's error: `ERROR: relation "tags" does not exist (SQLSTATE 42P01)`."""
    severity = error.diag.severity_nonlocalized or error.diag.severity or "ERROR"
    primary = error.diag.message_primary or str(error).strip()
    state = error.sqlstate or ""
    return DatabaseError(f"{severity}: {primary} (SQLSTATE {state})" if state else primary, state)


def _connection_string(database: Database, host: str, timeout: float) -> dict[str, str]:
    """Keywords in the order in which the registry writes them, empty ones left out."""
    values = {
        "host": host,
        "port": str(database.port) if database.port else "",
        "user": database.user,
        "password": database.password,
        "dbname": database.dbname,
        "sslmode": database.sslmode,
        "sslcert": database.sslcert,
        "sslkey": database.sslkey,
        "sslrootcert": database.sslrootcert,
        "connect_timeout": str(max(1, round(timeout))) if timeout else "",
    }
    return {key: value for key, value in values.items() if value}


def _check_files(values: dict[str, str]) -> None:
    """The driver reads certificates before it connects; what it cannot read ends it."""
    if values.get("sslmode") in ("disable", "allow"):
        return
    reads = [("sslrootcert", "unable to read CA file")]
    if values.get("sslcert") and values.get("sslkey"):
        reads += [("sslkey", "unable to read sslkey"), ("sslcert", "unable to read cert")]
    for key, problem in reads:
        path = values.get(key)
        if not path:
            continue
        try:
            Path(path).read_bytes()
        except OSError as error:
            shown = " ".join(f"{k}={'xxxxx' if k == 'password' else v}" for k, v in values.items())
            reason = f"{problem}: open {path}: {(error.strerror or str(error)).lower()}"
            raise DatabaseConnectionError(
                f"parsing connection string failed: cannot parse `{shown}`: failed to configure TLS ({reason})"
            ) from None


def _resolver() -> str:
    with suppress(OSError):
        found = re.search(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), flags=re.M)
        if found:
            return f"{found[1]}:53"
    return "127.0.0.1:53"


def driver_text(message: str, host: str, port: int) -> str:
    """The registry's driver text for a connection failure that libpq describes in `message`."""
    lines = [line for line in message.strip().splitlines() if line and not line[0].isspace()]
    text = lines[-1] if lines else message.strip()
    address = re.search(r'connection to server at "([^"]*)"(?: \(([^)]*)\))?', text)
    ip = (address[2] or address[1]) if address else host
    socket = re.search(r'connection to server on socket "([^"]*)"', text)
    where = f"{socket[1]} ({host})" if socket else f"{host}:{port} ({ip})"
    reason = text.rsplit(" failed: ", 1)[-1] if " failed: " in text else text
    fatal = re.match(r"(FATAL|ERROR|PANIC):\s+(.*)", reason)
    if fatal:
        state = next((state for part, state in _STATES if part in fatal[2]), "")
        kind = "failed SASL auth" if state == "28P01" else "server error"
        return f"{where}: {kind}: {fatal[1]}: {fatal[2]}" + (f" (SQLSTATE {state})" if state else "")
    if "could not translate host name" in text or "Name or service not known" in text:
        return f"hostname resolving error: lookup {host} on {_resolver()}: no such host"
    if "does not support SSL" in reason:
        return f"{where}: tls error: server refused TLS connection"
    if "does not match host name" in reason:
        names = re.search(r'server certificate for "([^"]*)"', reason)
        known = f"certificate is valid for {names[1] if names else ''}, not {host}"
        return f"{where}: tls error: tls: failed to verify certificate: x509: {known}"
    if "certificate verify failed" in reason:
        return f"{where}: tls error: tls: failed to verify certificate: x509: certificate signed by unknown authority"
    if "SSL" in reason:
        return f"{where}: tls error: remote error: tls: {reason.split('error: ')[-1].strip().lower()}"
    if "timeout expired" in reason:
        return f"{where}: dial error: timeout: context deadline exceeded"
    reached = f"unix {socket[1]}" if socket else f"tcp {ip}:{port}"
    return f"{where}: dial error: dial {reached}: connect: {reason.split(chr(10))[0].strip().lower()}"


def connect(
    database: Database,
    *,
    host: str | None = None,
    log: Logger | None = None,
    autocommit: bool = True,
    connect_timeout: float = 0.0,
    prepare: bool = True,
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a connection with the settings of `database` (`host` replaces its host, e.g. by `primary`).

    `connect_timeout` in seconds, 0 waits as long as TCP does; only `serve` applies the configured one. `prepare=False`
    keeps to statements that a transaction pooler can carry. `log` (the driver's, without fields) gets the `Connect`
    error line. Raises DatabaseConnectionError: `verification failed: failed to connect to …` or
    `parsing connection string failed: …`."""
    target = host or database.host
    values: dict[str, Any] = _connection_string(database, target, connect_timeout)
    _check_files(values)
    started = time.monotonic()
    try:
        connection: psycopg.Connection[tuple[Any, ...]] = psycopg.Connection.connect(
            autocommit=autocommit, client_encoding="utf8", prepare_threshold=5 if prepare else None, **values
        )
    except psycopg.OperationalError as error:
        port = database.port or 5432
        what = f"failed to connect to `user={database.user} database={database.dbname}`: "
        text = what + driver_text(str(error), target, port)
        if log:
            spent = int((time.monotonic() - started) * 1000)
            log.error("Connect", database=database.dbname, duration_ms=spent, err=text, host=target, port=port)
        raise DatabaseConnectionError(f"verification failed: {text}") from None
    return connection


def check_version(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Raise DatabaseError where the server is older than 15.0. `serve`, `migrate` and `background-migrate` do this."""
    if release.NEEDS_POSTGRESQL_15 and connection.info.server_version < MINIMUM_VERSION:
        raise DatabaseError("the database version is lower than the minimal supported version 15.0")


class Queries:
    """Runs statements on a connection and turns what the server refuses into DatabaseError, with the driver's log line.

    `log` is the driver's logger (without fields)."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], log: Logger | None = None) -> None:
        self.connection = connection
        self.log = log
        self._verbose = bool(log and log.enabled("debug"))

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run one statement. Raises DatabaseError."""
        started = time.monotonic()
        try:
            cursor = self.connection.execute(sql, parameters or None)
        except psycopg.Error as error:
            refused = sql_error(error)
            self._line("error", sql, parameters, started, err=str(refused))
            raise refused from None
        if self._verbose:
            self._line("info", sql, parameters, started, commandTag=cursor.statusmessage or "")
        return cursor

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row, or None. Raises DatabaseError."""
        return self.execute(sql, parameters).fetchone()

    def _line(self, level: str, sql: str, parameters: tuple[Any, ...], started: float, **fields: Any) -> None:
        if self.log is None:
            return
        info = self.connection.info
        self.log.log(
            level,
            "Query",
            args=[value.hex() if isinstance(value, bytes) else value for value in parameters],
            database=info.dbname,
            duration_ms=int((time.monotonic() - started) * 1000),
            pid=info.backend_pid,
            sql=" ".join(sql.split()),
            **fields,
        )
