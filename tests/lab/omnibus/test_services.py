"""The supervisor: start, readiness, stop with everything below, status, and pids that are used again."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from georeg_lab.layout import inside
from georeg_lab.omnibus import services
from georeg_lab.omnibus.processes import descendants, find
from georeg_lab.postgres import environment, find_bin_dir, free_port, server_command

LISTEN = """
import socket, sys, time
time.sleep(0.3)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    services.stop(tmp_path, services.names(tmp_path), timeout=0.2)


def define(root: Path, name: str, code: str, *words: str, **more: object) -> None:
    services.define(root, name, {"argv": [sys.executable, "-c", code, *words], **more})
    services.enable(root, name)


def pid(root: Path, name: str) -> int:
    found = services.status(root, name).pid
    assert found is not None
    return found


def test_start_waits_until_the_port_answers(root: Path) -> None:
    port = free_port()
    define(root, "registry", LISTEN, str(port), ready={"tcp": port})
    (state,) = services.start(root, ["registry"])
    assert re.fullmatch(r"run: registry: \(pid \d+\) \ds", state.text)
    assert services.start(root, ["registry"])[0].pid == state.pid  # never a second one
    (state,) = services.stop(root, ["registry"])
    assert re.fullmatch(r"down: registry: \ds, normally up", state.text)


def test_a_service_that_ends_by_itself(root: Path) -> None:
    define(root, "puma", "import sys; sys.exit('no database')", ready={"tcp": free_port()})
    (state,) = services.start(root, ["puma"])
    assert state.pid is None
    assert state.text.endswith("s, normally up, want up")
    assert "no database" in inside(root, "/var/log/gitlab/puma/current").read_text()


def test_a_program_that_cannot_be_started(root: Path) -> None:
    services.define(root, "puma", {"argv": ["/no/such/program"]})
    (state,) = services.start(root, ["puma"])
    assert state.pid is None
    assert state.wanted


def test_stop_ends_what_ignores_sigterm_and_its_children_of_other_sessions(root: Path) -> None:
    define(root, "sidekiq", STUBBORN)
    services.start(root, ["sidekiq"])
    process = find(pid(root, "sidekiq"))
    assert process is not None
    while not (children := descendants(process)):
        time.sleep(0.02)
    services.stop(root, ["sidekiq"], timeout=0.3)
    assert find(process.pid) is None
    assert [child for child in children if find(child.pid) == child] == []


def test_a_pid_that_is_used_again_is_never_taken_for_the_service(root: Path) -> None:
    define(root, "puma", "import time; time.sleep(600)")
    other = os.getpid()
    inside(root, "/opt/gitlab/sv/puma/pid").write_text(
        json.dumps({"pid": other, "ticks": 1, "since": time.time(), "wanted": True})
    )
    assert services.status(root, "puma").pid is None
    services.stop(root, ["puma"])  # this process is still here


def test_only_chosen_variables_are_inherited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hidden")
    define(root, "puma", "import os; print(sorted(os.environ), flush=True)", env={"EXTRA": "1"})
    services.start(root, ["puma"])
    log = inside(root, "/var/log/gitlab/puma/current")
    while "\n" not in log.read_text():
        time.sleep(0.02)
    assert "PGPASSWORD" not in log.read_text()
    assert "'EXTRA'" in log.read_text()
    assert "'GEOREG_NODE_ROOT'" in log.read_text()


def test_a_definition_is_written_once_and_kept_private(root: Path) -> None:
    assert services.define(root, "puma", {"argv": ["x"], "env": {"A": "secret"}})
    assert not services.define(root, "puma", {"argv": ["x"], "env": {"A": "secret"}})
    assert inside(root, "/opt/gitlab/sv/puma/run.json").stat().st_mode & 0o777 == 0o600


def test_postgresql_as_root_or_not_leaves_nothing_behind(root: Path) -> None:
    from georeg_lab.postgres import Cluster, new_password

    port, bin_dir = free_port(), find_bin_dir()
    data = root / "data"
    Cluster(data, port, new_password()).init()
    definition = {
        "argv": server_command(data, port, bin_dir),
        "env": environment(bin_dir),
        "cwd": "/",
        "stop_signal": "INT",
        "ready": {"postgresql": str(data)},
    }
    services.define(root, "postgresql", definition)
    services.enable(root, "postgresql")
    services.start(root, ["postgresql"])
    process = find(pid(root, "postgresql"))
    assert process is not None
    family = [process, *descendants(process)]
    assert len(family) > 3
    services.stop(root, ["postgresql"])
    assert [member for member in family if find(member.pid) == member] == []
