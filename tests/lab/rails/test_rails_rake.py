"""The Rake tasks against the derived outputs, and against the real databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import contract_cases
import pytest
from rails_fakes import Pair

from georeg_lab.rails import geo_check, rake, rake_report, status
from georeg_lab.rails.rake_report import Counts, Event, Report

FILE = "rails/rake.jsonl"
CASES = {case["name"]: case for case in contract_cases.recorded(FILE)}
NOW = datetime(2026, 8, 22, 9, 21, tzinfo=UTC)
TITLE = "Container Repositories"


def counts_of(case: dict[str, Any]) -> list[Counts]:
    numbers = case["state"]["numbers"]
    names = ("registry", "synced", "failed", "verified", "verification_failed")
    return [Counts(TITLE, *(numbers[name] for name in names))] if numbers else []


def report_of(case: dict[str, Any]) -> Report:
    """The report whose facts are told in the case's words."""
    name = case["name"]
    seen = None if name == "status-no-events" else Event(812, NOW)
    reported = {"status-unhealthy-stale": NOW - timedelta(hours=2), "status-never-reported": None}
    return Report(
        name="fr-site",
        url="https://gitlab-b.example.net/",
        version="18.11.7-ee",
        healthy=name != "status-unhealthy-stale",
        summary=status.STALE,
        counts=counts_of(case),
        selective=name == "status-selective",
        lag=0,
        last_event=seen,
        cursor=None if name == "status-no-cursor" else seen,
        reported=reported.get(name, NOW - timedelta(minutes=1)),
        now=NOW,
    )


def cases(names: list[str]) -> Any:
    """Parametrised with derived cases."""
    chosen = contract_cases.parameters(FILE, lambda case: str(case["name"]), lambda case: case["name"] in names)
    return pytest.mark.parametrize("case", chosen)


REPORTS = [name for name, case in CASES.items() if case["command"].endswith("geo:status") and len(case["stdout"]) > 1]
VERDICTS = [name for name in CASES if name.startswith("verify-") and len(CASES[name]["stdout"]) > 1]


@cases(REPORTS)
def test_status_in_the_older_form(case: dict[str, Any]) -> None:
    assert rake_report.status(report_of(case), "older") == case["stdout"]


@cases(VERDICTS)
def test_verdict_in_the_older_form(case: dict[str, Any]) -> None:
    lines, code = rake_report.verification(counts_of(case), "older")
    assert (lines, code) == (case["stdout"], case["exit"])


def test_status_in_the_newest_form() -> None:
    lines = rake_report.status(report_of(CASES["status-3-of-14-failed"]))
    assert lines[1:9] == [
        "                        Geo Site Information",
        "--------------------------------------------",
        "                                      Name: fr-site",
        "                                       URL: https://gitlab-b.example.net/",
        "                                  Geo Role: Secondary",
        "                             Health Status: Healthy",
        "                This Node's GitLab Version: 18.11.7-ee",
        "",
    ]
    assert "         Container Repositories replicated: failed 3 / succeeded 11 / total 14 (78%)" in lines
    assert "           Container Repositories verified: succeeded 11 / total 14 (78%)" in lines


def prepare(name: str, pair: Pair) -> str:
    """Bring the databases into the case's state; the site that runs the command."""
    if "no-license" in name:
        pair.primary.run("DELETE FROM licenses")
    if "no-matching-node" in name or "misconfigured" in name:
        pair.primary.run("UPDATE geo_nodes SET name = 'other' WHERE NOT \"primary\"")
    on_primary = "primary" in name
    return "primary" if on_primary else "secondary"


CHECKS = [name for name in CASES if name.startswith("check-")]


@cases([name for name in CASES if name not in REPORTS + VERDICTS + CHECKS])
def test_task_that_ends_early(pair: Pair, capsys: pytest.CaptureFixture[str], case: dict[str, Any]) -> None:
    site = prepare(case["name"], pair)
    code = rake.run(pair.roots[site], case["command"].split()[1:])
    output = capsys.readouterr()
    assert (code, output.out.splitlines(), output.err.splitlines()) == (case["exit"], case["stdout"], case["stderr"])


@cases(CHECKS)
def test_container_registry_check(pair: Pair, case: dict[str, Any]) -> None:
    databases, name = pair.secondary, case["name"]
    if name == "check-registry-off":
        databases = pair.render("secondary", replication=False)
    if name == "check-registry-events":
        statement = "INSERT INTO geo_events (replicable_name, event_name, created_at) VALUES (%s, 'updated', %s)"
        pair.primary.run(statement, ["container_repository", "2026-08-22 09:20:00+00"])
    assert geo_check.container_registry(databases) == case["stdout"]
    databases.close()


def test_check_says_what_is_wrong_and_ends_with_zero(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert rake.run(pair.roots["secondary"], ["gitlab:geo:check", "NTP_HOST=localhost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[:2], lines[-2:]) == (["Checking Geo ...", ""], ["", "Checking Geo ... Finished"])
    assert "Database replication enabled? ... no" in lines  # one server stands for both here
    name = 'This machine\'s Geo node name matches a database record ... yes, found a secondary node named "secondary"'
    assert name in lines
    assert "* Can connect to the primary node ... yes" in lines


def test_status_of_a_real_secondary(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.sync()
    assert rake.run(pair.roots["secondary"], ["geo:status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "         Container Repositories replicated: succeeded 1 / total 1 (100%)" in lines
    assert "                    Last status report was: Never" in lines
    assert rake.run(pair.roots["secondary"], ["gitlab:geo:check_replication_verification_status"]) == 1
    assert "ERROR - Replication is not up-to-date. " in capsys.readouterr().out.splitlines()


def test_set_primary_node_registers_it(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.primary.run("DELETE FROM geo_nodes")
    assert rake.run(pair.roots["primary"], ["geo:set_primary_node"]) == 0
    assert pair.primary.value('SELECT name FROM geo_nodes WHERE "primary"') == "primary"
    assert "is now the primary Geo node" in capsys.readouterr().out


def test_tcp_check(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    port = pair.urls["primary"].rpartition(":")[2]
    assert rake.run(pair.roots["secondary"], [f"gitlab:tcp_check[127.0.0.1,{port}]"]) == 0
    assert "succeeded!" in capsys.readouterr().out
    assert rake.run(pair.roots["secondary"], ["gitlab:tcp_check[127.0.0.1,1]"]) == 1


def test_an_unknown_task_is_refused_by_name(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert rake.run(pair.roots["primary"], ["gitlab:db:active"]) == 1
    assert "Don't know how to build task 'gitlab:db:active'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (0, "less than a minute ago"),
        (1, "1 minute ago"),
        (44, "44 minutes ago"),
        (60, "about 1 hour ago"),
        (120, "about 2 hours ago"),
        (1500, "1 day ago"),
        (4400, "3 days ago"),
    ],
)
def test_words_for_durations(minutes: int, text: str) -> None:
    assert rake_report.ago(NOW - timedelta(minutes=minutes), NOW) == text
