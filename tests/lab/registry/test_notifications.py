"""Events: every recorded one, retries, filters, a full queue, the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import contract_cases
import pytest
import recorded_images as images
import recorded_tokens as tokens
import registry_replay as replays
from event_sink import EventSink
from registry_server import Server, database_section

from georeg_lab.registry import notifications
from georeg_lab.registry.config import Database, Endpoint, Ignore
from georeg_lab.registry.import_log import Logger

RECORDED = replays.lines("notifications")
NOTE, NOTE2 = replays.image("note"), replays.image("note2")
LIST = images.index("docker", (NOTE, NOTE2))
ACCEPT = {"Accept": ", ".join(kind[at] for kind in images.TYPES.values() for at in (0, 3))}
HEADERS = {"Authorization": ["secret-T"], "X-Two": ["a", "b"]}
Start = Callable[..., Server]


def endpoint(url: str, **more: Any) -> dict[str, Any]:
    return {"name": "geo_event", "url": url, "timeout": "2s", "backoff": "50ms", "maxretries": 5, **more}


# --- the recorded triggers


def _act(server: Server, trigger: str) -> None:
    """Do what a recorded trigger says."""
    layer, config = (images.digest(data) for data in NOTE.blobs[::-1])
    manifests = f"/v2/g/n/manifests/{NOTE.digest}"
    get: dict[str, tuple[str, str, dict[str, str]]] = {
        "mount layer into g/o": ("POST", f"/v2/g/o/blobs/uploads/?mount={layer}&from=g/n", {}),
        "pull GET by tag": ("GET", "/v2/g/n/manifests/v1", {**ACCEPT, "User-Agent": "docker/27"}),
        "pull HEAD by tag": ("HEAD", "/v2/g/n/manifests/v1", ACCEPT),
        "pull GET by digest": ("GET", manifests, ACCEPT),
        "pull with If-None-Match (304)": ("GET", "/v2/g/n/manifests/v1", {**ACCEPT, "If-None-Match": NOTE.digest}),
        "blob GET": ("GET", f"/v2/g/n/blobs/{config}", {}),
        "blob HEAD": ("HEAD", f"/v2/g/n/blobs/{config}", {}),
        "unknown manifest GET (404)": ("GET", "/v2/g/n/manifests/none", ACCEPT),
        "list pull g/n:list": ("GET", "/v2/g/n/manifests/list", ACCEPT),
        "list pull without Accept": ("GET", "/v2/g/n/manifests/list", {}),
        "tag delete g/n:list": ("DELETE", "/v2/g/n/manifests/list", {}),
        "list delete by digest": ("DELETE", f"/v2/g/n/manifests/{LIST.digest}", {}),
        "manifest delete by digest (2 tags)": ("DELETE", manifests, {}),
        "delete again (404)": ("DELETE", manifests, {}),
        "blob delete": ("DELETE", f"/v2/g/n/blobs/{layer}", {}),
    }
    if trigger in get:
        server.request(*get[trigger])
    elif trigger.startswith("blob push"):
        data = NOTE.blobs[1 if "layer" in trigger else 0]
        server.push_blob("g/n", data, images.digest(data))
    elif trigger == "list push g/n:list":
        server.push_manifest("g/n", "list", LIST.payload, LIST.media_type)
    else:
        reference = {"manifest push by digest": NOTE.digest, "second tag g/n:v2": "v2"}.get(trigger, "v1")
        server.push_manifest("g/n", reference, NOTE.payload, NOTE.media_type)


def _session(mode: str, server: Server, sink: EventSink) -> dict[str, list[dict[str, Any]]]:
    """What the endpoint got after each trigger. A push of a marker shows that nothing more is coming."""
    received: dict[str, list[dict[str, Any]]] = {}
    marker = replays.image("ro").blobs[0]
    for line in RECORDED:
        if line["mode"] != mode or "attempts" in line:
            continue
        if line["trigger"] == "list push g/n:list":
            server.push_image("g/n", NOTE2.digest, NOTE2)
        server.push_blob("g/marker", marker, images.digest(marker))
        before = _count_markers(sink, 1)
        _act(server, line["trigger"])
        server.push_blob("g/marker", marker, images.digest(marker))
        after = _count_markers(sink, 2)
        received[line["trigger"]] = [normalized(server, request) for request in after[len(before) : -1]]
        sink.requests.clear()
    return received


def _count_markers(sink: EventSink, wanted: int) -> list[dict[str, Any]]:
    for count in range(1, 1000):
        requests = sink.wait(count)
        assert len(requests) >= count, "an event is missing"
        if sum('"g/marker"' in request["body"] for request in requests[:count]) == wanted:
            return requests[:count]
    raise AssertionError


def normalized(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    """A request in the recording's form, without ids, times and ports."""
    body = request["body"].replace(server.address, "{host}")
    for pattern, replacement in (
        (r'"[0-9a-f-]{36}"|"\{uuid\d+\}"', '"{uuid}"'),
        (r'"timestamp": "\d{4}-[^"]+"', '"timestamp": "{time}"'),
        (r'"addr": "127[^"]+"', '"addr": "{client}"'),
        (r'("source": \{\s+"addr": )"[^"]+"', r'\1"{hostname}:{port}"'),
    ):
        body = re.sub(pattern, replacement, body)
    headers = {
        k: re.sub(r":(\d+|\{sinkport\})$", ":{sinkport}", v) if k == "Host" else v
        for k, v in request["headers"].items()
    }
    headers["Content-Length"] = "{length}"
    return {"path": request["path"], "headers": headers, "body": body}


@pytest.fixture(scope="module")
def received(
    start_registry: Start, new_metadata: Callable[[], Database], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, list[dict[str, Any]]]]]:
    """Requests by mode and trigger."""
    found = {}
    for mode in ("legacy", "database"):
        with EventSink() as sink:
            sections: dict[str, Any] = {"database": database_section(new_metadata())} if mode == "database" else {}
            settings = {"events": {"includereferences": True}, "endpoints": [endpoint(sink.url, headers=HEADERS)]}
            root = tmp_path_factory.mktemp("events")
            server = start_registry(root, options={**sections, "notifications": settings})
            found[mode] = _session(mode, server, sink)
            server.stop()
    yield found


def cases(attempts: bool) -> Any:
    """Parametrised with the recorded triggers, or with the recorded retries."""
    chosen = contract_cases.parameters(
        "registry/notifications.jsonl",
        lambda line: f"{line['mode']} {line.get('trigger', '')}",
        lambda line: ("attempts" in line) is attempts,
    )
    return pytest.mark.parametrize("line", chosen)


@cases(attempts=False)
def test_recorded_events(line: dict[str, Any], received: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    expected = []
    for request in line["requests"]:
        body = request["body"] if isinstance(request["body"], str) else json.dumps(request["body"], indent=3)
        body = re.sub(r'"\{uuid\d+\}"', '"{uuid}"', body)
        expected.append({"path": request["path"], "headers": request["headers"], "body": body})
    assert received[line["mode"]][line["trigger"]] == expected


@cases(attempts=True)
def test_recorded_retries(
    line: dict[str, Any], start_registry: Start, new_metadata: Callable[[], Database], tmp_path: Path
) -> None:
    """Refused events are sent again, the next one waits; redirects are accepted and not followed."""
    with EventSink() as sink:
        sections: dict[str, Any] = {"database": database_section(new_metadata())} if line["mode"] == "database" else {}
        settings = {"endpoints": [endpoint(sink.url, ignore={"mediatypes": ["application/octet-stream"]})]}
        server = start_registry(tmp_path, options={**sections, "notifications": settings})
        sink.answers = [500, 503, 302]
        server.push_image("g/n", "r1", NOTE)
        server.push_manifest("g/n", "r2", NOTE.payload, NOTE.media_type)
        sink.wait(4)
        server.stop()
        found = [
            (request["answer"], event["target"]["tag"])
            for request, event in zip(sink.requests, sink.events(), strict=True)
        ]
        assert found == [(attempt["answer"], attempt["tag"]) for attempt in line["attempts"]]


# --- what was not recorded


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Logger]:
    with ExitStack() as stack:
        yield Logger(stack.enter_context((tmp_path / "log").open("w")))


def event(action: str = "push", media_type: str = "a/b", number: int = 0) -> dict[str, Any]:
    return {"id": str(number), "action": action, "target": {"mediaType": media_type}}


def test_ignored_events_are_not_sent(log: Logger) -> None:
    with EventSink() as sink:
        ignore = Ignore(mediatypes=["x/y"], actions=["pull"])
        settings = Endpoint("e", sink.url, ignored_media_types=["v/w"], ignore=ignore)
        queue = notifications.Sink(settings, log)
        for number, (action, media_type) in enumerate(
            [("pull", "a/b"), ("push", "x/y"), ("push", "v/w"), ("push", "a/b")]
        ):
            queue.put(event(action, media_type, number))
        queue.close()
        assert [found["id"] for found in sink.events()] == ["3"]


def test_a_full_queue_drops_the_newest_and_the_rest_is_lost_at_the_end(log: Logger, tmp_path: Path) -> None:
    with EventSink([500] * 100) as sink:
        settings = Endpoint("e", sink.url, backoff=30.0, queue_size_limit=2, queue_purge_timeout=0.1)
        queue = notifications.Sink(settings, log)
        for number in range(3):
            queue.put(event(number=number))
        sink.wait(1)
        queue.close()
    messages = [json.loads(line)["msg"] for line in (tmp_path / "log").read_text().splitlines()]
    assert messages.count("queue full, dropping event") == 1
    assert [message for message in messages if message.startswith("eventqueue: event lost")] == [
        "eventqueue: event lost: push 0",
        "eventqueue: event lost: push 1",
    ]


def test_an_unreachable_endpoint_loses_the_event_after_its_retries(log: Logger, tmp_path: Path) -> None:
    queue = notifications.Sink(Endpoint("e", "http://127.0.0.1:1/x", backoff=0.01, max_retries=2), log)
    queue.put(event())
    queue.close()
    messages = [json.loads(line)["msg"] for line in (tmp_path / "log").read_text().splitlines()]
    assert messages == ["backoffSink: error writing event"] * 3 + ["eventqueue: event lost: push 0"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Endpoint(), 10),
        (Endpoint(max_retries=3, threshold=50), 3),
        (Endpoint(threshold=5, backoff=1.0), 10),
        (Endpoint(threshold=40, backoff=1.0), 40),
    ],
)
def test_retries(settings: Endpoint, expected: int) -> None:
    assert notifications.retries(settings) == expected


def test_events_carry_the_user_of_the_token(start_registry: Start, tmp_path: Path) -> None:
    signer = tokens.Signer()
    signer.write_bundle(tmp_path / "bundle.crt")
    names = {"realm": tokens.REALM, "service": tokens.SERVICE, "issuer": tokens.ISSUER}
    with EventSink() as sink:
        options = {
            "auth": {"token": {**names, "rootcertbundle": str(tmp_path / "bundle.crt")}},
            "notifications": {"endpoints": [endpoint(sink.url)]},
        }
        server = start_registry(tmp_path / "storage", options=options)
        claims = tokens.claims(tokens.access("g/n", "pull", "push"), auth_type="gitlab_or_ldap", user="opaque")
        token = signer.sign(claims, {"kid": signer.kid})
        data = NOTE.blobs[0]
        server.push_blob("g/n", data, images.digest(data), {"Authorization": f"Bearer {token}"})
        sink.wait(1)
        server.stop()
        assert sink.events()[0]["actor"] == {"name": "root", "user_type": "gitlab_or_ldap", "user": "opaque"}
        assert "references" not in sink.events()[0]["target"]
