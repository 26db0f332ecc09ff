"""The registry's client: tokens, pages, digests, the read-only probe, and the image that it pushes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import math
import pickle
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlencode

import pytest
from scripted_http import Answer, ScriptedServer, json_answer, scripted

from georeg_nb import registry_api
from georeg_nb.errors import HttpRefused, ReadOnlySite
from georeg_nb.http import HttpSession
from georeg_nb.parameters import GitLabParameters, RegistryParameters
from georeg_nb.registry_api import Head, Manifest, RegistryAPI, client, digest_of, hashes_to, small_image
from georeg_nb.registry_api import tokens as registry_tokens
from georeg_nb.registry_api.tokens import Tokens, lifetime

DIGEST = digest_of(b"{}")
PLAIN = {"Content-Type": "text/plain; charset=utf-8", "Allow": "GET, HEAD"}


@pytest.fixture
def gitlab() -> Iterator[ScriptedServer]:
    with scripted() as server:
        yield server


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as server:
        yield server


@pytest.fixture
def registry(gitlab: ScriptedServer, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryAPI]:
    monkeypatch.setenv("TOKEN", "glpat-correct-horse")
    registry = RegistryAPI(
        RegistryParameters.model_validate({"url": server.url}),
        GitLabParameters.model_validate({"url": gitlab.url, "token": "env:TOKEN", "user": "admin"}),
        site="primary",
    )
    yield registry
    registry.close()


def tokens(gitlab: ScriptedServer, scope: str, *names: str) -> None:
    """Plan the tokens that GitLab gives for a scope, one after the other."""
    path = f"/jwt/auth?{urlencode([('service', 'container_registry'), *([('scope', scope)] if scope else [])])}"
    gitlab.plan("GET", path, *(json_answer({"token": name}) for name in names or ("t",)))


def scope(*actions: str, path: str = "g/p") -> str:
    return f"repository:{path}:{','.join(actions)}"


def bearer(server: ScriptedServer) -> list[str]:
    return [request.headers["Authorization"].removeprefix("Bearer ") for request in server.requests]


# tokens


def test_a_token_is_asked_for_once_and_renewed_when_it_has_expired(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("pull"), "first", "second")
    server.plan(
        "GET", "/v2/g/p/tags/list?n=1000", json_answer({"tags": ["a"]}), Answer(401), json_answer({"tags": ["b"]})
    )
    assert [registry.tags("g/p"), registry.tags("g/p")] == [["a"], ["b"]]
    assert bearer(server) == ["first", "first", "second"]
    assert gitlab.requests[0].headers["Authorization"] == "Basic YWRtaW46Z2xwYXQtY29ycmVjdC1ob3JzZQ=="


def living_for(seconds: float, name: str = "t") -> str:
    claims = json.dumps({"iat": 1000, "exp": 1000 + seconds, "jti": name}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{name}"


def test_a_token_is_renewed_before_it_ends(gitlab: ScriptedServer) -> None:
    tokens(gitlab, scope("pull"), *(living_for(300, name) for name in "abc"))
    now = [0.0]
    with HttpSession(gitlab.url) as http:
        kept = Tokens(lambda: http, clock=lambda: now[0])
        seen = []
        for now[0] in (0, 269, 271, 540, 542):
            seen.append(kept.get(scope("pull")).reveal()[-1])
    assert seen == ["a", "a", "b", "b", "c"]


@pytest.mark.parametrize(
    ("token", "seconds"),
    [(living_for(300), 300), (living_for(-5), 0), ("opaque", math.inf), ("a.b.c", math.inf), ("e30.e30.x", math.inf)],
)
def test_how_long_a_token_lives(token: str, seconds: float) -> None:
    assert lifetime(token) == seconds


def test_tokens_of_a_walk_do_not_pile_up(gitlab: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_tokens, "KEPT", 3)
    gitlab.answers = lambda request: json_answer({"token": request.path})
    with HttpSession(gitlab.url) as http:
        kept = Tokens(lambda: http)
        for path in ("a", "b", "c", "a", "d", "a", "b"):
            assert f"scope={path}" in kept.get(path).reveal()
    assert [request.path[-1] for request in gitlab.requests] == ["a", "b", "c", "d", "b"]


def test_many_threads_ask_for_one_token(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("pull"), "only")
    server.plan("HEAD", "/v2/g/p/manifests/1.0", Answer(headers={"Docker-Content-Digest": DIGEST}))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: registry.digest("g/p", "1.0"), range(40))) == {DIGEST}
    assert len(gitlab.requests) == 1


def test_a_token_that_does_not_help(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("pull"), "first", "second")
    server.plan("GET", "/v2/g/p/tags/list?n=1000", json_answer({"errors": [{"code": "UNAUTHORIZED"}]}, 401))
    with pytest.raises(HttpRefused, match="UNAUTHORIZED") as caught:
        registry.tags("g/p")
    assert "admin's token may not do this in g/p" in caught.value.remedy and len(server.requests) == 2


@pytest.mark.parametrize(("status", "code"), [(403, "DENIED"), (404, "UNAVAILABLE"), (401, "UNAUTHORIZED")])
def test_gitlab_gives_no_token(gitlab: ScriptedServer, registry: RegistryAPI, status: int, code: str) -> None:
    gitlab.plan("GET", "/jwt/auth?service=container_registry", json_answer({"errors": [{"code": code}]}, status))
    with pytest.raises(HttpRefused, match=code) as caught:
        registry.identity()
    assert caught.value.status == status and "read_registry and write_registry" in caught.value.remedy


def test_something_that_is_no_gitlab(gitlab: ScriptedServer, registry: RegistryAPI) -> None:
    gitlab.plan("GET", "/jwt/auth?service=container_registry", Answer(body=b"<html>hello"))
    with pytest.raises(HttpRefused, match="is this the address of a GitLab"):
        registry.identity()


# what it is


@pytest.mark.parametrize(("header", "database"), [("true", True), ("false", False), ("", None)])
def test_identity(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, header: str, database: bool | None
) -> None:
    tokens(gitlab, "")
    headers = {"Gitlab-Container-Registry-Version": "4.32.0-gitlab", "Gitlab-Container-Registry-Features": "tag_delete"}
    server.plan(
        "GET", "/v2/", Answer(body=b"{}", headers=headers | {"Gitlab-Container-Registry-Database-Enabled": header})
    )
    assert registry.ping() == registry_api.Identity("4.32.0-gitlab", database, "tag_delete")


def test_tokens_of_another_key(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, "")
    server.plan("GET", "/v2/", Answer(401))
    with pytest.raises(HttpRefused, match="does not accept this GitLab's tokens"):
        registry.identity()


# what is in it


def test_pages_are_followed_to_the_end(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, "registry:catalog:*")
    links = ['</v2/_catalog?last=a%2Fb&n=1000>; rel="next"', f'<{server.url}/v2/_catalog?last=c&n=1000>; rel="next"']
    server.plan("GET", "/v2/_catalog?n=1000", json_answer({"repositories": ["a", "a/b"]}, Link=links[0]))
    server.plan("GET", "/v2/_catalog?last=a%2Fb&n=1000", json_answer({"repositories": ["c"]}, Link=links[1]))
    server.plan("GET", "/v2/_catalog?last=c&n=1000", json_answer({"repositories": []}))
    assert list(registry.catalog()) == ["a", "a/b", "c"]


LOOPS = {
    "to itself": ['</v2/_catalog?n=1000>; rel="next"'] * 2,
    "to the same names": [f'</v2/_catalog?last={n}&n=1000>; rel="next"' for n in (1, 2)],
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_pages_that_do_not_advance_are_no_catalog(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, links: list[str]
) -> None:
    tokens(gitlab, "registry:catalog:*")
    server.answers = lambda _: json_answer({"repositories": ["a", "b"]}, Link=links[len(server.requests) - 1])
    with pytest.raises(HttpRefused, match="has no end") as caught:
        list(registry.catalog())
    assert len(server.requests) == 2 and "a proxy" in caught.value.remedy


def test_a_full_page_without_a_link_is_not_taken_for_the_last(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    tokens(gitlab, "registry:catalog:*")
    server.plan("GET", "/v2/_catalog?n=2", json_answer({"repositories": ["a", "b"]}))
    server.plan("GET", "/v2/_catalog?last=b&n=2", json_answer({"repositories": ["b/c"]}))
    assert list(registry.catalog()) == ["a", "b", "b/c"]


def test_a_legacy_registry_that_ignores_the_page_size(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    tokens(gitlab, scope("pull"))
    for query, tags in (("n=2", ["x", "y"]), ("last=y&n=2", ["x", "y"])):
        server.plan("GET", f"/v2/g/p/tags/list?{query}", json_answer({"tags": tags}))
    assert registry.tags("g/p") == ["x", "y"]


@pytest.mark.parametrize("where", ["catalog", "tags"])
def test_an_address_without_a_registry_is_no_empty_registry(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, where: str
) -> None:
    gitlab.answers = lambda _: json_answer({"token": "t"})
    server.answers = lambda _: Answer(404, b"404 page not found\n", PLAIN)
    with pytest.raises(HttpRefused, match="404 page not found"):
        list(registry.catalog() if where == "catalog" else registry.tags("g/p"))


def test_odd_names_are_quoted(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    odd = "g/P 1?x=#%2F"
    gitlab.answers = lambda _: json_answer({"token": "t"})
    server.plan("GET", "/v2/g/P%201%3Fx%3D%23%252F/tags/list?n=1000", json_answer({"tags": ["a?b"]}))
    path = "/v2/g/P%201%3Fx%3D%23%252F/manifests/a%3Fb"
    server.plan("HEAD", path, Answer(headers={"Docker-Content-Digest": DIGEST, "Content-Type": "x/y; q=1"}))
    assert registry.tags(odd) == ["a?b"]
    assert registry.head(odd, "a?b") == Head(DIGEST, "x/y")


def test_a_repository_without_tags(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("pull"))
    path = "/v2/g/p/tags/list?n=1000"
    server.plan("GET", path, json_answer({"tags": None}), json_answer({"errors": [{"code": "NAME_UNKNOWN"}]}, 404))
    assert registry.tags("g/p") == [] == registry.tags("g/p")


def test_something_that_is_no_registry(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("pull"))
    server.plan("GET", "/v2/g/p/tags/list?n=1000", Answer(body=b"<html>hello"))
    with pytest.raises(HttpRefused, match="is this the address of a container registry"):
        registry.tags("g/p")


def test_digests_come_by_head_and_all_types_are_accepted(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("pull"))
    server.plan("HEAD", "/v2/g/p/manifests/1.0", Answer(headers={"Docker-Content-Digest": DIGEST}))
    server.plan("HEAD", "/v2/g/p/manifests/none", Answer(404))
    assert registry.digest("g/p", "1.0") == DIGEST
    assert registry.digest("g/p", "none") is None
    assert server.requests[0].headers["Accept"].split(", ") == [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]


def test_a_digest_that_head_does_not_tell_is_computed(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("pull"))
    server.plan("HEAD", "/v2/g/p/manifests/1.0", Answer())
    server.plan("GET", "/v2/g/p/manifests/1.0", Answer(body=b"{}", headers={"Content-Type": "a/b; charset=x"}))
    assert registry.digest("g/p", "1.0") == DIGEST
    assert registry.manifest("g/p", "1.0") == Manifest(b"{}", "a/b", DIGEST)


@pytest.mark.parametrize("status", [400, 500])
def test_a_manifest_that_cannot_be_read(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, status: int
) -> None:
    tokens(gitlab, scope("pull"))
    server.plan("HEAD", "/v2/g/p/manifests/1.0", Answer(status))
    with pytest.raises(HttpRefused) as caught:
        registry.digest("g/p", "1.0")
    assert caught.value.status == status


def test_blobs(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("pull"))
    path = f"/v2/g/p/blobs/{DIGEST}"
    server.plan("HEAD", path, Answer(), Answer(307, headers={"Location": "https://storage.example.com/x"}), Answer(404))
    assert [registry.has_blob("g/p", DIGEST) for _ in range(3)] == [True, True, False]
    server.plan("GET", path, Answer(body=b"{}"))
    content = registry.blob("g/p", DIGEST)
    assert hashes_to(content, DIGEST) and not hashes_to(b"other", DIGEST) and not hashes_to(content, "md5:x")


def test_a_large_blob_is_hashed_part_by_part(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry._http, "_sleep", lambda _: None)
    tokens(gitlab, scope("pull"))
    body = bytes(range(256)) * 20_000
    digest = f"sha512:{hashlib.sha512(body).hexdigest()}"
    path = f"/v2/g/p/blobs/{digest}"
    server.plan("GET", path, Answer(503), Answer(drop=True), Answer(body=body), Answer(body=body[:-1]), Answer(404))
    found = [registry.digest_of_blob("g/p", digest) for _ in range(3)]
    assert found == [digest, f"sha512:{hashlib.sha512(body[:-1]).hexdigest()}", None]


def test_a_redirect_to_the_storage_gets_no_token(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("pull"))
    with scripted() as storage:
        storage.plan("GET", "/bucket/x?signature=1", Answer(body=b"{}"))
        to = {"Location": f"{storage.url}/bucket/x?signature=1"}
        server.plan("GET", f"/v2/g/p/blobs/{DIGEST}", Answer(307, headers=to))
        assert registry.digest_of_blob("g/p", DIGEST) == DIGEST
        assert "Authorization" not in storage.requests[0].headers


def test_in_another_process_it_gets_tokens_of_its_own(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("pull"))
    server.plan("GET", "/v2/g/p/tags/list?n=1000", json_answer({"tags": ["a"]}))
    registry.tags("g/p")
    sent = pickle.dumps(registry)
    assert b"correct-horse" not in sent and b"TOKEN" in sent
    there, again = pickle.loads(sent), pickle.loads(sent)
    assert there is again and there.tags("g/p") == ["a"]
    assert len(gitlab.requests) == 2


# writing


def test_a_read_only_registry_refuses_the_probe(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("delete", "pull", "push"))
    server.plan("POST", "/v2/g/p/blobs/uploads/", Answer(405, b"Method not allowed\n", PLAIN))
    assert registry.probe_write("g/p") == "refused"


@pytest.mark.parametrize("host", ["", "https://registry.example.com"])
def test_an_accepted_probe_is_cancelled_at_the_same_address(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI, host: str
) -> None:
    tokens(gitlab, scope("delete", "pull", "push"))
    upload = "/v2/g/p/blobs/uploads/0815?_state=abc"
    server.plan("POST", "/v2/g/p/blobs/uploads/", Answer(202, headers={"Location": host + upload}))
    server.plan("DELETE", upload, Answer(204))
    assert registry.probe_write("g/p") == "accepted"
    assert len(server.came("DELETE", upload)) == 1


def test_another_405_is_not_the_read_only_mode(
    gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI
) -> None:
    tokens(gitlab, scope("delete", "pull", "push"))
    server.plan("POST", "/v2/g/p/blobs/uploads/", json_answer({"errors": [{"code": "UNSUPPORTED"}]}, 405))
    with pytest.raises(HttpRefused, match="UNSUPPORTED"):
        registry.probe_write("g/p")


def test_an_image_is_pushed_blobs_first(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    layer, config, manifest = small_image("hello")
    tokens(gitlab, scope("pull"))
    tokens(gitlab, scope("pull", "push"))
    server.plan("HEAD", f"/v2/g/p/blobs/{digest_of(layer)}", Answer(404))
    server.plan("HEAD", f"/v2/g/p/blobs/{digest_of(config)}", Answer())
    server.plan("POST", "/v2/g/p/blobs/uploads/", Answer(202, headers={"Location": "/v2/g/p/blobs/uploads/1?_state=x"}))
    put = f"/v2/g/p/blobs/uploads/1?_state=x&digest={quote(digest_of(layer), safe='')}"
    server.plan("PUT", put, Answer(201))
    server.plan("PUT", "/v2/g/p/manifests/canary", Answer(201))
    assert registry.push_image("g/p", "canary", "hello") == digest_of(manifest)
    assert [request.body for request in server.requests if request.method == "PUT"] == [layer, manifest]


def test_the_image_is_whole_and_always_the_same() -> None:
    layer, config, manifest = small_image("hällo")
    assert small_image("hällo") == (layer, config, manifest) and small_image("other")[2] != manifest
    document = json.loads(manifest)
    assert [document["config"]["digest"], document["layers"][0]["digest"]] == [digest_of(config), digest_of(layer)]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        file = archive.extractfile("georeg.txt")
        assert file and file.read().decode() == "hällo"
    assert json.loads(config)["rootfs"]["diff_ids"] == [digest_of(gzip.decompress(layer))]


def test_tags_are_deleted(gitlab: ScriptedServer, server: ScriptedServer, registry: RegistryAPI) -> None:
    tokens(gitlab, scope("delete", "pull"))
    server.plan("DELETE", "/v2/g/p/manifests/canary", Answer(202), Answer(404))
    assert [registry.delete_tag("g/p", "canary") for _ in range(2)] == [True, False]


def test_a_read_only_view_writes_nothing(registry: RegistryAPI) -> None:
    registry.readonly = True
    with pytest.raises(ReadOnlySite):
        registry.push_image("g/p", "canary", "hello")
    with pytest.raises(ReadOnlySite):
        registry.delete_tag("g/p", "canary")
