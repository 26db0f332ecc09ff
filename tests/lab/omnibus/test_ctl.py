"""gitlab-ctl's commands, texts and exit codes; the wrappers of ruby, chpst, psql and the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from omnibus_node import Node

from georeg_lab.omnibus import services
from georeg_lab.omnibus.registry_process import arguments, environment, translate

REGISTRY = "/opt/gitlab/embedded/bin/registry"


def program(node: Node, module: str, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"georeg_lab.omnibus.{module}", "--root", str(node.root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, timeout=60)


def test_unknown_commands(node: Node) -> None:
    done = node.ctl("stauts", "registry")
    assert done.returncode == 1
    assert done.stdout.startswith("I don't know that command.\nDid you mean: omnibus-ctl registry stauts?\n")
    assert "registry-database" in done.stdout
    assert node.ctl().returncode == 1
    assert node.ctl("help").returncode == 0


def test_a_real_command_that_is_not_done_is_told_apart(node: Node) -> None:
    done = node.ctl("pg-upgrade")
    assert (done.returncode, done.stderr) == (1, "gitlab-ctl pg-upgrade: not done by the lab\n")


def test_commands_without_arguments_refuse_them(node: Node) -> None:
    done = node.ctl("show-config", "x")
    assert (done.returncode, done.stdout) == (2, "The command show-config does not accept any arguments\n")


def test_services_come_and_go(node: Node) -> None:
    node.ctl("reconfigure")
    assert node.ctl("service-list").stdout == "registry*\n"
    restarted = node.ctl("restart", "registry")
    assert restarted.returncode == 0
    assert restarted.stdout.startswith("ok: run: registry: (pid ")
    assert node.ctl("stop").stdout == "ok: down: registry: 0s, normally up\n"
    status = node.ctl("status")
    assert (status.returncode, status.stdout.split(":")[0]) == (3, "down")
    assert node.ctl("start", "registry").returncode == 0
    assert node.ctl("status").returncode == 0
    ended = node.ctl("term", "registry")
    assert ended.stdout.startswith("ok: run: registry")


def test_a_service_that_is_not_enabled_is_passed_over_in_silence(node: Node) -> None:
    done = node.ctl("status", "registry")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_call_is_in_the_command_log(node: Node) -> None:
    node.ctl("status", "registry")
    lines = [json.loads(line) for line in (node.root.parent / "commands.jsonl").read_text().splitlines()]
    assert [(line["node"], line["argv"]) for line in lines] == [("primary", ["gitlab-ctl", "status", "registry"])]


def test_the_wrapper_starts_a_stopped_registry_after_success(node: Node) -> None:
    node.ctl("reconfigure")
    node.ctl("stop", "registry")
    done = node.ctl("registry-database", "migrate", "status")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Running migrate status", "Executing command:"]
    assert lines[2].startswith("/opt/gitlab/embedded/bin/chpst -u registry:registry /opt/gitlab/embedded/bin/registry")
    assert lines[3:5] == ["OK: applied 3 migrations", "Starting service registry"]
    assert services.status(node.root, "registry").pid is not None


def test_the_wrapper_does_not_start_it_after_a_failure(node: Node) -> None:
    node.ctl("reconfigure")
    node.ctl("stop", "registry")
    (node.root / "migrations-fail").touch()
    assert node.ctl("registry-database", "migrate", "up").returncode == 1
    assert services.status(node.root, "registry").pid is None


def test_step_two_needs_read_only_while_the_registry_runs(node: Node) -> None:
    node.ctl("reconfigure")
    done = node.ctl("registry-database", "import", "--step-two")
    assert done.returncode == 1
    assert done.stdout.endswith("Command requires the container registry to be in read-only mode. Exiting...\n")
    config = node.file("/var/opt/gitlab/registry/config.yml")
    config.write_text(config.read_text().replace('"cache"', '"maintenance":{"readonly":{"enabled":true}},"cache"'))
    assert node.ctl("registry-database", "import", "--step-two").returncode == 0


def test_garbage_collection_stops_and_starts_the_registry(node: Node) -> None:
    node.ctl("reconfigure")
    before = services.status(node.root, "registry").pid
    done = node.ctl("registry-garbage-collect", "-m")
    assert done.returncode == 0
    assert "Running garbage-collect using configuration" in done.stdout
    assert node.calls()[-2][0] == "garbage-collect"
    assert services.status(node.root, "registry").pid not in (None, before)


def test_tail_follows_a_service_s_log(node: Node) -> None:
    node.ctl("reconfigure")
    command = [sys.executable, "-m", "georeg_lab.omnibus.ctl", "--root", str(node.root), "tail", "registry"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert tail.stdout.readline() == "listening\n"
        tail.terminate()


def test_ruby_checks_the_syntax(node: Node) -> None:
    good = program(node, "ruby", "-c", "/etc/gitlab/gitlab.rb")
    assert (good.returncode, good.stdout) == (0, "Syntax OK\n")
    node.append("if true\n")
    bad = program(node, "ruby", "-c", "/etc/gitlab/gitlab.rb")
    assert bad.returncode == 1
    assert bad.stderr == "/etc/gitlab/gitlab.rb:8: syntax error, unexpected end-of-input, expecting `end'\n"
    assert program(node, "ruby", "-c", stdin="x = 1\n").stdout == "Syntax OK\n"
    assert program(node, "ruby", "-c", "/no/such").returncode == 1
    assert program(node, "ruby", "-e", "puts 1").returncode == 64


def test_chpst_ignores_the_user_and_hands_on_the_status(node: Node) -> None:
    done = program(node, "chpst", "-u", "registry:registry", "sh", "-c", "echo $GEOREG_NODE_ROOT; exit 7")
    assert (done.returncode, done.stdout) == (7, f"{node.root}\n")
    called = program(node, "chpst", "-u", "registry:registry", REGISTRY, "--version")
    assert called.stdout == "registry github.com/docker/distribution v4.32.0-gitlab\n"
    assert program(node, "chpst", "-u", "registry").returncode == 100


def test_the_registry_s_paths_are_translated(tmp_path: Path) -> None:
    root = tmp_path / "primary"
    config = {
        "storage": {"filesystem": {"rootdirectory": "/srv/registry"}, "maintenance": {"readonly": {"enabled": "true"}}},
        "auth": {"token": {"rootcertbundle": "/var/opt/gitlab/registry/gitlab-registry.crt", "realm": "https://x/"}},
        "database": {"host": "/var/opt/gitlab/postgresql", "sslrootcert": "/etc/ca.crt", "enabled": "false"},
        "http": {"addr": "127.0.0.1:5000", "tls": {"clientcas": ["/etc/a.crt"]}},
    }
    found = translate(config, root)
    assert found["storage"]["filesystem"]["rootdirectory"] == f"{root}/srv/registry"
    assert found["storage"]["maintenance"] == {"readonly": {"enabled": "true"}}
    assert found["auth"]["token"]["rootcertbundle"] == f"{root}/var/opt/gitlab/registry/gitlab-registry.crt"
    assert found["database"] == {
        "host": f"{root}/var/opt/gitlab/postgresql",
        "sslrootcert": f"{root}/etc/ca.crt",
        "enabled": "false",
    }
    assert found["http"] == {"addr": "127.0.0.1:5000", "tls": {"clientcas": [f"{root}/etc/a.crt"]}}
    assert config["database"]["host"] == "/var/opt/gitlab/postgresql"  # type: ignore[index]


def test_the_registry_s_arguments_and_environment(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    file = node.file("/var/opt/gitlab/registry/config.yml")
    file.parent.mkdir(parents=True)
    file.write_text("version: 0.1\ndatabase: {password: hidden}\n")
    words = ["database", "import", "--log-directory", "/var/log/x", "-n", "3", "/var/opt/gitlab/registry/config.yml"]
    *rest, config = arguments(words, node.root)
    assert rest == ["database", "import", "--log-directory", f"{node.root}/var/log/x", "-n", "3"]
    assert Path(config).parent == node.root / "run" / "registry"
    assert Path(config).stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(Path(config).read_text())["database"] == {"password": "hidden"}
    assert arguments(["serve", "/no/such.yml"], node.root) == ["serve", f"{node.root}/no/such.yml"]
    variables = node.file("/opt/gitlab/etc/registry/env")
    variables.mkdir(parents=True)
    (variables / "SSL_CERT_DIR").write_text("/opt/gitlab/embedded/ssl/certs/")
    monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", "/var/opt/gitlab/registry/config.yml")
    found = environment(node.root)
    assert found["SSL_CERT_DIR"] == f"{node.root}/opt/gitlab/embedded/ssl/certs"
    assert found["REGISTRY_CONFIGURATION_PATH"] == config


def test_old_translated_configurations_do_not_pile_up(node: Node) -> None:
    node.ctl("reconfigure")
    folder = node.root / "run" / "registry"
    (old,) = folder.glob("*.yml")
    past = time.time() - 3600
    os.utime(old, (past, past))
    config = node.file("/var/opt/gitlab/registry/config.yml")
    config.write_text(config.read_text().replace("level: info", "level: debug"))
    node.ctl("restart", "registry")
    (new,) = folder.glob("*.yml")
    assert new != old


def test_psql_is_the_lab_s_own(node: Node) -> None:
    assert program(node, "psql", "--version").stdout.startswith("psql (PostgreSQL) ")
