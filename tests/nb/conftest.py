"""Fixtures of the helper package's tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from georeg_nb import redaction


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """What one test registers must not be masked in what another expects."""
    redaction.forget_all()
    yield
    redaction.forget_all()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the sites of world.py: their secrets, and nobody sleeps."""
    monkeypatch.setenv("WORLD_TOKEN", "glpat-world-token")
    monkeypatch.setenv("WORLD_PASSWORD", "world-password")
    monkeypatch.setenv("WORLD_NOTIFICATIONS", "t" + "0123456789abcdef" * 2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def impatient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes half a minute, too: patience is spent at once."""
    monkeypatch.setattr("time.monotonic", itertools.count(30.0, 30.0).__next__)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Opens runs of the scenario in fakes.py, in this process; what they show is in `run.shown`."""
    import fakes

    from georeg_nb.records import Record
    from georeg_nb.runbook.reporter import Reporter
    from georeg_nb.runbook.run import Run

    fakes.SCRIPT.clear()
    monkeypatch.delenv("GEOREG_RUN", raising=False)
    runs: list[Run] = []

    def open_one(record: Record | None = None, scenario: Any = fakes.SCENARIO, **options: Any) -> Any:
        record = record or Record.create(scenario.id, tmp_path / "records")
        reporter = Reporter(record)
        shown: list[Any] = []
        sites = fakes.FakeSites(tmp_path / "sites", reporter)
        run = Run(scenario, sites, fakes.Options(**options), record, reporter, show=shown.append)
        run.shown = shown  # type: ignore[attr-defined]
        runs.append(run)
        return run

    yield open_one
    for run in runs:
        run.close()
