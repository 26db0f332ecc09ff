"""Answers that need no route: liveness, no such page, a missing slash. Source: registry 2.4, 5, recorded answers."""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler, stream_request_body

from georeg_lab.registry import VERSION
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.http_errors import APIError, body

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def public_version() -> str:
    """The version as the headers show it."""
    return VERSION.removeprefix("v")


def correlation_id() -> str:
    """26 characters: time, then chance."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join(ULID[number >> shift & 31] for shift in range(125, -5, -5))


@stream_request_body
class Plain(RequestHandler):
    """An answer without tornado's own headers."""

    def initialize(self, registry: Registry, **settings: Any) -> None:
        """Called by tornado for each request."""
        self.registry = registry
        self.settings_given = settings
        self.started = time.monotonic()
        self.correlation = correlation_id()
        self.written = 0
        self._counted = True
        registry.count(1)

    def set_default_headers(self) -> None:
        """Only what the registry sends."""
        self.clear_header("Server")
        self.clear_header("Content-Type")

    def compute_etag(self) -> None:
        """No entity tag of our own."""

    def data_received(self, chunk: bytes) -> None:
        """A body that nobody asked for is read and dropped."""

    def text(self, status: int, content: str) -> None:
        """Answer with a line of text, as Go's `http.Error`."""
        self.set_status(status)
        self.set_header("Content-Type", TEXT)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.body(content.encode() + b"\n")

    def body(self, content: bytes) -> None:
        """The whole body of the answer."""
        self.written = 0 if self.request.method == "HEAD" else len(content)
        self.write(content)

    def refused_by_health(self) -> bool:
        """Answer 503 while a health check fails."""
        if not self.registry.health.failing:
            return False
        error = APIError("UNAVAILABLE", "health check failed: please see /debug/health")
        self.set_status(error.status)
        self.set_header("Content-Type", JSON)
        self.body(body([error]))
        return True

    def answer(self) -> None:
        """Overridden by each kind."""

    async def end(self) -> None:
        """Finish the answer; a client that has gone does not matter any more."""
        with contextlib.suppress(StreamClosedError):
            await self.finish()

    def leave(self) -> None:
        """The request no longer holds up the end of the server."""
        if self._counted:
            self._counted = False
            self.registry.count(-1)

    def on_connection_close(self) -> None:
        """The client has gone before it was answered."""
        super().on_connection_close()
        self.leave()

    async def _answer(self) -> None:
        if not self.refused_by_health():
            self.answer()
        await self.end()

    get = head = post = put = patch = delete = options = _answer

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What tornado refuses by itself: a malformed request, an unknown method."""
        self.text(status_code, "Method not allowed" if status_code == 405 else "400 Bad Request")
        self.finish()

    @property
    def client(self) -> str:
        """Address and port of the client."""
        address = getattr(self.request.connection, "context", None)
        remote = getattr(address, "address", None)
        return f"{remote[0]}:{remote[1]}" if isinstance(remote, tuple) else str(self.request.remote_ip)

    def on_finish(self) -> None:
        """The access log."""
        self.leave()
        if self.registry.config.log.access_log.disabled:
            return
        request = self.request
        spent = int((time.monotonic() - self.started) * 1000)
        self.registry.access_log.info(
            "access",
            content_type=self._headers.get("Content-Type", ""),
            correlation_id=self.correlation,
            duration_ms=spent,
            host=request.host,
            method=request.method,
            proto=request.version,
            referrer=request.headers.get("Referer", ""),
            remote_addr=self.client,
            remote_ip=request.remote_ip,
            status=self.get_status(),
            system="http",
            ttfb_ms=spent,
            uri=request.uri,
            user_agent=request.headers.get("User-Agent", ""),
            written_bytes=self.written,
        )


class Alive(Plain):
    """`GET /`: liveness."""

    def answer(self) -> None:
        self.set_header("Cache-Control", "no-cache")


class Unknown(Plain):
    """No route."""

    def answer(self) -> None:
        self.text(404, "404 page not found")


class Redirect(Plain):
    """The path is to be written otherwise: a slash is missing or too much, a part of it is empty or dotted."""

    def answer(self) -> None:
        target = self.settings_given["target"] + (f"?{self.request.query}" if self.request.query else "")
        self.set_status(301)
        self.set_header("Location", target)
        if self.settings_given.get("bare"):
            return
        if target.startswith("/v2"):
            self.set_header("Docker-Distribution-Api-Version", "registry/2.0")
        if self.request.method in ("GET", "HEAD"):
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.body(f'<a href="{target}">Moved Permanently</a>.\n\n'.encode())
