"""A node of the tests, and a PostgreSQL server where one is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omnibus_node import BINARY, GITLAB_RB, SCRIPT, Node

from georeg_lab.layout import Lab, Ports
from georeg_lab.omnibus import services
from georeg_lab.postgres import Cluster, free_port, new_password


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    lab = Lab(tmp_path / "lab", Ports(18700), {"registry_binary": str(tmp_path / "registry")})
    root = lab.node_root("primary")
    root.mkdir(parents=True)
    lab.save()
    (tmp_path / "registry").write_text(BINARY)
    (tmp_path / "registry").chmod(0o755)
    port = free_port()
    found = Node(root, port)
    for name, module in (("registry", "georeg_lab.omnibus.registry_process"), ("chpst", "georeg_lab.omnibus.chpst")):
        program = found.file(f"/opt/gitlab/embedded/bin/{name}")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(SCRIPT.format(python=sys.executable, module=module, root=root))
        program.chmod(0o755)
    found.file("/etc/gitlab").mkdir(parents=True)
    text = GITLAB_RB.format(gitlab=18701, registry=18702, http=port)
    found.file("/etc/gitlab/gitlab.rb").write_text(text)
    try:
        yield found
    finally:
        services.stop(root, services.names(root), timeout=2)
        assert not [p for p in Path("/proc").iterdir() if p.name.isdigit() and _belongs(p, root)]


def _belongs(process: Path, root: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(root) in words and int(process.name) != os.getpid()


@pytest.fixture(scope="session")
def postgresql_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an empty PostgreSQL server."""
    cluster = Cluster(tmp_path_factory.mktemp("postgresql") / "data", free_port(), new_password())
    cluster.init()
    cluster.start()
    try:
        yield cluster.port
    finally:
        cluster.remove()
