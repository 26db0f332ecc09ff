"""The main job over SSH from a workstation that reaches one thing only: the jump host. Nodes, databases, registries and
GitLab are behind it. Where this machine allows it, the workstation is a network namespace of its own with nothing in
it but a socket to the jump host, and the account that logs in is not root and uses sudo.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import workplace as workplace_module
from killing import freezing, kernel_of, newest, thaw, wait_for
from standing import COMPLETE, all_tags, assert_complete, imports_started
from workplace import GEOREG, Workplace, copy_project, end, outcomes

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


def test_cut_and_killed_over_ssh_it_is_resumed_and_nothing_is_lost(outside: Workplace) -> None:
    """In the secondary's import every connection is cut, at the nodes and at the jump host: the same run goes on. In
    the primary's import the kernel is killed and all SSH servers end: the next run takes the running import up.
    """
    servers, before = outside.lab.ssh_servers, all_tags(outside)
    if not why_not_alone():  # the workstation really reaches nothing
        code = f"import socket; socket.create_connection(('127.0.0.1', {outside.lab.lab.ports.gitlab('primary')}), 5)"
        command = ["unshare", "--net", "--", "sh", "-c", ALONE, "sh", sys.executable, "-c", code]
        alone = subprocess.run(command, capture_output=True, check=False)
        assert b"refused" in alone.stderr

    process = outside.start("--approve", "all")
    try:
        wait_for(freezing(outside, "secondary"), process, 400)
        for server in servers.servers.values():
            server.cut()
        thaw(outside, "secondary")
        wait_for(freezing(outside, "primary"), process, 400)
        kernel_of(process.pid).kill()
        servers.stop()
        output, _ = process.communicate(timeout=200)
    finally:
        end(process)
        servers.start()
        thaw(outside, "primary")
    assert process.returncode == 4, output
    assert imports_started(outside) == {"primary": 1, "secondary": 1}

    last = outside.run("--approve", "all", "--resume", newest(outside))
    assert_complete(outside, last, before, {"primary": 1, "secondary": 1})

    again = outside.run("--approve", "all")
    assert again.status == 0, again.output
    assert set(outcomes(again.ledger).values()) <= COMPLETE - {"done"}
    limit = time.monotonic() + 60  # the servers notice in their own time
    while left := connections_left(outside.lab):
        assert time.monotonic() < limit, left
        time.sleep(0.1)
