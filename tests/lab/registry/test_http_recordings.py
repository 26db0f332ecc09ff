"""Every recorded HTTP exchange of the real program, replayed in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recorded_images as images
import registry_replay as replays
from recorded_differences import DIFFERENCES
from registry_replay import Replay
from registry_server import Server, database_section

from georeg_lab.registry.config import Database

Answers = dict[int, dict[str, Any]]
Start = Callable[..., Server]


def parameters(name: str) -> list[Any]:
    """One test per recorded answer."""
    found = []
    for identity, line in replays.cases(name):
        reason = DIFFERENCES.get((name, line["line"]))
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        found.append(pytest.param(line, id=identity, marks=marks))
    return found


def _run(replay: Replay, lines: list[dict[str, Any]], answers: Answers) -> None:
    for line in lines:
        if "file gone" in line["name"]:
            _lose_blob(replay.server.root)
        answer = replay.answer(line)
        if answer is not None:
            answers[line["line"]] = answer


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


@pytest.fixture(scope="session")
def legacy(start_registry: Start, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    roots = [tmp_path_factory.mktemp("legacy") for _ in range(2)]
    return _sessions("http-legacy", start_registry, roots, [None, None])


@pytest.fixture(scope="session")
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
