"""Health checks, the debug address, and events to an endpoint behind TLS."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import recorded_images as images
from registry_server import Server

from georeg_lab import pki
from georeg_lab.postgres import free_port
from georeg_lab.registry.health import Check


def test_a_check_fails_above_its_threshold() -> None:
    problems = [OSError("gone"), OSError("gone"), OSError("still gone")]

    def probe() -> None:
        if problems:
            raise problems.pop(0)

    check = Check("storagedriver_filesystem", probe, 10.0, threshold=2)
    seen = []
    for _ in range(4):
        check.run()
        seen.append((check.failing, check.problem))
    assert seen == [(False, "gone"), (False, "gone"), (True, "still gone"), (False, "")]


def test_the_debug_address_tells_what_fails(
    start_registry: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debug, mount = free_port(), tmp_path / "mount"
    root = mount / "storage"
    root.mkdir(parents=True)
    options = {
        "http": {"debug": {"addr": f"127.0.0.1:{debug}"}},
        "health": {"storagedriver": {"enabled": True, "interval": "50ms", "threshold": 1}},
    }
    server = start_registry(root, options=options)
    healthy = server.request("GET", "/debug/health", port=debug)
    assert (healthy.status, json.loads(healthy.body)) == (200, {})
    assert server.request("GET", "/").status == 200
    shutil.rmtree(root)
    assert server.request("GET", "/v2/").status == 200
    shutil.rmtree(mount)
    mount.write_text("no folder")
    while (failing := server.request("GET", "/debug/health", port=debug)).status == 200:
        pass
    assert set(json.loads(failing.body)) == {"storagedriver_filesystem"}
    for path in ("/", "/v2/", "/nowhere"):
        refused = server.request("GET", path)
        (error,) = json.loads(refused.body)["errors"]
        assert (refused.status, error["code"]) == (503, "UNAVAILABLE")
        assert error["detail"] == "health check failed: please see /debug/health"
    mount.unlink()
    while server.request("GET", "/debug/health", port=debug).status != 200:
        pass
    assert server.request("GET", "/v2/").status == 200
    assert server.stop() == 0


@pytest.mark.parametrize("trusted", [True, False])
def test_events_over_tls(start_registry: Callable[..., Server], tmp_path: Path, trusted: bool) -> None:
    """Every file of SSL_CERT_DIR counts, whatever its name, as for a program in Go."""
    authority = pki.Authority(tmp_path / "pki")
    certificate, key = authority.issue("sink")
    folder = tmp_path / "trusted-certs"
    folder.mkdir()
    if trusted:
        shutil.copy(authority.certificate_file, folder / "lab.crt")
    received: list[Any] = []

    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as sink:
        sink.socket = context.wrap_socket(sink.socket, server_side=True)
        sink.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that trusts nobody hangs up
        threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        endpoint = {
            "name": "tls",
            "url": f"https://127.0.0.1:{sink.server_address[1]}/events",
            "timeout": "10s",
            "backoff": "10ms",
            "maxretries": 1,
        }
        server = start_registry(
            tmp_path / "storage",
            options={"notifications": {"endpoints": [endpoint]}},
            environment={"SSL_CERT_DIR": f"/nowhere{os.pathsep}{folder}"},
        )
        data = images.blob("tls", 20)
        server.push_blob("g/p", data, images.digest(data))
        while not received and not lost(server):
            pass
        assert server.stop() == 0
        sink.shutdown()
    actions = [event["action"] for body in received for event in body["events"]]
    assert actions == (["push"] if trusted else [])
    assert len(lost(server)) == (0 if trusted else 1)


def lost(server: Server) -> list[dict[str, Any]]:
    """Log lines about events that were given up."""
    return [line for line in server.log if line["msg"].startswith("eventqueue: event lost")]
