"""The package on a node: parsers on recordings, and gitlab.rb changed as a unit on a node of shell scripts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from georeg_nb import gitlab_rb, redaction
from georeg_nb.errors import ReadOnlySite, StepFailed
from georeg_nb.nodes import LocalNode
from georeg_nb.omnibus import (
    GITLAB_RB,
    GitlabYml,
    ImportLog,
    Omnibus,
    RegistryConfig,
    parse_status,
    predict_window,
)
from georeg_nb.omnibus.importer import parse_log_line

DATA = Path(__file__).parents[1] / "data" / "nb"


def recorded(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


CONFIGS = {case["name"]: case["config_yml"] for case in recorded("config_yml.jsonl")}
IMPORTS = {case["name"]: case for case in recorded("import_logs.jsonl")}


def parsed(name: str) -> RegistryConfig:
    return RegistryConfig.parse(yaml.safe_dump(CONFIGS[name]))


# rendered files


@pytest.mark.parametrize(
    ("name", "mode", "address"),
    [
        ("registry url only", "legacy", ("/var/opt/gitlab/postgresql", 5432, "registry")),
        ("full external hash", "database", ("db.example.com", 5432, "registry")),
        ("full hash, enabled false", "legacy", ("db.example.com", 5432, "registry")),
        (
            "full hash, then whole hash enabled only",
            "database",
            ("/var/opt/gitlab/postgresql", 5432, "registry"),
        ),
        ("single key true only", "database", ("/var/opt/gitlab/postgresql", 5432, "registry")),
    ],
)
def test_mode_and_address_of_recorded_configurations(name: str, mode: str, address: tuple[str, int, str]) -> None:
    config = parsed(name)
    assert (config.mode, config.database_address) == (mode, address)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_recorded_configuration_can_be_read(name: str) -> None:
    config = parsed(name)
    assert config.mode in ("legacy", "database", "prefer")
    storage = CONFIGS[name].get("storage") or {}
    readonly = (storage.get("maintenance") or {}).get("readonly") or {}
    assert config.read_only is (readonly.get("enabled") is True)
    assert len(config.drivers) <= 1
    assert [e.get("name") for e in config.endpoints] == [
        e.get("name") for e in ((CONFIGS[name].get("notifications") or {}).get("endpoints") or [])
    ]


def test_a_configuration_that_is_no_yaml_is_named_without_its_content() -> None:
    with pytest.raises(StepFailed) as caught:
        RegistryConfig.parse("database: {password: canary-in-yaml\n  x")
    assert "config.yml is not valid YAML" in str(caught.value)
    assert "canary-in-yaml" not in str(caught.value)


def test_gitlab_yml() -> None:
    text = """
production: &base
  registry: {enabled: true, issuer: omnibus-gitlab-issuer, notification_secret: s3cr3t}
  geo:
    node_name: fr-site
    registry_replication: {enabled: true, primary_api_url: 'https://p.example:5050/'}
"""
    config = GitlabYml.parse(text)
    assert (config.geo_node_name, config.replication_enabled) == ("fr-site", True)
    assert config.primary_api_url == "https://p.example:5050/"
    assert config.notification_secret == "s3cr3t"
    assert GitlabYml.parse(text.replace("enabled: true, issuer", "enabled: false, issuer")).replication_enabled is False
    assert GitlabYml.parse("").replication_enabled is False


def test_status() -> None:
    found = parse_status(
        "run: registry: (pid 1234) 56s; run: log: (pid 1200) 900s\n"
        "down: sidekiq: 3s, normally up; run: log: (pid 9) 10s\nwarning: nonsense\n"
    )
    assert found["registry"].up and found["registry"].pid == 1234 and found["registry"].seconds == 56
    assert not found["sidekiq"].up and found["sidekiq"].pid is None
    assert set(found) == {"registry", "sidekiq"}


# the importer's log


def replay(case: dict[str, Any]) -> ImportLog:
    log = ImportLog(total_tags=8)
    text = "Running import \nExecuting command:\n/opt/… registry database import\n"
    text += "".join(json.dumps(entry) + "\n" for entry in case["log"]) + case["stderr"]
    for start in range(0, len(text), 97):  # pieces end anywhere
        log.feed(text[start : start + 97])
    return log.close()


HAPPY = {(path, tag) for path, tag, _ in IMPORTS["happy-path"]["tags"]}


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_the_log_tells_how_it_ended_and_names_lost_tags(name: str) -> None:
    case = IMPORTS[name]
    log = replay(case)
    assert log.complete is (case["exit"] == 0)
    assert bool(log.fatal) is (case["exit"] != 0)
    if case["exit"] == 0:
        lost = HAPPY - {(path, tag) for path, tag, _ in case["tags"]}
        named = {tuple(key.split(":", 1)) for key in log.lost}
        if "dry-run" not in name and name != "empty-repositories-folder":
            assert {tag for tag in lost if tag not in named} == UNNAMED.get(name, set())


# A folder of tags that is gone or empty names nothing: to the legacy registry these tags do not exist either.
APP = {("acme/app", tag) for tag in ("a-first", "m-broken", "z-last")}
UNNAMED: dict[str, set[tuple[str, str]]] = {
    "no-tags-folder": APP,
    "empty-tags-folder": APP,
    "last-repository-without-tags-folder": {("zeta/last", "latest")},
}


def test_progress_of_a_whole_import() -> None:
    log, seen = ImportLog(total_tags=8), []
    for entry in IMPORTS["happy-path"]["log"]:
        log.feed(json.dumps(entry) + "\n")
        if log.fraction is not None:
            seen.append(log.fraction)
    assert seen == sorted(seen) and seen[-1] == 1.0
    assert log.counts == {"repositories": 5, "manifests": 11, "blobs": 35, "tags": 8}
    assert str(log) == "import complete"


def test_the_package_s_default_format_says_the_same() -> None:
    """The package renders `formatter: text`; the same import of base-main, recorded so (start and end)."""
    log = ImportLog(total_tags=8)
    log.feed((DATA / "import_text.log").read_text())
    assert log.close().complete and not log.fatal and log.lost == {}
    assert (log.repositories, log.tags, log.blobs) == (1, 2, 4)


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            r'time="2026-01-01" level=warning msg="broken tag link, skipping" error="a \"quoted\" why" tag_name=v1',
            {"level": "warning", "msg": "broken tag link, skipping", "error": 'a "quoted" why', "tag_name": "v1"},
        ),
        ("Running import ", {}),
        ('{"level": "info"', {}),
        ("[1, 2]", {}),
        ('time="x" msg="never closed', {}),
    ],
)
def test_a_line_of_the_log(line: str, entry: dict[str, str]) -> None:
    found = parse_log_line(line)
    assert {key: found.get(key) for key in entry} == entry and (entry or not found.get("level"))


def test_the_wrapper_that_did_nothing_is_recognised() -> None:
    outputs = {case["name"]: case for case in recorded("registry_database.jsonl")}
    log = ImportLog()
    log.feed(outputs["migrate up, not enabled"]["stdout"])
    assert log.not_enabled and not log.complete


# prediction


def test_the_window_grows_with_tags_and_size_and_follows_a_measurement() -> None:
    small, large = predict_window(100, 10**9), predict_window(100_000, 10**12)
    assert small.low < small.high and small.high < large.low
    measured = predict_window(1000, None, measured=(1000, 40.0), reconfigure=10)
    assert (measured.low, measured.high) == (2 * 5 + 20, 2 * 20 + 80)
    assert "as measured" in str(measured)
    assert "size not known" in str(predict_window(1, None))


# gitlab.rb as a unit


@pytest.fixture
def node(tmp_path: Path) -> LocalNode:
    """A node whose ruby refuses BROKEN, and whose reconfigure fails at FAIL and 'renders' by copying the file."""
    programs = {
        "opt/gitlab/embedded/bin/ruby": "grep -q BROKEN etc/gitlab/gitlab.rb && { echo 'syntax error' >&2; exit 1; }\n"
        "echo 'Syntax OK'\n",
        "usr/bin/gitlab-ctl": 'echo "$@" >>calls\ngrep -q FAIL etc/gitlab/gitlab.rb && exit 1\n'
        "cp etc/gitlab/gitlab.rb rendered\n",
    }
    for path, text in programs.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\n" + text)
        file.chmod(0o755)
    (tmp_path / "etc/gitlab").mkdir(parents=True)
    (tmp_path / "etc/gitlab/gitlab.rb").write_text("old\n")
    (tmp_path / "rendered").write_text("old\n")
    return LocalNode("one", ["rails"], tmp_path)


def put(body: str) -> Any:
    return lambda text: gitlab_rb.put(text, "test", body)


def rendered(node: LocalNode) -> str:
    return node.read_file("/rendered").decode()


def wanted(node: LocalNode, text: str) -> Any:
    return lambda: [] if text in rendered(node) else [f"{text} is not rendered"]


def backups(node: LocalNode) -> list[str]:
    folder = Path(str(node.root)) / "var/lib/georeg/backups"
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def test_a_change_is_written_reconfigured_and_seen(node: LocalNode) -> None:
    Omnibus(node).change("one-test", put("new = 1"), wanted(node, "new = 1"))
    assert "new = 1" in rendered(node)
    assert backups(node) == []


def test_of_the_copies_that_killed_runs_left_the_newest_stay(node: LocalNode) -> None:
    for age, name in enumerate(("newest", "new", "newer", "old", "oldest")):
        node.write_file(f"/var/lib/georeg/backups/{name}.gitlab.rb", b"secret\n")
        moment = 1_700_000_000 - age
        os.utime(Path(str(node.root)) / f"var/lib/georeg/backups/{name}.gitlab.rb", (moment, moment))
    Omnibus(node).change("one-test", put("new = 1"), wanted(node, "new = 1"))
    assert sorted(backups(node)) == ["new.gitlab.rb", "newer.gitlab.rb", "newest.gitlab.rb"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [("BROKEN", "would not parse"), ("FAIL", "ended with status 1"), ("fine", "nothing of it is not rendered")],
)
def test_whatever_fails_the_file_is_put_back_and_reconfigured(node: LocalNode, body: str, expected: str) -> None:
    with pytest.raises(StepFailed, match="put back and reconfigured") as caught:
        Omnibus(node).change("one-test", put(body), wanted(node, "nothing of it"), patience=0)
    assert expected in str(caught.value)
    assert node.read_file(GITLAB_RB) == b"old\n"
    assert rendered(node) == "old\n"
    assert backups(node) == []


def test_a_change_that_was_killed_after_its_write_still_knows_the_true_state_before(node: LocalNode) -> None:
    after = put("FAIL")("old\n")
    node.write_file("/var/lib/georeg/backups/one-test.gitlab.rb", b"old\n")
    node.write_file(GITLAB_RB, after.encode())
    with pytest.raises(StepFailed, match="as it was before"):
        Omnibus(node).change("one-test", put("FAIL"), wanted(node, "x"), patience=0)
    assert node.read_file(GITLAB_RB) == b"old\n"


def test_a_copy_that_is_stale_is_not_put_back(node: LocalNode) -> None:
    node.write_file("/var/lib/georeg/backups/one-test.gitlab.rb", b"from long ago\n")
    with pytest.raises(StepFailed):
        Omnibus(node).change("one-test", put("FAIL"), wanted(node, "x"), patience=0)
    assert node.read_file(GITLAB_RB) == b"old\n"


def test_an_edit_by_somebody_else_meanwhile_is_not_overwritten(node: LocalNode) -> None:
    def edited_meanwhile() -> list[str]:
        node.write_file(GITLAB_RB, b"somebody else\n")
        return ["not as wanted"]

    with pytest.raises(StepFailed, match="changed by somebody else"):
        Omnibus(node).change("one-test", put("new"), edited_meanwhile, patience=0)
    assert node.read_file(GITLAB_RB) == b"somebody else\n"
    assert backups(node) == ["one-test.gitlab.rb"]


def test_what_a_reconfigure_printed_is_forgotten(node: LocalNode) -> None:
    """It shows the secrets of config.yml."""
    package = Omnibus(node)
    package.change("one-good", put("new = 1"), wanted(node, "new = 1"))
    with pytest.raises(StepFailed):
        package.change("one-bad", put("FAIL"), wanted(node, "x"), patience=0)
    assert node.jobs() == []
    assert package.leftovers() == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(node: LocalNode) -> None:
    package = Omnibus(node)
    node.write_file("/var/lib/georeg/backups/one-test.gitlab.rb", b"secret\n")
    node.start_job("one-reconfigure", ["echo", "secret"], private=True).wait()
    node.start_job("one-import", ["echo", "progress"]).wait()
    running = node.start_job("one-slow", ["sleep", "60"], private=True)
    try:
        assert package.leftovers() == ["one-reconfigure", "/var/lib/georeg/backups/one-test.gitlab.rb"]
        package.tidy()
        assert package.leftovers() == []
        assert [job.name for job in node.jobs()] == ["one-import", "one-slow"]
        texts = [path.read_text() for path in Path(str(node.root), "var/lib/georeg").rglob("*") if path.is_file()]
        assert not any("secret" in text for text in texts)
    finally:
        assert running.pid
        os.killpg(running.pid, signal.SIGKILL)


def test_what_gitlab_generated_is_masked_in_the_words_of_a_failed_reconfigure(node: LocalNode) -> None:
    node.write_file("/etc/gitlab/gitlab-secrets.json", b'{"registry": {"http_secret": "correct-horse-battery"}}')
    program = Path(str(node.root), "usr/bin/gitlab-ctl")
    program.write_text("#!/bin/sh\ncat etc/gitlab/gitlab-secrets.json >&2; exit 1\n")
    with pytest.raises(StepFailed) as caught:
        Omnibus(node).change("one-test", put("new"), list, patience=0)
    assert "[secret: http_secret]" in redaction.redact(str(caught.value))


def test_a_read_only_node_is_not_changed(node: LocalNode) -> None:
    with pytest.raises(ReadOnlySite):
        Omnibus(node.read_only_view()).change("one-test", put("new"), list)
    assert node.read_file(GITLAB_RB) == b"old\n"
