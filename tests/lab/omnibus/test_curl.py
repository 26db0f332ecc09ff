"""The stand-in for curl says what curl says: head of the answer, exit status, message; held to the machine's own."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from georeg_lab.pki import Authority
from georeg_lab.postgres import free_port

CERTS = "opt/gitlab/embedded/ssl/certs"
Curl = Callable[[str], "subprocess.CompletedProcess[str]"]


class Registry(BaseHTTPRequestHandler):
    """Asks for a token."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Bearer realm="https://gitlab.example.com/jwt/auth"')
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A registry over TLS, whose authority is kept in tmp_path/pki."""
    certificate, key = Authority(tmp_path / "pki").issue("registry")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = HTTPServer(("127.0.0.1", 0), Registry)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/v2/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["stand-in", "curl"])
def curl(request: pytest.FixtureRequest, tmp_path: Path) -> Curl:
    """Asks with the authorities of the node in tmp_path."""
    folder = tmp_path / CERTS
    folder.mkdir(parents=True)
    (folder / "cacert.pem").write_text(Authority(tmp_path / "another").certificate_file.read_text())
    if request.param == "curl" and not shutil.which("curl"):
        pytest.skip("this machine has no curl to compare with")
    own = request.param == "curl"
    program = ["curl"] if own else [sys.executable, "-m", "georeg_lab.omnibus.curl", "--root", str(tmp_path)]
    place = f"{tmp_path}/{CERTS}" if own else f"/{CERTS}"
    options = ["-sS", "-o", "/dev/null", "-D", "-", "--max-time", "30", "--cacert", f"{place}/cacert.pem"]

    def ask(url: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        command = [*program, *options, "--capath", place, url]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)

    return ask


def test_a_trusted_server_is_asked(tmp_path: Path, curl: Curl, address: str) -> None:
    with (tmp_path / CERTS / "cacert.pem").open("a") as trusted:
        trusted.write(Authority(tmp_path / "pki").certificate_file.read_text())
    asked = curl(address)
    assert (asked.returncode, asked.stderr) == (0, "")
    lines = asked.stdout.split("\n")
    assert lines[0].split()[1:] == ["401", "Unauthorized"]
    assert 'WWW-Authenticate: Bearer realm="https://gitlab.example.com/jwt/auth"' in asked.stdout
    assert "{}" not in asked.stdout


def test_an_untrusted_server_is_refused(curl: Curl, address: str) -> None:
    asked = curl(address)
    assert (asked.returncode, asked.stdout) == (60, "")
    assert asked.stderr.startswith("curl: (60) SSL certificate problem: ")


def test_where_nothing_listens(curl: Curl) -> None:
    asked = curl(f"https://127.0.0.1:{free_port()}/v2/")
    assert (asked.returncode, asked.stdout) == (7, "")
    assert asked.stderr.startswith("curl: (7) Failed to connect to 127.0.0.1 port")


def test_a_name_that_is_none(curl: Curl) -> None:
    asked = curl("https://no-such-host.invalid/v2/")
    assert asked.returncode == 6
    assert "curl: (6) Could not resolve host: no-such-host.invalid" in asked.stderr


def test_only_these_options_are_known(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "georeg_lab.omnibus.curl",
        "--root",
        str(tmp_path),
        "-X",
        "DELETE",
        "https://x/v2/",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
