"""A captured bundle of the lab's sites replays as recordings, and holds none of the secrets that were planted."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from georeg_lab.layout import inside
from georeg_lab.omnibus.gitlab_rb import evaluate
from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.render import render
from georeg_lab.sites import LabSites
from georeg_nb import parameters, redaction, site
from georeg_nb.errors import NodeFileMissing
from georeg_nb.nodes import Node
from georeg_nb.nodes.transport import Result
from georeg_nb.operations import _Nobody
from georeg_nb.procedures.diagnosis import capture as capturing
from georeg_nb.procedures.diagnosis.reading import read_all
from georeg_nb.records import stamp
from georeg_nb.site import Sites

RUBY = """
gitlab_rails['smtp_password'] = '{0}'
gitlab_rails['ldap_servers'] = {{ 'main' => {{ 'password' => '{1}' }} }}
gitlab_rails['object_store']['connection'] = {{ 'aws_secret_access_key' => '{2}' }}
# registry['storage'] = {{ 's3' => {{ 'accesskey' => '{3}', 'secretkey' => '{4}' }} }}
# registry['storage'] = {{ 'azure' => {{ 'accountkey' => '{5}' }} }}
gitlab_rails['incoming_email_password'] = "{6}"
redis['password'] = '{7}'
gitlab_rails['redis_password'] = '{8}'
postgresql['sql_user_password'] = '{9}'
postgresql['sql_replication_password'] = '{10}'
gitlab_rails['backup_registry_password'] = '{11}'
gitlab_rails['restore_registry_password'] = '{12}'
gitlab_rails['omniauth_providers'] = [{{ 'name' => 'a', 'app_secret' => '{13}', args: {{ client_secret: '{14}' }} }}]
gitlab_rails['initial_root_password'] = '{15}'
# gitlab_rails['db_password'] = '{16}'
gitlab_rails['env'] = {{ 'https_proxy' => 'http://proxy:{17}@proxy.example.com:3128' }}
# 'headers' => {{ 'Authorization' => ['{18}'] }}
gitlab_rails['otp_key_base'] = '{19}'
"""
JSON = ("gitlab_pages.api_secret_key", "gitlab_kas.private_api_secret_key", "mailroom.incoming_email_auth_token")
JSON += ("gitlab_rails.encrypted_settings_key_base", "gitlab_rails.openid_connect_signing_key", "gitaly.gitlab_secret")
LOG = """
2026-11-24 10:00:00.000 UTC [1] FATAL:  cannot connect: host=db user=a password={26} dbname=registry
2026-11-24 10:00:00.000 UTC [1] LOG:  fetching https://user:{27}@db.example.com/x
2026-11-24 10:00:00.000 UTC [1] LOG:  header Authorization: Bearer {28}
2026-11-24 10:00:00.000 UTC [1] LOG:  token glpat-{29}
"""
SECRETS = [f"pLanted{number:02}zQ{number * 7919:06x}Kx9w" for number in range(30)]


@pytest.fixture
def planted(lab: LabSites) -> Iterator[list[str]]:
    """30 secrets in the secondary's gitlab.rb, gitlab-secrets.json and a log; afterwards they are gone."""
    root = lab.lab.node_root("secondary")
    rb, store = inside(root, "/etc/gitlab/gitlab.rb"), inside(root, "/etc/gitlab/gitlab-secrets.json")
    log = inside(root, "/var/log/gitlab/postgresql/current")
    before = {file: file.read_bytes() for file in (rb, store)}
    size = log.stat().st_size
    document = json.loads(store.read_text())
    for number, name in enumerate(JSON, 20):
        section, _, key = name.partition(".")
        document.setdefault(section, {})[key] = SECRETS[number]
    store.write_text(json.dumps(document))
    rb.write_text(rb.read_text() + RUBY.format(*SECRETS))
    with log.open("a") as file:
        file.write(LOG.format(*SECRETS).replace("2026-11-24 10:00:00", stamp()[:-1].replace("T", " ")))
    yield SECRETS
    for file, data in before.items():
        file.write_bytes(data)
    with log.open("r+") as out:
        out.truncate(size)


def opened(lab: LabSites) -> Sites:
    file = str(lab.sites_file)
    options = parameters.ScenarioParameters(sites=file)
    return site.open_sites(parameters.load_sites(file), options, _Nobody(), "diagnose")


def lines(bundle: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bundle / name).read_text().splitlines()]


class ReplayedNode(Node):
    """A node that answers from a bundle alone."""

    def __init__(self, inner: Node, state: str, bundle: Path) -> None:
        self.__dict__.update(inner.__dict__)
        self._commands = {tuple(e["argv"]): e for e in lines(bundle, "cli.jsonl") if e["state"] == state}
        self._files = [entry for entry in lines(bundle, "files.jsonl") if entry["state"] == state]

    def run(self, argv: Any, **options: Any) -> Result:
        found = self._commands[tuple(argv)]
        return Result(tuple(argv), found["exit"], found["stdout"], found["stderr"])

    def _noted(self, path: str, what: str) -> Any:
        return next(entry[what] for entry in self._files if entry["name"] == path and what in entry)

    def read_file(self, path: str) -> bytes:
        text = self._noted(path, "text")
        if text is None:
            raise NodeFileMissing(path, node=self.name)
        return str(text).encode()

    def exists(self, path: str) -> bool:
        return bool(self._noted(path, "exists"))


class ReplayedHttp(HTTPAdapter):
    """Answers from a bundle alone."""

    def __init__(self, bundle: Path) -> None:
        super().__init__()
        self._known = {(e["setup"], e["name"]): e["response"] for e in lines(bundle, "http.jsonl")}

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        found = self._known[f"{parts.scheme}://{parts.netloc}", f"{request.method} {path}"]
        response = requests.Response()
        response.status_code, response.url, response.request = found["status"], str(request.url), request
        response.headers.update(found["headers"])
        response.raw = io.BytesIO(found["body"].encode())
        return response


def without_database(facts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What comes over PostgreSQL's own protocol is in no bundle."""
    return {
        name: {key: text for key, text in one.items() if not key.startswith("database")} for name, one in facts.items()
    }


@pytest.mark.lab
def test_a_bundle_holds_no_secret_and_replays(lab: LabSites, planted: list[str], tmp_path: Path) -> None:
    sites = opened(lab)
    bundle = capturing.capture(sites, tmp_path)
    sites.close()

    whole = "".join(path.read_text() for path in bundle.iterdir())
    assert [secret for secret in planted if secret in whole] == []
    kept = {path.name: path.read_text().strip() for path in lab.lab.secrets.iterdir()}
    assert [name for name, value in kept.items() if value in whole] == []
    assert "masked-secret-smtp_password" in whole

    redaction.forget_all()
    replayed = opened(lab).read_only_view()
    for one in replayed.all:
        one.nodes = [ReplayedNode(node, f"{one.name} {node.name}", bundle) for node in one.nodes]
        for api in (one.gitlab.http, one.registry.http):
            api.mount(ReplayedHttp(bundle))
    found = without_database(read_all(replayed))
    wanted = without_database(json.loads((bundle / "facts.json").read_text()))
    assert {(name, key) for name in wanted for key in found[name].keys() ^ wanted[name].keys()} == set()
    differing = {(name, key) for name, one in found.items() for key in one if one[key] != wanted[name][key]}
    assert differing == set()
    assert not [name for one in found.values() for name in one if name.endswith(".problem")]

    for case in lines(bundle, "gitlab-rb.jsonl"):
        (result,) = case["results"]
        (version,) = result["versions"]
        text = case["gitlab_rb"].partition("\ngitlab_rails['smtp_password']")[0]  # what was planted is not reconfigured
        shown = render(evaluate(text.encode(), "gitlab.rb"), profile(version)).shown()["config_yml"]
        assert {name: shown[name] for name in result["result"]["config_yml"]} == result["result"]["config_yml"]


@pytest.mark.lab
def test_nothing_is_written_when_a_secret_would_be_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lab: LabSites
) -> None:
    monkeypatch.setattr(capturing, "README", "token glpat-0123456789abcdefghij of {sites}")
    sites = opened(lab)
    with pytest.raises(capturing.RecordError, match=r"README\.md would hold secrets"):
        capturing.capture(sites, tmp_path)
    sites.close()
    assert list(tmp_path.iterdir()) == []
