"""Wrong input and wrong starting states: exit 2 or 3, a message that says what to do, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from observe import file_hashes
from workplace import Workplace, changes

from georeg_lab.faults import CONDITIONS
from georeg_lab.layout import inside
from georeg_lab.sites import LabSites

pytestmark = [pytest.mark.lab]

Sites = dict[str, Any]
IN_CLEAR = "correct-horse-battery"


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
    sites["primary"]["database"]["password"] = IN_CLEAR


def misspelt(sites: Sites) -> None:
    sites["primary"]["databse"] = sites["primary"].pop("database")


@contextmanager
def other_version(lab: LabSites) -> Iterator[None]:
    """Both nodes have the files of an older package."""
    manifests = [
        inside(lab.lab.node_root(site), "/opt/gitlab/version-manifest.txt") for site in ("primary", "secondary")
    ]
    right = [manifest.read_text() for manifest in manifests]
    for manifest, text in zip(manifests, right, strict=True):
        manifest.write_text(text.replace(text.splitlines()[0], "gitlab-ee 17.2.9"))
    try:
        yield
    finally:
        for manifest, text in zip(manifests, right, strict=True):
            manifest.write_text(text)


@contextmanager
def not_empty(lab: LabSites) -> Iterator[None]:
    """The secondary's database holds a table of somebody's."""
    import psycopg

    with psycopg.connect(lab.metadata_dsn("secondary"), autocommit=True) as connection:
        connection.execute("CREATE TABLE tags AS SELECT 1 AS id")
        try:
            yield
        finally:
            connection.execute("DROP TABLE tags")


Condition = Callable[[LabSites], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """`sites` alter the inventory, `lab` are conditions of the sites; each of `says` must be said."""

    name: str
    status: int
    says: tuple[str, ...]
    sites: tuple[Callable[[Sites], None], ...] = ()
    lab: tuple[Condition, ...] = ()


CASES = [
    Case("misspelt key", 2, ("sites.yml:", "databse", "did you mean database?"), (misspelt,)),
    Case("secret in clear", 2, ("sites.yml:", "password", "env:NAME"), (secret_in_clear,)),
    Case("missing certificate authority", 2, ("sites.yml:", "no/such/ca.crt"), (missing_authority,)),
    Case("same database twice", 2, ("sites.yml:", "each site needs its own"), (same_database,)),
    Case("sites swapped", 3, ("are primary and secondary swapped in the sites file?",), (swapped,)),
    Case("host does not answer", 3, ("127.0.0.1:9", "check host and port"), (silent_host,)),
    Case(
        "same server under two names, and an authority not given",
        3,
        ("have the same server", "give each site its own PostgreSQL server", "set `ca` to the site's authority"),
        (same_server_by_another_name, no_authority),
    ),
    Case(
        "wrong token",
        3,
        ("wrong, expired or revoked", "make a personal access token"),
        lab=(CONDITIONS["wrong-token"],),
    ),
    Case(
        "database is a standby",
        3,
        ("in recovery", "every site needs a writable database of its own"),
        lab=(CONDITIONS["secondary-database-is-standby"],),
    ),
    Case("database down", 3, ("refuses", "is PostgreSQL running there"), lab=(CONDITIONS["database-down"],)),
    Case(
        "unsupported version, and a database that is not empty",
        3,
        ("17.2.9", "17.5 or later", "upgrade both sites first", ": tags", "give the site an empty database"),
        lab=(other_version, not_empty),
    ),
]


@pytest.fixture(scope="module", autouse=True)
def as_after_the_first_start(lab: LabSites) -> None:
    """One reset for all cases: each takes back what it did, and the runs change nothing."""
    lab.reset()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input_is_refused(case: Case, workplace: Workplace) -> None:
    lab = workplace.lab
    for change in case.sites:
        workplace.change_sites(change)
    with ExitStack() as conditions:
        for condition in case.lab:
            conditions.enter_context(condition(lab))
        before = file_hashes(lab)
        run = workplace.run("--approve", "all")
        after = file_hashes(lab)

    assert run.status == case.status, run.output
    said = " ".join(run.output.split())
    assert [words for words in case.says if words not in said] == [], run.output
    assert "Traceback" not in run.output
    assert after == before
    if case.status == 2:
        assert "nothing was contacted" in said
        assert not workplace.records.exists() or not list(workplace.records.iterdir())
        assert IN_CLEAR not in run.output
    else:
        assert "Nothing was changed" in said
        assert changes(run.ledger) == []
        assert not (run.record / "errors.log").exists(), (run.record / "errors.log").read_text()
