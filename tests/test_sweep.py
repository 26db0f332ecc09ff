"""tools/sweep.py: what a killed test session left is ended and removed, and nothing of anybody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import sweep


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Folders of sessions, each with a process at work in it."""
    started = {}
    for name in ("georeg-test-dead", "georeg-test-alive", "georeg-test-no-owner", "somebody-else"):
        (tmp_path / name / "t").mkdir(parents=True)
        started[name] = subprocess.Popen(["sleep", "600"], cwd=tmp_path / name / "t")
    (tmp_path / "georeg-test-dead/owner").write_text(f"{os.getpid()} 1.5")  # the number was given anew
    (tmp_path / "somebody-else/owner").write_text(f"{os.getpid()} 1.5")
    (tmp_path / "georeg-test-alive/owner").write_text(sweep.identity(psutil.Process()))
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, sweep.__file__, *arguments], capture_output=True, text=True, check=True)
    return done.stderr


def test_a_new_session_sweeps_what_dead_ones_left_and_nothing_else(
    tmp_path: Path, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    new = tmp_path / "georeg-test-new"
    new.mkdir()
    assert "georeg-test-dead" in run("--begin", str(new))
    assert sleepers.pop("georeg-test-dead").wait(timeout=30) != 0
    assert not (tmp_path / "georeg-test-dead").exists()
    assert all(process.poll() is None for process in sleepers.values())
    assert {path.name for path in tmp_path.iterdir()} == {*sleepers, "georeg-test-new"}
    assert not sweep.is_dead(new)
    assert run("--begin", str(new)) == ""


def test_a_session_ends_its_own_and_not_that_of_a_longer_name(
    tmp_path: Path, sleepers: dict[str, subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "georeg-test-no-owner").rename(tmp_path / "georeg-test-dead-too")
    run(str(tmp_path / "georeg-test-dead"))
    assert sleepers.pop("georeg-test-dead").wait(timeout=30) != 0
    assert all(process.poll() is None for process in sleepers.values())
