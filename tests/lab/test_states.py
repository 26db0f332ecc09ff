"""The starting states of the lab: what is there in each, and that a scenario can begin from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from georeg_lab import images, states
from georeg_lab.cli import lab as lab_commands
from georeg_lab.layout import SITES, Lab, Ports
from georeg_lab.sites import LabError, LabSites, node_files, parameters, seeding
from georeg_lab.sites.node_files import Secrets


def test_a_state_is_named_in_the_inventory_and_listed_with_its_scenario(tmp_path: Path) -> None:
    text = parameters.sites_file(Lab(tmp_path, Ports(20000), {"state": "geo-no-registry"}))
    assert "# State geo-no-registry:" in text and yaml.safe_load(text)["primary"]["registry"]["url"]
    listed = CliRunner().invoke(lab_commands, ["states"]).output.splitlines()
    assert [line.split()[0] for line in listed] == list(states.STATES)


def test_an_unknown_state_and_another_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no state of a lab: legacy, geo-no-registry"):
        LabSites.up(tmp_path / "lab", 20000, state="geo")
    Lab(tmp_path, Ports(20000)).save()
    with pytest.raises(LabError, match="is in the state legacy, not geo-no-registry"):
        LabSites.up(tmp_path, state="geo-no-registry")


def test_releases_without_a_default_metadata_database_refuse_that_state(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"has no default metadata database: bundled-no-geo needs 18\.3"):
        LabSites.up(tmp_path / "lab", 20000, state="bundled-no-geo", gitlab_version="17.5")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("name", states.STATES)
def test_gitlab_rb_says_what_the_state_says(name: str, tmp_path: Path) -> None:
    lab, state = Lab(tmp_path, Ports(20000), {"state": name}), states.STATES[name]
    for site in SITES:
        text = node_files.gitlab_rb(lab, site, site)
        assert ("registry_external_url" in text) is (state.registry(site) != "none")
        assert ("roles([" in text) is state.geo
    assert ("geo_event" in node_files.gitlab_rb(lab, "primary", "primary")) is state.replication
    assert bool(seeding.seeds(lab)) is (state.primary not in ("none", "empty"))


@pytest.fixture
def made(tmp_path: Path, lab_base_port: int) -> Iterator[Callable[[str], LabSites]]:
    """Makes a lab in a state, and takes it away after the test."""
    directory = tmp_path / "lab"

    def make(state: str) -> LabSites:
        return LabSites.up(directory, lab_base_port, tags=50, state=state, progress=print)

    try:
        yield make
    finally:
        if (directory / "lab.json").exists():
            LabSites.at(directory).down(purge=True)


def add(sites: LabSites, site: str, text: str) -> None:
    """Append to the site's gitlab.rb and reconfigure."""
    ports = sites.lab.ports
    facts = {
        "gitlab": ports.gitlab(site),
        "registry": ports.registry(site),
        "primary_registry": ports.registry("primary"),
        "notification_token": Secrets(sites.lab.secrets).value("notification-token"),
    }
    with (sites.lab.node_root(site) / "etc/gitlab/gitlab.rb").open("a") as file:
        file.write(text.format(**facts))
    sites.run(site, "gitlab-ctl", "reconfigure")


@pytest.mark.lab
def test_registries_that_gitlab_rb_alone_enables_replicate_and_reset_takes_them_away(
    made: Callable[[str], LabSites],
) -> None:
    no_registry = made("geo-no-registry")
    assert {row.name for row in no_registry.status()} & {"registry"} == set()
    off = "registry['database']['enabled'] = false\n"
    add(no_registry, "primary", node_files.REGISTRY + off + node_files.NOTIFICATIONS)
    add(no_registry, "secondary", node_files.REGISTRY + off + node_files.REPLICATION)
    clients = [no_registry.registry_client(site) for site in SITES]
    assert [client.repositories() for client in clients] == [[], []]
    seeding.prove_replication(clients[0], {"secondary": clients[1]}, print)
    seeding.wait_until_verified(no_registry.lab)
    assert clients[1].digest("lab/canary", "seed") == images.pushed()[0].image.digest
    no_registry.reset()
    assert all(row.running and row.name != "registry" for row in no_registry.status())
    status = CliRunner().invoke(lab_commands, ["status", "--dir", str(no_registry.lab.dir)])
    assert "made in the state geo-no-registry" in status.output
