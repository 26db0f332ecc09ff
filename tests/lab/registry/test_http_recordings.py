"""Every recorded HTTP exchange of the real program, replayed in order."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract_cases
import pytest
import recorded_images as images
import recorded_tokens as tokens
import registry_replay as replays
from registry_replay import Replay
from registry_server import Response, Server, database_section
from tcp_switch import TcpSwitch

from georeg_lab.postgres import free_port
from georeg_lab.registry.config import Database

Answers = dict[int, dict[str, Any]]
Start = Callable[..., Server]


def parameters(name: str) -> list[Any]:
    """One test per recorded exchange."""
    return contract_cases.parameters(f"registry/{name}.jsonl", lambda line: f"{line['line']:03d} {line['name']}")


def _run(replay: Replay, lines: list[dict[str, Any]], answers: Answers) -> None:
    for line in lines:
        if "file gone" in line["name"]:
            _lose_blob(replay.server.root)
        answers[line["line"]] = replay.answer(line)


def _lose_blob(root: Path) -> None:
    encoded = images.digest(replays.image("ex-img").blobs[1]).split(":")[1]
    (root / images.V2 / "blobs/sha256" / encoded[:2] / encoded / "data").unlink(missing_ok=True)


def _sessions(name: str, start: Start, roots: list[Path], databases: list[Database | None]) -> Answers:
    """Both sessions of a file, each on its own storage."""
    lines = replays.lines(name)
    second = next(at for at, line in enumerate(lines) if "note" in line)
    answers: Answers = {}
    parts = (lines[:second], lines[second:])
    for part, root, database in zip(parts, roots, databases, strict=True):
        server = start(root, options={"database": database_section(database)} if database else {})
        _run(Replay(server, name), part, answers)
        server.stop()
    return answers


@pytest.fixture(scope="module")
def legacy(start_registry: Start, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    roots = [tmp_path_factory.mktemp("legacy") for _ in range(2)]
    return _sessions("http-legacy", start_registry, roots, [None, None])


@pytest.fixture(scope="module")
def database(
    start_registry: Start, tmp_path_factory: pytest.TempPathFactory, new_metadata: Callable[[], Database]
) -> Answers:
    roots = [tmp_path_factory.mktemp("database") for _ in range(2)]
    return _sessions("http-database", start_registry, roots, [new_metadata(), new_metadata()])


@pytest.mark.parametrize("line", parameters("http-legacy"))
def test_legacy(line: dict[str, Any], legacy: Answers) -> None:
    assert legacy[line["line"]] == replays.expected(line)


@pytest.mark.parametrize("line", parameters("http-database"))
def test_database(line: dict[str, Any], database: Answers) -> None:
    assert database[line["line"]] == replays.expected(line)


# --- read-only mode, deletion switched off, authorization first


def _token_options(bundle: Path, **more: Any) -> dict[str, Any]:
    names = {"realm": tokens.REALM, "service": tokens.SERVICE, "issuer": tokens.ISSUER}
    return {"auth": {"token": {**names, "rootcertbundle": str(bundle), **more}}}


READ_ONLY = {"maintenance": {"readonly": {"enabled": True}}}


def _read_only_session(
    lines: list[dict[str, Any]], start: Start, root: Path, mode: dict[str, Any], bundle: Path
) -> Answers:
    """One mode's lines: a writable registry gets the image first, then one process per set-up."""
    answers: Answers = {}
    replay = Replay(start(root, options=dict(mode)), "http-readonly")
    replay.server.push_image("g/ro", "v1", replays.image("ro"))
    placeholder = next(found for line in lines for found in re.findall(r"\{uuid\d+\}", line["request"]["path"]))
    replay.begin_upload(placeholder, "g/ro")
    for setup in dict.fromkeys(line["setup"] for line in lines):
        replay.server.stop()
        options = dict(mode)
        if "delete.enabled false" in setup:
            options["storage"] = {"delete": {"enabled": False}}
        else:
            options["storage"] = READ_ONLY
        if "token auth" in setup:
            options.update(_token_options(bundle))
        replay.server = start(root, options=options)
        _run(replay, [line for line in lines if line["setup"] == setup], answers)
    replay.server.stop()
    return answers


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> tuple[tokens.Signer, tokens.Signer, Path]:
    """The trusted signer, another one, and the bundle with the trusted one's certificate."""
    trusted, bundle = tokens.Signer(), tmp_path_factory.mktemp("keys") / "bundle.crt"
    trusted.write_bundle(bundle)
    return trusted, tokens.Signer(), bundle


@pytest.fixture(scope="module")
def read_only(
    start_registry: Start,
    tmp_path_factory: pytest.TempPathFactory,
    new_metadata: Callable[[], Database],
    signers: tuple[tokens.Signer, tokens.Signer, Path],
) -> Answers:
    lines = replays.lines("http-readonly")
    answers: Answers = {}
    for word, mode in (("legacy", {}), ("database", {"database": database_section(new_metadata())})):
        chosen = [line for line in lines if line["setup"].startswith(word)]
        root = tmp_path_factory.mktemp(f"readonly-{word}")
        answers.update(_read_only_session(chosen, start_registry, root, mode, signers[2]))
    return answers


@pytest.mark.parametrize("line", parameters("http-readonly"))
def test_read_only(line: dict[str, Any], read_only: Answers) -> None:
    assert read_only[line["line"]] == replays.expected(line)


# --- tokens


@pytest.fixture(scope="module")
def authorized(
    start_registry: Start,
    tmp_path_factory: pytest.TempPathFactory,
    new_metadata: Callable[[], Database],
    signers: tuple[tokens.Signer, tokens.Signer, Path],
) -> Answers:
    trusted, other, bundle = signers
    root = tmp_path_factory.mktemp("auth")
    mode = {"database": database_section(new_metadata())}
    replay = Replay(start_registry(root, options=dict(mode)), "http-auth")
    for repository in ("g/p", "g/p/x", "g/src"):
        replay.server.push_image(repository, "v1", replays.image("auth"))
    answers: Answers = {}
    variants = {
        "auth autoredirect": _token_options(bundle, autoredirect=True),
        "auth silly": {"auth": {"silly": {"realm": "r", "service": "s"}}},
    }
    now: dict[str, Any] = {}
    for line in replays.lines("http-auth"):
        options = variants.get(line["setup"]) or _token_options(bundle)
        if options != now:
            replay.server.stop()
            replay.server = start_registry(root, options={**mode, **options})
            now = options
        replay.token = tokens.recorded_token(line["setup"], trusted, other)
        _run(replay, [line], answers)
    replay.server.stop()
    return answers


@pytest.mark.parametrize("line", parameters("http-auth"))
def test_auth(line: dict[str, Any], authorized: Answers) -> None:
    assert authorized[line["line"]] == replays.expected(line)


# --- the database goes away and comes back


def _wait_for_health(server: Server, healthy: bool) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if (server.request("GET", "/").status == 200) == healthy:
            return
        time.sleep(0.05)
    raise AssertionError("the health check did not notice")


def _health(server: Server, port: int, wanted: str) -> Response:
    """What the health checks say, once it holds the text: right after the cut they saw their connection end."""
    for _ in range(300):
        answer = server.request("GET", "/debug/health", port=port)
        if wanted.encode() in answer.body and b"EOF" not in answer.body:
            break
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def unavailable(
    start_registry: Start, tmp_path_factory: pytest.TempPathFactory, new_metadata: Callable[[], Database]
) -> Answers:
    answers: Answers = {}
    metadata = new_metadata()
    switch = TcpSwitch(metadata.port)
    root, debug = tmp_path_factory.mktemp("unavailable"), free_port()
    lines = replays.lines("http-unavailable")
    second = [at for at, line in enumerate(lines) if "push_blob" in line][2]
    check = {
        "health": {"database": {"enabled": True, "interval": "100ms"}},
        "http": {"debug": {"addr": f"127.0.0.1:{debug}"}},
    }
    replay = Replay(Server(Path(), root), "http-unavailable")
    for part, more in ((lines[:second], {}), (lines[second:], check)):
        switch.on()
        # as recorded: else the client tries TLS too, and tells of each try
        section = database_section(metadata, port=switch.port, sslmode="disable")
        replay.server = start_registry(root, options={"database": section, **more})
        for line in part:
            if "stopped" in line.get("setup", ""):
                switch.off()
            elif "started again" in line.get("setup", ""):
                switch.on()
            if more and "request" in line:
                _wait_for_health(replay.server, not line["name"].startswith("down"))
            if line.get("request", {}).get("path") == "/debug/health":
                down = line["response"]["status"] != 200
                answer = _health(replay.server, debug, "connection refused" if down else "")
                answers[line["line"]] = replay.normalized(line, answer)
            else:
                _run(replay, [line], answers)
        replay.server.stop()
        switch.off()
    return answers


@pytest.mark.parametrize("line", parameters("http-unavailable"))
def test_unavailable(line: dict[str, Any], unavailable: Answers) -> None:
    assert unavailable[line["line"]] == replays.expected(line)
