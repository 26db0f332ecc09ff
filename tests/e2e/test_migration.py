"""The main job on the lab: a plan changes nothing; applied it is done and proved; a second run is all no-ops."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from observe import commands, database_dumps, file_hashes, tags_in_database, tags_on_disk
from workplace import NOTEBOOK, PARAMETERS, SCENARIO, Workplace, changes, outcomes

from georeg_lab.faults import Tamper
from georeg_lab.images import LOST, MANY
from georeg_nb.readers import require

pytestmark = [pytest.mark.lab]


@pytest.fixture(scope="module")
def before(lab) -> dict[str, dict[tuple[str, str], str]]:  # type: ignore[no-untyped-def]
    """Every tag link of both storages before anything happened."""
    lab.reset()
    return {site: tags_on_disk(lab, site) for site in ("primary", "secondary")}


def test_a_plan_changes_nothing(fresh_workplace: Workplace) -> None:
    lab = fresh_workplace.lab
    databases, files, asked = database_dumps(lab), file_hashes(lab), len(commands(lab))

    compared = fresh_workplace.georeg("compare", "-f", PARAMETERS)
    planned = fresh_workplace.run()

    assert compared.status == 0, compared.output
    assert "over HTTP (primary's registry is not on its own database)" in compared.stdout
    assert planned.status == 0, planned.output
    assert database_dumps(lab) == databases
    assert file_hashes(lab) == files
    for argv in commands(lab)[asked:]:
        require(argv)
    for line in (planned.record / "commands.jsonl").read_text().splitlines():
        require(json.loads(line)["argv"])
    assert changes(planned.ledger) == []
    assert "not approved" in outcomes(planned.ledger).values()
    assert "done" not in outcomes(planned.ledger).values()


def test_approved_it_is_done_and_every_tag_is_accounted_for(workplace: Workplace, before) -> None:  # type: ignore[no-untyped-def]
    applied = workplace.run("--approve", "all")

    assert applied.status == 0, applied.output
    assert set(outcomes(applied.ledger).values()) <= {"done", "no-op", "skipped by rule"}
    for site in ("primary", "secondary"):
        expected = {key: digest for key, digest in before[site].items() if key != LOST}
        found = tags_in_database(workplace.lab, site)
        assert {key: digest for key, digest in found.items() if key in expected} == expected
        assert LOST not in found
    assert tags_in_database(workplace.lab, "primary") == tags_in_database(workplace.lab, "secondary")
    verified = workplace.georeg("records", "verify", applied.record.name)
    assert verified.status == 0, verified.output


def test_a_second_run_changes_nothing(workplace: Workplace) -> None:
    again = workplace.run("--approve", "all")

    assert again.status == 0, again.output
    assert set(outcomes(again.ledger).values()) <= {"no-op", "skipped by rule"}


def test_plain_papermill_tells_the_same(workplace: Workplace) -> None:
    output = workplace.folder / "out.ipynb"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("papermill")),
            *("-f", PARAMETERS, "-y", "approve: [all]", "--no-progress-bar"),
            f"notebooks/{NOTEBOOK}",
            str(output),
        ],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ledgers = list(workplace.records.glob("*/ledger.jsonl"))
    assert len(ledgers) == 1
    entries = [json.loads(line) for line in ledgers[0].read_text().splitlines()]
    assert set(outcomes(entries).values()) <= {"no-op", "skipped by rule"}
    text = output.read_text()
    assert "records seal" in text
    sealed = workplace.georeg("records", "seal", ledgers[0].parent.name, "--notebook", str(output))
    assert sealed.status == 0, sealed.output


@pytest.mark.parametrize("site", ["primary", "secondary"])
def test_what_changes_behind_its_back_is_found_and_nothing_is_invented(workplace: Workplace, site: str) -> None:
    tamper = Tamper(workplace.lab, site)
    tamper.delete_tag("acme/tools", "latest") if site == "primary" else tamper.delete_tag("acme/odd-names/0/1/2", "007")
    tamper.move_tag(MANY, f"build-00{10 if site == 'primary' else 20}", "build-0399")
    tamper.add_tag(MANY, f"behind-the-back-{site}", "build-0300")

    tables = ["differences"]
    if site == "secondary":
        workplace.set_parameters(verify_with=["metadata", "api", "content"])
        tables += ["differences_over_http", "differences_of_content"]

    run = workplace.run("--approve", "all")

    assert run.status == 6, run.output
    expected = {
        ("acme/tools", "latest"),
        (MANY, "build-0010"),
        (MANY, "behind-the-back-primary"),
    }
    if site == "secondary":
        expected |= {
            ("acme/odd-names/0/1/2", "007"),
            (MANY, "build-0020"),
            (MANY, "behind-the-back-secondary"),
        }
    for table in tables:
        rows = json.loads((run.record / "tables" / f"{table}.json").read_text())
        assert {(row["repository"], row["tag"]) for row in rows} == expected, table


def test_the_record_opens_without_the_project(workplace: Workplace) -> None:
    listed = workplace.georeg("scenarios")
    assert listed.status == 0
    assert SCENARIO in listed.stdout
    assert (workplace.folder / "notebooks" / NOTEBOOK).exists()
