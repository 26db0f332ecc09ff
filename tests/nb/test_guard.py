"""Every check of the guard: passed on a healthy pair, and what it says when one thing is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from world import CLUSTER, STORAGE, TAGS, FakeJob, World

from georeg_nb import gitlab_rb
from georeg_nb.errors import GeoregError
from georeg_nb.gitlab_api import License
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.procedures import state
from georeg_nb.procedures.guard import GUARD, pair
from georeg_nb.runbook import Finding
from georeg_nb.runbook.findings import Check

PARTS = [part for _, _, part in pair.ROWS if isinstance(part, Check)]
CHECKS = {check.name: check for check in (*GUARD.checks, *GUARD.pair_checks, *PARTS)}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WORLD_TOKEN", "glpat-world-token")
    monkeypatch.setenv("WORLD_PASSWORD", "world-password")
    monkeypatch.setattr("georeg_nb.procedures.guard.instance.NEXT_REPORT", 0)
    yield


def ask(check: Check, world: World, role: str = "primary") -> Finding:
    """Of the read-only view, as the engine does; what cannot be reached is a failure."""
    sites = world.sites.read_only_view()
    try:
        return check(sites if check.scope == "pair" else sites.primary if role == "primary" else sites.secondaries[0])
    except GeoregError as error:
        return Finding("failed", error.message, "", error.remedy)


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_a_healthy_pair_passes(name: str, role: str) -> None:
    finding = ask(CHECKS[name], World(), role)
    assert finding.verdict in ("passed", "not applicable"), finding


@dataclass(frozen=True)
class Case:
    """One thing is wrong: the check's verdict, and words that it says (in what it found or in its remedy)."""

    check: str
    breaks: Callable[[World], Any]
    says: str
    role: str = "primary"
    verdict: str = "failed"


def put(name: str, value: Any, site: str = "primary") -> Callable[[World], None]:
    return lambda world: setattr(getattr(world, site), name, value)


def server(site: str = "primary", **facts: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        database = getattr(world, site).database
        database.server_facts = replace(database.server_facts, **facts)

    return change


def config(section: str, value: Any, site: str = "primary") -> Callable[[World], None]:
    def change(world: World) -> None:
        chosen = getattr(world, site)
        chosen.config[section] = value
        world.render(chosen)

    return change


def file(path: str, data: bytes, site: str = "primary") -> Callable[[World], None]:
    return lambda world: getattr(world, site).node.files.update({path: data})


def no_file(start: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name in [name for name in world.primary.node.files if name.startswith(start)]:
            del world.primary.node.files[name]

    return change


def command(line: str, answer: str, site: str = "primary") -> Callable[[World], None]:
    return lambda world: getattr(world, site).node.commands.update({line: answer})


def pulls_from(url: str) -> Callable[[World], None]:
    """What the secondary has rendered as the address of the primary's registry."""
    document = {"production": {"geo": {"registry_replication": {"primary_api_url": url}}}}
    return file("/var/opt/gitlab/gitlab-rails/etc/gitlab.yml", json.dumps(document).encode(), "secondary")


def challenge(gitlab: str) -> str:
    """The head of a registry's answer that sends to this GitLab for a token."""
    realm = f'Bearer realm="{gitlab}/jwt/auth",service="container_registry"'
    return f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {realm}\r\n\r\n"


def status(**facts: Any) -> Callable[[World], None]:
    return lambda world: world.status.update(facts)  # type: ignore[union-attr]


def lock(*names: str) -> Callable[[World], None]:
    return lambda world: [world.primary.lock(name) for name in names]


def endpoint(**facts: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.primary.endpoints[0].update(facts)
        world.render(world.primary)

    return change


def release(gitlab: str, registry: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.primary.node.files["/opt/gitlab/version-manifest.txt"] = f"gitlab-ee {gitlab}\n".encode()
        world.primary.node.files["/var/opt/gitlab/registry/VERSION"] = f"registry x v{registry}-gitlab\n".encode()

    return change


def swapped(world: World) -> None:
    world.geo_sites = [replace(entry, primary=not entry.primary) for entry in world.geo_sites]


def block(concern: str, body: str, site: str = "primary") -> Callable[[World], None]:
    def change(world: World) -> None:
        chosen = getattr(world, site)
        chosen.node.files[GITLAB_RB] = gitlab_rb.put(chosen.node.files[GITLAB_RB].decode(), concern, body).encode()
        world.render(chosen)

    return change


def two(*changes: Callable[[World], Any]) -> Callable[[World], None]:
    return lambda world: [change(world) for change in changes]  # type: ignore[return-value]


def old_report() -> str:
    return (datetime.now(UTC) - timedelta(minutes=30)).isoformat()


MIGRATED = (frozenset({"20210503145024_a"}), frozenset({"b"}))


def full_database(world: World) -> None:
    world.primary.database.schema = MIGRATED
    world.primary.database.tags.update(TAGS)


def half_import(world: World) -> None:
    world.primary.database.schema = MIGRATED
    world.primary.database.tags.update(dict(list(TAGS.items())[:1]))
    state.save_window(world.primary, state.Window("2026-01-01T00:00:00+00:00", lockfiles=(False, False)))
    kept = state.Snapshot("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", TAGS)
    world.primary.keep.save("snapshot", kept.data())
    state.note_import(world.primary)


def truncated(world: World) -> None:
    """Somebody emptied the tags of a database that a registry works on, as the importer's message says."""
    world.primary.database.schema = MIGRATED
    world.primary.database.read.update(TAGS.items())


SECRETS_OF_PAGES = json.dumps(
    {"registry": {"internal_key": "key", "internal_certificate": "crt"}, "gitlab_pages": {"gitlab_id": "1"}}
).encode()
CASES = [
    Case("token_is_administrators", lambda w: setattr(w, "token_status", 401), "wrong, expired or revoked"),
    Case("token_is_administrators", lambda w: setattr(w, "token_status", 403), "not an administrator's"),
    Case("version_is_supported", put("version", "17.4.2-ee"), "upgrade both sites"),
    Case("version_is_supported", put("version", "19.0.0-ee"), "19.0.2"),
    Case("version_is_supported", put("version", "19.0.1-ee"), "19.0.2"),
    Case("version_is_supported", put("version", "18.1.0-ee"), "18.3", verdict="warning"),
    Case("version_is_supported", put("version", "18.10.1-ee"), "rehearsed", verdict="warning"),
    Case("version_is_supported", put("version", "19.4.0-ee"), "does not know", verdict="warning"),
    Case("version_is_supported", put("version", "nightly"), "released"),
    Case("version_is_supported", file("/opt/gitlab/version-manifest.txt", b"gitlab-ee 17.2.9\n"), "17.2.9"),
    Case("package_runs", file("/opt/gitlab/version-manifest.txt", b"gitlab-ee 18.7.6\n"), "finish the upgrade"),
    Case("geo_is_licensed", lambda w: setattr(w, "license", License("starter", False)), "starter"),
    Case("geo_is_licensed", lambda w: setattr(w, "license", License("", False)), "no licence"),
    Case("geo_is_licensed", lambda w: setattr(w, "license", License("premium", True)), "expired"),
    Case("geo_is_licensed", lambda w: setattr(w, "enterprise", False), "Community"),
    Case("role_is_as_named", swapped, "swapped"),
    Case("role_is_as_named", put("answers_as", "secondary"), "swapped"),
    Case("role_is_as_named", lambda w: setattr(w, "geo_sites", []), "geo_name"),
    Case("role_is_as_named", command("gitlab-rails runner puts Gitlab::Geo", "secondary\n"), "swapped"),
    Case("never_promoted", file(CLUSTER, b"{}"), "gitlab-cluster.json"),
    Case("main_database_fits", command("gitlab-psql -d gitlabhq", "t\n"), "swapped"),
    Case("main_database_fits", command("gitlab-psql -d gitlabhq", "f\n", "secondary"), "swapped", "secondary"),
    Case("geo_is_healthy", status(healthy=False, health="broken"), "broken", "secondary"),
    Case("geo_is_healthy", lambda w: w.status.update(updated_at=old_report()), "Sidekiq", "secondary"),
    Case("geo_is_healthy", lambda w: setattr(w, "status", None), "no status", "secondary"),
    Case(
        "replication_is_on",
        two(put("replication", False, "secondary"), lambda w: w.render(w.secondary)),
        "P4",
        "secondary",
    ),
    Case("gitlab_rb_is_sound", file(GITLAB_RB, b"# >>> georeg: hold-image-sync\nx = 1\n"), "has no end"),
    Case("no_foreign_jobs", lambda w: w.primary.node.kept_jobs.update(x=FakeJob("other", (), "running")), "other"),
    Case(
        "registry_runs",
        command("gitlab-ctl status registry", "down: registry: 3s, normally up; run: log: (pid 2) 9s"),
        "down",
    ),
    Case("registry_runs", no_file("/opt/gitlab/service/registry"), "not enabled"),
    Case(
        "registry_runs",
        file("/var/opt/gitlab/public_attributes.json", json.dumps({"registry": {"dir": "/srv/registry"}}).encode()),
        "/srv/registry",
    ),
    Case("registry_is_legacy_or_moved", put("process_mode", "database"), "reconfigure"),
    Case("registry_is_legacy_or_moved", put("process_mode", "silent"), "own registry"),
    Case(
        "registry_is_legacy_or_moved",
        two(config("database", {"enabled": "prefer"}), put("process_mode", "database")),
        "= false",
    ),
    Case("registry_is_legacy_or_moved", config("database", {"enabled": True}), "another database"),
    Case("registry_is_legacy_or_moved", lock("database"), "never delete the lock file blindly"),
    Case("lockfiles_agree", lock("database", "filesystem"), "both"),
    Case("no_foreign_database", config("database", {"host": "elsewhere", "enabled": False}), "elsewhere"),
    Case("no_foreign_database", config("database", {"enabled": True}), "remove registry['database']"),
    Case("storage_has_one_driver", config("storage", {"s3": {"bucket": "b"}}), "2 drivers"),
    Case("authority_is_there", no_file("/etc/gitlab/ssl/db-ca.crt"), "not on primary-node"),
    Case("storage_has_one_driver", no_file(f"{STORAGE}/docker/registry/v2/blobs"), "mounted"),
    Case("catalog_is_readable", put("storage", {}), "P3"),
    Case("not_read_only", config("storage", {"maintenance": {"readonly": {"enabled": True}}}), "not by georeg"),
    Case("not_read_only", block(state.READ_ONLY, "x = 1"), "run.undo", verdict="warning"),
    Case("log_says_enough", config("log", {"level": "warn"}), "log_level"),
    Case(
        "no_offline_collection",
        file("/etc/cron.d/gc", b"0 3 * * * root gitlab-ctl registry-garbage-collect\n"),
        "/etc/cron.d/gc",
        verdict="warning",
    ),
    Case("notifications_fit", endpoint(name="other"), "P4"),
    Case("notifications_fit", endpoint(headers={"Authorization": ["Bearer x"]}), "not the one"),
    Case("notifications_fit", endpoint(url="https://elsewhere.example.com/"), "elsewhere"),
    Case(
        "notifications_fit", two(lambda w: w.primary.endpoints[0].pop("maxretries"), endpoint(threshold=5)), "for ever"
    ),
    Case(
        "notifications_fit",
        two(lambda w: w.secondary.endpoints.append({"name": "geo_event"}), lambda w: w.render(w.secondary)),
        "401",
        "secondary",
    ),
    Case(
        "database_answers", lambda w: setattr(w.primary.database, "refuses", "connection refused"), "connection refused"
    ),
    Case("database_answers", server(tls=False, tls_version=""), "TLS"),
    Case("database_is_new_enough", server(version=140011), "upgrade"),
    Case("database_is_new_enough", server(version=150004), "16", verdict="warning"),
    Case("database_is_new_enough", two(release("17.5.5", "4.10.0"), server(version=140011)), "18.2", verdict="warning"),
    Case("database_is_new_enough", two(release("17.5.5", "4.10.0"), server(version=120011)), "upgrade"),
    Case("database_is_writable", server(in_recovery=True), "recovery"),
    Case("database_is_writable", server(read_only_by_default=True), "default_transaction_read_only"),
    Case("database_belongs_to_registry", server(owner="postgres", may_create=False), "OWNER TO registry"),
    Case("database_belongs_to_registry", server(owner="postgres"), "OWNER TO registry", verdict="warning"),
    Case("bytea_is_hex", server(bytea_output="escape"), "bytea_output = 'hex'"),
    Case("database_is_external", command("gitlab-psql -d template1", "identity-primary\n"), "bundled"),
    Case("database_is_external", command("gitlab-psql -d template1", ""), "compare them yourself", verdict="warning"),
    Case("database_is_empty_or_ours", full_database, "Give this site an empty database"),
    Case("database_is_empty_or_ours", truncated, "no import of ours is known"),
    Case("database_is_empty_or_ours", half_import, "clear-half-import", verdict="warning"),
    Case(
        "database_is_empty_or_ours",
        lambda w: setattr(w.primary.database, "other_tables", frozenset({"tags"})),
        "not the registry's: tags",
    ),
    Case("versions_are_equal", put("version", "18.7.6-ee"), "same version"),
    Case("clocks_agree", command("date", f"{int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())}\n"), "NTP"),
    *(
        Case(
            "pulls_from_primary",
            two(pulls_from(url), command("/opt/gitlab/embedded/bin/curl", answer, "secondary")),
            says,
            verdict=verdict,
        )
        for url, answer, says, verdict in [
            ("https://wrong:5050", "", "https://wrong:5050; on secondary-node: no registry that asks", "failed"),
            ("https://wrong:5050/path", "", "no address", "failed"),
            ("", "", "not set", "failed"),
            ("https://inside:5050", challenge("https://other.example.com"), "another GitLab", "failed"),
            (
                "https://inside:5050",
                challenge("https://gitlab-primary.example.com"),
                "under another address",
                "warning",
            ),
        ]
    ),
    Case(
        "same_signing_key",
        file("/etc/gitlab/gitlab-secrets.json", json.dumps({"registry": {"internal_key": "other"}}).encode()),
        "different keys",
    ),
    Case("same_signing_key", config("auth", {"token": {"issuer": "another-issuer"}}), "another-issuer"),
    Case(
        "storages_are_distinct",
        two(command("stat -L", "7\n8\n"), command("stat -L", "7\n8\n", "secondary")),
        "same storage",
    ),
    Case("starting_point_fits", lambda world: world.geo_sites.clear(), "add-geo-external-database"),
    *(
        Case("sites_fit", command(line, answer), says)
        for line, answer, says in [
            ("gitlab-psql -d gitlabhq_production -tAc SHOW", "17.2\n", "PostgreSQL major: primary: 17; secondary: 16"),
            ("ldd --version", "ldd (GNU libc) 2.39\n", "glibc: primary: 2.39; secondary: 2.35"),
            ("gitlab-rails runner puts Gitlab.config", "default\nnfs\n", "Git storages: primary: default, nfs"),
        ]
    ),
    Case("sites_fit", put("version", "18.7.6-ee"), "both sites have the same versions"),
    Case("no_automatic_upgrade", no_file("/etc/gitlab/disable-postgresql"), "touch", verdict="warning"),
    Case(
        "secrets_are_shared",
        file("/etc/gitlab/gitlab-secrets.json", b'{"gitlab_rails": {"db_key_base": "other"}}', "secondary"),
        "secondary: gitlab_rails, registry",
    ),
    Case(
        "secrets_are_shared",
        file("/etc/gitlab/gitlab-secrets.json", SECRETS_OF_PAGES, "secondary"),
        "secondary: gitlab_pages",
        verdict="warning",
    ),
    Case(
        "notification_secret_is_shared",
        pulls_from("https://registry-primary.example.com"),
        "another or none on secondary",
        verdict="warning",
    ),
    Case(
        "addresses_are_single",
        two(
            file(pair.PG_HBA, b"host all all 10.0.0.0/8 md5\nhostssl all all 10.1.1.1/32 md5\n"),
            file(pair.PG_HBA, b"host all all ::1/128 md5\n", "secondary"),
        ),
        "10.0.0.0/8 on primary",
        verdict="warning",
    ),
    Case("databases_are_distinct", server(system_identifier="identity-secondary"), "standby of the other"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.says}")
def test_what_is_wrong_is_said_with_what_to_do(case: Case) -> None:
    world = World()
    case.breaks(world)
    finding = ask(CHECKS[case.check], world, case.role)
    assert finding.verdict == case.verdict, finding
    assert case.says in f"{finding.found} {finding.remedy}", finding
    assert finding.remedy or finding.verdict == "warning"


def test_a_registry_that_prefers_a_database_and_fell_back_is_legacy() -> None:
    world = World()
    config("database", {"enabled": "prefer", "host": "/var/opt/gitlab/postgresql"})(world)
    world.primary.lock("filesystem")
    for name in ("registry_is_legacy_or_moved", "no_foreign_database", "lockfiles_agree"):
        assert ask(CHECKS[name], world).verdict == "passed", name
    assert state.is_legacy(world.primary)
    world.primary.process_mode = "database"
    assert not state.is_legacy(world.primary)


def test_an_unknown_release_is_shown_by_what_it_says_itself() -> None:
    world = World()
    world.primary.version = "20.0.1-ee"
    rows = {row["what"]: row["found"] for row in ask(CHECKS["version_is_supported"], world).rows or ()}
    assert rows["registry"] == "4.32.0" and rows["registry mode, running"] == "legacy"
    assert any(name.startswith("assumed: ") for name in rows)


def test_every_check_has_a_failing_case() -> None:
    elsewhere = {"nodes_are_alike"}  # with several nodes: test_several_nodes.py
    assert {case.check for case in CASES} | elsewhere == set(CHECKS)


def test_what_is_set_up_later_is_not_missed_before() -> None:
    world = World()
    world.geo_sites.clear()
    for site in (world.primary, world.secondary):
        del site.node.files["/opt/gitlab/service/registry"]
    world.secondary.node.files["/etc/gitlab/gitlab-secrets.json"] = b'{"registry": {"internal_key": "other"}}'
    finding = ask(CHECKS["sites_fit"], world)
    assert finding.verdict == "passed", finding
    verdicts = {row["setting"]: row["verdict"] for row in finding.rows or ()}
    assert [name for name, verdict in verdicts.items() if verdict == "later"] == [
        part.title if isinstance(part, Check) else part.name for stage, _, part in pair.ROWS if stage
    ]
    assert len(verdicts) == len(pair.ROWS)


def test_what_cannot_be_read_is_one_failed_row_among_the_others() -> None:
    world = World()
    world.secondary.database.refuses = "connection refused"
    finding = ask(CHECKS["sites_fit"], world)
    rows = {row["setting"]: row for row in finding.rows or ()}
    assert finding.failed and "connection refused" in finding.found
    assert [name for name, row in rows.items() if row["verdict"] == "failed"] == ["every site has a server of its own"]


def test_no_check_shows_a_secret() -> None:
    world = World()
    for check in CHECKS.values():
        for role in ("primary", "secondary"):
            finding = ask(check, world, role)
            text = f"{finding.found}{finding.expected}{finding.remedy}{finding.rows}"
            assert "notification-token-of-the-primary" not in text and "world-password" not in text
