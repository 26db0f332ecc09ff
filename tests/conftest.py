"""Fixtures for tests that need the two rehearsal sites."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import contract_cases
import pytest
from postgres_server import Database, postgres_database, postgres_server
from ssh_server import ssh_servers, sudo_servers

from georeg_lab.layout import Ports
from georeg_lab.postgres import EPHEMERAL_START, port_is_free
from georeg_lab.sites import LabSites
from georeg_lab.sshd import SshdError, find_sshd

__all__ = ["Database", "postgres_database", "postgres_server", "ssh_servers", "sudo_servers"]


LONGEST_FIRST = (
    *("test_crashes.py", "test_interruptions.py", "test_three_step.py", "test_break_glass.py", "test_migration.py"),
    "test_way_back.py",
    *(
        "test_ssh_migration.py",
        "test_secrets.py",
        "test_wrong_input.py",
        "test_browser.py",
        "test_clean.py",
        "test_hold.py",
    ),
)
"""A file runs on one worker as a whole: a long one that is begun last leaves the other worker idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then what else needs a lab, then the rest; a file's tests stay together and in order.

    Reports say which recorded case a test stands for.
    """
    for item in items:
        contract_cases.note(item)
    with_lab = {item.path for item in items if item.get_closest_marker("lab")}

    def rank(item: pytest.Item) -> int:
        if item.path.name in LONGEST_FIRST:
            return LONGEST_FIRST.index(item.path.name)
        return len(LONGEST_FIRST) + (item.path not in with_lab)

    items.sort(key=rank)


TAGS = 400
"""In the largest repository of the tests' labs: a run asks for each of them many times over."""


def free_base_port() -> int:
    """First port of a free block, a different one for each xdist worker, away from the default lab's.

    Sessions side by side begin at different blocks: a lab that is just being reset leaves its ports free for a moment.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    blocks = range(19000 + 40 * int(worker), EPHEMERAL_START - 400, 400)
    first = os.getppid() % len(blocks)
    for base in (*blocks[first:], *blocks[:first]):
        if all(port_is_free(port) for port in Ports(base).all()):
            return base
    raise RuntimeError("no free block of ports for a lab")


@pytest.fixture
def lab_base_port() -> int:
    """First port of a free block, for a test that makes a lab of its own."""
    return free_base_port()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSites]:
    """Two running, seeded sites, shared by the session's tests and removed afterwards.

    GEOREG_REGISTRY_BINARY names a real GitLab registry to run in place of the stand-in.
    A test that changes them asks for `fresh_lab` instead, or calls `lab.reset()` before it relies on the beginning.
    """
    directory = tmp_path_factory.mktemp("lab") / "lab"
    binary = os.environ.get("GEOREG_REGISTRY_BINARY")
    program = Path(binary) if binary else None
    sites = LabSites.up(directory, free_base_port(), registry_binary=program, tags=TAGS, progress=print)
    try:
        yield sites
    finally:
        sites.down(purge=True)


@pytest.fixture
def fresh_lab(lab: LabSites) -> LabSites:
    """The sites as they were right after the first `up`."""
    lab.reset()
    return lab


@pytest.fixture(scope="module")
def ssh_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSites]:
    """Two running, seeded sites of a module's own, with a real SSH server before each node behind a jump host."""
    try:
        find_sshd()
    except SshdError as error:
        pytest.skip(str(error))
    sites = LabSites.up(
        tmp_path_factory.mktemp("ssh-lab") / "lab", free_base_port(), ssh=True, tags=TAGS, progress=print
    )
    try:
        yield sites
    finally:
        sites.down(purge=True)
        assert all(server.pid() is None for server in sites.ssh_servers.servers.values())
