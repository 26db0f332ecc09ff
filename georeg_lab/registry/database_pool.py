"""A few connections to the metadata database, shared by the server's threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from georeg_lab.registry import db
from georeg_lab.registry.backend import UnavailableError
from georeg_lab.registry.config import Database
from georeg_lab.registry.db import Queries
from georeg_lab.registry.import_log import Logger

Result = TypeVar("Result")
Connection = psycopg.Connection[tuple[Any, ...]]
_UNREACHABLE = ("08", "57P")  # connection errors, shutdowns


class Pool:
    """Runs functions on connections that are made when needed. `size` bounds the idle ones that are kept."""

    def __init__(self, settings: Database, log: Logger, size: int = 2) -> None:
        self.settings = settings
        self.log = log.bare()
        self.size = size
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    def connect(self) -> Connection:
        """A new connection. Raises db.DatabaseConnectionError."""
        return db.connect(
            self.settings,
            log=self.log,
            connect_timeout=self.settings.connect_timeout,
            prepare=self.settings.prepared_statements,
        )

    def run(self, work: Callable[[Queries], Result]) -> Result:
        """`work` outside a transaction. A connection that turns out to be dead is replaced once.

        Raises UnavailableError, db.DatabaseError."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._work(connection, work)
            except UnavailableError:
                self.drop_idle()
        try:
            connection = self.connect()
        except db.DatabaseError as error:
            raise UnavailableError(str(error)) from None
        return self._work(connection, work)

    def transaction(self, work: Callable[[Queries], Result]) -> Result:
        """`work` in one transaction. Raises as `run`."""

        def in_transaction(queries: Queries) -> Result:
            with queries.connection.transaction():
                return work(queries)

        return self.run(in_transaction)

    def _work(self, connection: Connection, work: Callable[[Queries], Result]) -> Result:
        kept = False
        try:
            result = work(Queries(connection, self.log))
            kept = True
            return result
        except db.DatabaseError as error:
            if connection.closed or error.sqlstate.startswith(_UNREACHABLE):
                raise UnavailableError(str(error)) from None
            kept = True
            raise
        except psycopg.OperationalError as error:  # while a transaction begins or ends
            raise UnavailableError(str(error)) from None
        finally:
            self._give_back(connection, kept)

    def _give_back(self, connection: Connection, kept: bool) -> None:
        with self._lock:
            if kept and not self._closed and not connection.closed and len(self._idle) < self.size:
                self._idle.append(connection)
                return
        with suppress(psycopg.Error):
            connection.close()

    def drop_idle(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(psycopg.Error):
                connection.close()

    def close(self) -> None:
        """Close the idle connections; one that is in use is closed when it comes back."""
        self._closed = True
        self.drop_idle()
