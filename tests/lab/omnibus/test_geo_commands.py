"""Geo's database replication by the package's own commands, on two real PostgreSQL servers. Source: procedures 2.1."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from georeg_lab.layout import Lab, Ports, inside
from georeg_lab.omnibus import ctl, geo_commands, geo_databases, node_state, services
from georeg_lab.omnibus.definitions import definitions
from georeg_lab.omnibus.render import Rendered
from georeg_lab.postgres import free_port
from georeg_lab.rails import rake, runner
from georeg_lab.sites import databases, node_files, seeding
from georeg_lab.sites.databases import MAIN, main_cluster, tracking_cluster

PASSWORD = "replication-password"


def hashed(user: str) -> str:
    """As `pg-password-md5` prints it."""
    import hashlib

    return hashlib.md5(f"{PASSWORD}{user}".encode()).hexdigest()


def configure(lab: Lab, site: str, text: str, *, restart: bool = True) -> Rendered:
    """Add to gitlab.rb and do what reconfigure does to the databases, and a restart of PostgreSQL."""
    root = lab.node_root(site)
    with (root / "etc/gitlab/gitlab.rb").open("a") as file:
        file.write(text)
    rendered = node_state.evaluate_node(root, node_state.package_profile(root), {})
    geo_databases.prepare(root, rendered)
    for name, definition in definitions(root, rendered).items():
        if name in services.DATABASES:
            services.define(root, name, definition)
            services.enable(root, name)
            services.start(root, [name])
    geo_databases.provision(root, rendered)
    if restart:
        services.restart(root, ["postgresql"])
    return rendered


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two instances without Geo; of each the main database alone runs."""
    folder = tmp_path_factory.mktemp("geo-databases")
    lab = Lab(folder, Ports(free_port() // 100 * 100), {"state": "no-registry-no-geo"})
    lab.save()
    try:
        for site in lab.sites:
            node_files.write_site(lab, site, node_files.Shared())
        databases.create(lab)
        seeding.seed_main(lab)
        for cluster in databases.all_clusters(lab):
            cluster.stop()
        for site in lab.sites:
            configure(lab, site, "", restart=False)
        yield lab
    finally:
        for site in lab.sites:
            services.stop(lab.node_root(site), services.DATABASES)
        for cluster in databases.all_clusters(lab):
            cluster.stop()


def reachable(lab: Lab, site: str) -> bool:
    """The main database takes TCP connections on the address that sites know of each other."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", lab.ports.postgresql(site))) == 0


def replicate(lab: Lab, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """`gitlab-ctl replicate-geo-database` on the secondary, with the password on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    port = str(lab.ports.postgresql("primary"))
    return ctl.main(
        ["replicate-geo-database", "--host=127.0.0.1", f"--port={port}", *words], lab.node_root("secondary")
    )


PRIMARY = f"""
roles(['geo_primary_role'])
postgresql['sql_replication_password'] = '{hashed("gitlab_replicator")}'
postgresql['md5_auth_cidr_addresses'] = ['127.0.0.1/32']
"""
LISTEN = "postgresql['listen_address'] = '127.0.0.1'\n"


def test_the_whole_way_to_a_streaming_standby(
    pair: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pair.node_root("secondary")
    assert not reachable(pair, "primary")  # a package's server has its socket alone
    configure(pair, "primary", PRIMARY + LISTEN, restart=False)
    assert not reachable(pair, "primary")  # a changed address counts from the restart
    services.restart(pair.node_root("primary"), ["postgresql"])
    assert reachable(pair, "primary")
    configure(pair, "secondary", "roles(['geo_secondary_role'])\n")
    with tracking_cluster(pair, "secondary").connect("gitlabhq_geo_production") as connection:
        assert connection.execute("SELECT count(*) FROM container_repository_registry").fetchone() == (0,)

    # the certificate is not there yet: everything is left stopped, and started again by hand
    assert replicate(pair, monkeypatch, "--slot-name=secondary", "--sslmode=verify-ca", "--no-wait") == 1
    assert "Initial replication failed!" in capsys.readouterr().out
    assert services.status(root, "postgresql").pid is None
    services.start(root, ["postgresql"])

    target = inside(root, geo_commands.ROOT_CERTIFICATE)
    target.parent.mkdir()
    certificate = inside(pair.node_root("primary"), "/var/opt/gitlab/postgresql/data/server.crt")
    target.write_text(certificate.read_text())
    assert replicate(pair, monkeypatch, "--slot-name=secondary", "--sslmode=verify-ca", "--no-wait") == 0
    with main_cluster(pair, "secondary").connect(MAIN) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        assert connection.execute("SELECT count(*) FROM projects").fetchone() != (0,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM projects")
    with main_cluster(pair, "primary").connect(MAIN) as connection:
        deadline = time.monotonic() + 30
        query = "SELECT slot_name, active FROM pg_replication_slots"
        while connection.execute(query).fetchall() != [("secondary", True)]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert len(list(inside(root, "/var/opt/gitlab/postgresql").glob("data.[0-9]*"))) == 1
    # now there is data: once more is refused
    assert replicate(pair, monkeypatch, "--slot-name=secondary", "--no-wait") == 1
    assert "override with --force" in capsys.readouterr().out


def test_the_address_of_the_registrys_database_follows_listen_address(pair: Lab) -> None:
    root = pair.node_root("secondary")
    text = node_files.gitlab_rb(pair, "secondary", "secondary") + "registry_external_url 'https://127.0.0.1:9'\n"
    hosts = []
    for more in ("", LISTEN):
        (root / "etc/gitlab/gitlab.rb").write_text(text + more)
        rendered = node_state.evaluate_node(root, node_state.package_profile(root), {})
        hosts.append(rendered.section("registry")["database"]["host"])
    assert hosts == ["/var/opt/gitlab/postgresql", "127.0.0.1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slot-name=a"], "missing argument: host"),
        (["--host=h"], "missing argument: --slot-name"),
        (["--host=h", "--slot-name=a", "--wrong"], "invalid option: --wrong"),
    ],
)
def test_bad_options_end_with_one(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["replicate-geo-database", *words], tmp_path) == 1
    assert says in capsys.readouterr().out


def test_a_password_is_hashed_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    assert ctl.main(["pg-password-md5", "gitlab"], Path("/")) == 0
    assert capsys.readouterr().out == f"{hashed('gitlab')}\n"


def test_the_primary_needs_puma(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["set-geo-primary-node"], tmp_path) == 1
    assert capsys.readouterr().out == "puma not enabled, exiting...\n"


def test_rails_reaches_a_package_database_by_its_socket_alone(
    pair: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pair.node_root("primary")
    services_off = "".join(f"{name}['enable'] = false\n" for name in ("puma", "sidekiq", "nginx"))
    text = node_files.gitlab_rb(pair, "primary", "primary")
    (root / "etc/gitlab/gitlab.rb").write_text(text + services_off)
    assert "db_password" not in text and "listen_address" not in text
    assert ctl.main(["reconfigure"], root) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert runner.run(root, ["runner", runner.GEO_ROLE]) == 0
    assert capsys.readouterr().out == "none\n"
    assert rake.run(root, ["geo:set_primary_node"]) == 0
    assert rake.run(root, ["gitlab:geo:check"]) == 0
    assert 'yes, found a primary node named "https://' in capsys.readouterr().out
