"""The lab's SSH servers: a real login by ssh itself, the machine's own accounts untouched, and nothing left."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from georeg_lab import sshd
from georeg_lab.layout import Lab, Ports
from georeg_lab.sites import parameters
from georeg_lab.sshd import ACCOUNT, SshdError, SshServers


def ask(servers: SshServers, command: str) -> str:
    """What a command prints that is run on the node by the servers' own configuration."""
    argv = ["ssh", "-F", str(servers.ssh_config), "-o", "BatchMode=yes", "node", command]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_a_login_through_the_jump_host(ssh_servers: SshServers) -> None:
    assert ask(ssh_servers, "echo hello").strip() == "hello"


def test_an_account_that_exists_for_the_server_alone(sudo_servers: SshServers) -> None:
    assert ask(sudo_servers, "id -un; sudo -n id -u").split() == [ACCOUNT, "0"]
    assert f"{ACCOUNT}:" not in Path("/etc/passwd").read_text()


def test_servers_are_started_once_and_stopped_with_their_connections(ssh_servers: SshServers) -> None:
    server = ssh_servers.servers["node"]
    pid = server.pid()
    ssh_servers.start()
    assert server.pid() == pid
    command = ["ssh", "-F", str(ssh_servers.ssh_config), "node", "echo in; exec cat"]
    session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert session.stdout and session.stdin and session.stdout.readline() == b"in\n"
    assert server.sessions()
    ssh_servers.stop()
    assert session.wait(30) == 255
    session.stdin.close()
    session.stdout.close()
    assert server.pid() is None and server.sessions() == []
    ssh_servers.start()
    assert ask(ssh_servers, "echo again").strip() == "again"


def test_a_machine_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sshd, "PROGRAMS", ())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SshdError, match="Install the OpenSSH server"):
        SshServers(tmp_path, {"node": 1}, sudo=False).create()
    assert list(tmp_path.iterdir()) == []


def test_the_inventory_leads_over_ssh(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", Ports(20000), {"ssh": "sudo", "registry_nodes": {"primary": 2}})
    nodes = yaml.safe_load(parameters.sites_file(lab))["primary"]["nodes"]
    assert [(node["name"], node["connection"], node["sudo"]) for node in nodes] == [
        ("primary-node", "ssh", True),
        ("primary-registry-2", "ssh", True),
    ]
    assert nodes[0]["root"] == str(tmp_path / "lab/primary")
    assert nodes[0]["ssh_config"] == str(tmp_path / "lab/ssh/ssh_config")
    assert {lab.ports.ssh(number) for number in range(4)} <= set(lab.all_ports())
    assert len(set(lab.all_ports())) == len(lab.all_ports())
