"""The main job over SSH from a workstation that reaches one thing only: the jump host. Nodes, databases, registries and
GitLab are behind it. Where this machine allows it, the workstation is a network namespace of its own with nothing in
it but a socket to the jump host, and the account that logs in is not root and uses sudo.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import workplace as workplace_module
from killing import begun, freezing, kernel_of, newest, thaw, wait_for
from standing import COMPLETE, all_tags, assert_complete, import_commands, importers
from workplace import GEOREG, Outcome, Workplace, copy_project, end, outcomes

from georeg_lab.sites import LabSites
from georeg_lab.sshd import JUMP

pytestmark = [pytest.mark.lab]

RELAY = """\
import os, socket, sys, threading
way = socket.socket(socket.AF_UNIX)
way.connect(sys.argv[1])
def send():
    while data := os.read(0, 65536):
        way.sendall(data)
    way.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := way.recv(65536):
    os.write(1, data)
"""
ALONE = 'ip link set lo up && exec "$@"'


@pytest.fixture
def outside(ssh_lab: LabSites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A workplace away from the sites, whose inventory leads everything through their nodes."""
    place = Workplace(copy_project(tmp_path, ssh_lab), ssh_lab)

    def through_the_nodes(sites: dict[str, Any]) -> None:
        for site in (sites["primary"], *sites["secondaries"]):
            for way in ("gitlab", "registry", "database"):
                site[way]["via"] = site["nodes"][0]["name"]
            site["nodes"][0]["ssh_config"] = str(tmp_path / "ssh_config")

    place.change_sites(through_the_nodes)
    text = ssh_lab.ssh_servers.ssh_config.read_text()
    if alone := not why_not_alone():
        (tmp_path / "relay.py").write_text(RELAY)
        proxy = f"    ProxyCommand {sys.executable} {tmp_path}/relay.py {tmp_path}/way\n"
        text = text.replace(f"Host {JUMP}\n", f"Host {JUMP}\n{proxy}")
        command = f"exec unshare --net -- sh -c '{ALONE}' sh '{GEOREG}' \"$@\""
        (tmp_path / "georeg").write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / "georeg").chmod(0o755)
        monkeypatch.setattr(workplace_module, "GEOREG", tmp_path / "georeg")
    (tmp_path / "ssh_config").write_text(text)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "way"))
        listener.listen()
        if alone:
            port = ssh_lab.ssh_servers.servers[JUMP].port
            threading.Thread(target=relay, args=(listener, port), daemon=True).start()
        yield place


def why_not_alone() -> str:
    """Why a process cannot be given a network of its own here; empty when it can."""
    if os.geteuid() != 0:
        return "only root can"
    tried = subprocess.run(
        ["unshare", "--net", "--", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return tried.stderr.decode()


def relay(listener: socket.socket, port: int) -> None:
    """Everything that comes in by the socket goes to a port of this machine, and back."""
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=carry, args=(near, port), daemon=True).start()


def carry(near: socket.socket, port: int) -> None:
    with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as far:
        back = threading.Thread(target=pump, args=(far, near), daemon=True)
        back.start()
        pump(near, far)
        back.join()


def pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def connections_left(lab: LabSites) -> list[str]:
    """SSH clients of ours, and what the servers still serve."""
    ours = str(lab.sites_file.parent.parent)
    clients = [" ".join(p.info["cmdline"]) for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
    served = [f"{name}: {pid}" for name, s in lab.ssh_servers.servers.items() for pid in s.sessions()]
    return [line for line in clients if "georeg-ssh-" in line and ours in line] + served


STEPS = {"pre-import": "one", "import": "two", "import-blobs": "three"}
"""Of three: what `gitlab-ctl registry-database import` is told in a step of ours."""

POINTS = [
    ("cut", "secondary", "pre-import"),
    ("kernel", "secondary", "read-only"),
    ("servers", "secondary", "import"),
    ("runner", "secondary", "enable-database"),
    ("cut", "secondary", "import-blobs"),
    ("runner", "primary", "pre-import"),
    ("kernel", "primary", "import"),
    ("servers", "primary", "import-blobs"),
]


def reaching(outside: Workplace, site: str, step: str) -> Callable[[], bool]:
    """Whether a step is begun; an import at work is frozen then, so that it does not end before its run is struck."""
    return freezing(outside, site, STEPS[step]) if step in STEPS else begun(outside, f"{site}.import/{step}")


def strike(outside: Workplace, how: str, process: subprocess.Popen[str]) -> None:
    """Connections are cut, or SSH servers are ended and come again, under the eyes of a run; or it is killed."""
    servers, kernel = outside.lab.ssh_servers, kernel_of(process.pid)
    if how == "cut":
        for server in servers.servers.values():
            server.cut()
    elif how == "servers":
        servers.stop()
        servers.start()
    else:
        (kernel if how == "kernel" else process).kill()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == {"kernel": 4, "runner": -signal.SIGKILL}[how], output
        with contextlib.suppress(psutil.NoSuchProcess):
            kernel.wait(timeout=30)  # it notices within a second that its runner is gone


def test_struck_over_ssh_at_eight_points_of_three_steps(outside: Workplace) -> None:
    """All connections cut, at the nodes and at the jump host, or all SSH servers ended: the same run goes on. Runner or
    kernel killed: the next run takes it up, and the import that went on by itself.
    """
    if not why_not_alone():  # the workstation really reaches nothing
        code = f"import socket; socket.create_connection(('127.0.0.1', {outside.lab.lab.ports.gitlab('primary')}), 5)"
        command = ["unshare", "--net", "--", "sh", "-c", ALONE, "sh", sys.executable, "-c", code]
        alone = subprocess.run(command, capture_output=True, check=False)
        assert b"refused" in alone.stderr

    outside.set_parameters(import_method="three-step")
    before = all_tags(outside)
    reached = reaching(outside, *POINTS[0][1:])
    process = outside.start("--approve", "all")
    try:
        for (how, site, step), after in zip(POINTS, [*POINTS[1:], None], strict=True):
            wait_for(reached, process, 400)
            strike(outside, how, process)
            if step in STEPS:
                assert len(importers(outside, site)) == 1  # whatever was struck, the import lives
                thaw(outside, site)
            if after:
                reached = reaching(outside, *after[1:])
            if how in ("kernel", "runner"):
                process = outside.start("--approve", "all", "--resume", newest(outside))
        output, _ = process.communicate(timeout=200)
    finally:
        end(process)
        for site in before:
            thaw(outside, site)
    last = Outcome(process.returncode, output, "", outside.records)
    assert_complete(outside, last, before, {"secondary": 3, "primary": 3})
    assert sorted(import_commands(outside)) == sorted((site, step) for site in before for step in STEPS.values())

    again = outside.run("--approve", "all")
    assert again.status == 0, again.output
    assert set(outcomes(again.ledger).values()) <= COMPLETE - {"done"}
    limit = time.monotonic() + 60  # the servers notice in their own time
    while left := connections_left(outside.lab):
        assert time.monotonic() < limit, left
        time.sleep(0.1)
