"""The role and database that the package makes in its own PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from georeg_lab.layout import inside
from georeg_lab.omnibus import services
from georeg_lab.omnibus.bundled import PGPASS, provision
from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.render import Rendered, render
from georeg_lab.postgres import Cluster, environment, free_port, new_password, server_command


def rendered(text: str, version: str = "18.7.7") -> Rendered:
    return render(evaluate(text.encode()), profile(version))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    data = inside(tmp_path, "/var/opt/gitlab/postgresql/data")
    cluster = Cluster(data, free_port(), new_password(), "gitlab-psql")
    cluster.init()
    inside(tmp_path, PGPASS).write_text(f"127.0.0.1:{cluster.port}:*:gitlab-psql:{cluster.password}\n")
    argv = server_command(data, cluster.port, cluster.bin_dir)
    ready = {"postgresql": str(data)}
    services.define(
        tmp_path,
        "postgresql",
        {"argv": argv, "env": environment(cluster.bin_dir), "ready": ready, "stop_signal": "INT"},
    )
    services.start(tmp_path, ["postgresql"])
    yield tmp_path
    services.stop(tmp_path, ["postgresql"], timeout=2)


def test_made_once_and_never_on_older_versions_or_when_switched_off(root: Path) -> None:
    assert not provision(root, rendered("", "18.2.8"))
    assert not provision(root, rendered("postgresql['registry']['auto_create'] = false\n"))
    text = "registry['database'] = { 'host' => 'db.example.com', 'password' => 'made-up' }\n"
    assert provision(root, rendered(text))
    assert not provision(root, rendered(text))


def test_nothing_is_made_while_the_server_is_down(root: Path) -> None:
    services.stop(root, ["postgresql"])
    assert not provision(root, rendered(""))
