"""georeg_lab.sites and its commands: up, down, reset, status; nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import yaml
from click.testing import CliRunner

from georeg_lab import images
from georeg_lab.cli import lab as lab_commands
from georeg_lab.faults import CONDITIONS, Tamper
from georeg_lab.layout import SITES, Lab, Ports
from georeg_lab.postgres import free_port, port_is_free
from georeg_lab.sites import LabError, LabSites, parameters, processes
from georeg_lab.sites.databases import MAIN, main_cluster
from georeg_lab.sites.node_files import DATABASE_CA, Secrets

PROJECT = Path(__file__).resolve().parents[2]


def georeg_lab(*arguments: str) -> list[str]:
    """Command line of `georeg lab …`."""
    return [sys.executable, "-m", "georeg_lab.cli", *arguments]


def test_the_committed_sites_file_is_what_up_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT / "notebooks")
    written = parameters.sites_file(Lab(PROJECT / ".lab"))
    assert (PROJECT / "parameters/lab/sites.yml").read_text() == written


def test_paths_of_a_lab_elsewhere_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load(parameters.sites_file(Lab(tmp_path / "lab", Ports(20000))))
    assert document["primary"]["nodes"][0]["root"] == str(tmp_path / "lab/primary")


def test_taken_ports_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        base = free_port() // 50 * 50
        taken.bind(("127.0.0.1", Ports(base).puma("primary")))
        taken.listen()
        with pytest.raises(LabError, match=rf"\b{base + 4}\b.*--base-port"):
            LabSites.up(tmp_path / "lab", base)
    assert not (tmp_path / "lab").exists()


def test_a_folder_that_is_no_lab_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(LabError, match="is no lab"):
        LabSites.up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_commands_say_when_there_is_no_lab(tmp_path: Path) -> None:
    runner = CliRunner()
    status = runner.invoke(lab_commands, ["status", "--dir", str(tmp_path)])
    assert (status.exit_code, "There is no lab" in status.output) == (3, True)
    down = runner.invoke(lab_commands, ["down", "--dir", str(tmp_path)])
    assert (down.exit_code, "There is no lab" in down.output) == (0, True)
    reset = runner.invoke(lab_commands, ["reset", "--dir", str(tmp_path)])
    assert (reset.exit_code, "There is no lab" in reset.output) == (1, True)


def listen_to_interrupts() -> None:
    """As at a terminal: what is started in the background of a shell ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.lab
@pytest.mark.parametrize(
    ("reached", "number"),
    [
        ("creating clusters", signal.SIGINT),
        ("streaming replica", signal.SIGTERM),
        ("pushing images", signal.SIGINT),
        ("gitlab-ctl reconfigure", signal.SIGKILL),
    ],
)
def test_an_up_that_is_broken_off_leaves_nothing(
    tmp_path: Path, lab_base_port: int, reached: str, number: signal.Signals
) -> None:
    directory, ports = tmp_path / "lab", Ports(lab_base_port)
    process = subprocess.Popen(
        georeg_lab("up", "--dir", str(directory), "--base-port", str(lab_base_port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=listen_to_interrupts,
    )
    assert process.stdout
    said = next(line for line in process.stdout if reached in line)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, said + output
    if number == signal.SIGKILL:
        subprocess.run(georeg_lab("down", "--purge", "--dir", str(directory)), check=True)
    assert not directory.exists(), output
    assert [port for port in ports.all() if not port_is_free(port)] == []
    assert processes.processes_of(Lab(directory, ports)) == []


def test_processes_are_found_by_what_they_belong_to(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab")
    root = str(lab.node_root("primary"))
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    plain = dict(os.environ)
    started = [
        subprocess.Popen([*sleep, "--root", root], stdout=subprocess.PIPE, env=plain),
        subprocess.Popen(sleep, stdout=subprocess.PIPE, env={**plain, "GEOREG_NODE_ROOT": root}),
        subprocess.Popen([*sleep, "-D", f"{lab.dir}/databases/primary/data"], stdout=subprocess.PIPE, env=plain),
        subprocess.Popen([*sleep, "--dir", str(lab.dir)], stdout=subprocess.PIPE, env=plain),  # only speaks of it
        subprocess.Popen([*sleep, "--root", f"{root}-other"], stdout=subprocess.PIPE, env=plain),
    ]
    try:
        for process in started:
            assert process.stdout and process.stdout.readline()
        assert sorted(processes.processes_of(lab)) == sorted(process.pid for process in started[:3])
        processes.end(lab)
        assert [process.wait(10) for process in started[:3]] == [-signal.SIGTERM] * 3
        assert [process.poll() for process in started[3:]] == [None, None]
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.lab
def test_both_sites_hold_every_image(lab: LabSites) -> None:
    lab.reset()
    expected = images.tags_of([*images.catalog(lab.lab.tags), *images.pushed()])
    many = {key for key in expected if key[0] == images.MANY}
    for site in SITES:
        client = lab.registry_client(site)
        assert client.repositories() == sorted({repository for repository, _ in expected}, key=lambda n: n.split("/"))
        assert {(images.MANY, tag) for tag in client.tags(images.MANY)} == many
        few = {key: digest for key, digest in expected.items() if key not in many}
        assert {key: client.digest(*key) for key in few} == few
        assert client.request("GET", "/v2/", "").headers["Gitlab-Container-Registry-Database-Enabled"] == "false"


@pytest.mark.lab
def test_status_and_second_up(lab: LabSites) -> None:
    directory = str(lab.lab.dir)
    status = CliRunner().invoke(lab_commands, ["status", "--dir", directory])
    assert status.exit_code == 0, status.output
    for name in ("registry", "puma", "nginx", "sidekiq", "postgresql", "geo-postgresql", "geo-logcursor"):
        assert name in status.output
    up = CliRunner().invoke(lab_commands, ["up", "--dir", directory])
    assert (up.exit_code, "already running" in up.output) == (0, True)


@pytest.mark.lab
def test_the_secondary_streams_and_external_databases_are_empty(lab: LabSites) -> None:
    lab.reset()
    with main_cluster(lab.lab, "primary").connect(MAIN) as connection:
        rows = connection.execute("SELECT state FROM pg_stat_replication").fetchall()
        assert rows == [("streaming",)]
    with main_cluster(lab.lab, "secondary").connect(MAIN) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
    for site in SITES:
        with psycopg.connect(lab.metadata_dsn(site)) as connection:
            query = "SELECT (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), count(*) FROM pg_tables"
            row = connection.execute(query + " WHERE schemaname = 'public'").fetchone()
            assert row == (True, 0)
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            psycopg.connect(lab.metadata_dsn(site).replace("verify-full", "disable").partition(" sslrootcert")[0])


@pytest.mark.lab
def test_a_push_reaches_the_secondary_and_reset_takes_it_back(fresh_lab: LabSites) -> None:
    primary, secondary = (fresh_lab.registry_client(site) for site in SITES)
    new = images.index("pushed by a test", "docker")
    primary.push("acme/web", new, "brand-new")
    end = time.monotonic() + 60
    while secondary.digest("acme/web", "brand-new") != new.digest:
        assert time.monotonic() < end, "the image did not reach the secondary"
        time.sleep(0.5)
    fresh_lab.reset()
    assert [client.digest("acme/web", "brand-new") for client in (primary, secondary)] == [None, None]


@pytest.mark.lab
def test_tampering_changes_one_site_alone(fresh_lab: LabSites) -> None:
    primary, secondary = (fresh_lab.registry_client(site) for site in SITES)
    tamper = Tamper(fresh_lab, "secondary")
    tamper.delete_tag("acme/web", "1.0")
    tamper.move_tag("acme/web", "latest", "1")
    tamper.add_tag("acme/web", "extra", "1")
    before = primary.digest("acme/web", "1")
    names = ("1.0", "latest", "extra")
    assert [secondary.digest("acme/web", tag) for tag in names] == [None, before, before]
    assert [primary.digest("acme/web", tag) for tag in names] == [before, primary.digest("acme/web", "1.1"), None]
    fresh_lab.reset()


def use_database(sites: LabSites, site: str) -> None:
    """Import the site's metadata and switch its registry over, with GitLab's own commands alone."""
    database = {
        "enabled": "false",
        "host": "'127.0.0.1'",
        "port": str(sites.lab.ports.registry_database(site)),
        "user": "'registry'",
        "password": f"'{Secrets(sites.lab.secrets).registry_database(site)}'",
        "dbname": "'registry'",
        "sslmode": "'verify-full'",
        "sslrootcert": f"'{DATABASE_CA}'",
    }
    with (sites.lab.node_root(site) / "etc/gitlab/gitlab.rb").open("a") as file:
        file.write("registry['database'] = {" + ", ".join(f"'{k}' => {v}" for k, v in database.items()) + "}\n")
    sites.run(site, "gitlab-ctl", "reconfigure")
    sites.run(site, "gitlab-ctl", "registry-database", "migrate", "up")
    sites.run(site, "gitlab-ctl", "registry-database", "import")
    with (sites.lab.node_root(site) / "etc/gitlab/gitlab.rb").open("a") as file:
        file.write("registry['database']['enabled'] = true\n")
    sites.run(site, "gitlab-ctl", "reconfigure")


@pytest.mark.lab
def test_the_import_loses_the_planted_tag_alone_and_databases_can_be_tampered_with(fresh_lab: LabSites) -> None:
    use_database(fresh_lab, "secondary")
    query = "SELECT r.path, t.name FROM tags AS t JOIN repositories AS r ON r.id = t.repository_id"
    with psycopg.connect(fresh_lab.metadata_dsn("secondary")) as connection:
        tags = set(connection.execute(query).fetchall())
    assert set(images.tags_of([*images.catalog(fresh_lab.lab.tags), *images.pushed()])) - tags == {images.LOST}
    client = fresh_lab.registry_client("secondary")
    assert client.request("GET", "/v2/", "").headers["Gitlab-Container-Registry-Database-Enabled"] == "true"
    assert client.digest(*images.LOST) is None
    tamper, before = Tamper(fresh_lab, "secondary"), client.digest("acme/web", "1")
    tamper.delete_tag("acme/web", "1.0")
    tamper.move_tag("acme/web", "latest", "1")
    tamper.add_tag("acme/web", "extra", "1")
    assert [client.digest("acme/web", tag) for tag in ("1.0", "latest", "extra")] == [None, before, before]
    with pytest.raises(LookupError, match="acme/web:none"):
        tamper.delete_tag("acme/web", "none")
    fresh_lab.reset()


@pytest.mark.lab
@pytest.mark.parametrize("name", sorted(CONDITIONS))
def test_a_fault_can_be_taken_away_again(lab: LabSites, name: str) -> None:
    def symptom() -> str:
        with psycopg.connect(lab.metadata_dsn("secondary"), connect_timeout=5) as connection:
            if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
                return "secondary-database-is-standby"
        status = lab.registry_client("primary").request("GET", "/v2/", "").status_code
        return "" if status == 200 else str(status)

    def seen() -> str:
        try:
            return symptom()
        except psycopg.OperationalError:
            return "database-down"
        except Exception as problem:
            return "wrong-token" if getattr(problem, "status", 0) in (401, 403) else repr(problem)

    assert seen() == ""
    with CONDITIONS[name](lab):
        assert seen() == name
    assert seen() == ""


@pytest.mark.lab
def test_down_stops_everything_and_up_starts_it_again(lab: LabSites) -> None:
    lab.down()
    assert processes.processes_of(lab.lab) == []
    assert [port for port in lab.lab.ports.all() if not port_is_free(port)] == []
    assert not any(service.running for service in lab.status())
    again = LabSites.up(lab.lab.dir)
    assert all(service.running for service in again.status())
    assert again.registry_client("secondary").digest("acme/web", "latest")
