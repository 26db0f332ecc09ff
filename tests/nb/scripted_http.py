"""An HTTP server that answers what a test planned, in that order, and notes every request that nobody planned."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tornado.httpserver
import tornado.httputil
import tornado.netutil
import tornado.web


@dataclass
class Answer:
    """What is sent back. `drop` breaks the connection instead; `wait` seconds pass first."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    wait: float = 0


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class ScriptedServer:
    """`plan("GET", "/v2/", Answer(...), …)`: answers for a method and path with query, each used once, the last one
    again and again. `requests` is what came, `unplanned` what nobody expected (answered 599).
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.unplanned: list[str] = []
        self._plan: dict[tuple[str, str], deque[Answer]] = defaultdict(deque)
        self._lock = threading.Lock()
        self.port = 0
        self.scheme = "http"
        self.answers: Callable[[Request], Answer | None] = lambda request: None
        """Asked before the plan: for answers that depend on the request."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def plan(self, method: str, path: str, *answers: Answer) -> None:
        self._plan[method, path].extend(answers or [Answer()])

    def came(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if (answer := self.answers(request)) is not None:
                return answer
            planned = self._plan.get((request.method, request.path))
            if not planned:
                self.unplanned.append(f"{request.method} {request.path}")
                return Answer(599, b"not planned")
            return planned.popleft() if len(planned) > 1 else planned[0]


def json_answer(data: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})


@contextmanager
def scripted(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    """A running server; at the end, unplanned requests fail the test."""
    server = ScriptedServer()
    server.scheme = "https" if tls else "http"
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def handle(request: tornado.httputil.HTTPServerRequest) -> None:
        got = Request(request.method or "", request.uri or "", dict(request.headers), request.body)
        answer = server.answer(got)
        await asyncio.sleep(answer.wait)
        connection = request.connection
        assert connection is not None
        if answer.drop:
            connection.stream.close()  # type: ignore[attr-defined]
            return
        headers = tornado.httputil.HTTPHeaders({"Content-Length": str(len(answer.body)), **answer.headers})
        start = tornado.httputil.ResponseStartLine("HTTP/1.1", answer.status, "")
        connection.write_headers(start, headers, b"" if got.method == "HEAD" else answer.body)
        connection.finish()

    def run() -> None:
        asyncio.set_event_loop(loop)

        async def start() -> None:
            http = tornado.httpserver.HTTPServer(
                lambda request: asyncio.ensure_future(handle(request)),
                ssl_options=tls,
            )
            sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", socket.AF_INET)
            server.port = sockets[0].getsockname()[1]
            http.add_sockets(sockets)
            stop.append(http)
            ready.set()

        loop.run_until_complete(start())
        loop.run_forever()

    stop: list[tornado.httpserver.HTTPServer] = []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:

        async def end() -> None:
            stop[0].stop()
            await stop[0].close_all_connections()
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert server.unplanned == []
