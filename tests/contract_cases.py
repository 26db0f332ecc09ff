"""The contract: one line of a recording below tests/data is one case. `make contract` counts how many agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract_differences import BINARY, DROP_IN

DATA = Path(__file__).parent / "data"


def recorded(file: str) -> list[dict[str, Any]]:
    """The cases of a recording, in order."""
    return [json.loads(line) for line in (DATA / file).read_text().splitlines()]


def marks(file: str, line: int = 0) -> list[pytest.MarkDecorator]:
    """What a test of case `line` (from 1; 0: the file as a whole) carries: counted, perhaps expected to differ."""
    found: list[pytest.MarkDecorator] = [pytest.mark.contract(file, line)]
    binary = os.environ.get("GEOREG_REGISTRY_BINARY") and file.startswith("registry/")
    reason = (BINARY if binary else DROP_IN).get((file, line))
    return [*found, pytest.mark.xfail(strict=True, reason=reason)] if reason else found


def parameters(
    file: str, name: Callable[[dict[str, Any]], str], chosen: Callable[[dict[str, Any]], bool] = lambda case: True
) -> list[Any]:
    """One parameter per case that `chosen` says yes to; `name` makes the test's id."""
    return [
        pytest.param(case, id=name(case)[:90], marks=marks(file, line))
        for line, case in enumerate(recorded(file), start=1)
        if chosen(case)
    ]


def note(item: pytest.Item) -> None:
    """Put the cases that a test stands for into its properties, which a JUnit report carries."""
    for mark in item.iter_markers("contract"):
        file, line = mark.args
        item.user_properties.append(("contract", f"{file}:{line}"))
