"""A lab with more secondaries and more registry nodes: names, ports, inventory, what is refused, the load balancer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from georeg_lab import nginx
from georeg_lab.cli import lab as lab_commands
from georeg_lab.layout import MOST_REGISTRY_NODES, MOST_SECONDARIES, Lab, Ports
from georeg_lab.sites import LabError, LabSites, node_files, parameters

GROWN = {"secondaries": 2, "registry_nodes": {"primary": 2, "secondary-2": 3}}


def test_a_lab_that_was_not_grown_is_as_ever() -> None:
    lab = Lab(Path("/lab"))
    assert lab.nodes == lab.sites == ["primary", "secondary"]
    assert lab.all_ports() == lab.ports.all()
    assert "secondaries" not in lab.settings


def test_nodes_have_names_of_their_own() -> None:
    lab = Lab(Path("/lab"), settings=dict(GROWN))
    assert lab.sites == ["primary", "secondary", "secondary-2"]
    assert lab.nodes == [
        *("primary", "primary-registry-2", "secondary"),
        *("secondary-2", "secondary-2-registry-2", "secondary-2-registry-3"),
    ]


def test_no_port_is_used_twice_in_the_largest_lab() -> None:
    names = ["primary", "secondary", *(f"secondary-{n}" for n in range(2, MOST_SECONDARIES + 1))]
    settings = {"secondaries": MOST_SECONDARIES, "registry_nodes": dict.fromkeys(names, MOST_REGISTRY_NODES)}
    ports = Lab(Path("/lab"), Ports(20000), settings).all_ports()
    assert all(one < other for one, other in pairwise(ports))
    assert ports[0] > 20000 and ports[-1] < 20100


def test_the_inventory_names_every_node_with_its_roles(tmp_path: Path) -> None:
    document = yaml.safe_load(parameters.sites_file(Lab(tmp_path, Ports(20000), dict(GROWN))))
    assert [site["name"] for site in document["secondaries"]] == ["secondary", "secondary-2"]
    first, second = document["primary"]["nodes"]
    assert (first["name"], first["roles"]) == ("primary-node", ["rails", "sidekiq", "registry", "postgres"])
    assert (second["name"], second["roles"]) == ("primary-registry-2", ["registry"])
    ports = [site["database"]["port"] for site in (document["primary"], *document["secondaries"])]
    assert len(set(ports)) == 3


def test_the_nodes_of_a_site_share_storage_and_secrets(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Ports(20000), dict(GROWN))
    node_files.write_site(lab, "primary", node_files.Shared())
    first, second = (lab.node_root(node) for node in lab.registry_nodes("primary"))
    (first / node_files.STORAGE.lstrip("/") / "there").touch()
    assert (second / node_files.STORAGE.lstrip("/") / "there").exists()
    secrets = "etc/gitlab/gitlab-secrets.json"
    assert (first / secrets).read_text() == (second / secrets).read_text()
    text = (second / "etc/gitlab/gitlab.rb").read_text()
    assert "gitlab_rails['enable'] = false" in text and "'name' => 'geo_event'" in text
    assert "postgresql['enable'] = false" in text and "geo_primary_role" not in text


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ({"secondaries": MOST_SECONDARIES + 1}, "cannot be made"),
        ({"registry_nodes": {"secondary-2": 2}}, "of primary, secondary"),
        ({"registry_nodes": {"primary": MOST_REGISTRY_NODES + 1}}, "cannot be made"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(size: dict[str, int], says: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=says):
        LabSites.up(tmp_path / "lab", 20000, **size)  # type: ignore[arg-type]
    assert not (tmp_path / "lab").exists()


def test_a_lab_of_another_size_is_not_taken_for_the_wanted_one(tmp_path: Path) -> None:
    Lab(tmp_path, Ports(20000)).save()
    options = ["up", "--dir", str(tmp_path), "--registry-nodes", "primary=2"]
    refused = CliRunner().invoke(lab_commands, options)
    assert refused.exit_code == 1 and "other sites or registry nodes" in refused.output
    wrong = CliRunner().invoke(lab_commands, ["up", "--dir", str(tmp_path), "--registry-nodes", "primary"])
    assert wrong.exit_code == 2 and "SITE=N" in wrong.output


def test_the_front_door_balances_over_the_registry_nodes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Ports(20000), dict(GROWN))
    lab.save()
    files = {"ssl_certificate": "/etc/gitlab/ssl/a.crt", "ssl_certificate_key": "/etc/gitlab/ssl/a.key"}
    facts = {
        "external_url": "https://127.0.0.1:20001",
        "registry_external_url": "https://127.0.0.1:20002",
        "puma_port": 20004,
        "registry_http_addr": "127.0.0.1:20003",
        "nginx": files,
        "registry_nginx": files,
    }
    (tmp_path / "primary/run").mkdir(parents=True)
    (tmp_path / "primary/run/lab.json").write_text(json.dumps(facts))
    gitlab, registry = nginx.hosts_of(tmp_path / "primary")
    assert (gitlab.upstream, gitlab.more) == (20004, ())
    assert (registry.upstream, registry.more) == (20003, (20007,))
