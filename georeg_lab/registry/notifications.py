"""Events and the endpoints that get them. Source: registry 2.3, 5.7.

One queue in memory and one thread per endpoint, one event at a time, strictly in order. Nothing is on disk."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from georeg_lab.registry.config import Endpoint, Notifications
from georeg_lab.registry.http_errors import go_json
from georeg_lab.registry.import_log import Logger

MEDIA_TYPE = "application/vnd.docker.distribution.events.v1+json"
DEFAULT_TIMEOUT = 1.0
DEFAULT_BACKOFF = 1.0
DEFAULT_RETRIES = 10
DEFAULT_QUEUE = 3000
DEFAULT_PURGE = 5.0
MAX_PAUSE = 60.0
MAX_ELAPSED = 15 * 60.0
GROWTH = 1.5
JITTER = 0.5

Event = dict[str, Any]


def go_time() -> str:
    """The present time as Go writes it (RFC 3339 with up to nine digits)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"


def retries(endpoint: Endpoint) -> int:
    """How often an event is sent again: `maxretries`, else what `threshold` is worth, else 10. Source: registry 2.3."""
    if endpoint.max_retries:
        return endpoint.max_retries
    if not endpoint.threshold:
        return DEFAULT_RETRIES
    backoff = endpoint.backoff or DEFAULT_BACKOFF
    room, pause, count = min(120 * backoff, MAX_ELAPSED), backoff, 0
    while room >= pause:
        room -= pause
        pause = min(pause * GROWTH, MAX_PAUSE)
        count += 1
    return max(count, endpoint.threshold)


def tls_context() -> ssl.SSLContext:
    """Trusts what Go would trust: `SSL_CERT_FILE`, and every file in `SSL_CERT_DIR`, hashed name or not."""
    context = ssl.create_default_context()
    for folder in filter(None, os.environ.get("SSL_CERT_DIR", "").split(":")):
        for file in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
            try:
                context.load_verify_locations(cafile=file)
            except (OSError, ssl.SSLError):
                continue
    return context


def go_indented(value: Any) -> bytes:
    """JSON with Go's escapes, indented by three blanks."""
    import json

    plain = json.loads(go_json(value))
    text = json.dumps(plain, ensure_ascii=False, indent=3)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


class Sink:
    """One endpoint: filter, queue, sender with retries."""

    def __init__(self, endpoint: Endpoint, log: Logger) -> None:
        self.endpoint = endpoint
        self.log = log
        self.limit = endpoint.queue_size_limit or DEFAULT_QUEUE
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._aborted = threading.Event()
        self._pool: Any = None
        self._thread = threading.Thread(target=self._work, name=f"events-{endpoint.name}", daemon=True)
        self._thread.start()

    def wants(self, event: Event) -> bool:
        """Whether neither the event's action nor its media type is ignored."""
        endpoint = self.endpoint
        ignored = {*endpoint.ignored_media_types, *endpoint.ignore.mediatypes}
        return event["target"].get("mediaType") not in ignored and event["action"] not in endpoint.ignore.actions

    def put(self, event: Event) -> None:
        """Queue an event; when the queue is full it is dropped."""
        if not self.wants(event):
            return
        with self._changed:
            if self._closing:
                return
            if len(self._queue) >= self.limit:
                self.log.warning("queue full, dropping event", endpoint=self.endpoint.name)
                return
            self._queue.append(event)
            self._changed.notify()

    def close(self) -> None:
        """Send what is queued for at most `queuepurgetimeout`, then give up the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(self.endpoint.queue_purge_timeout or DEFAULT_PURGE)
        self._aborted.set()
        self._thread.join(1)
        while self._queue:
            self._lost(self._queue.popleft())

    def _lost(self, event: Event) -> None:
        self.log.error(f"eventqueue: event lost: {event['action']} {event['id']}", endpoint=self.endpoint.name)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue or self._aborted.is_set():
                    return
                event = self._queue[0]
            if not self._deliver(event):
                self._lost(event)
            with self._changed:
                self._queue.popleft()

    def _deliver(self, event: Event) -> bool:
        """Send until accepted. False when the retries or the time are used up."""
        pause, started = self.endpoint.backoff or DEFAULT_BACKOFF, time.monotonic()
        body = go_indented({"events": [event]})
        for left in range(retries(self.endpoint), -1, -1):
            problem = self._post(body)
            if not problem:
                return True
            self.log.error("backoffSink: error writing event", endpoint=self.endpoint.name, error=problem)
            wait = pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            if not left or time.monotonic() - started + wait > MAX_ELAPSED or self._aborted.wait(wait):
                return False
            pause = min(pause * GROWTH, MAX_PAUSE)
        return False

    def _post(self, body: bytes) -> str:
        """Send once. Returns what went wrong, "" if the endpoint accepted."""
        import urllib3

        if self._pool is None:
            self._pool = urllib3.PoolManager(ssl_context=tls_context(), retries=False)
        headers = urllib3.HTTPHeaderDict({"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"})
        for name, values in self.endpoint.header_lists.items():
            for value in values:
                headers.add(name, value)
        headers["Content-Type"] = MEDIA_TYPE
        timeout = self.endpoint.timeout or DEFAULT_TIMEOUT
        try:
            answer = self._pool.request(
                "POST", self.endpoint.url, body=body, headers=headers, redirect=False, timeout=timeout
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return f"{self.endpoint.url}: {type(error).__name__}: error posting: {error}"
        status = int(answer.status)
        return "" if 200 <= status < 400 else f"{self.endpoint.url}: response status {status} unaccepted"


class Broadcaster:
    """Hands every event to all endpoints that are not disabled."""

    def __init__(self, settings: Notifications, address: str, log: Logger) -> None:
        self.log = log
        self.include_references = settings.events.include_references
        self.sinks = [Sink(endpoint, log) for endpoint in settings.endpoints if not endpoint.disabled]
        port = address.rpartition(":")[2]
        self.source = {"addr": f"{socket.gethostname()}:{port}", "instanceID": str(uuid.uuid4())}

    def send(
        self,
        action: str,
        target: dict[str, Any],
        request: dict[str, Any],
        actor: dict[str, str],
        *,
        references: Sequence[dict[str, Any]] = (),
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Announce one change or pull that has happened. `references` are left out unless configured."""
        if not self.sinks:
            return
        if references and self.include_references:
            target = {**target, "references": list(references)}
        event: Event = {
            "id": str(uuid.uuid4()),
            "timestamp": go_time(),
            "action": action,
            "target": target,
            "request": request,
            "actor": actor,
            "source": self.source,
        }
        if meta:
            event["meta"] = meta
        for sink in self.sinks:
            sink.put(event)

    def close(self) -> None:
        """Stop all endpoints."""
        self.log.info("broadcaster: closing")
        threads = [threading.Thread(target=sink.close) for sink in self.sinks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
