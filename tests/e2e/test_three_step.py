"""Three steps, with everything killed that can be: taken up again, nothing lost, never two imports at once."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest
from killing import begun, freezing, kernel_of, kill_the_import, newest, stopped_at, thaw, wait_for
from observe import tags_in_database
from standing import all_tags, assert_complete, assert_status_is_true, import_commands, importers, refuses_pushes
from workplace import Workplace, end, outcomes

pytestmark = [pytest.mark.lab, pytest.mark.matrix]  # `make test` strikes three steps over SSH
CLEAR = "primary.import/clear-half-import"


class Chain:
    """Runs that take each other up."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self.resume: list[str] = []

    def killed(self, how: str, reached: Callable[[], bool], site: str = "") -> None:
        """A run whose kernel, or itself, is killed at a point. An import that was frozen then goes on by itself."""
        status, output = stopped_at(self.workplace, how, reached, *self.resume)
        assert status == {"kernel": 4, "runner": -signal.SIGKILL}[how], output
        if site:
            assert len(importers(self.workplace, site)) == 1
            thaw(self.workplace, site)
        self._stands()

    def without_its_import(self, site: str, reached: Callable[[], bool], *, kernel: bool = False) -> None:
        """A run whose import is killed under its eyes, or together with the kernel."""
        process = self.workplace.start("--approve", "all", *self.resume)
        try:
            wait_for(reached, process)
            if kernel:
                kernel_of(process.pid).suspend()  # it must not see its import die
            kill_the_import(self.workplace, site)
            if kernel:
                kernel_of(process.pid).kill()
            output, _ = process.communicate(timeout=180)
        finally:
            end(process)
        assert process.returncode == 4, output
        assert importers(self.workplace, site) == []
        self._stands()

    def _stands(self) -> None:
        assert_status_is_true(self.workplace)
        self.resume = ["--resume", newest(self.workplace)]


def test_killed_at_eight_points_of_three_steps(fresh_workplace: Workplace) -> None:
    workplace = fresh_workplace
    workplace.set_parameters(import_method="three-step")
    before = all_tags(workplace)
    chain = Chain(workplace)

    chain.killed("runner", freezing(workplace, "secondary", "one"), "secondary")
    chain.killed("kernel", begun(workplace, "secondary.import/read-only"))
    chain.killed("kernel", freezing(workplace, "secondary", "two"), "secondary")
    chain.killed("runner", begun(workplace, "secondary.import/enable-database"))
    chain.without_its_import("secondary", freezing(workplace, "secondary", "three"))
    assert not refuses_pushes(workplace, "secondary")
    chain.without_its_import("primary", freezing(workplace, "primary", "one"))
    assert not refuses_pushes(workplace, "primary")
    chain.without_its_import("primary", freezing(workplace, "primary", "two"), kernel=True)
    assert refuses_pushes(workplace, "primary")

    left = len(tags_in_database(workplace.lab, "primary"))
    refused = workplace.run("--approve", "all", *chain.resume)
    assert refused.status == 5, refused.output
    assert outcomes(refused.ledger)[CLEAR] == "not approved"
    assert 0 < left == len(tags_in_database(workplace.lab, "primary")) < len(before["primary"])
    assert not refuses_pushes(workplace, "primary")

    chain.resume = ["--approve", CLEAR, "--resume", newest(workplace)]
    chain.killed("runner", freezing(workplace, "primary", "three"), "primary")
    last = workplace.run("--approve", "all", *chain.resume)

    assert_complete(workplace, last, before, {"secondary": 4, "primary": 5})
    assert Counter(import_commands(workplace)) == {
        ("secondary", "one"): 1,
        ("secondary", "two"): 1,
        ("secondary", "three"): 2,
        ("primary", "one"): 2,
        ("primary", "two"): 2,
        ("primary", "three"): 1,
    }
    again = workplace.run("--approve", "all")
    assert again.status == 0, again.output
    assert set(outcomes(again.ledger).values()) <= {"no-op", "skipped by rule"}
