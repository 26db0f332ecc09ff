"""Two registries compared over HTTP: what is planted is found, nothing is invented, and what cannot be told is said."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from http_registry import DOCKER, DOCKER_LIST, OCI, OCI_INDEX, SCHEMA_1, HttpRegistry, digest_of, served
from scripted_http import Answer, json_answer

from georeg_nb.verification import Comparison, Difference, Sample, api, compare_registries, questions, second_look
from georeg_nb.verification.model import Kind

NAMES = ("primary", "secondary")
Found = set[tuple[str, str, str, str]]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PAUSES", (0.0, 0.0))


def compare(here: HttpRegistry, there: HttpRegistry, **options: Any) -> Comparison:
    with served(here, there) as clients:
        return compare_registries(*clients, names=NAMES, **options)


def brief(found: Comparison) -> Found:
    return {(one.repository, one.tag, one.kind, one.state) for one in found.differences}


def content(numbers: random.Random) -> HttpRegistry:
    """Some repositories with images of all four types, shared digests, and nested indexes."""
    registry = HttpRegistry()
    for path in ("a", "a/b", "a-b/c", "a.b/c", "z.y_x/w--v", "x/" + "l" * 120):
        for number in range(numbers.randint(1, 5)):
            registry.image(path, f"{number}", f"t{number}", f"T{number}", kind=numbers.choice((DOCKER, OCI)))
        children = [registry.image(path, f"child {n}", kind=DOCKER) for n in range(2)]
        listed = registry.index(path, children, "list", kind=DOCKER_LIST)
        registry.index(path, [listed, registry.image(path, f"child 3 of {path}")], "nested", kind=OCI_INDEX)
    registry.image("big/one", "1", *(f"build-{n:04d}" for n in range(60)))
    return registry


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("level", ["api", "content"])
def test_planted_differences_are_all_found_and_none_invented(level: api.Level, seed: int) -> None:
    numbers = random.Random(seed)
    here = content(numbers)
    there = here.copy()
    here.page, there.page = numbers.choice((2, 7, 1000)), numbers.choice((3, 1000))
    there.legacy, there.order = bool(seed % 2), lambda name: (name.lower(), name)
    expected: Found = set()
    if seed:
        expected = plant(there, numbers, level)

    found = compare(here, there, level=level)

    assert brief(found) == expected
    assert (found.equal, found.verdict) == (not expected, "different" if expected else "equal")
    assert found.tags == (len(here.tags), len(there.tags))
    assert {row["repository"] for row in found.rows() if row["verdict"] != "equal"} == {one[0] for one in expected}
    again = compare(there, here, level=level)
    assert {one[:2] for one in brief(again)} == {one[:2] for one in expected}


def plant(there: HttpRegistry, numbers: random.Random, level: str) -> Found:
    expected: Found = set()
    plain = [key for key in sorted(there.tags) if key[1] not in ("list", "nested")]
    deleted, moved, *_ = numbers.sample(plain, 2)
    del there.tags[deleted]
    expected.add((*deleted, "missing", "different"))
    there.image(moved[0], "moved", moved[1])
    expected.add((*moved, "differing", "different"))
    there.image("only/there", "new", "new")
    expected.add(("only/there", "new", "extra", "different"))
    gone, altered, cut, wrong = numbers.sample(["a", "a/b", "a-b/c", "a.b/c", "z.y_x/w--v"], 4)
    del there.manifests[gone, child_of(there, gone)]
    expected.add((gone, "list", "incomplete", "different"))
    key = altered, child_of(there, altered)
    there.manifests[key] = there.manifests[key][0], there.manifests[key][1] + b" "
    expected.add((altered, "list", "corrupt", "different"))
    layer, image = digest_of(f"layer child 3 of {cut}".encode() * 50), digest_of(f"config child 3 of {wrong}".encode())
    there.blobs[cut, layer] = there.blobs[cut, layer][:-1]
    del there.blobs[wrong, image]
    if level == "content":
        expected |= {(cut, "nested", "corrupt", "different"), (wrong, "nested", "incomplete", "different")}
    return expected


def child_of(registry: HttpRegistry, path: str) -> str:
    payload = registry.manifests[path, registry.tags[path, "list"]][1]
    return str(json.loads(payload)["manifests"][1]["digest"])


def one_image(**options: Any) -> HttpRegistry:
    registry = HttpRegistry(**options)
    registry.image("g/p", "1", "1.0")
    return registry


def test_equal_registries_with_other_pages_and_orders() -> None:
    here, there = HttpRegistry(page=2), HttpRegistry(page=1000, legacy=True, order=lambda name: name[::-1])
    for registry in (here, there):
        for number in range(9):
            registry.image(f"r{number % 5}", "same", f"t{number}", f"B{number}")
    found = compare(here, there)
    assert (found.verdict, found.tags, len(found.counts)) == ("equal", (18, 18), 5)


def test_what_is_broken_on_both_sides_is_no_difference_between_them_but_shown() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        registry.index("g/p", ["sha256:" + "0" * 64], "half")
        registry.tags["g/p", "dangling"] = "sha256:" + "1" * 64
    found = compare(here, there)
    assert brief(found) == {("g/p", "half", "incomplete", "on both"), ("g/p", "dangling", "incomplete", "on both")}
    assert found.equal and found.rows()[0]["on both"] == 2


def test_a_tag_that_is_listed_without_a_manifest() -> None:
    here, there = one_image(), one_image()
    there.tags["g/p", "1.0"] = "sha256:" + "1" * 64
    (one,) = compare(here, there).differences
    assert (one.kind, one.detail) == ("missing", "listed on secondary without a manifest")


def test_schema_1_is_named_and_not_passed_over() -> None:
    here, there = one_image(), one_image()
    for registry in (here, there):
        registry.put("g/p", {"schemaVersion": 1, "fsLayers": []}, "old", kind=SCHEMA_1)
        registry.index("g/p", [registry.put("g/p", {"schemaVersion": 1}, kind=SCHEMA_1)], "list")
    found = compare(here, there)
    assert brief(found) == {("g/p", "old", "unsupported", "on both"), ("g/p", "list", "unsupported", "on both")}
    assert "child linux/cpu0: a manifest of schema 1" in found.difference_rows()[0]["detail"]


def test_a_build_cache_names_blobs_in_the_place_of_manifests() -> None:
    here, there = one_image(), one_image()
    for registry in (here, there):
        entries = [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": registry.blob("g/p", b"layer"),
            },
            {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": registry.blob("g/p", b"cache")},
        ]
        registry.put("g/p", {"manifests": entries}, "cache", kind=OCI_INDEX)
    assert compare(here, there).equal
    del there.blobs["g/p", digest_of(b"layer")]
    assert brief(compare(here, there)) == {("g/p", "cache", "incomplete", "different")}


def test_foreign_layers_are_elsewhere() -> None:
    here, there = one_image(), one_image()
    for registry in (here, there):
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        registry.put("g/p", {"layers": [{"mediaType": kind, "digest": "sha256:" + "0" * 64}]}, "windows", kind=DOCKER)
    assert compare(here, there, level="content").equal


# what goes wrong


def fails(*parts: str, times: int = 10**9, answer: Answer | None = None) -> Callable[[str, str], Answer | None]:
    """Trouble with paths that hold all of these parts, for the first so many requests."""
    left = [times]

    def trouble(method: str, path: str) -> Answer | None:
        if not all(part in f"{method} {path}" for part in parts) or left[0] == 0:
            return None
        left[0] -= 1
        return answer or json_answer({"errors": [{"code": "UNKNOWN"}]}, 500)

    return trouble


@pytest.mark.parametrize(
    ("answer", "times"),
    [(Answer(500), 2), (Answer(503), 3), (Answer(429, headers={"Retry-After": "0"}), 3), (Answer(drop=True), 3)],
    ids=["500", "503", "429", "cut"],
)
@pytest.mark.parametrize("where", ["/_catalog", "/tags/list", "HEAD /v2/g/p/manifests", "GET /v2/g/p/blobs"])
def test_trouble_that_passes_is_no_difference(where: str, answer: Answer, times: int) -> None:
    there = one_image(trouble=fails(where, times=times, answer=answer))
    found = compare(one_image(), there, level="content")
    assert (found.verdict, found.differences, found.tags) == ("equal", [], (1, 1))


@pytest.mark.parametrize(
    ("where", "tag"), [("/g/p/tags/list", ""), ("HEAD /v2/g/p/manifests/1.0", "1.0"), ("GET /v2/g/p/blobs", "1.0")]
)
@pytest.mark.parametrize("both", [False, True])
def test_what_keeps_failing_is_unreadable_and_never_left_out(where: str, tag: str, both: bool) -> None:
    here, there = (
        one_image(trouble=fails(where) if both else lambda method, path: None),
        one_image(trouble=fails(where)),
    )
    for registry in (here, there):
        registry.image("other", "1", "1.0")
    found = compare(here, there, level="content")
    assert {one[:4] for one in brief(found)} == {("g/p", tag, "unreadable", "different")}
    assert found.verdict == "different" and found.counts["other"] == (1, 1)
    details = " ".join(one.detail for one in found.differences)
    assert "secondary: " in details and "answered 500" in details and ("primary: " in details) == both


def test_a_layer_that_breaks_off_each_time_is_unreadable() -> None:
    short = Answer(body=b"base", headers={"Content-Length": "10"})
    there = one_image(trouble=fails("GET", digest_of(b"base layer"), answer=short))
    (one,) = compare(one_image(), there, level="content").differences
    assert (one.kind, one.object) == ("unreadable", digest_of(b"base layer"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(401), "answered 401"),
        (Answer(404, b"404 page not found\n"), "answered 404"),
        (Answer(body=b"<html>"), "answered 200"),
        (Answer(503), "answered 503"),
        (Answer(drop=True), "the connection breaks"),
    ],
    ids=["no right", "no registry", "something else", "down", "cut"],
)
@pytest.mark.parametrize("level", ["api", "content"])
def test_a_side_that_cannot_be_compared_is_not_equal(level: api.Level, answer: Answer, says: str) -> None:
    found = compare(one_image(), one_image(trouble=fails("/v2/", answer=answer)), level=level)
    assert (found.verdict, found.equal, found.tags) == ("not compared", False, (0, 0))
    assert found.reason.startswith("secondary: ") and says in found.reason


def test_a_registry_that_goes_away_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "REPOSITORIES_AT_ONCE", 1)
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        for number in range(30):
            registry.image(f"r{number:02d}", "same", "t")
    there.trouble = lambda method, path: Answer(503) if there.tokens["repository:r10:pull"] else None
    found = compare(here, there)
    assert (found.verdict, found.equal) == ("not compared", False)
    assert "secondary: " in found.reason and "answered 503" in found.reason
    assert 8 <= len(found.counts) <= 11, "what was compared before is kept"


def test_a_registry_that_fails_at_everything_is_not_asked_to_the_end() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        registry.image("g/p", "1", *(f"t{n}" for n in range(300)))
    there.trouble = fails("HEAD")
    found = compare(here, there)
    assert found.verdict == "not compared" and "41 failures in a row" in found.reason


def test_a_repository_that_gitlab_does_not_know_is_unreadable_and_the_rest_is_compared() -> None:
    here, there = one_image(), one_image()
    for registry in (here, there):
        registry.trouble = fails("/orphan/", answer=Answer(401))
        registry.image("orphan", "1", "1.0")
    found = compare(here, there)
    assert brief(found) == {("orphan", "", "unreadable", "different")}
    assert "primary: " in found.differences[0].detail and "401" in found.differences[0].detail


def test_refused_tokens_are_renewed_once_each() -> None:
    here, there = one_image(), one_image()
    there.refused = {"repository%3Ag%2Fp%3Apull.1", "registry%3Acatalog%3A%2A.1"}
    assert compare(here, there, level="content").equal
    assert there.tokens == {"registry:catalog:*": 2, "repository:g/p:pull": 2}
    assert here.tokens == {"registry:catalog:*": 1, "repository:g/p:pull": 1}


# how it goes about it


def test_head_for_tags_and_get_for_indexes_only() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        children = [registry.image("g/p", f"{n}") for n in range(2)]
        registry.index("g/p", children, "list", "same-list")
        registry.image("g/p", "plain", "plain")
    assert compare(here, there).equal
    asked = [request.method for request in here.server.requests if "/manifests/" in request.path]
    assert (asked.count("HEAD"), asked.count("GET")) == (3, 3), "three tags; one index and its two children"
    assert not [request for request in here.server.requests if "/blobs/" in request.path]


def test_connections_are_used_again() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        registry.image("g/p", "1", *(f"t{n}" for n in range(200)))
    with served(here, there) as clients:
        assert compare_registries(*clients).equal
        managers = [client._http._session.adapters["http://"].poolmanager for client in clients]  # type: ignore[attr-defined]
        opened = [sum(pool.num_connections for pool in one.pools._container.values()) for one in managers]
    assert all(0 < number <= api.REQUESTS_AT_ONCE for number in opened), opened


def test_a_layer_of_many_repositories_is_read_once() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        for number in range(40):
            registry.image(f"r{number:02d}", "same", "t")
    assert compare(here, there, level="content").equal
    path = f"/blobs/{digest_of(b'base layer')}"
    asked = [request.method for request in there.server.requests if path in request.path]
    assert len(asked) == 40 and asked.count("GET") <= api.REPOSITORIES_AT_ONCE


def test_a_sample_is_the_same_each_time_and_says_what_it_is() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        registry.image("g/p", "1", *(f"t{n}" for n in range(30)))
    there.image("g/p", "1", "only there")
    heads = []
    for _ in range(2):
        found = compare(here, there, sample=Sample(tags=5))
        assert brief(found) == {("g/p", "only there", "extra", "different")}
        assert found.sample == "6 of 31 tags in 1 repositories"
        heads.append({request.path for request in there.server.requests if request.method == "HEAD"})
    assert heads[0] == heads[1] and len(heads[0]) == 6


def test_a_share_of_the_content() -> None:
    here, there = HttpRegistry(), HttpRegistry()
    for registry in (here, there):
        for number in range(60):
            registry.image("g/p", f"{number}", f"t{number}")
    found = compare(here, there, level="content", sample=Sample(percent=20))
    assert found.equal and found.sample == "the content of 20 % of the images"
    read = [
        {one.path for one in registry.server.requests if one.method == "GET" and "/manifests/" in one.path}
        for registry in (here, there)
    ]
    assert read[0] == read[1] and 3 <= len(read[0]) <= 25


def test_only_some_repositories() -> None:
    here, there = one_image(), one_image()
    here.image("other", "1", "1.0")
    assert compare(here, there, repositories=["g/p"]).equal
    assert not compare(here, there).equal


class Database:
    """What a site's database says of a repository."""

    def __init__(self, registry: HttpRegistry) -> None:
        self.tags = dict(registry.tags)

    def repository_tags(self, path: str) -> dict[str, str]:
        return {tag: digest for (name, tag), digest in self.tags.items() if name == path}


def test_a_registry_that_disagrees_with_its_own_database() -> None:
    here, there = one_image(), one_image()
    for registry in (here, there):
        registry.image("g/p", "2", "2.0")
    databases: Any = Database(here), Database(there)
    assert compare(here, there, databases=databases).equal
    databases[1].tags["g/p", "1.0"] = "sha256:" + "1" * 64
    databases[1].tags["g/p", "3.0"] = "sha256:" + "1" * 64
    del databases[0].tags["g/p", "2.0"]
    found = compare(here, there, databases=databases)
    assert {(one.tag, one.kind, one.detail.split(":")[0]) for one in found.differences} == {
        ("1.0", "disagreeing", "secondary"),
        ("3.0", "disagreeing", "secondary"),
        ("2.0", "disagreeing", "primary"),
    }


@pytest.fixture(params=["threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    pool: Any = (
        ThreadPoolExecutor(3) if request.param == "threads" else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    )
    with pool:
        yield pool


def test_an_executor_of_the_caller_does_the_reading(executor: Any) -> None:
    here, there = one_image(), one_image()
    there.blobs["g/p", digest_of(b"base layer")] = b"other bytes"
    with served(here, there) as clients:
        found = compare_registries(*clients, names=NAMES, level="content", executor=executor)
        (one,) = found.differences
        assert (one.kind, one.object) == ("corrupt", digest_of(b"base layer"))
        assert executor.submit(int, "1").result() == 1, "it is the caller's to end"


def test_progress_is_told() -> None:
    told: list[tuple[str, float | None]] = []
    compare(one_image(), one_image(), progress=lambda text, fraction: told.append((text, fraction)))
    assert told == [("comparing over HTTP: 1 of 1 repositories", 1.0)]


def test_what_is_unreadable_is_not_on_its_way() -> None:
    kinds: tuple[Kind, ...] = ("missing", "unreadable", "corrupt")
    found = Comparison("here", "there", {}, [Difference("a", "t", kind) for kind in kinds])
    seen = second_look(found, lambda paths: found, pending=lambda: frozenset({"a"}))
    assert {one.kind: one.state for one in seen.differences} == {
        "missing": "in flight",
        "unreadable": "different",
        "corrupt": "different",
    }
