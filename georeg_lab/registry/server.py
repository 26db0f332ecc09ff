"""`registry serve`: start, listen, stop. Source: registry 1.1, recorded starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import ssl
import sys
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler

from georeg_lab.registry import server_setup, uploads
from georeg_lab.registry.config import TLS, Config
from georeg_lab.registry.gc import OnlineGC
from georeg_lab.registry.http_app import Registry, RouterOf
from georeg_lab.registry.http_base import JSON, Alive, Redirect, Unknown
from georeg_lab.registry.http_blobs import Blobs
from georeg_lab.registry.http_catalog import Catalog, Tags
from georeg_lab.registry.http_errors import go_json
from georeg_lab.registry.http_handler import Base
from georeg_lab.registry.http_manifests import Manifests
from georeg_lab.registry.http_uploads import Uploads
from georeg_lab.registry.v1_handlers import V1Base, V1Repositories, V1Repository, V1Statistics, V1Tag, V1Tags

ANY_SIZE = 1 << 50
SIGNALS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupt"}
HANDLERS: dict[str, Any] = {
    "base": Base,
    "catalog": Catalog,
    "tags": Tags,
    "manifest": Manifests,
    "blob": Blobs,
    "upload-start": Uploads,
    "upload": Uploads,
    "v1-base": V1Base,
    "v1-repository": V1Repository,
    "v1-tags": V1Tags,
    "v1-tag": V1Tag,
    "v1-repositories": V1Repositories,
    "v1-statistics": V1Statistics,
}
PLAIN: dict[str, Any] = {"alive": Alive, "redirect": Redirect, "unknown": Unknown}


class ListenError(Exception):
    """The address cannot be listened on; the message follows `running http server: `."""


class DebugHealth(RequestHandler):
    """`GET /debug/health` on the debug address."""

    def initialize(self, registry: Registry) -> None:
        """Called by tornado for each request."""
        self.registry = registry

    def compute_etag(self) -> None:
        """No entity tag of our own."""

    def get(self) -> None:
        """Problems of the failing checks by name."""
        failing = self.registry.health.failing
        self.set_status(503 if failing else 200)
        self.set_header("Content-Type", JSON)
        self.clear_header("Server")
        self.write(go_json(failing))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port or 0)


def _sockets(net: str, address: str) -> list[socket.socket]:
    """Listening sockets. Raises ListenError."""
    net = net or "tcp"
    try:
        if net == "unix":
            return [bind_unix_socket(address)]
        host, port = _split(address)
        return bind_sockets(port, host or None)
    except OSError as error:
        reason = "address already in use" if "in use" in str(error) else (error.strerror or str(error)).lower()
        raise ListenError(f"listen {net} {address}: bind: {reason}") from None
    except ValueError:
        raise ListenError(f"listen {net}: address {address}: missing port in address") from None


def _tls(settings: TLS) -> ssl.SSLContext | None:
    if not settings.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.minimum_tls == "tls1.3" else ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        for authority in settings.client_cas:
            context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        raise ListenError(f"open {settings.certificate}: {(error.strerror or str(error)).lower()}") from None
    return context


async def _purge_uploads(registry: Registry, settings: uploads.Purging) -> None:
    await asyncio.sleep(random.uniform(0, 3600))  # noqa: S311 (all nodes start at once, but need not purge at once)
    loop = asyncio.get_running_loop()
    while settings.enabled:
        found = await loop.run_in_executor(registry.executor, uploads.purge, registry.files, settings)
        registry.log.info("purge uploads finished", deleted=len(found))
        await asyncio.sleep(settings.interval)


async def _run(registry: Registry) -> None:
    """Listen until a signal comes. Raises ListenError."""
    config, log = registry.config, registry.log
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    server = HTTPServer(RouterOf(registry, HANDLERS, PLAIN), max_body_size=ANY_SIZE, ssl_options=_tls(config.http.tls))
    server.add_sockets(_sockets(config.http.net, config.http.addr))
    servers = [server, *_debug_server(registry)]
    background = [asyncio.create_task(_purge_uploads(registry, server_setup.purging(config, registry.read_only)))]
    registry.health.start()
    collector = OnlineGC(config.gc, registry.pool, registry.files, log) if registry.pool else None
    if collector:
        collector.start(registry.executor)
    log.info(f"listening on {config.http.addr}{', tls' if config.http.tls.certificate else ''}")
    number = await stopped
    for task in background:
        task.cancel()
    if collector:
        collector.close()
    await _stop(registry, servers, SIGNALS[number])


def _debug_server(registry: Registry) -> list[HTTPServer]:
    debug = registry.config.http.debug
    if not debug.addr:
        return []
    server = HTTPServer(
        Application([("/debug/health", DebugHealth, {"registry": registry})]), ssl_options=_tls(debug.tls)
    )
    try:
        server.add_sockets(_sockets("tcp", debug.addr))
    except ListenError as error:
        registry.log.error(f"error listening on debug interface: {error}")
        return []
    return [server]


async def _stop(registry: Registry, servers: list[HTTPServer], name: str) -> None:
    config, log = registry.config, registry.log
    fields = {
        "database_drain_timeout": round(config.database.drain_timeout * 1e9),
        "http_drain_timeout": round(config.http.drain_timeout * 1e9),
        "quit_signal": name,
    }
    log.info("attempting to stop server gracefully...", **fields)
    log.info("closing the HTTP server", **fields)
    for server in servers:
        server.stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(registry.idle.wait(), config.http.drain_timeout or 0.001)
    for server in servers:
        await server.close_all_connections()
    registry.health.close()
    log.info("closing events notification sink")
    await asyncio.to_thread(registry.events.close)
    log.info("events notification sink has been shut down")
    if registry.pool:
        log.info("closing database connections")
        registry.backend.close()
        log.info("database component has been shut down")
    registry.executor.shutdown(wait=False, cancel_futures=True)
    log.info("graceful shutdown successful", **fields)


def serve(config: Config, config_path: str, argv0: str) -> int:
    """Run the registry until it is told to stop. Returns the exit code; the reason for a refusal goes to stderr."""
    log = server_setup.logger(config)
    try:
        registry = server_setup.build(config, log)
    except server_setup.StartError as error:
        print(f"creating new registry instance: configuring application: {error}", file=sys.stderr)
        return 1
    try:
        asyncio.run(_run(registry))
    except ListenError as error:
        print(f"running http server: {error}", file=sys.stderr)
        return 1
    return 0
