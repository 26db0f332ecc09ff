"""Wrong input and wrong starting states: exit 2 or 3, a message that says what to do, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
from observe import file_hashes
from workplace import Workplace

from georeg_lab.faults import FAULTS
from georeg_lab.layout import inside
from georeg_lab.sites import LabSites

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("faults")]

Sites = dict[str, Any]


def swapped(sites: Sites) -> None:
    sites["primary"], sites["secondaries"][0] = sites["secondaries"][0], sites["primary"]


def same_database(sites: Sites) -> None:
    sites["secondaries"][0]["database"] = dict(sites["primary"]["database"])


def same_server_by_another_name(sites: Sites) -> None:
    sites["secondaries"][0]["database"] = {**sites["primary"]["database"], "host": "localhost"}


def silent_host(sites: Sites) -> None:
    sites["secondaries"][0]["registry"]["url"] = "https://127.0.0.1:9"


def missing_authority(sites: Sites) -> None:
    sites["primary"]["gitlab"]["ca"] = "no/such/ca.crt"


def no_authority(sites: Sites) -> None:
    del sites["primary"]["registry"]["ca"]


def secret_in_clear(sites: Sites) -> None:
    sites["primary"]["database"]["password"] = "correct-horse-battery"


def misspelt(sites: Sites) -> None:
    sites["primary"]["databse"] = sites["primary"].pop("database")


def other_version(lab: LabSites) -> None:
    for site in ("primary", "secondary"):
        manifest = inside(lab.lab.node_root(site), "/opt/gitlab/version-manifest.txt")
        lines = manifest.read_text().splitlines()
        manifest.write_text("\n".join(["gitlab-ee 17.2.9", *lines[1:]]) + "\n")


def not_empty(lab: LabSites) -> None:
    import psycopg

    lab.run("secondary", "gitlab-ctl", "status")
    with psycopg.connect(lab.metadata_dsn("secondary")) as connection:
        connection.execute("CREATE TABLE tags (id bigint)")
        connection.execute("INSERT INTO tags VALUES (1)")


@dataclass(frozen=True)
class Case:
    name: str
    status: int
    says: tuple[str, ...]
    sites: Callable[[Sites], None] | None = None
    lab: Callable[[LabSites], None] | None = None
    fault: str = ""


CASES = [
    Case("misspelt key", 2, ("databse", "database", "sites.yml:"), sites=misspelt),
    Case("secret in clear", 2, ("password", "env:"), sites=secret_in_clear),
    Case("missing certificate authority", 2, ("no/such/ca.crt",), sites=missing_authority),
    Case("same database twice", 2, ("database",), sites=same_database),
    Case("sites swapped", 3, ("primary", "secondary"), sites=swapped),
    Case("same server under two names", 3, ("same",), sites=same_server_by_another_name),
    Case("host does not answer", 3, ("127.0.0.1:9",), sites=silent_host),
    Case("authority not given", 3, ("ca",), sites=no_authority),
    Case("wrong token", 3, ("token",), fault="wrong-token"),
    Case("database is a standby", 3, ("recovery",), fault="secondary-database-is-standby"),
    Case("database down", 3, ("database",), fault="database-down"),
    Case("unsupported version", 3, ("17.2.9", "17.5"), lab=other_version),
    Case("database not empty", 3, ("tags",), lab=not_empty),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input_is_refused(case: Case, fresh_workplace: Workplace) -> None:
    lab = fresh_workplace.lab
    if case.sites:
        fresh_workplace.change_sites(case.sites)
    if case.lab:
        case.lab(lab)
    fault: AbstractContextManager[None] = FAULTS[case.fault](lab) if case.fault else nullcontext()
    with fault:
        before = file_hashes(lab)
        run = fresh_workplace.run("--approve", "all")
        after = file_hashes(lab)

    assert run.status == case.status, run.output
    for words in case.says:
        assert words in run.output
    assert "Traceback" not in run.output
    assert after == before
