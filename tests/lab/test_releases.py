"""A lab as another release of GitLab: its nodes, their Rails side, and (in the matrix) whole labs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from georeg_lab.cli import lab as lab_commands
from georeg_lab.layout import GITLAB_VERSION, Lab, Ports
from georeg_lab.omnibus.node_state import package_profile
from georeg_lab.pki import Authority
from georeg_lab.releases import RELEASES, installed, of_node, release
from georeg_lab.sites import LabError, LabSites
from georeg_lab.sites.node_files import Shared, gitlab_rb, write_site


@pytest.mark.parametrize("text", ["18.5", "18.5.5", "18.5.9-ee"])
def test_a_release_by_its_line(text: str) -> None:
    assert release(text) is RELEASES["18.5"]


@pytest.mark.parametrize("text", ["18.6", "20.0.0", "newest"])
def test_what_the_lab_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of 17\.5, 18\.2, 18\.5, 18\.7, 19\.1"):
        release(text)


def test_the_default_is_one_of_them() -> None:
    assert release(GITLAB_VERSION).gitlab == GITLAB_VERSION


@pytest.mark.parametrize("line", RELEASES)
def test_a_node_knows_its_release(line: str, tmp_path: Path) -> None:
    expected = RELEASES[line]
    lab = Lab(tmp_path, Ports(20000), {"gitlab_version": expected.gitlab})
    Authority(lab.pki)
    write_site(lab, "primary", Shared())
    root = lab.node_root("primary")
    assert installed(root) == package_profile(root).version == expected.gitlab
    assert of_node(root) is expected
    manifest = json.loads((root / "opt/gitlab/version-manifest.json").read_text())
    assert manifest["build_version"] == expected.gitlab


@pytest.mark.parametrize("line", RELEASES)
def test_only_a_secondary_that_would_prefer_a_database_says_no(line: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, Ports(20000), {"gitlab_version": RELEASES[line].gitlab})
    assert "registry['database']" not in gitlab_rb(lab, "primary", "primary")
    assert ("registry['database']['enabled'] = false" in gitlab_rb(lab, "secondary", "secondary")) is (line == "19.1")


def test_an_unknown_release_is_refused_on_the_command_line(tmp_path: Path) -> None:
    found = CliRunner().invoke(lab_commands, ["up", "--dir", str(tmp_path / "lab"), "--gitlab-version", "16.0"])
    assert found.exit_code == 2 and "17.5" in found.output
    assert not (tmp_path / "lab").exists()


def test_a_lab_is_not_turned_into_another_release(tmp_path: Path) -> None:
    Lab(tmp_path, Ports(20000), {"gitlab_version": "18.2.8"}).save()
    with pytest.raises(LabError, match=r"stands in for GitLab 18\.2\.8, not 19\.1"):
        LabSites.up(tmp_path, 20000, gitlab_version="19.1")


@pytest.mark.lab
@pytest.mark.matrix
@pytest.mark.parametrize("line", RELEASES)
def test_a_lab_of_every_release_starts(line: str, tmp_path: Path, lab_base_port: int) -> None:
    expected = RELEASES[line]
    sites = LabSites.up(tmp_path / "lab", lab_base_port, gitlab_version=line, progress=print)
    try:
        assert all(service.running for service in sites.status())
        for site in ("primary", "secondary"):
            said = sites.run(site, "registry", "--version").split()[-1]
            assert said == expected.registry
            file = sites.lab.node_root(site) / "var/opt/gitlab/registry/VERSION"
            assert file.read_text().split()[-1] == expected.registry
        report = sites.run("secondary", "gitlab-rake", "geo:status")
        assert f"GitLab Version: {expected.gitlab}-ee" in report
        assert ("Container Repositories replicated" in report) is not expected.older_reports
    finally:
        sites.down(purge=True)
