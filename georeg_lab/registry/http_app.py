"""The running registry: what all handlers share, and how a request finds its handler."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.routing import Router
from tornado.web import Application

from georeg_lab.registry import http_routes
from georeg_lab.registry.auth import Authorization
from georeg_lab.registry.backend import Backend
from georeg_lab.registry.config import Config
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.health import HealthChecks
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.notifications import Broadcaster
from georeg_lab.registry.storage import Storage

WORKERS = 4
PATH_CHARACTERS = "/:@!$&'()*+,;=~"


@dataclass
class Registry:
    """One registry. `fell_back`: `prefer` found file system metadata, so that the v1 routes are there but broken."""

    config: Config
    log: Logger
    files: Storage
    secret: str
    authorization: Authorization
    events: Broadcaster
    health: HealthChecks
    backend: Backend
    pool: Pool | None = None
    read_only: bool = False
    fell_back: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    active: int = 0
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(WORKERS, "registry"))

    def __post_init__(self) -> None:
        self.idle.set()

    def count(self, change: int) -> None:
        """A request begins (1) or has ended (-1). `idle` is set while there is none."""
        self.active += change
        if self.active > 0:
            self.idle.clear()
        else:
            self.idle.set()

    @cached_property
    def access_log(self) -> Logger:
        """Where requests are logged: the server's log, in the access log's own format."""
        return Logger(self.log.stream, self.log.level, self.config.log.access_log.formatter, self.log.fields)

    @property
    def is_database(self) -> bool:
        """Whether the metadata database is in use."""
        return self.backend.is_database


class RouterOf(Router):
    """Hands each request to the handler of its route."""

    def __init__(self, registry: Registry, handlers: dict[str, Any], plain: dict[str, Any]) -> None:
        self.registry = registry
        self.handlers = handlers
        self.plain = plain
        self.application = Application(log_function=lambda _: None)  # the handlers log their requests themselves
        self.prefix = registry.config.http.prefix.rstrip("/")

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        """Called by tornado once a request's headers are there."""
        path = unquote(request.path)
        if self.prefix:
            if not path.startswith(self.prefix + "/"):
                return self._delegate(request, self.plain["unknown"], {})
            path = path[len(self.prefix) :]
        cleaned = http_routes.clean(path)
        if cleaned != path:
            settings = {"target": self.prefix + quote(cleaned, safe=PATH_CHARACTERS), "bare": True}
            return self._delegate(request, self.plain["redirect"], settings)
        if path == "/":
            return self._delegate(request, self.plain["alive"], {})
        found = http_routes.match(path)
        if found:
            route, names = found
            return self._delegate(request, self.handlers[route.name], {"route": route, "names": names})
        target = http_routes.redirect(path)
        if target:
            return self._delegate(request, self.plain["redirect"], {"target": self.prefix + target})
        return self._delegate(request, self.plain["unknown"], {})

    def _delegate(self, request: HTTPServerRequest, handler: Any, settings: dict[str, Any]) -> HTTPMessageDelegate:
        return self.application.get_handler_delegate(request, handler, {"registry": self.registry, **settings})
