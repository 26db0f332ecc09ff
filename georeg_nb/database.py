"""A site's own PostgreSQL server, over PostgreSQL's protocol: connections that read, and what the server is.

Source: procedures 2.3; registry 8.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from georeg_nb.errors import DatabaseRefused
from georeg_nb.http import Route
from georeg_nb.parameters import DatabaseParameters

CONNECT_SECONDS = 10
IDLE_SECONDS = 30
"""An idle connection that is older is not used again: what is on the way may have forgotten it."""
Connection = psycopg.Connection[tuple[Any, ...]]
# Why these: the planner takes the three-column joins for one-row joins and probes 64 partition indexes per tag.
# Source: registry 8.
_SESSION: LiteralString = """
    SET default_transaction_read_only = on; SET jit = off; SET work_mem = '64MB'; SET statement_timeout = '10min';
    SET enable_partitionwise_join = on; SET enable_partitionwise_aggregate = on; SET enable_nestloop = off
"""


@dataclass(frozen=True)
class Server:
    """Facts of the server and of the account's rights. `version` is PostgreSQL's number, e.g. 170010."""

    version: int
    in_recovery: bool
    read_only_by_default: bool
    system_identifier: str
    owner: str
    may_create: bool
    bytea_output: str
    tls: bool
    tls_version: str

    @property
    def version_text(self) -> str:
        return f"{self.version // 10000}.{self.version % 10000}"


class IdleConnections:
    """Reading connections of one site between two questions: a new one costs the server its view of hundreds of
    partitions each time. Safe to use from several threads.

    psycopg's own pool hides why a server refuses behind a time-out; here the one who asks is told.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[float, Connection]] = []
        self._lock = threading.Lock()

    def take(self) -> Connection | None:
        """A connection that answers, with the session's settings as at its start; None where there is none."""
        while True:
            with self._lock:
                if not self._kept:
                    return None
                since, connection = self._kept.pop()
            try:
                if time.monotonic() - since < IDLE_SECONDS:
                    connection.execute(f"RESET ALL; {_SESSION}")
                    return connection
            except psycopg.Error:
                pass  # the server or the way to it went away meanwhile: a new connection tells
            connection.close()

    def give(self, connection: Connection) -> None:
        """Keep it for the next question."""
        with self._lock:
            self._kept.append((time.monotonic(), connection))

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End them all."""
        with self._lock:
            kept, self._kept = self._kept, []
        for _, connection in kept:
            connection.close()


class Database:
    """One database of one site. `site` is for messages; `route` leads there, where it is a way around.

    Reading connections are taken from `idle` and given back to it, where it is given.
    """

    def __init__(
        self,
        parameters: DatabaseParameters,
        *,
        site: str = "",
        route: Route | None = None,
        idle: IdleConnections | None = None,
    ) -> None:
        self.parameters = parameters
        self.site = site
        self.route = route
        self.idle = idle

    @property
    def address(self) -> str:
        """host:port/name, for messages."""
        return f"{self.parameters.host}:{self.parameters.port}/{self.parameters.name}"

    @contextmanager
    def connect(self, *, write: bool = False) -> Iterator[Connection]:
        """A connection; read-only, tuned for whole-registry queries, unless `write`. Raises DatabaseRefused."""
        try:
            if write:
                with self._connection(autocommit=False) as connection:
                    yield connection
            else:
                yield from self._reading()
        except psycopg.Error as error:
            raise self._refused(error) from None

    def _reading(self) -> Iterator[Connection]:
        connection = self.idle.take() if self.idle else None
        if not connection:
            connection = self._connection(autocommit=True)
            connection.execute(_SESSION)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self.idle:
            self.idle.give(connection)
        else:
            connection.close()

    def _connection(self, *, autocommit: bool) -> Connection:
        """Over a forward it is tried twice: one whose SSH connection has just broken still takes us, and closes."""
        try:
            return psycopg.connect(**self._options(), autocommit=autocommit)
        except psycopg.OperationalError:
            if not self.route:
                raise
        time.sleep(1)
        return psycopg.connect(**self._options(), autocommit=autocommit)

    def _options(self) -> dict[str, Any]:
        p = self.parameters
        options: dict[str, Any] = {
            "host": p.host,
            "port": p.connect_port or p.port,
            "dbname": p.name,
            "user": p.user,
            "password": p.password.resolve().reveal(),
            "sslmode": p.sslmode,
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "georeg",
        }
        if self.route:  # the name stays in `host`, where TLS checks it
            options["hostaddr"], options["port"] = self.route(p.host, p.port)
        elif p.connect_host:
            options["hostaddr"] = self._address_of(p.connect_host)
        if p.ca:
            options["sslrootcert"] = str(p.ca)
        return options

    def _address_of(self, host: str) -> str:
        try:
            return socket.gethostbyname(host)
        except OSError:
            raise DatabaseRefused(
                f"connect_host {host} is unknown", remedy=_REMEDIES_BY_TEXT["Name or service not known"], site=self.site
            ) from None

    def _refused(self, error: psycopg.Error) -> DatabaseRefused:
        state = error.sqlstate or ""
        text = str(error).strip().splitlines()
        message = " ".join(dict.fromkeys(line.strip() for line in text if line.strip()))
        remedy = _REMEDIES.get(state, "") or next((r for words, r in _REMEDIES_BY_TEXT.items() if words in message), "")
        return DatabaseRefused(
            f"the registry database {self.address} refuses: {message}", sqlstate=state, remedy=remedy, site=self.site
        )

    def rows(self, statement: LiteralString | sql.Composed, values: Any = None) -> list[Any]:
        """All rows of one reading statement, as tuples. Raises DatabaseRefused."""
        with self.connect() as connection:
            return connection.execute(statement, values).fetchall()

    def value(self, statement: LiteralString | sql.Composed, values: Any = None) -> Any:
        """The first column of the first row of one reading statement; None without a row. Raises DatabaseRefused."""
        rows = self.rows(statement, values)
        return rows[0][0] if rows else None

    def server(self) -> Server:
        """Facts of the server. Raises DatabaseRefused. Source: procedures 2.3 "Prerequisites"."""
        (row,) = self.rows("""
            SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
                (SELECT coalesce((SELECT option_value FROM pg_db_role_setting s, pg_options_to_table(ARRAY(
                    SELECT unnest(setconfig))) WHERE s.setdatabase = (SELECT oid FROM pg_database
                    WHERE datname = current_database()) AND option_name = 'default_transaction_read_only' LIMIT 1),
                    (SELECT reset_val FROM pg_settings WHERE name = 'default_transaction_read_only'))) = 'on',
                (SELECT system_identifier::text FROM pg_control_system()),
                (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()),
                has_schema_privilege(current_user, 'public', 'CREATE'), current_setting('bytea_output'),
                (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
                coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()), '')
        """)
        return Server(*row)


_REMEDIES = {
    "28P01": "correct the password that the sites file refers to, or the role's: ALTER ROLE … PASSWORD",
    "28000": "allow this user and address in pg_hba.conf, and reload PostgreSQL",
    "3D000": "create the database: CREATE DATABASE registry OWNER registry (procedures 2.3, step 1)",
    "42501": "make the registry's user the database's owner: ALTER DATABASE registry OWNER TO registry",
    "25006": "use a writable server of the site's own: this one is a standby or read-only",
    "42P01": "the schema is missing: `gitlab-ctl registry-database migrate up` on the registry node",
}
_REMEDIES_BY_TEXT = {
    "password authentication failed": _REMEDIES["28P01"],
    "does not exist": _REMEDIES["3D000"],
    "no pg_hba.conf entry": _REMEDIES["28000"],
    "certificate": "give the file with the database's certificate authority as `ca` of the database in the sites file",
    "server does not support SSL": "switch TLS on at the server, or set sslmode in the sites file knowingly",
    "closed the connection unexpectedly": "look at PostgreSQL's log; through a node (`via`): does it listen on that "
    "host and port, as the node reaches them?",
    "Connection refused": "is PostgreSQL running there, and are host and port in the sites file right?",
    "timeout expired": "is the host right, and does a firewall let this machine through?",
    "Name or service not known": "correct the host name in the sites file",
}
