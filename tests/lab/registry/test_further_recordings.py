"""The scenes that were recorded in addition: partial and repeated imports, signals, identity, reads and refusals."""

from __future__ import annotations

from typing import Any

import contract_cases
import pytest
from further_scenes import IMPORTS, SESSIONS, Player
from metadata_pool import Pool

IMPORT_FILE, HTTP_FILE = "registry/further-import.jsonl", "registry/further-http.jsonl"


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory, metadata_pool: Pool) -> Player:
    return Player(tmp_path_factory.mktemp("further"), metadata_pool)


@pytest.mark.parametrize("case", contract_cases.parameters(IMPORT_FILE, lambda case: str(case["name"])))
def test_further_import(case: dict[str, Any], player: Player) -> None:
    assert player.imported(case["name"]) == case


@pytest.fixture(scope="module")
def answers(player: Player) -> dict[str, dict[str, dict[str, Any]]]:
    """Answers by session and request, filled when a session is first asked for."""
    return {}


@pytest.mark.parametrize("case", contract_cases.parameters(HTTP_FILE, lambda case: f"{case['setup']}: {case['name']}"))
def test_further_exchange(case: dict[str, Any], player: Player, answers: dict[str, dict[str, dict[str, Any]]]) -> None:
    setup = case["setup"]
    if setup not in answers:
        answers[setup] = {line["name"]: line["response"] for line in player.answers(setup)}
    assert answers[setup][case["name"]] == case["response"]


def test_every_scene_was_recorded() -> None:
    assert [case["name"] for case in contract_cases.recorded(IMPORT_FILE)] == list(IMPORTS)
    recorded = [(case["setup"], case["name"]) for case in contract_cases.recorded(HTTP_FILE)]
    assert recorded == [(name, line["name"]) for name, session in SESSIONS.items() for line in session.asked]
