"""Two secondaries, two registry nodes on the primary: one migration, with one node's registry killed in its middle.

The tests of this file are one chain on one lab of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import requests
from observe import commands, database_dumps, file_hashes, tags_in_database, tags_on_disk
from standing import keep
from workplace import Workplace, changes, copy_project, outcomes

from georeg_lab.images import LOST
from georeg_lab.layout import Lab, Ports
from georeg_lab.postgres import port_is_free
from georeg_lab.registry_client import RegistryClient
from georeg_lab.sites import LabSites
from georeg_nb.readers import require

pytestmark = [pytest.mark.lab, pytest.mark.matrix, pytest.mark.timeout(900)]
SITES, NODES = ("primary", "secondary", "secondary-2"), ("primary", "primary-registry-2")
SIZE = {"secondaries": 2, "registry_nodes": {"primary": 2}}
SCOPE = "repository:lab/canary:pull,push"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabSites]:
    folder = tmp_path_factory.mktemp("grown")
    bases = (base for base in range(29000, 30900, 100))
    base = next(b for b in bases if all(map(port_is_free, Lab(folder, Ports(b), dict(SIZE)).all_ports())))
    sites = LabSites.up(folder / "lab", base, secondaries=2, registry_nodes={"primary": 2}, progress=print)
    try:
        yield sites
    finally:
        sites.down(purge=True)


@pytest.fixture(scope="module")
def workplace(grown: LabSites, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(copy_project(tmp_path_factory.mktemp("workplace"), grown), grown)


@pytest.fixture(scope="module")
def before(grown: LabSites) -> dict[str, dict[tuple[str, str], str]]:
    """Every tag link of each storage before anything happened."""
    return {site: tags_on_disk(grown, site) for site in SITES}


def look_at(client: RegistryClient) -> tuple[str, int]:
    """What one node's registry says it works on, and its answer to an upload, which is cancelled."""
    mode = client.request("GET", "/v2/", "").headers["Gitlab-Container-Registry-Database-Enabled"]
    answer = client.request("POST", "/v2/lab/canary/blobs/uploads/", SCOPE)
    if answer.status_code == 202:
        client.request("DELETE", answer.headers["Location"], SCOPE)
    return mode, answer.status_code


class Watcher(threading.Thread):
    """Looks at every registry node of the primary, again and again, until it is stopped."""

    def __init__(self, sites: LabSites) -> None:
        super().__init__(daemon=True)
        self.clients = [sites.registry_client("primary", node) for node in NODES]
        self.seen: list[list[tuple[str, int]]] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.2):
            started = time.monotonic()
            try:
                found = [look_at(client) for client in self.clients]
            except requests.ConnectionError:
                continue  # a registry is being restarted: it takes nothing
            if time.monotonic() - started < 2:  # else the looks are not of one moment
                self.seen.append(found)


def test_a_plan_changes_nothing(workplace: Workplace, before) -> None:  # type: ignore[no-untyped-def]
    lab = workplace.lab
    databases, files, asked = database_dumps(lab), file_hashes(lab), len(commands(lab))
    planned = workplace.run()
    assert planned.status == 0, planned.output
    assert database_dumps(lab) == databases
    assert file_hashes(lab) == files
    for argv in commands(lab)[asked:]:
        require(argv)
    assert changes(planned.ledger) == []
    assert all(before[site] == before["primary"] for site in SITES)


def test_a_registry_that_dies_in_the_window_is_named_and_pushes_stay_refused(workplace: Workplace) -> None:
    lab = workplace.lab
    crashed = workplace.run("--approve", "all", env={"GEOREG_CRASH_AT": "primary.import/snapshot:before"})
    assert "the kernel died" in crashed.ledger[-1]["error"], crashed.output
    assert [look_at(lab.registry_client("primary", node)) for node in NODES] == [("false", 405)] * 2
    lab.run("primary-registry-2", "gitlab-ctl", "stop", "registry")

    stopped = workplace.run("--approve", "all", "--resume", crashed.record.name)

    assert stopped.status not in (0, 5), stopped.output
    assert "primary-registry-2" in stopped.output
    assert look_at(lab.registry_client("primary", "primary")) == ("false", 405)
    assert tags_in_database(lab, "primary") == {}
    status = workplace.georeg("status", "-f", "parameters/lab/migrate-legacy.yml")
    lines = [line for line in status.stdout.splitlines() if line.startswith("primary ")]
    assert any("primary-node" in line and "REFUSED" in line for line in lines), status.output
    assert any("primary-registry-2" in line and "no answer" in line for line in lines), status.output
    lab.run("primary-registry-2", "gitlab-ctl", "start", "registry")


def test_taken_up_again_it_ends_with_every_tag_everywhere(workplace: Workplace, before) -> None:  # type: ignore[no-untyped-def]
    lab, watcher = workplace.lab, Watcher(workplace.lab)
    run = max(path.name for path in workplace.records.iterdir())
    watcher.start()
    try:
        applied = workplace.run("--approve", "all", "--resume", run)
    finally:
        watcher.over.set()
        watcher.join()

    assert applied.status == 0, applied.output
    assert set(outcomes(applied.ledger).values()) <= {"done", "no-op", "skipped by rule"}
    for site in SITES:
        expected = {key: digest for key, digest in before[site].items() if key != LOST}
        assert tags_in_database(lab, site) == expected
    assert set(keep(workplace, "primary", "canary")["delays"]) == {"secondary", "secondary-2"}  # type: ignore[arg-type]
    for found in watcher.seen:  # a push into one metadata store was never taken beside a node that works on the other
        assert len({mode for mode, _ in found}) == 1 or all(answer == 405 for _, answer in found), found
    for number in range(len(NODES)):
        assert ("false", 405) in {found[number] for found in watcher.seen}
    assert [look_at(client) for client in watcher.clients] == [("true", 202)] * 2


def test_a_second_run_has_nothing_to_do(workplace: Workplace) -> None:
    again = workplace.run("--approve", "all")
    assert again.status == 0, again.output
    assert set(outcomes(again.ledger).values()) <= {"no-op", "skipped by rule"}
