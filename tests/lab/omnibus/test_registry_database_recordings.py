"""gitlab-ctl registry-database against the recordings of the real wrapper, all versions."""

from __future__ import annotations

from typing import Any

import contract_cases
import pytest

from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.registry_database import FOLDER, run

FILE = "omnibus/registry-database.jsonl"
PARAMETERS = [
    pytest.param(
        case, version, result["result"], id=f"{case['name']}-{version}", marks=contract_cases.marks(FILE, line)
    )
    for line, case in enumerate(contract_cases.recorded(FILE), start=1)
    for result in case["results"]
    for version in result["versions"]
]


class RecordedNode:
    """A node in the recorded state that notes what is done to it."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.stdout = self.stderr = ""
        self.executed: list[list[str]] = []
        self.actions: list[str] = []
        self.up = bool(state["running"])
        self.stdin = str(state.get("stdin", "")).splitlines(keepends=True)

    def out(self, text: str) -> None:
        self.stdout += text

    def err(self, text: str) -> None:
        self.stderr += text

    def enabled(self) -> bool:
        return bool(self.state["enabled"])

    def running(self) -> bool:
        return self.up

    def read_only(self, config: str) -> bool:
        return self.state["readonly"] is True

    def exists(self, path: str) -> bool:
        return path != self.state.get("missing")

    def folder(self) -> str:
        return str(self.state.get("dir", FOLDER))

    def enter(self, folder: str) -> None:
        assert folder == self.folder()

    def user(self) -> str:
        return str(self.state.get("user", "root"))

    def answer(self) -> str | None:
        return self.stdin.pop(0) if self.stdin else None

    def system(self, argv: list[str]) -> bool:
        self.executed.append(argv)
        return bool(self.state["binary_ok"])

    def start(self) -> None:
        self.up = True
        self.actions.append("start registry")

    def stop(self) -> None:
        self.up = False
        self.actions.append("stop registry")


@pytest.mark.parametrize(("case", "version", "recorded"), PARAMETERS)
def test_equal_to_the_recording(case: dict[str, Any], version: str, recorded: dict[str, Any]) -> None:
    node = RecordedNode(case["state"])
    status = run(case["argv"][2:], profile(version), node)
    found = {"exit": status, "stdout": node.stdout, "stderr": node.stderr}
    assert found | {"executed": node.executed, "service_actions": node.actions} == recorded


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["import", "--log"], "registry database import --log-to-stdout"),
        (["import", "-lc1"], "registry database import --log-to-stdout --row-count --step-one"),
        (["migrate", "up", "-l3", "-d"], "registry database migrate up -n 3 -d"),
        (["migrate", "up", "--limit=3"], "registry database migrate up -n 3"),
    ],
)
def test_abbreviations_and_joined_options(argv: list[str], line: str) -> None:
    node = RecordedNode({"enabled": True, "running": True, "readonly": True, "binary_ok": True})
    assert run(argv, profile("18.7.7"), node) == 0
    assert line in node.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["import", "--step"], "ambiguous option: --step\n"),
        (["import", "--dry-run=1"], "needless argument: --dry-run=1\n"),
        (["migrate", "up", "--limit"], "missing argument: --limit\n"),
    ],
)
def test_errors_of_the_option_parser(argv: list[str], message: str) -> None:
    node = RecordedNode({"enabled": True, "running": True, "readonly": True, "binary_ok": True})
    assert run(argv, profile("18.7.7"), node) == 128
    assert node.stderr.startswith(message)
