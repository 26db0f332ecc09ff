"""The failure symptoms: complete data, found by what programs say and by what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from georeg_nb import symptoms
from georeg_nb.procedures.diagnosis import judge, report
from georeg_nb.procedures.diagnosis.reading import recent, since_last_start, still_true
from georeg_nb.records import Record
from georeg_nb.runbook import Finding, check, failed
from georeg_nb.runbook.checking import ask

SAID = {
    "creating new registry instance: configuring application: there are pending database migrations, use …": (
        "pending-migrations"
    ),
    "halting import to protect data": "tags-table-not-empty",
    "ERROR: cannot execute CREATE TABLE in a read-only transaction (SQLSTATE 25006)": "database-read-only",
    "could not restore lockfiles: database-in-use lockfile exists": "import-finds-lockfile",
    "convert field 8 failed: invalid hex format": "bytea-output-escape",
    "ERROR: permission denied for schema public (SQLSTATE 42501)": "schema-not-writable",
    'ERROR: relation "public.blobs" does not exist (SQLSTATE 42P01)': "table-missing",
    'FATAL:  Peer authentication failed for user "registry"': "peer-authentication",
    "invalid option: --pre-import-skip-recent": "wrapper-knows-no-flag",
    "Command requires the container registry to be in read-only mode": "step-two-without-read-only",
    "Container registry is not enabled, exiting...": "registry-not-enabled-here",
    "token from untrusted issuer": "issuers-differ",
    "token signed by untrusted key": "signing-keys-differ",
    "fe_sendauth: no password supplied": "rails-password-missing",
    'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "gitlab", database "gitlabhq_production"': (
        "localhost-refused"
    ),
    "ERROR:  cannot execute INSERT in a read-only transaction": "secondary-migrates-itself",
    "ERROR:  requested WAL segment 000000010000000000000003 has already been removed": "replication-slot-missing",
    "undefined method `last' for nil:NilClass": "endpoint-without-header",
    "OpenSSH configured to use AuthorizedKeysCommand ... skipped": "authorized-keys-not-checked",
}


def test_every_row_of_the_reference_is_there_once_and_whole() -> None:
    known = symptoms.all_symptoms()
    assert [one.row for one in known] == list(range(1, 66))
    assert len({one.name for one in known}) == len(known)
    for one in known:
        assert all((one.symptom, one.cause, one.confirm, one.remedy)), one.name
        assert f"row {one.row}" in one.source


@pytest.mark.parametrize(("message", "name"), SAID.items(), ids=SAID.values())
def test_a_message_names_its_symptom_alone(message: str, name: str) -> None:
    assert [one.name for one in symptoms.named_in(message)] == [name]
    assert name in symptoms.hint(message, "as before")


def test_a_message_that_says_nothing_known_leaves_the_remedy_alone() -> None:
    assert symptoms.hint("listening on 127.0.0.1:5000", "as before") == "as before"


def test_all_facts_of_an_alternative_must_fit() -> None:
    prefer = {"config.mode": "prefer", "storage.images": "yes", "database.repositories": "0"}
    assert judge({"primary": prefer}) == []
    (found,) = judge({"primary": prefer | {"storage.lockfiles": "database-in-use"}})
    assert found.symptom.name == "prefer-adopted-empty-database"
    assert "config.mode: prefer" in found.shown_by


def test_only_restricts_to_a_role() -> None:
    facts = {"config.endpoints": "geo_event: events of this site, the secret, maxretries", "services.registry": "up"}
    assert {one.symptom.name for one in judge({"b": facts | {"role": "secondary"}})} == {"secondary-sends-events"}
    assert {one.symptom.name for one in judge({"a": facts | {"role": "primary"}})} == {"no-geo-events"}


def test_what_could_not_be_read_is_said() -> None:
    text = report([], {"primary: geo": "does not answer"}).text()
    assert "as far as they could be read" in text
    assert "does not answer" in text


def test_of_the_registrys_log_the_last_start_counts() -> None:
    lines = ["level=error instance_id=one", "level=warning instance_id=two", "configuring application: stop"]
    assert since_last_start("\n".join(lines)) == lines[1:]


def test_of_other_logs_the_last_hour_counts() -> None:
    from datetime import UTC, datetime

    text = "2026-05-10 08:00:00 old\n  its detail\n2026-05-10T11:30:00.1Z new\n  its detail\n"
    now = datetime(2026, 5, 10, 12, tzinfo=UTC)
    assert recent(text, now) == ["2026-05-10T11:30:00.1Z new", "  its detail"]


def test_a_failed_check_names_the_symptom_that_its_words_fit(tmp_path: Path) -> None:
    @check("the migrations ran")
    def migrated(subject: str) -> Finding:
        return failed(subject, "none", remedy="see the log")

    record = Record.create("migrate-legacy", tmp_path)
    remedy = ask(migrated, "there are pending database migrations", record).remedy
    assert remedy.startswith("see the log\nknown symptom pending-migrations:")
    assert ask(migrated, "anything else", record).remedy == "see the log"


def test_a_failed_report_counts_until_a_later_one_got_through() -> None:
    line = '{"severity": "ERROR", "time": "2026-05-10T11:30:00.132Z", "class": "Geo::NodeStatusRequestService"}\n'
    other = '{"severity": "ERROR", "time": "2026-05-10T11:30:00.132Z", "class": "Geo::ContainerRepositorySync"}\n'
    assert still_true(line + other, "2026-05-10T11:29:00") == line + other
    assert still_true(line + other, "2026-05-10T11:31:00") == other
    assert still_true(line, "") == line
