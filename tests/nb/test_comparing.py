"""How often a comparison waits: a difference that this run has seen stay is not waited for again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from georeg_nb.procedures import comparing
from georeg_nb.verification import Comparison, Difference

ONE, OTHER = (Difference("a", tag, "missing", "sha256:1") for tag in ("one", "other"))


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(comparing, "time", clock)
    monkeypatch.setattr(comparing, "geo_site", lambda site: None)
    monkeypatch.setattr(comparing.state, "accepted_losses", lambda site: frozenset())
    return clock


@pytest.fixture
def sites() -> Any:
    gitlab = SimpleNamespace(sync_records=lambda entry: [], repository_id=lambda path: None)
    primary = SimpleNamespace(gitlab=gitlab, keep=SimpleNamespace(load=lambda name: None))
    secondary = SimpleNamespace(differences_seen={}, progress=lambda text: None)
    return SimpleNamespace(primary=primary, secondary=secondary)


def waited(sites: Any, clock: Clock, *differences: Difference, scope: str = "metadata") -> float:
    """Seconds that a look waits at these differences, all of which stay."""
    clock.slept = 0.0
    found = Comparison("here", "there", {"a": (2, 1)}, differences)
    compared = comparing._looked_twice(sites, sites.secondary, scope, lambda _: found)
    assert list(compared.staying) == list(differences)
    return clock.slept


def test_what_stayed_is_not_waited_for_again(sites: Any, clock: Clock) -> None:
    assert waited(sites, clock, ONE) == comparing.SETTLE_SECONDS
    assert waited(sites, clock, ONE) == 0
    clock.now += 5
    assert waited(sites, clock, ONE, OTHER) == comparing.SETTLE_SECONDS


def test_what_was_gone_or_is_compared_otherwise_is_waited_for(sites: Any, clock: Clock) -> None:
    assert waited(sites, clock, ONE) == comparing.SETTLE_SECONDS
    assert waited(sites, clock) == 0
    assert waited(sites, clock, ONE) == comparing.SETTLE_SECONDS
    assert waited(sites, clock, ONE, scope="api whole") == comparing.SETTLE_SECONDS
