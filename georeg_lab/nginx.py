"""The site's front door, as GitLab's bundled nginx: TLS on both external URLs, plain HTTP to Rails and the registry.

`python -m georeg_lab.nginx --root ROOT`. Addresses and certificates are what reconfigure left in ROOT/run/lab.json.
Bodies are held in memory and limited to MAX_BODY, which is plenty for synthetic images. Every request of a rehearsal
goes through here, so connections to the upstreams are kept open, and nothing is parsed that is only handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import ssl
from asyncio import LimitOverrunError, StreamReader, StreamWriter
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

from georeg_lab.layout import Lab, inside, root_from_environment

MAX_BODY = 64 * 1024 * 1024
MAX_HEAD = 64 * 1024
CONNECT_SECONDS, UPSTREAM_SECONDS = 5.0, 300.0
IDLE_CONNECTIONS = 32
HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"proxy-connection"),
    *(b"expect", b"content-length"),
}
OURS = {b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
SET_ANEW = {b"server", b"date"}
REPEATABLE = {b"GET", b"HEAD", b"OPTIONS"}
BODILESS = {b"204", b"304"}

GITLAB_502 = """<!DOCTYPE html>
<html>
<head><title>GitLab is not responding (502)</title></head>
<body>
<h1>502</h1>
<h3>Whoops, GitLab is taking too much time to respond.</h3>
</body>
</html>
"""
PLAIN_502 = """<html>
<head><title>502 Bad Gateway</title></head>
<body>
<center><h1>502 Bad Gateway</h1></center>
<hr><center>nginx</center>
</body>
</html>
"""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Host:
    """A virtual host: where it listens, where it sends its requests, and what it says when nothing answers there."""

    port: int
    upstream: int
    unavailable: str
    certificate: Path
    key: Path
    more: tuple[int, ...] = ()  # other upstreams, which take turns with it


class Refused(Exception):
    """A request that nginx itself refuses; the message is the status line's end."""


@dataclass
class Message:
    """A request or an answer: its first line's three parts, headers, and the whole body."""

    line: list[bytes]
    headers: Headers
    body: bytes = b""

    def header(self, name: bytes) -> bytes:
        """The first header of this name (lower case), b"" if there is none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    @property
    def closes(self) -> bool:
        """The sender closes the connection after this message."""
        version = next((part for part in self.line if part.startswith(b"HTTP/")), b"")
        return version == b"HTTP/1.0" or b"close" in self.header(b"connection").lower()


async def read_head(reader: StreamReader) -> Message:
    """First line and headers. Raises EOFError when there is nothing more, Refused for what is no HTTP."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except LimitOverrunError:
        raise Refused("400 Request Header Or Cookie Too Large") from None
    first, *lines = head[:-4].split(b"\r\n")
    line = first.split(b" ", 2)
    if len(line) < 2:
        raise Refused("400 Bad Request")
    parts = (text.partition(b":") for text in lines)
    return Message(line, [(name, value.strip()) for name, _, value in parts])


async def read_body(reader: StreamReader, message: Message) -> bytes | None:
    """The body as the headers announce it; None where only the connection's end would tell."""
    if b"chunked" in message.header(b"transfer-encoding").lower():
        return await _read_chunks(reader)
    length = message.header(b"content-length")
    if not length:
        return None
    if not length.isdigit():
        raise Refused("400 Bad Request")
    if int(length) > MAX_BODY:
        raise Refused("413 Request Entity Too Large")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        try:
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        except ValueError:
            raise Refused("400 Bad Request") from None
        total += size
        if total > MAX_BODY:
            raise Refused("413 Request Entity Too Large")
        if not size:
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                pass
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)


@dataclass
class Upstream:
    """A local port that answers plain HTTP, and connections to it that are kept open between requests."""

    port: int
    idle: list[tuple[StreamReader, StreamWriter]] = field(default_factory=list)

    async def ask(self, method: bytes, request: bytes) -> Message:
        """The answer. Raises OSError, EOFError or Refused when there is none, TimeoutError when it takes too long."""
        while self.idle:
            reader, writer = self.idle.pop()
            if reader.at_eof() or writer.is_closing():
                writer.close()
                continue
            try:
                return await self._ask(reader, writer, method, request)
            except (OSError, EOFError) as problem:
                # closed just now, or in the middle of work: only what changes nothing is asked again
                if method not in REPEATABLE or isinstance(problem, TimeoutError):
                    raise
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=MAX_HEAD)
        return await self._ask(reader, writer, method, request)

    async def _ask(self, reader: StreamReader, writer: StreamWriter, method: bytes, request: bytes) -> Message:
        reusable = False
        try:
            async with asyncio.timeout(UPSTREAM_SECONDS):
                writer.write(request)
                await writer.drain()
                answer = await read_head(reader)
                while answer.line[1].startswith(b"1"):
                    answer = await read_head(reader)
                if method == b"HEAD" or answer.line[1] in BODILESS:
                    reusable = not answer.closes
                elif (body := await read_body(reader, answer)) is not None:
                    answer.body, reusable = body, not answer.closes
                else:
                    answer.body = await reader.read(-1)
            return answer
        finally:
            if reusable and len(self.idle) < IDLE_CONNECTIONS:
                self.idle.append((reader, writer))
            else:
                writer.close()


class Proxy:
    """Hands requests on, and answers back, unchanged but for the headers between two hops."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.upstreams = [Upstream(port) for port in (host.upstream, *host.more)]
        self._turn = itertools.cycle(range(len(self.upstreams)))
        self._clients: set[StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Listen with TLS on 127.0.0.1."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.host.certificate, self.host.key)
        self._server = await asyncio.start_server(
            self._converse, "127.0.0.1", self.host.port, ssl=context, limit=MAX_HEAD
        )

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server:
            self._server.close()
        for writer in [*self._clients, *(writer for upstream in self.upstreams for _, writer in upstream.idle)]:
            writer.transport.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _ask(self, method: bytes, request: bytes) -> Message:
        """The answer of the upstream whose turn it is; where nobody listens, of the next one."""
        first = next(self._turn)
        for number in range(first, first + len(self.upstreams) - 1):
            try:
                return await self.upstreams[number % len(self.upstreams)].ask(method, request)
            except ConnectionRefusedError:
                continue
        return await self.upstreams[first - 1].ask(method, request)

    async def _converse(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one client's connection to its end."""
        self._clients.add(writer)
        with contextlib.suppress(OSError, EOFError):
            while await self._exchange(reader, writer):
                await writer.drain()
            await writer.drain()
        self._clients.discard(writer)
        writer.close()

    async def _exchange(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """One request and its answer; whether the connection stays."""
        try:
            request = await read_head(reader)
            if b"100-continue" in request.header(b"expect").lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.body = await read_body(reader, request) or b""
        except Refused as refusal:
            writer.write(self._failure(str(refusal), b"", stays=False))
            return False
        method, stays = request.line[0], not request.closes
        try:
            client = str(writer.get_extra_info("peername")[0])
            found = await self._ask(method, _to_upstream(request, client.encode()))
        except TimeoutError:
            writer.write(self._failure("504 Gateway Time-out", method, stays=stays))
        except (OSError, EOFError, Refused):
            writer.write(self._failure("502 Bad Gateway", method, stays=stays))
        else:
            writer.write(_to_client(found, method, stays=stays))
        return stays

    def _failure(self, title: str, method: bytes, *, stays: bool) -> bytes:
        page = self.host.unavailable.replace("502 Bad Gateway", title).encode()
        headers = [(b"Content-Type", b"text/html"), (b"Content-Length", str(len(page)).encode())]
        return _answer(title.encode(), headers, b"" if method == b"HEAD" else page, stays=stays)


def _to_upstream(request: Message, client: bytes) -> bytes:
    method, target = request.line[:2]
    headers = [
        *((name, value) for name, value in request.headers if name.lower() not in HOP_BY_HOP | OURS),
        (b"X-Real-IP", client),
        (b"X-Forwarded-For", client),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", request.header(b"host")),
    ]
    if request.body or method in (b"POST", b"PUT", b"PATCH"):
        headers.append((b"Content-Length", str(len(request.body)).encode()))
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, _lines(headers), request.body)


def _to_client(found: Message, method: bytes, *, stays: bool) -> bytes:
    headers = [(name, value) for name, value in found.headers if name.lower() not in HOP_BY_HOP | SET_ANEW]
    status = found.line[1]
    length = found.header(b"content-length") if method == b"HEAD" else str(len(found.body)).encode()
    if length and status not in BODILESS:
        headers.append((b"Content-Length", length))
    return _answer(b" ".join(found.line[1:]), headers, found.body, stays=stays)


def _answer(status: bytes, headers: Headers, body: bytes, *, stays: bool) -> bytes:
    ours = [
        (b"Server", b"nginx"),
        (b"Date", formatdate(usegmt=True).encode()),
        (b"Connection", b"keep-alive" if stays else b"close"),
    ]
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, _lines([*ours, *headers]), body)


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


async def serve(hosts: Iterable[Host]) -> list[Proxy]:
    """Listen with TLS on 127.0.0.1 for every host. Stop with `await proxy.close()`."""
    proxies = [Proxy(host) for host in hosts]
    for proxy in proxies:
        await proxy.listen()
    return proxies


def hosts_of(root: Path) -> list[Host]:
    """The virtual hosts of a node: GitLab's, and the registry's where it has an https address.

    Where the site has more registry nodes, this is also the load balancer before them.
    """
    facts = json.loads(inside(root, "/run/lab.json").read_text())
    found = []
    for url, section, upstream, more, unavailable in (
        (facts["external_url"], "nginx", facts["puma_port"], (), GITLAB_502),
        (facts["registry_external_url"], "registry_nginx", facts["registry_http_addr"], _more(root), PLAIN_502),
    ):
        address = urlsplit(str(url or ""))
        if address.scheme == "https" and upstream:
            certificate, key = (
                inside(root, facts[section][name]) for name in ("ssl_certificate", "ssl_certificate_key")
            )
            port = int(str(upstream).rpartition(":")[2])
            found.append(Host(address.port or 443, port, unavailable, certificate, key, more))
    return found


def _more(root: Path) -> tuple[int, ...]:
    """Ports of the site's other registry nodes."""
    try:
        lab = Lab.of_root(root)
    except FileNotFoundError:
        return ()
    return tuple(lab.ports.registry_http(node) for node in lab.registry_nodes(root.name)[1:])


async def main(root: Path) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP (reload) is ignored: nothing here can change."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    proxies = await serve(hosts_of(root))
    await stop.wait()
    for proxy in proxies:
        await proxy.close()


if __name__ == "__main__":
    asyncio.run(main(root_from_environment()))
