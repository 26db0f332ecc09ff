"""The registry as clients use it: whole images through `requests`, proxies, ranges, several clients at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import recorded_images as images
import requests
from registry_server import Server, database_section

from georeg_lab import pki
from georeg_lab.registry import http_blobs, uploads
from georeg_lab.registry.config import Database
from georeg_lab.registry.storage import Storage

Start = Callable[..., Server]
OCI = images.image("client", "oci", (4000, 300))
OTHER = images.image("client-2", "oci", (301,), "arm64")
INDEX = images.index("oci", (OCI, OTHER))


@pytest.fixture(scope="module", params=["legacy", "database"])
def server(
    request: pytest.FixtureRequest,
    start_registry: Start,
    new_metadata: Callable[[], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    options = {"database": database_section(new_metadata())} if request.param == "database" else {}
    return start_registry(tmp_path_factory.mktemp("clients"), options=options)


def push(server: Server, repository: str, image: images.Image, reference: str) -> None:
    """A push as `docker push` does it: HEAD, POST, PATCH (in chunks), PUT."""
    with requests.Session() as session:
        for child in image.children:
            push(server, repository, child, child.digest)
        for data in image.blobs:
            name = images.digest(data)
            if session.head(f"{server.url}/v2/{repository}/blobs/{name}").status_code == 200:
                continue
            begun = session.post(f"{server.url}/v2/{repository}/blobs/uploads/")
            pieces = iter([data[:100], data[100:]])  # an iterator: Transfer-Encoding chunked
            sent = session.patch(begun.headers["Location"], data=pieces)
            assert sent.status_code == 202
            done = session.put(sent.headers["Location"], params={"digest": name})
            assert done.status_code == 201, done.text
        url = f"{server.url}/v2/{repository}/manifests/{reference}"
        assert session.put(url, image.payload, headers={"Content-Type": image.media_type}).status_code == 201


def test_push_and_pull(server: Server) -> None:
    push(server, "g/client", INDEX, "latest")
    accept = {"Accept": ", ".join(kind[at] for kind in images.TYPES.values() for at in (0, 3))}
    with requests.Session() as session:
        pulled = session.get(f"{server.url}/v2/g/client/manifests/latest", headers=accept)
        assert (pulled.content, pulled.headers["Docker-Content-Digest"]) == (INDEX.payload, INDEX.digest)
        for child in pulled.json()["manifests"]:
            manifest = session.get(f"{server.url}/v2/g/client/manifests/{child['digest']}", headers=accept).json()
            for entry in (manifest["config"], *manifest["layers"]):
                blob = session.get(f"{server.url}/v2/g/client/blobs/{entry['digest']}")
                assert images.digest(blob.content) == entry["digest"]
                assert len(blob.content) == entry["size"]


def test_the_same_image_from_several_clients_at_once(server: Server) -> None:
    image = images.image("crowd", "oci", (700, 20))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: push(server, "g/crowd", image, f"v{number % 3}"), range(12)))
    assert requests.get(f"{server.url}/v2/g/crowd/tags/list", timeout=10).json()["tags"] == ["v0", "v1", "v2"]


def test_a_moved_tag_names_the_new_manifest(server: Server) -> None:
    for image in (OCI, OTHER):
        push(server, "g/moved", image, "latest")
        head = server.request("HEAD", "/v2/g/moved/manifests/latest", {"Accept": image.media_type})
        assert head.headers["Docker-Content-Digest"] == image.digest


@pytest.mark.parametrize(
    ("headers", "start"),
    [
        (
            {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "registry.example.com"},
            "https://registry.example.com/v2/",
        ),
        ({"X-Forwarded-Proto": "https", "Host": "r.example.com:5050"}, "https://r.example.com:5050/v2/"),
        ({"Host": "r.example.com"}, "http://r.example.com/v2/"),
    ],
)
def test_locations_follow_the_proxy(server: Server, headers: dict[str, str], start: str) -> None:
    answer = requests.post(f"{server.url}/v2/g/p/blobs/uploads/", headers=headers, timeout=10)
    assert answer.headers["Location"].startswith(start)


def test_ranges(server: Server) -> None:
    data = OCI.blobs[1]
    push(server, "g/ranges", OCI, "v1")
    url = f"{server.url}/v2/g/ranges/blobs/{images.digest(data)}"
    for header, expected in (("bytes=0-9", data[:10]), ("bytes=3990-", data[3990:]), ("bytes=-5", data[-5:])):
        answer = requests.get(url, headers={"Range": header}, timeout=10)
        assert (answer.status_code, answer.content) == (206, expected)
    several = requests.get(url, headers={"Range": "bytes=0-1,10-12"}, timeout=10)
    assert several.status_code == 206
    assert several.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert data[:2] in several.content
    assert data[10:13] in several.content
    assert b"Content-Range: bytes 10-12/4000" in several.content
    for header in ("bites=0-1", "bytes=a-b", "bytes=9-3"):
        answer = requests.get(url, headers={"Range": header}, timeout=10)
        assert (answer.status_code, answer.text) == (416, "invalid range\n")
        assert "Content-Range" not in answer.headers


def test_an_expected_continue(server: Server) -> None:
    """A client that waits for permission before it sends its body gets it."""
    begun = server.request("POST", "/v2/g/p/blobs/uploads/")
    path = urlsplit(begun.headers["Location"])
    data = b"continued"
    head = f"PUT {path.path}?{path.query}&digest={images.digest(data)} HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(f"{head}Expect: 100-continue\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(data)
        assert client.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_a_body_that_is_refused_does_not_spoil_the_connection(server: Server) -> None:
    with requests.Session() as session:
        refused = session.patch(f"{server.url}/v2/g/p/blobs/uploads/x", data=b"y" * 3_000_000)
        assert refused.status_code == 404
        assert session.get(f"{server.url}/v2/").status_code == 200


def test_percent_encoded_digests(server: Server) -> None:
    push(server, "g/encoded", OCI, "v1")
    path = f"/v2/g/encoded/manifests/{OCI.digest.replace(':', '%3A')}"
    assert server.request("GET", path, {"Accept": OCI.media_type}).body == OCI.payload


# --- set-ups


@pytest.fixture
def once(start_registry: Start, tmp_path: Path) -> Callable[..., Server]:
    """Starts a registry with a storage of its own."""
    return lambda **options: start_registry(tmp_path / "storage", options=options)


def test_tls(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path / "pki")
    certificate, key = authority.issue("registry")
    options: dict[str, Any] = {"http": {"tls": {"certificate": str(certificate), "key": str(key)}}}
    server = Server(tmp_path, tmp_path / "storage", options=options)
    server.start()
    try:
        url = f"https://127.0.0.1:{server.port}/v2/g/p/blobs/uploads/"
        answer = requests.post(url, verify=str(authority.certificate_file), timeout=10)
        assert answer.headers["Location"].startswith(url)
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("http", "start"),
    [
        ({"relativeurls": True}, "/v2/g/p/blobs/uploads/"),
        ({"host": "https://registry.example.com"}, "https://registry.example.com/v2/g/p/blobs/uploads/"),
    ],
)
def test_base_of_urls(once: Callable[..., Server], http: dict[str, Any], start: str) -> None:
    server = once(http=http)
    assert server.request("POST", "/v2/g/p/blobs/uploads/").headers["Location"].startswith(start)
    server.stop()


def test_prefix_and_headers(once: Callable[..., Server]) -> None:
    server = once(http={"prefix": "/docker/", "headers": {"X-Content-Type-Options": ["nosniff"]}})
    assert server.request("GET", "/v2/").status == 404
    found = server.request("GET", "/docker/v2/")
    assert (found.status, found.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert server.request("GET", "/docker/v2").headers["Location"] == "/docker/v2/"
    location = server.request("POST", "/docker/v2/g/p/blobs/uploads/").headers["Location"]
    assert location.startswith(f"{server.url}/docker/v2/g/p/blobs/uploads/")
    server.stop()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(tmp_path, tmp_path / "storage", port=taken.getsockname()[1])
        server.launch()
        assert not server.wait()
        assert server.stop() == 1
        assert server.stderr == f"running http server: listen tcp {server.address}: bind: address already in use\n"


@pytest.mark.parametrize(
    ("maintenance", "status", "text"),
    [
        ({"readonly": True}, 1, "readonly config key must contain additional keys"),
        ({"readonly": {"enabled": "yes please"}}, 1, "readonly's enabled config key must have a boolean value"),
        ({"uploadpurging": True}, 1, "uploadpurging config key must contain additional keys"),
        ({"uploadpurging": {"enabled": True}}, 1, "unable to parse upload purge configuration: age missing"),
        (
            {"uploadpurging": {"age": "1h", "interval": "x", "dryrun": False}},
            1,
            'unable to parse upload purge configuration: Cannot parse interval: time: invalid duration "x"',
        ),
        (
            {"uploadpurging": {"age": "1h", "interval": "1h", "dryrun": 5}},
            1,
            "unable to parse upload purge configuration: cannot parse dryrun",
        ),
    ],
)
def test_maintenance_that_is_malformed(tmp_path: Path, maintenance: dict[str, Any], status: int, text: str) -> None:
    server = Server(tmp_path, tmp_path / "storage", options={"storage": {"maintenance": maintenance}})
    server.launch()
    assert not server.wait()
    assert server.stop() == status
    assert server.stderr.strip().endswith(text)


def test_the_access_log(once: Callable[..., Server]) -> None:
    server = once(log={"level": "info"})
    server.request("GET", "/v2/", {"User-Agent": "docker/27"})
    server.stop()
    (line,) = [line for line in server.log if line["msg"] == "access"]
    assert (line["status"], line["uri"], line["user_agent"], line["written_bytes"]) == (200, "/v2/", "docker/27", 2)


def test_a_client_that_leaves_is_forgotten(once: Callable[..., Server]) -> None:
    """Neither a push nor a pull that is broken off is logged as a failure, or holds up the end."""
    server = once(http={"draintimeout": "1h"})
    data = images.blob("big", 8_000_000)
    server.push_blob("g/p", data, images.digest(data))
    begun = urlsplit(server.request("POST", "/v2/g/p/blobs/uploads/").headers["Location"])
    heads = (
        f"PATCH {begun.path}?{begun.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
        "PUT /v2/g/p/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab",
        f"GET /v2/g/p/blobs/{images.digest(data)} HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    for head in heads:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(head.encode())
            if head.startswith("GET"):
                client.recv(1000)
    assert server.stop() == 0
    assert server.stderr == ""
    assert not [line for line in server.log if line["level"] == "error"]


def test_a_drain_time_lets_a_push_end(once: Callable[..., Server]) -> None:
    server = once(http={"draintimeout": "20s"})
    begun = server.request("POST", "/v2/g/p/blobs/uploads/")
    path = urlsplit(begun.headers["Location"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(f"PATCH {path.path}?{path.query} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab".encode())
        _wait_for_upload(server, 2)
        assert server.process is not None
        server.process.terminate()
        while not any(line["msg"] == "closing the HTTP server" for line in server.log):
            time.sleep(0.02)
        client.sendall(b"cd")
        assert client.recv(1000).startswith(b"HTTP/1.1 202 ")
    assert server.stop() == 0


def _wait_for_upload(server: Server, size: int) -> None:
    while [file.stat().st_size for file in server.root.glob("**/_uploads/*/data")] != [size]:
        time.sleep(0.02)


# --- parts


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=5-", [(5, 5)]),
        ("bytes=-3", [(7, 3)]),
        ("bytes=-30", [(0, 10)]),
        ("bytes=8-99", [(8, 2)]),
        ("bytes=0-1, 4-5", [(0, 2), (4, 2)]),
        ("bytes=0-9,0-9", []),
        ("bytes=50-,0-1", [(0, 2)]),
    ],
)
def test_parsing_ranges(header: str, expected: list[tuple[int, int]]) -> None:
    assert http_blobs.ranges(header, 10) == expected


def test_state_tokens() -> None:
    state = uploads.State("g/p", "uuid", 7, "2026-11-24T10:00:00Z")
    token = state.pack("secret")
    assert uploads.State.unpack(token, "secret") == state
    for broken, secret in ((token, "other"), (token[:-4], "secret"), ("", "secret"), ("x", "secret"), ("é", "secret")):
        with pytest.raises(uploads.StateError):
            uploads.State.unpack(broken, secret)


def test_purging_uploads(tmp_path: Path) -> None:
    files = Storage(tmp_path)
    old, new = (uploads.Upload.begin(files, "g/p") for _ in range(2))
    files.write(f"{old.folder}/startedat", b"2020-01-01T00:00:00Z")
    assert uploads.purge(files, uploads.Purging(dry_run=True)) == [old.folder]
    assert files.exists(old.data)
    assert uploads.purge(files, uploads.Purging()) == [old.folder]
    assert not files.exists(old.folder)
    assert files.exists(new.data)
