"""gitlab-ctl reconfigure on a node's root: files, secrets, services, restarts, migrations, failures."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from omnibus_node import Node

from georeg_lab.omnibus import services

CONFIG = "/var/opt/gitlab/registry/config.yml"
SECRETS = "/etc/gitlab/gitlab-secrets.json"
READ_ONLY = """
registry['storage'] = {
  'filesystem' => { 'rootdirectory' => '/var/opt/gitlab/gitlab-rails/shared/registry' },
  'maintenance' => { 'readonly' => { 'enabled' => true } }
}
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def config(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(node.file(CONFIG).read_text())
    return found


def test_first_reconfigure(node: Node) -> None:
    done = node.ctl("reconfigure")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("gitlab Reconfigured!\n")
    assert mode(node.file(CONFIG)) == 0o644
    assert mode(node.file(SECRETS)) == 0o600
    secrets = json.loads(node.file(SECRETS).read_text())
    assert config(node)["http"]["secret"] == secrets["registry"]["http_secret"]
    etc = node.file("/var/opt/gitlab/gitlab-rails/etc")
    assert mode(etc) == 0o700
    assert (etc / "gitlab-registry.key").read_text() == secrets["registry"]["internal_key"]
    certificate = node.file("/var/opt/gitlab/registry/gitlab-registry.crt").read_text()
    assert certificate == secrets["registry"]["internal_certificate"]
    rails = yaml.safe_load((etc / "gitlab.yml").read_text())["production"]
    assert rails["gitlab"] == {"host": "127.0.0.1", "port": 18701, "https": True}
    assert rails["registry"]["api_url"] == f"http://127.0.0.1:{node.port}"
    assert rails["registry"]["port"] == 18702
    assert rails["geo"]["registry_replication"]["enabled"] is False
    assert "v4.32.0-gitlab" in node.file("/var/opt/gitlab/registry/VERSION").read_text()
    public = node.file("/var/opt/gitlab/public_attributes.json").read_text()
    assert json.loads(public)["registry"]["dir"] == "/var/opt/gitlab/registry"
    assert not [value for value in secrets["registry"].values() if value in public]
    assert node.ctl("status", "registry").stdout.startswith("run: registry: (pid ")
    assert len(list(node.file("/var/log/gitlab/reconfigure").glob("*.log"))) == 1


def test_second_reconfigure_changes_and_restarts_nothing(node: Node) -> None:
    node.ctl("reconfigure")
    before = services.status(node.root, "registry").pid
    secrets = node.file(SECRETS).read_text()
    done = node.ctl("reconfigure")
    assert done.returncode == 0
    assert "action" not in done.stdout
    assert services.status(node.root, "registry").pid == before
    assert node.file(SECRETS).read_text() == secrets


def test_a_changed_configuration_restarts_the_registry(node: Node) -> None:
    node.ctl("reconfigure")
    before = services.status(node.root, "registry").pid
    node.append(READ_ONLY)
    done = node.ctl("reconfigure")
    assert done.returncode == 0
    assert "runit_service[registry] action restart" in done.stdout
    assert '+storage: {"filesystem":' in done.stdout
    assert config(node)["storage"]["maintenance"] == {"readonly": {"enabled": True}}
    assert services.status(node.root, "registry").pid not in (None, before)


def test_a_stopped_registry_stays_down_until_its_configuration_changes(node: Node) -> None:
    node.ctl("reconfigure")
    assert node.ctl("stop", "registry").stdout == "ok: down: registry: 0s, normally up\n"
    node.ctl("reconfigure")
    assert node.ctl("status", "registry").returncode == 3
    node.append(READ_ONLY)
    node.ctl("reconfigure")
    assert node.ctl("status", "registry").returncode == 0


def test_switching_the_registry_off(node: Node) -> None:
    node.ctl("reconfigure")
    node.append("registry['enable'] = false\n")
    assert node.ctl("reconfigure").returncode == 0
    assert not services.enabled(node.root, "registry")
    assert node.file(CONFIG).exists()
    done = node.ctl("registry-database", "migrate", "up")
    assert (done.returncode, done.stdout) == (0, "Running migrate up\nContainer registry is not enabled, exiting...\n")


def test_values_in_gitlab_rb_beat_the_secrets_file(node: Node) -> None:
    node.ctl("reconfigure")
    node.append("registry['http_secret'] = 'from-gitlab-rb'\n")
    node.ctl("reconfigure")
    assert config(node)["http"]["secret"] == "from-gitlab-rb"
    assert json.loads(node.file(SECRETS).read_text())["registry"]["http_secret"] == "from-gitlab-rb"


def test_a_syntax_error_changes_nothing(node: Node) -> None:
    node.ctl("reconfigure")
    before = node.file(CONFIG).read_text()
    node.append("registry['database'] = { 'enabled' => true\n")
    done = node.ctl("reconfigure")
    assert done.returncode == 1
    assert done.stderr == (
        "There was an error running gitlab-ctl reconfigure:\n\n"
        "/etc/gitlab/gitlab.rb:8: syntax error, unexpected end-of-input, expecting '}'\n\n"
    )
    assert node.file(CONFIG).read_text() == before
    assert node.ctl("check-config", "--version=19.0.0").stdout.endswith("Skipping config check.\n")


def test_what_is_beyond_the_subset_is_refused_by_name(node: Node) -> None:
    node.append("registry['database'] = YAML.load_file('/etc/x')\n")
    done = node.ctl("reconfigure")
    assert done.returncode == 1
    assert "/etc/gitlab/gitlab.rb:8: not evaluated here: method call `YAML.load_file`" in done.stderr


def test_from_file_is_evaluated_at_its_place(node: Node) -> None:
    node.file("/etc/gitlab/more.rb").write_text("registry['debug_addr'] = 'localhost:5001'\n")
    node.append("from_file '/etc/gitlab/more.rb'\n")
    assert node.ctl("reconfigure").returncode == 0
    assert config(node)["http"]["debug"]["addr"] == "localhost:5001"


def test_enabling_the_database_migrates_it(node: Node) -> None:
    node.ctl("reconfigure")
    node.append(f"registry['database'] = {{ 'enabled' => true, 'host' => '127.0.0.1', 'port' => {node.port} }}\n")
    node.append("postgresql['max_service_checks'] = 1\n")
    done = node.ctl("reconfigure")
    assert done.returncode == 1  # the port is a program that is no PostgreSQL
    assert "before service checks were exhausted" in done.stderr or "still not available" in done.stderr
    assert config(node)["database"]["enabled"] is True


def test_failed_migrations_fail_the_run_but_not_the_restart(node: Node, postgresql_port: int) -> None:
    node.ctl("reconfigure")
    before = services.status(node.root, "registry").pid
    address = f"'host' => '127.0.0.1', 'port' => {postgresql_port}"
    node.append(f"registry['database'] = {{ 'enabled' => true, {address} }}\n")
    (node.root / "migrations-fail").touch()
    done = node.ctl("reconfigure")
    assert done.returncode == 1
    assert "OK: applied 3 migrations" in done.stderr
    assert services.status(node.root, "registry").pid not in (None, before)
    (node.root / "migrations-fail").unlink()
    assert node.ctl("reconfigure").returncode == 0
    migrations = [words for words in node.calls() if words[:2] == ["database", "migrate"]]
    assert [words[2] for words in migrations] == ["up", "up"]
    assert all(words[-1].startswith(str(node.root / "run" / "registry")) for words in migrations)
    logs = list(node.file("/var/log/gitlab/registry").glob("db-migrations-*.log"))
    assert logs
    assert all(mode(log) == 0o600 for log in logs)


def test_a_registry_that_refuses_to_start_does_not_fail_the_run(node: Node, postgresql_port: int) -> None:
    node.ctl("reconfigure")
    address = f"'host' => '127.0.0.1', 'port' => {postgresql_port}, 'dbname' => 'broken'"
    node.append(f"registry['database'] = {{ 'enabled' => true, {address} }}\n")
    assert node.ctl("reconfigure").returncode == 0
    status = node.ctl("status", "registry")
    assert status.returncode == 3
    assert status.stdout.startswith("down: registry: ")
    assert status.stdout.endswith("s, normally up, want up\n")
    assert "no such database" in node.file("/var/log/gitlab/registry/current").read_text()


def test_one_at_a_time(node: Node) -> None:
    command = [sys.executable, "-m", "georeg_lab.omnibus.ctl", "--root", str(node.root), "reconfigure"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [error for _, error in outputs] == ["", ""]
    assert sum("action create" in output for output, _ in outputs) == 1


def test_show_config_prints_secrets_and_writes_the_secrets_file(node: Node) -> None:
    done = node.ctl("show-config")
    assert done.returncode == 0
    shown = json.loads(done.stdout[done.stdout.index("{") :])
    assert shown["registry"]["http_secret"] == json.loads(node.file(SECRETS).read_text())["registry"]["http_secret"]
    assert shown["gitlab"]["gitlab_rails"]["registry_enabled"] is True
