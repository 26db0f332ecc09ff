"""Fixtures: real SSH servers, a node behind a jump host, where this machine has an sshd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from georeg_lab.postgres import free_port
from georeg_lab.sshd import SshdError, SshServers, why_no_sudo

INTERNAL = "registry-db.internal"
"""A name that only the node behind the jump host knows."""


def _servers(factory: pytest.TempPathFactory, *, sudo: bool) -> Iterator[SshServers]:
    ports = {"jump": free_port(), "node": free_port()}
    servers = SshServers(factory.mktemp("ssh"), ports, sudo=sudo, hosts=[INTERNAL])
    try:
        servers.create()
        servers.start()
    except SshdError as error:
        pytest.skip(str(error))
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def ssh_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    """A node and its jump host; the present user logs in."""
    yield from _servers(tmp_path_factory, sudo=False)


@pytest.fixture(scope="session")
def sudo_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
    """The same, for an account that is not root and may use sudo."""
    if reason := why_no_sudo():
        pytest.skip(reason)
    yield from _servers(tmp_path_factory, sudo=True)
