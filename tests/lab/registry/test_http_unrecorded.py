"""Answers beyond the recordings, as the real registry v4.32.0-gitlab gave them to the same requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import recorded_images as images
from registry_server import Server, database_section

from georeg_lab.registry.config import Database

OCI, DOCKER = images.TYPES["oci"], images.TYPES["docker"]
ACCEPT = {"Accept": ", ".join(kind[at] for kind in images.TYPES.values() for at in (0, 3))}
IMAGE = images.image("unrecorded", "oci", (70,))
INDEX = images.index("oci", (IMAGE,))
OTHER = images.image("unrecorded-docker", "docker", (71,))
MANIFEST: dict[str, Any] = json.loads(IMAGE.payload)
LAYER: dict[str, Any] = MANIFEST["layers"][0]
BLOB = images.digest(IMAGE.blobs[1])
NOWHERE = "sha256:" + "8" * 64
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
NON_DISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


@pytest.fixture(scope="module", params=["legacy", "database"])
def server(
    request: pytest.FixtureRequest,
    start_registry: Callable[..., Server],
    new_metadata: Callable[[], Database],
    tmp_path_factory: pytest.TempPathFactory,
) -> Server:
    urls = {"allow": ["^https://ok/"], "deny": ["bad"]}
    limits = {"referencelimit": 3, "payloadsizelimit": 2000, "urls": urls}
    options: dict[str, Any] = {"validation": {"manifests": limits}}
    if request.param == "database":
        options["database"] = database_section(new_metadata())
    running = start_registry(tmp_path_factory.mktemp("unrecorded"), options=options)
    for repository in ("a", "g/p", "g/p/sub", "z/y/x"):
        running.push_image(repository, "v1", IMAGE)
    running.push_image("g/p", "index", INDEX)
    running.push_image("g/p", "docker", OTHER)
    return running


def is_database(server: Server) -> bool:
    return "database" in server.options


# --- manifests that are refused


def put(server: Server, body: Any, content_type: str | None, repository: str = "g/p") -> tuple[int, list[Any]]:
    """Status, and (code, detail) of the errors."""
    headers = {"Content-Type": content_type} if content_type is not None else {}
    data = body if isinstance(body, bytes) else images.compact(body)
    answer = server.request("PUT", f"/v2/{repository}/manifests/tried", headers, data)
    errors = json.loads(answer.body)["errors"] if answer.body else []
    return answer.status, [(error["code"], error.get("detail")) for error in errors]


def changed(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in {**MANIFEST, **fields}.items() if value is not ...}


WRONG_TYPE = f"mediaType in manifest should be '{DOCKER[0]}' not '{OCI[0]}'"
GO = "json: cannot unmarshal"


def field(found: str, name: str) -> str:
    return f"{GO} {found} into Go struct field {name} of type"


@pytest.mark.parametrize(
    ("body", "content_type", "detail"),
    [
        (MANIFEST, None, WRONG_TYPE),
        (MANIFEST, "application/json", WRONG_TYPE),
        (MANIFEST, "text/plain", WRONG_TYPE),
        (MANIFEST, "junk;;", "mime: invalid media parameter"),
        (MANIFEST, "application/vnd.docker.distribution.manifest.v1+prettyjws", "missing signature key"),
        (changed(mediaType=...), DOCKER[0], "no mediaType in manifest"),
        (changed(schemaVersion="2"), OCI[0], f"{field('string', 'Manifest.Versioned.schemaVersion')} int"),
        (changed(mediaType=5), OCI[0], f"{field('number', 'Manifest.Versioned.mediaType')} string"),
        (changed(layers={}), OCI[0], f"{field('object', 'Manifest.layers')} []distribution.Descriptor"),
        (changed(layers=["x"]), OCI[0], f"{field('string', 'Manifest.layers')} distribution.Descriptor"),
        (changed(layers=[{**LAYER, "size": "1"}]), OCI[0], f"{field('string', 'Descriptor.layers.size')} int64"),
        ([], OCI[0], f"{GO} array into Go value of type ocischema.Manifest"),
        ("x", DOCKER[0], f"{GO} string into Go value of type schema2.Manifest"),
        (b"null", DOCKER[0], "no mediaType in manifest"),
        (b"\xef\xbb\xbf{}", OCI[0], "invalid character 'ï' looking for beginning of value"),
    ],
)
def test_invalid_manifests(server: Server, body: Any, content_type: str | None, detail: str) -> None:
    assert put(server, body, content_type) == (400, [("MANIFEST_INVALID", detail)])


@pytest.mark.parametrize("body", [changed(schemaVersion=1), changed(schemaVersion=...), b"null", b"{}"])
def test_other_schema_versions(server: Server, body: Any) -> None:
    assert put(server, body, OCI[0]) == (500, [("UNKNOWN", {})])


def test_limits(server: Server) -> None:
    count = ("MANIFEST_REFERENCE_LIMIT", [{"References": 4, "Limit": 3}])
    subject = {"mediaType": OCI[0], "size": len(IMAGE.payload), "digest": IMAGE.digest}
    assert put(server, changed(layers=[LAYER] * 2), OCI[0])[0] == 201
    assert put(server, changed(layers=[LAYER] * 3), OCI[0]) == (400, [count])
    assert put(server, changed(layers=[LAYER] * 2, subject=subject), OCI[0]) == (400, [count])
    big = images.compact(changed(layers=[LAYER] * 9, annotations={"x": "y" * 2000}))
    text = f"errors verifying manifest: manifest payload size of {len(big)} exceeds limit of 2000"
    assert put(server, big, OCI[0]) == (400, [("MANIFEST_SIZE_LIMIT", text)])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://ok/x", True),
        ("https://ok/bad", False),
        ("https://no/x", False),
        ("ftp://ok/x", False),
        ("https://ok/x#f", False),
        ("https://ok/\x01", False),
    ],
)
def test_urls_of_layers(server: Server, url: str, allowed: bool) -> None:
    layer = {**LAYER, "mediaType": NON_DISTRIBUTABLE, "urls": [url]}
    refused = (500, [("UNKNOWN", {}), ("MANIFEST_BLOB_UNKNOWN", BLOB)])
    assert put(server, changed(layers=[layer]), OCI[0]) == ((201, []) if allowed else refused)


def test_layers_that_lie_elsewhere(server: Server) -> None:
    elsewhere = {"mediaType": NON_DISTRIBUTABLE, "size": 5, "digest": NOWHERE}
    assert put(server, changed(layers=[elsewhere]), OCI[0]) == (400, [("MANIFEST_BLOB_UNKNOWN", NOWHERE)])
    assert put(server, changed(layers=[{**elsewhere, "urls": ["https://ok/x"]}]), OCI[0]) == (201, [])
    docker = json.loads(OTHER.payload)
    foreign = {"mediaType": FOREIGN, "size": 5, "digest": NOWHERE}
    refused = (500, [("UNKNOWN", {}), ("MANIFEST_BLOB_UNKNOWN", NOWHERE)])
    assert put(server, {**docker, "layers": [foreign]}, DOCKER[0]) == refused
    assert put(server, {**docker, "layers": [{**foreign, "urls": ["https://ok/x"]}]}, DOCKER[0]) == (201, [])


@pytest.mark.parametrize("payload", [IMAGE.payload, INDEX.payload])
def test_a_repository_that_is_not_there(server: Server, payload: bytes) -> None:
    content = json.loads(payload)
    named = [content["config"], *content["layers"]] if "config" in content else content["manifests"]
    unknown: list[tuple[str, Any]] = [("MANIFEST_BLOB_UNKNOWN", reference["digest"]) for reference in named]
    wanted = (400, unknown)
    if is_database(server):
        wanted = (500, [error for each in unknown for error in [("UNKNOWN", {}), each]])
    assert put(server, payload, content["mediaType"], "not/there") == wanted


def test_a_manifest_among_the_layers(server: Server) -> None:
    manifest = {"mediaType": OCI[0], "size": 1, "digest": NOWHERE}
    assert put(server, changed(layers=[manifest]), OCI[0]) == (400, [("MANIFEST_BLOB_UNKNOWN", NOWHERE)])
    assert put(server, changed(manifests=[manifest]), OCI[0])[0] == 201
    assert put(server, changed(mediaType=OCI[3], manifests=[]), OCI[3])[0] == (500 if is_database(server) else 201)


# --- paths, pages, conditions


@pytest.mark.parametrize(
    ("path", "target", "body"),
    [
        ("/v2//", "/v2/", False),
        ("//v2/", "/v2/", False),
        ("/v2/./g/../_catalog", "/v2/_catalog", False),
        ("/v2/g//p/manifests/v1", "/v2/g/p/manifests/v1", False),
        ("/v2/_catalog/?n=1", "/v2/_catalog?n=1", True),
        ("/v2/g/p/tags/list/", "/v2/g/p/tags/list", True),
        ("/v2/g/p/manifests/v1/", "/v2/g/p/manifests/v1", True),
        ("/v2/g/p/blobs/uploads", "/v2/g/p/blobs/uploads/", True),
    ],
)
def test_redirects(server: Server, path: str, target: str, body: bool) -> None:
    answer = server.request("GET", path)
    assert (answer.status, answer.headers["Location"]) == (301, target)
    assert answer.body == (f'<a href="{target}">Moved Permanently</a>.\n\n'.encode() if body else b"")
    assert server.request("POST", path).body == b""


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        ("?n=1", ["a"], True),
        ("?n=1&n=2", ["a"], True),
        ("?n=4", ["a", "g/p", "g/p/sub", "z/y/x"], False),
        ("?n=2&last=g/p", ["g/p/sub", "z/y/x"], False),
        ("?n=3&last=aa", ["g/p", "g/p/sub", "z/y/x"], False),
        ("?n=99999999999999999999", ["a", "g/p", "g/p/sub", "z/y/x"], False),
        ("?n=%2B2", ["a", "g/p"], True),
        ("?n=%202", ["a", "g/p", "g/p/sub", "z/y/x"], False),
    ],
)
def test_pages_of_the_catalog(server: Server, query: str, names: list[str], more: bool) -> None:
    answer = server.request("GET", f"/v2/_catalog{query}")
    assert json.loads(answer.body)["repositories"] == names
    assert ("Link" in answer.headers) == more


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f'"x", "{BLOB}"'}, 304),
        ({"If-Range": '"x"', "Range": "bytes=0-3"}, 200),
        ({"If-Range": f'"{BLOB}"', "Range": "bytes=0-3"}, 206),
    ],
)
def test_conditions(server: Server, headers: dict[str, str], status: int) -> None:
    assert server.request("GET", f"/v2/g/p/blobs/{BLOB}", headers).status == status


@pytest.mark.parametrize(
    ("accept", "status"),
    [(f"{OCI[3]};q=0.1", 200), (OCI[3].upper(), 200), (f"{OCI[3]} ;x", 404), ("*/*", 404), (f"text/x, {OCI[3]}", 200)],
)
def test_accepted_types(server: Server, accept: str, status: int) -> None:
    assert server.request("GET", "/v2/g/p/manifests/index", {"Accept": accept}).status == status


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"Forwarded": "proto=https;host=f.example"}, "https://f.example"),
        ({"Forwarded": 'for=192.0.2.1;host="f.example:1"'}, "http://f.example:1"),
        ({"Forwarded": "host=f.example", "X-Forwarded-Host": "x.example"}, "http://f.example"),
        ({"X-Forwarded-Host": "x.example:99"}, "http://x.example:99"),
    ],
)
def test_forwarded(server: Server, headers: dict[str, str], base: str) -> None:
    location = server.request("POST", "/v2/g/p/blobs/uploads/", headers).headers["Location"]
    assert location.startswith(f"{base}/v2/g/p/blobs/uploads/")


def test_a_range_beyond_all_numbers(server: Server) -> None:
    path = server.request("POST", "/v2/g/p/blobs/uploads/").headers["Location"].removeprefix(server.url)
    header = "0-99999999999999999999"
    answer = server.request("PATCH", path, {"Content-Range": header}, b"x")
    problem = 'strconv.ParseInt: parsing "99999999999999999999": value out of range'
    (error,) = json.loads(answer.body)["errors"]
    assert (answer.status, error["detail"]) == (500, f"invalid content range values, {header}: {problem}")


def test_starting_on_the_path_of_an_upload(server: Server) -> None:
    path = server.request("POST", "/v2/g/p/blobs/uploads/").headers["Location"].removeprefix(server.url)
    again = server.request("POST", path)
    assert (again.status, again.headers["Range"]) == (202, "0-0")


# --- GitLab's own API


V1 = "/gitlab/v1/repositories"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        (f"{V1}/g/p/tags/list/?name=%25", 400, "the 'name' query parameter value must match the pattern"),
        (f"{V1}/g/p/tags/list/?name_exact=-", 400, "the 'name_exact' query parameter value must match the pattern"),
        (f"{V1}/g/p/tags/list/?last=%20", 400, "the 'last' query parameter value must match the pattern"),
        (f"{V1}/g/p/tags/list/?name=v&name_exact=v1", 400, "mutually exclusive"),
        (f"{V1}/g/?size=self_with_descendants", 200, '"path":"g","size_bytes":'),
        (f"{V1}/g/", 404, "NAME_UNKNOWN"),
        (f"{V1}/nobody/?size=self_with_descendants", 404, "NAME_UNKNOWN"),
    ],
)
def test_v1(server: Server, path: str, status: int, text: str) -> None:
    answer = server.request("GET", path)
    if is_database(server):
        assert answer.status == status
        assert text in answer.body.decode()
    else:
        assert (answer.status, answer.body) == (404, b"")
