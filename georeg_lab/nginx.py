"""The site's front door, as GitLab's bundled nginx: TLS on both external URLs, plain HTTP to Rails and the registry.

`python -m georeg_lab.nginx --root ROOT`. Addresses and certificates are what reconfigure left in ROOT/run/lab.json.
Bodies are held in memory and limited to MAX_BODY, which is plenty for synthetic images.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient
from tornado.web import Application, RequestHandler

from georeg_lab.layout import inside, root_from_environment

MAX_BODY = 64 * 1024 * 1024
UPSTREAM_SECONDS = 300.0
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection", "expect"}

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


@dataclass(frozen=True)
class Host:
    """A virtual host: where it listens, where it sends its requests, and what it says when nothing answers there."""

    port: int
    upstream: int
    unavailable: str
    certificate: Path
    key: Path


class Proxy(RequestHandler):
    """Hand the request on, and the answer back, unchanged but for the headers between two hops."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def initialize(self, host: Host, client: SimpleAsyncHTTPClient) -> None:
        """Called by tornado for each request."""
        self.host = host
        self.client = client

    def set_default_headers(self) -> None:
        """Only what the upstream says, and nginx as the server."""
        self.clear_header("Content-Type")
        self.set_header("Server", "nginx")

    def compute_etag(self) -> None:
        """No entity tag of our own."""

    async def _hand_on(self) -> None:
        headers = HTTPHeaders()
        for name, value in self.request.headers.get_all():
            if name.lower() not in HOP_BY_HOP:
                headers.add(name, value)
        headers["X-Real-IP"] = str(self.request.remote_ip)
        headers["X-Forwarded-For"] = str(self.request.remote_ip)
        headers["X-Forwarded-Proto"] = "https"
        headers["X-Forwarded-Host"] = self.request.host
        has_body = bool(self.request.body) or self.request.method in ("POST", "PUT", "PATCH")
        request = HTTPRequest(
            f"http://127.0.0.1:{self.host.upstream}{self.request.uri}",
            method=str(self.request.method),
            headers=headers,
            body=self.request.body if has_body else None,
            follow_redirects=False,
            decompress_response=False,
            allow_nonstandard_methods=True,
            connect_timeout=5,
            request_timeout=UPSTREAM_SECONDS,
        )
        try:
            answer = await self.client.fetch(request, raise_error=False)
        except HTTPTimeoutError:
            self._fail(504, "504 Gateway Time-out")
            return
        except (OSError, HTTPError):
            self._fail(502, "502 Bad Gateway")
            return
        self.set_status(answer.code, answer.reason)
        for name, value in answer.headers.get_all():
            if name.lower() not in HOP_BY_HOP | {"content-length", "server", "date"}:
                self.add_header(name, value)
        if self.request.method == "HEAD" and "Content-Length" in answer.headers:
            self.set_header("Content-Length", answer.headers["Content-Length"])
        if answer.body and self.request.method != "HEAD":
            self.write(answer.body)

    get = head = post = put = patch = delete = options = _hand_on

    def _fail(self, status: int, title: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/html")
        self.write(self.host.unavailable.replace("502 Bad Gateway", title))


async def serve(hosts: Iterable[Host]) -> list[HTTPServer]:
    """Listen with TLS on 127.0.0.1 for every host. Stop with `server.stop()`."""
    client = SimpleAsyncHTTPClient(force_instance=True)
    client.initialize(max_clients=100, max_body_size=MAX_BODY, max_buffer_size=MAX_BODY)
    servers = []
    for host in hosts:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(host.certificate, host.key)
        application = Application([(r".*", Proxy, {"host": host, "client": client})], log_function=_no_log)
        server = HTTPServer(application, ssl_options=context, max_buffer_size=MAX_BODY, max_body_size=MAX_BODY)
        server.listen(host.port, "127.0.0.1")
        servers.append(server)
    return servers


def _no_log(_: RequestHandler) -> None:
    """The upstreams log their requests themselves."""


def hosts_of(root: Path) -> list[Host]:
    """The virtual hosts of a node: GitLab's, and the registry's where it has an https address."""
    facts = json.loads(inside(root, "/run/lab.json").read_text())
    found = []
    for url, section, upstream, unavailable in (
        (facts["external_url"], "nginx", facts["puma_port"], GITLAB_502),
        (facts["registry_external_url"], "registry_nginx", facts["registry_http_addr"], PLAIN_502),
    ):
        address = urlsplit(str(url or ""))
        if address.scheme == "https" and upstream:
            certificate, key = (
                inside(root, facts[section][name]) for name in ("ssl_certificate", "ssl_certificate_key")
            )
            port = int(str(upstream).rpartition(":")[2])
            found.append(Host(address.port or 443, port, unavailable, certificate, key))
    return found


async def main(root: Path) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP (reload) is ignored: nothing here can change."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    servers = await serve(hosts_of(root))
    await stop.wait()
    for server in servers:
        server.stop()


if __name__ == "__main__":
    asyncio.run(main(root_from_environment()))
