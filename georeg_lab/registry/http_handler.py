"""What every answer of the API has in common: authorization, errors, URLs, log lines. Source: registry 5."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tornado.iostream import StreamClosedError

from georeg_lab.registry import durations
from georeg_lab.registry.auth import Access, Grant, Unauthorized
from georeg_lab.registry.backend import InternalError, UnavailableError
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.http_base import JSON, Plain, public_version
from georeg_lab.registry.http_errors import GO_ERROR, APIError, APIErrors, body, go_json
from georeg_lab.registry.http_routes import NAME_LIMIT, Route
from georeg_lab.registry.storage import StorageError

_FORWARDED = re.compile(r'(proto|host)="?([^";\s]+)')
NIL_POINTER = "runtime error: invalid memory address or nil pointer dereference"


class Handler(Plain):
    """A route of the API. Subclasses have `do_get`, … which run in a worker thread and may block.

    `opened` runs before the request's body is read, `receive` takes its pieces."""

    needs_repository = True

    def initialize(self, registry: Registry, **settings: Any) -> None:
        super().initialize(registry)
        self.route: Route = settings["route"]
        self.names: dict[str, str] = settings["names"]
        self.grant = Grant()
        self.errors: list[APIError] = []
        self.dropped = False
        self.refused = False

    # --- what subclasses use

    @property
    def repository(self) -> str:
        """The repository that the path names."""
        return self.names.get("name", "")

    @property
    def backend(self) -> Any:
        """The registry's metadata."""
        return self.registry.backend

    def required(self) -> list[Access]:
        """The rights that the request needs."""
        name = self.repository
        if not name:
            return []
        actions = {
            "GET": ("pull",),
            "HEAD": ("pull",),
            "POST": ("pull", "push"),
            "PUT": ("pull", "push"),
            "PATCH": ("pull", "push"),
            "DELETE": ("delete",),
        }
        return [Access("repository", name, action) for action in actions.get(str(self.request.method), ())]

    def opened(self) -> None:
        """Called in a worker thread before the body is read, where a subclass has one."""

    def before_refusal(self) -> None:
        """What is looked at before a method that is not allowed is refused. Raises APIErrors."""

    def receive(self, chunk: bytes) -> None:
        """Take a piece of the body."""

    def query(self, name: str) -> str:
        """A parameter of the query, the first of several, "" if there is none."""
        return next(iter(self.get_query_arguments(name, strip=False)), "")

    def json(self, value: Any, status: int = 200, newline: bool = True) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", JSON)
        self.body(go_json(value) + (b"\n" if newline else b""))

    def url(self, path: str, **query: str) -> str:
        """The URL under which the client reaches a path: absolute, unless configured otherwise."""
        http = self.registry.config.http
        full = http.prefix.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        if http.relative_urls:
            return full
        if http.host:
            return http.host.rstrip("/") + full
        headers = self.request.headers
        forwarded = dict(_FORWARDED.findall(headers.get("Forwarded", "").split(",")[0].lower()))
        scheme = forwarded.get("proto") or headers.get("X-Forwarded-Proto", "").split(",")[0].strip()
        host = forwarded.get("host") or headers.get("X-Forwarded-Host", "").split(",")[0].strip()
        return f"{scheme or self.request.protocol}://{host or self.request.host}{full}"

    def next_link(self, **query: Any) -> str:
        """A `Link` to another page of this list; parameters sorted, as Go writes them."""
        return f"<{self.request.path}?{urlencode(sorted((k, v) for k, v in query.items() if v != ''))}>"

    def announce(self, action: str, target: dict[str, Any], **more: Any) -> None:
        """Send an event about this request."""
        request = {
            "id": str(uuid.uuid4()),
            "addr": self.client,
            "host": self.request.host,
            "method": self.request.method,
            "useragent": self.request.headers.get("User-Agent", ""),
        }
        self.registry.events.send(action, target, request, self.grant.actor(), **more)

    def drop_connection(self) -> None:
        """End the connection without an answer, as a panic of the real program does. Call in the event loop."""
        self.dropped = True
        now = datetime.now().strftime("%Y/%m/%d %H:%M:%S")
        print(f"{now} http: panic serving {self.client}: {NIL_POINTER}", file=sys.stderr, flush=True)
        self.registry.log.log("panic", NIL_POINTER, stack="")
        self.leave()
        self.detach().close()

    # --- how a request goes

    async def in_thread(self, work: Any) -> Any:
        """Run something that blocks in a worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self.registry.executor, work)

    async def prepare(self) -> None:
        """Everything that comes before the request's body.

        A refusal is sent once the body has come: a client that is still sending might not see it otherwise."""
        if self.refused_by_health():
            self.refused = True
            return
        self._log_route()
        try:
            self.refused = not self._admitted()
            if not self.refused and type(self).opened is not Handler.opened:
                await self._guarded(self.opened)
        except APIErrors as errors:
            self.errors = errors.errors

    def _admitted(self) -> bool:
        if not self.route.is_v1:
            self.set_header("Docker-Distribution-Api-Version", "registry/2.0")
            for name, values in self.registry.config.http.header_lists.items():
                self.clear_header(name)
                for value in values:
                    self.add_header(name, value)
        self._authorize()
        if self.route.is_v1 and not self.registry.is_database and not self._v1_falls_back():
            self.set_header("Gitlab-Container-Registry-Version", public_version())
            self.set_status(404)
            return False
        if self.route.is_v1 and not self.registry.is_database and self.route.name != "v1-base":
            self.drop_connection()
            return False
        if len(self.repository) > NAME_LIMIT:
            raise APIErrors([APIError("UNKNOWN", {"Name": self.repository, "Reason": GO_ERROR})])
        methods = self.route.methods(self.registry.read_only)
        if methods and self.request.method not in methods:
            self.before_refusal()
            self.set_header("Allow", ", ".join(methods))
            if self.request.method == "OPTIONS":
                self.set_status(200)
            else:
                self.text(405, "Method not allowed")
            return False
        return True

    def _v1_falls_back(self) -> bool:
        return self.registry.fell_back

    def _authorize(self) -> None:
        required = self.required()
        header = self.request.headers.get("Authorization")
        try:
            self.grant = self.registry.authorization.authorize(header, self.request.host, required)
        except Unauthorized as refused:
            self.set_header("WWW-Authenticate", refused.challenge)
            self.registry.log.warning(
                "error authorizing context", correlation_id=self.correlation, error=str(refused), uri=self.request.uri
            )
            detail = [access.entry() for access in required] or None
            raise APIErrors([APIError("UNAUTHORIZED", detail)]) from None

    def data_received(self, chunk: bytes) -> None:
        """Called by tornado for each piece of the body."""
        if not self.refused and not self.errors:
            try:
                self.receive(chunk)
            except StorageError as error:
                self.errors.append(APIError("UNKNOWN", str(error)))

    async def _guarded(self, work: Any) -> None:
        """Run in a worker thread; every failure becomes APIErrors."""
        try:
            await self.in_thread(work)
        except APIErrors as errors:
            self.errors = errors.errors
            raise
        except APIError as error:
            raise self._failed(error) from None
        except UnavailableError:
            raise self._failed(APIError("UNAVAILABLE", GO_ERROR)) from None
        except InternalError as error:
            self.registry.log.error(str(error), correlation_id=self.correlation)
            raise self._failed(APIError("UNKNOWN", GO_ERROR)) from None
        except Exception as error:
            self.registry.log.error(f"{type(error).__name__}: {error}", correlation_id=self.correlation)
            raise self._failed(APIError("UNKNOWN", GO_ERROR)) from error

    def _failed(self, error: APIError) -> APIErrors:
        self.errors = [error]
        return APIErrors(self.errors)

    async def _serve(self) -> None:
        if self.refused:
            await self.end()
            return
        work = getattr(self, f"do_{str(self.request.method).lower()}", None)
        try:
            if self.errors:
                raise APIErrors(self.errors)
            if work is not None:
                await self._guarded(work)
            await self.stream()
        except StreamClosedError:
            return
        except APIErrors as errors:
            self.errors = errors.errors
            self._answer_errors()
        if not self._finished:
            await self.end()
        if not self.errors and self._completes():
            self._log_completed()

    get = head = post = put = patch = delete = options = _serve

    async def stream(self) -> None:
        """Called in the event loop after the method: send a body that is too big for memory."""

    def _completes(self) -> bool:
        return self.route.name != "v1-base" or self.registry.is_database or self.registry.fell_back

    def _answer_errors(self) -> None:
        if not self.errors:
            return
        for name in ("Content-Length", "Location"):
            self.clear_header(name)
        self.set_status(self.errors[0].status)
        self.set_header("Content-Type", JSON)
        self._write_buffer.clear()
        self.body(body(self.errors))
        request = self.request
        for error in self.errors:
            entry = error.entry()
            detail = entry.get("detail")
            self.registry.log.error(
                error.message,
                code=error.code,
                correlation_id=self.correlation,
                error=str(error) if detail is not None else error.code.lower().replace("_", " "),
                host=request.host,
                method=request.method,
                remote_addr=self.client,
                uri=request.uri,
                user_agent=request.headers.get("User-Agent", ""),
                **({"detail": _detail_text(detail)} if detail and not self.route.is_v1 else {}),
                **({} if self.route.is_v1 else {"root_repo": self.repository.split("/")[0], **self._log_names()}),
            )

    # --- log lines

    def _log_names(self) -> dict[str, str]:
        return {f"vars_{key}": value for key, value in self.names.items()}

    def _log_route(self) -> None:
        http = self.registry.config.http
        self.registry.log.info(
            "router info",
            config_http_addr=http.addr,
            config_http_host=http.host,
            config_http_net="" if http.net == "tcp" else http.net,
            config_http_prefix=http.prefix,
            config_http_relative_urls=http.relative_urls,
            correlation_id=self.correlation,
            method=self.request.method,
            path=self.request.path,
            root_repo=self.repository.split("/")[0],
            router="gorilla/mux",
            **self._log_names(),
        )

    def _log_completed(self) -> None:
        self.registry.log.info(
            "response completed",
            correlation_id=self.correlation,
            http_response_contenttype=self._headers.get("Content-Type", ""),
            http_response_duration=durations.text(time.monotonic() - self.started, 1e-6),
            http_response_status=self.get_status(),
            http_response_written=self.written,
        )


def _detail_text(detail: Any) -> str:
    """The detail of an error as a log line shows it."""
    if isinstance(detail, dict) and "Tag" in detail:
        return f"unknown tag={detail['Tag']}"
    if isinstance(detail, dict) and "Revision" in detail:
        return f"unknown manifest name={detail['Name']} revision={detail['Revision']}"
    return str(detail)


class Base(Handler):
    """`/v2/`: which registry this is. Any method will do."""

    def _describe(self) -> None:
        self.set_header("Gitlab-Container-Registry-Version", public_version())
        self.set_header("Gitlab-Container-Registry-Features", "tag_delete")
        self.set_header("Gitlab-Container-Registry-Database-Enabled", "true" if self.registry.is_database else "false")
        self.json({}, newline=False)

    do_get = do_head = do_post = do_put = do_patch = do_delete = do_options = _describe
