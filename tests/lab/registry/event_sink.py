"""An endpoint for events that keeps what it gets and answers as told."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class EventSink:
    """Listens on a free port of 127.0.0.1. `answers` are used up one by one, then 200 follows."""

    answers: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> EventSink:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                with sink._changed:
                    status = sink.answers.pop(0) if sink.answers else 200
                    headers: dict[str, Any] = {}
                    for name, value in self.headers.items():
                        headers[name] = [headers[name], value] if name in headers else value
                    found = {"path": self.path, "headers": headers, "body": body}
                    sink.requests.append({**found, "answer": status, "time": time.monotonic()})
                    sink._changed.notify_all()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/api/v4/container_registry_event/events"

    def wait(self, count: int, seconds: float = 30) -> list[dict[str, Any]]:
        """Wait for that many requests in all; those that came."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.requests) >= count, seconds)
            return list(self.requests)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request["body"])["events"][0] for request in list(self.requests)]
