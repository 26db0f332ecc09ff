"""Sites: opened without a contact, with views that cannot write, and facts that are kept on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import Quiet, parameters

from georeg_nb.errors import NodeFileMissing, ReadOnlySite, StepFailed
from georeg_nb.omnibus import GITLAB_RB
from georeg_nb.parameters import MigrateLegacyParameters, SitesFile
from georeg_nb.site import Site, Sites, open_sites


@pytest.fixture
def opened(tmp_path: Path) -> Sites:
    """Two sites whose nodes are empty folders; their addresses lead nowhere, and are never used here."""

    def below(name: str, port: int) -> Any:
        site = parameters(name, port)
        nodes = [node.model_copy(update={"root": tmp_path / name}) for node in site.nodes]
        return site.model_copy(update={"nodes": nodes})

    for name in ("primary", "secondary"):
        (tmp_path / name / "etc/gitlab").mkdir(parents=True)
        (tmp_path / name / GITLAB_RB.lstrip("/")).write_text("external_url 'https://x'\n")
    file = SitesFile(primary=below("primary", 5432), secondaries=[below("secondary", 5433)])
    return open_sites(file, MigrateLegacyParameters(sites="sites.yml"), Quiet(), "migrate-legacy")


def test_opening_contacts_nothing_and_needs_no_secret(opened: Sites) -> None:
    assert [(site.name, site.role) for site in opened.all] == [("primary", "primary"), ("secondary", "secondary")]
    assert all(site.sites is opened for site in opened.all)
    assert opened.primary.rails_node is opened.primary.registry_nodes[0]


def test_roles_choose_nodes(opened: Sites) -> None:
    site = opened.primary
    assert [package.node.name for package in site.packages("registry", "rails")] == ["primary-node"]
    assert site.packages("no-such-role") == []
    assert not site.is_manual(site.rails_node)


def test_what_is_kept_is_found_again_and_private(opened: Sites, tmp_path: Path) -> None:
    site = opened.primary
    assert site.keep.load("window") is None
    site.keep.save("window", {"opened": "now", "n": [1, "ü"]})
    assert site.keep.load("window") == {"opened": "now", "n": [1, "ü"]}
    file = tmp_path / "primary" / site.keep.path("window").lstrip("/")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "migrate-legacy" in str(file)
    file.write_text("{ damaged")
    with pytest.raises(StepFailed, match="damaged"):
        site.keep.load("window")
    site.keep.remove("window")
    assert site.keep.load("window") is None


def test_a_view_reads_and_refuses_every_change(opened: Sites) -> None:
    view = opened.read_only_view()
    site: Site = view.primary
    assert site.sites is view and site.omnibus.gitlab_rb().startswith("external_url")
    with pytest.raises(ReadOnlySite):
        site.keep.save("window", {})
    with pytest.raises(ReadOnlySite):
        site.change_gitlab_rb("step", {"hold-image-sync": "x = 1"}, lambda package: [], "rails")
    with pytest.raises(ReadOnlySite):
        site.rails_node.start_job("x", ["true"])
    opened.primary.keep.save("window", {"x": 1})  # the original still can
    assert site.keep.load("window") == {"x": 1}


def test_apis_of_a_view_refuse_changes_too(opened: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_TOKEN", "glpat-x-token")
    opened.primary.gitlab.version  # noqa: B018 - made, not called
    view = opened.read_only_view().primary
    assert view.gitlab is not opened.primary.gitlab
    with pytest.raises(ReadOnlySite):
        view.registry.push_image("a/b", "t", "x")
    entry: Any = object.__new__(type("Entry", (), {"name": "s", "id": 1}))
    with pytest.raises(ReadOnlySite):
        view.gitlab.resync_all(entry)


def test_text_for_a_plan_is_masked(opened: Sites) -> None:
    shown = opened.primary.masked("registry['database'] = { 'password' => 'canary-in-a-plan' }")
    assert "canary-in-a-plan" not in shown


def test_a_registry_is_asked_at_its_node_too(opened: Sites) -> None:
    node = opened.primary.registry_nodes[0]
    with pytest.raises(NodeFileMissing):
        node.read_file("/var/opt/gitlab/registry/config.yml")
    assert "127.0.0.1:5000" in repr(opened.primary.registry_at(node))
