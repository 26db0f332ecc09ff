"""Parameters: what is wrong is told all at once, with file, line and a suggestion, before anything is contacted."""
# ruff: noqa: E501 - tables read better in one line per case

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from georeg_nb import redaction
from georeg_nb.errors import ParametersError, Problem
from georeg_nb.parameters import (
    SCENARIOS,
    MigrateLegacyParameters,
    find_file,
    load_all,
    load_scenario,
    load_sites,
    validate_values,
)
from georeg_nb.parameters.__main__ import schemas

ROOT = Path(__file__).resolve().parents[2]

SITE = """\
  name: NAME
  gitlab:
    url: https://gitlab-NAME.example.com
    token: env:TOKEN
    ca: pki/ca.crt
  registry:
    url: https://registry-NAME.example.com
    ca: pki/ca.crt
  database:
    host: db-NAME.example.com
    password: file:secrets/db
    ca: pki/ca.crt
    node_sslrootcert: /etc/gitlab/ssl/db.crt
  nodes:
    - name: NAME-1
      roles: [rails, registry]
      root: nodes/NAME
"""
SECONDARY = "  - " + SITE.replace("NAME", "secondary").replace("\n", "\n  ")[2:].rstrip() + "\n"
SITES = "primary:\n" + SITE.replace("NAME", "primary") + "secondaries:\n" + SECONDARY


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with everything that SITES names; the working directory is its root."""
    for folder in ("notebooks", "parameters", "pki", "secrets", "nodes/primary", "nodes/secondary"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pki/ca.crt").write_text("certificate")
    (tmp_path / "secrets/db").write_text("database-password\n")
    (tmp_path / "secrets/db").chmod(0o600)
    monkeypatch.setenv("TOKEN", "glpat-x")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    redaction.forget_all()


def problems(text: str, name: str = "sites.yml") -> list[Problem]:
    Path(name).write_text(text)
    with pytest.raises(ParametersError) as caught:
        load_sites(name)
    return list(caught.value.problems)


def one(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


def test_a_good_file(place: Path) -> None:
    (place / "sites.yml").write_text(SITES)
    sites = load_sites("sites.yml")
    assert [site.name for site in sites.sites] == ["primary", "secondary"]
    primary = sites.primary
    assert primary.geo_site_name == "primary" and primary.database.port == 5432
    assert primary.nodes[0].root == place / "nodes/primary"
    assert primary.gitlab.ca == place / "pki/ca.crt" and primary.gitlab.user == "root"
    assert primary.gitlab.token.resolve().reveal() == "glpat-x"
    assert primary.database.password.resolve().reveal() == "database-password"
    assert "glpat-x" not in repr(sites)


def test_files_are_found_below_the_working_directory_else_the_project(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "parameters/sites.yml").write_text(SITES)
    monkeypatch.chdir(place / "notebooks")
    assert find_file("parameters/sites.yml") == place / "parameters/sites.yml"
    assert load_sites("parameters/sites.yml").primary.nodes[0].root == place / "nodes/primary"
    (place / "notebooks/parameters").mkdir()
    (place / "notebooks/parameters/sites.yml").write_text("")
    assert find_file("parameters/sites.yml") == place / "notebooks/parameters/sites.yml"


def test_a_file_that_is_not_there(place: Path) -> None:
    (place / "parameters/sites.yml").write_text("")
    with pytest.raises(ParametersError, match=r"site\.yml: does not exist.*did you mean sites\.yml\?"):
        find_file("parameters/site.yml")
    with pytest.raises(ParametersError, match="is a folder"):
        find_file("parameters")


# what the YAML has wrong


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "is empty"),
        ("- a\n", 1, "must be a mapping"),
        ("a: b\n c: d\n", 2, "is no valid YAML"),
        ("a: !!python/object:os.system {}\n", 1, "has a tag that is not allowed"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("a: &x [*x]\n", 1, "refers to itself"),
    ],
)
def test_yaml_errors(text: str, line: int, message: str) -> None:
    found = problems(text)
    assert any(message in problem.message and problem.line == line for problem in found), found


def test_text_that_is_not_utf8(place: Path) -> None:
    (place / "sites.yml").write_bytes(b"primary: \xff")
    with pytest.raises(ParametersError, match="it is not UTF-8"):
        load_sites("sites.yml")


@pytest.mark.parametrize(
    ("key", "kind"), [("yes", "true or false"), ("off", "true or false"), ("12", "a int"), ("~", "nothing")]
)
def test_names_that_yaml_reads_as_something_else(key: str, kind: str) -> None:
    found = problems(SITES + f"{key}: x\n")
    assert [(problem.line, problem.suggestion) for problem in found] == [
        (len(SITES.splitlines()) + 1, f'write "{key}" in quotes')
    ]
    assert kind in found[0].message


def test_a_name_that_is_given_twice() -> None:
    text = SITES.replace("    token: env:TOKEN\n", "    token: env:TOKEN\n    token: env:TOKEN\n", 1)
    problem = one(text)
    first = line_of(text, "token:")
    assert (problem.key, problem.line, problem.message) == (
        "primary.gitlab.token",
        first + 1,
        f"is given twice, first on line {first}",
    )


def test_anchors_and_merges_work(place: Path) -> None:
    text = SITES.replace("  gitlab:\n", "  gitlab: &gitlab\n", 1)
    secondary = (
        "    gitlab:\n      url: https://gitlab-secondary.example.com\n      token: env:TOKEN\n      ca: pki/ca.crt\n"
    )
    assert secondary in text
    text = text.replace(secondary, "    gitlab:\n      <<: *gitlab\n      url: https://gitlab-secondary.example.com\n")
    (place / "sites.yml").write_text(text)
    assert load_sites("sites.yml").secondaries[0].gitlab.url == "https://gitlab-secondary.example.com"


# what the model has wrong


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("    url: https://gitlab-p", "    ulr: x\n    url: https://gitlab-p", "primary.gitlab.ulr", "is unknown (did you mean url?)"),
        ("    token: env:TOKEN\n", "", "primary.gitlab.token", "is missing"),
        ("https://gitlab-primary.example.com", "gitlab.example.com", "primary.gitlab.url", "it must begin with https://"),
        ("https://gitlab-primary.example.com", "http://gitlab.example.com", "primary.gitlab.url", "must be https"),
        ("https://gitlab-primary", "https://a:b@gitlab-primary", "primary.gitlab.url", "without user, password"),
        ("db-primary.example.com", "db-primary.example.com\n    port: '5432'", "primary.database.port", "must be a whole number"),
        ("db-primary.example.com", "db-primary.example.com\n    port: 70000", "primary.database.port", "less than or equal to 65535"),
        ("db-primary.example.com", "on", "primary.database.host", "must be text (YAML reads yes, no, on, off"),
        ("db-primary.example.com", "x\n    sslmode: verify-fulll", "primary.database.sslmode", "did you mean verify-full?"),
        ("roles: [rails, registry]", "roles: [rails, registry, workhorse]", "primary.nodes[0].roles[2]", "must be 'rails'"),
        ("roles: [rails, registry]", "roles: rails", "primary.nodes[0].roles", "must be a list"),
        ("roles: [rails, registry]", "roles: [rails]", "primary.nodes", "no node has the role registry"),
        ("/etc/gitlab/ssl/db.crt", "ssl/db.crt", "primary.database.node_sslrootcert", "must be an absolute path"),
        ("name: primary\n", "name: Primary Site\n", "primary.name", "must match"),
        ("      root: nodes/primary", "      connection: telnet", "primary.nodes[0].connection", "must be 'local' or 'ssh'"),
    ],
)  # fmt: skip
def test_one_wrong_value(old: str, new: str, key: str, message: str) -> None:
    assert old in SITES
    text = SITES.replace(old, new, 1)
    found = [problem for problem in problems(text) if problem.key == key]
    assert len(found) == 1
    assert message in str(found[0])
    assert found[0].line > 0 and str(found[0]).startswith(f"sites.yml:{found[0].line}: {key}: ")


def test_everything_at_once_in_the_order_of_the_file() -> None:
    text = SITES.replace("    host: db-primary", "    hots: x\n    host: db-primary").replace("env:TOKEN", "env:UNSET")
    text = text.replace("db-secondary.example.com", "db-secondary.example.com\n      port: no").replace(
        "pki/ca.crt", "pki/no.crt", 1
    )
    found = problems(text)
    assert [problem.key for problem in found] == [
        "primary.gitlab.token",
        "primary.gitlab.ca",
        "primary.database.hots",
        "secondaries[0].gitlab.token",
        "secondaries[0].database.port",
    ]
    assert [problem.line for problem in found] == [
        line_of(text, "env:UNSET"),
        line_of(text, "no.crt"),
        line_of(text, "hots"),
        line_of(text, "env:UNSET")
        + text.splitlines()[line_of(text, "env:UNSET") :].index("      token: env:UNSET")
        + 1,
        line_of(text, "port: no"),
    ]


def test_a_secret_in_clear_is_refused_and_not_shown() -> None:
    problem = one(SITES.replace("env:TOKEN", "glpat-clear-as-day", 1))
    assert "is not a reference to a secret; write a reference: env:NAME" in problem.message
    assert "clear-as-day" not in str(problem)
    assert "clear-as-day" not in redaction.redact("later: glpat-clear-as-day")


# contradictions


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("name: secondary\n", "name: primary\n", "secondaries[0].name", "is the name of primary as well"),
        ("https://gitlab-secondary.example.com", "https://GITLAB-primary.example.com:443/", "secondaries[0].gitlab.url", "as well"),
        ("https://registry-secondary.", "https://registry-primary.", "secondaries[0].registry.url", "is the registry of primary"),
        ("db-secondary.", "db-primary.", "secondaries[0].database.host", "is the database server of primary as well"),
        ("name: secondary-1", "name: primary-1", "secondaries[0].nodes[0].name", "is the name of primary.nodes[0] as well"),
        ("nodes/secondary", "nodes/primary", "secondaries[0].nodes[0].root", "is the root of primary.nodes[0] as well"),
        ("nodes/secondary", "nodes/none", "secondaries[0].nodes[0].root", "there is no folder nodes/none"),
        ("file:secrets/db", "file:secrets/none", "primary.database.password", "there is no file secrets/none"),
        ("    node_sslrootcert: /etc/gitlab/ssl/db.crt\n", "", "primary.database.node_sslrootcert", "is missing"),
        ("      root: nodes/primary", "      root: nodes/primary\n      sudo: true", "primary.nodes[0].sudo", "is for connection: ssh"),
        ("      root: nodes/primary", "      root: nodes/primary\n      connection: ssh", "primary.nodes[0].root", "absolute path on the node"),
        ("      root: nodes/primary", "      connection: ssh\n      ssh_config: none", "primary.nodes[0].ssh_config", "there is no file none"),
        ("      root: nodes/primary", "      connection: ssh\n      host: -oProxyCommand=x", "primary.nodes[0].host", "must match"),
        ("    node_sslrootcert: /etc/gitlab/ssl/db.crt\n", "    node_sslrootcert: /etc/gitlab/ssl/db.crt\n    via: primary-1\n", "primary.database.via", "no node of this site with connection: ssh"),
    ],
)  # fmt: skip
def test_contradictions(old: str, new: str, key: str, message: str) -> None:
    assert old in SITES
    problem = one(SITES.replace(old, new, 1))
    assert problem.key == key and message in str(problem) and problem.line > 0


def test_two_nodes_cannot_both_be_this_machine() -> None:
    text = SITES.replace("      root: nodes/primary\n", "").replace("        root: nodes/secondary\n", "")
    assert "is this machine, like primary.nodes[0]" in one(text).message


# scenarios


def test_a_scenario_file_and_its_values_are_the_same_thing(place: Path) -> None:
    (place / "run.yml").write_text("sites: sites.yml\napprove: [all]\naccept_losses: ['a/b:1.0']\n")
    loaded = load_scenario("migrate-legacy", "run.yml")
    assert isinstance(loaded, MigrateLegacyParameters)
    assert loaded == validate_values("migrate-legacy", yaml.safe_load((place / "run.yml").read_text()))
    assert loaded.approve == ["all"] and loaded.import_method == "auto"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"aprove": []}, "aprove: is unknown (did you mean approve?)"),
        ({"approve": "all"}, "approve: must be a list"),
        ({"import_method": "two-step"}, "import_method: must be 'auto', 'one-step' or 'three-step'"),
        ({"accept_losses": ["a/b"]}, "accept_losses[0]: must match"),
        ({"read_only_limit_minutes": 0}, "read_only_limit_minutes: input should be greater than or equal to 1"),
        ({"attest": {"backup": 1}}, "attest.backup: must be text"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParametersError) as caught:
        validate_values("migrate-legacy", {"sites": "sites.yml", **values})
    assert message in str(caught.value)


def test_an_unknown_scenario() -> None:
    with pytest.raises(ParametersError, match=r"no scenario migrate-legasy \(did you mean migrate-legacy\?\)"):
        validate_values("migrate-legasy", {})


def test_both_files_are_judged_together(place: Path) -> None:
    (place / "run.yml").write_text("sites: sites.yml\naprove: []\n")
    (place / "sites.yml").write_text(SITES.replace("db-secondary.", "db-primary."))
    with pytest.raises(ParametersError) as caught:
        load_all("migrate-legacy", "run.yml", {"import_method": "two-step"})
    assert [(problem.file, problem.key) for problem in caught.value.problems] == [
        ("", "import_method"),
        ("run.yml", "aprove"),
        ("sites.yml", "secondaries[0].database.host"),
    ]
    (place / "run.yml").write_text("sites: sites.yml\n")
    (place / "sites.yml").write_text(SITES)
    options, sites = load_all("migrate-legacy", "run.yml", {"approve": ["all"]})
    assert options.approve == ["all"] and sites.primary.name == "primary"


# the files in the repository


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_schemas_are_current(name: str) -> None:
    """If not: `make schema`."""
    assert (ROOT / "parameters/schema" / name).read_text() == schemas()[name]
    json.loads(schemas()[name])


@pytest.mark.parametrize("folder", ["lab", "production"])
def test_the_files_in_the_repository_lack_nothing_but_the_sites(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab may be down, and example.com has no secrets here: that is all that may be wrong."""
    monkeypatch.chdir(ROOT)
    options = load_scenario("migrate-legacy", f"parameters/{folder}/migrate-legacy.yml")
    assert options.approve == [] and options.sites == f"parameters/{folder}/sites.yml"
    try:
        load_sites(options.sites)
    except ParametersError as error:
        allowed = ("there is no ", "the environment variable ")
        assert [p for p in error.problems if not p.message.startswith(allowed)] == []


@pytest.mark.parametrize("folder", ["lab", "production"])
@pytest.mark.parametrize("name", ["sites", *SCENARIOS])
def test_the_files_in_the_repository_fit_the_schemas(folder: str, name: str) -> None:
    """What an editor would say about them."""
    schema = json.loads((ROOT / f"parameters/schema/{name}.json").read_text())
    data = yaml.safe_load((ROOT / f"parameters/{folder}/{name}.yml").read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(data)) == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_lab_and_production_name_every_parameter(name: str) -> None:
    for folder in ("lab", "production"):
        values = yaml.safe_load((ROOT / f"parameters/{folder}/{name}.yml").read_text())
        assert set(values) == set(SCENARIOS[name].model_fields)
