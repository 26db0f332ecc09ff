"""The registry's client against a running registry, in both metadata modes, with tokens that are really checked."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from postgres_server import Database
from scripted_http import Answer, Request, json_answer, scripted

from georeg_lab.pki import token_key_pair
from georeg_lab.postgres import free_port
from georeg_nb.errors import HttpRefused
from georeg_nb.parameters import GitLabParameters, RegistryParameters
from georeg_nb.registry_api import RegistryAPI, client, digest_of, hashes_to, small_image


@dataclass
class GitLab:
    """Gives tokens for whatever is asked, to whoever has the password. `age`: seconds since they have expired."""

    key: str
    certificate: str
    age: int = 0
    given: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        login = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        if login != "root:glpat-correct-horse":
            return json_answer({"errors": [{"code": "DENIED"}]}, 403)
        scopes = parse_qs(urlsplit(request.path).query).get("scope", [])
        access = [dict(zip(("type", "name", "actions"), scope.split(":"), strict=True)) for scope in scopes]
        claims = {
            "iss": "omnibus-gitlab-issuer",
            "aud": "container_registry",
            "exp": int(time.time()) + (-self.age if self.age else 300),
            "access": [{**entry, "actions": entry["actions"].split(",")} for entry in access],
        }
        der = x509.load_pem_x509_certificate(self.certificate.encode()).public_bytes(Encoding.DER)
        self.given += scopes or [""]
        self.age = 0
        headers = {"x5c": [base64.b64encode(der).decode()]}
        return json_answer({"token": jwt.encode(claims, self.key, "RS256", headers)})


@dataclass
class Running:
    """A registry process."""

    folder: Path
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, read_only: bool = False) -> None:
        self.config["storage"]["maintenance"] = {"readonly": {"enabled": read_only}}
        (self.folder / "config.yml").write_text(yaml.safe_dump(self.config))
        log = self.folder / "log"
        with log.open("wb") as out:
            argv = [sys.executable, "-m", "georeg_lab.registry", "serve", str(self.folder / "config.yml")]
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        end = time.monotonic() + 60
        while b"listening on" not in log.read_bytes():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture(scope="module")
def gitlab_and_url() -> Iterator[tuple[GitLab, str]]:
    pair = token_key_pair()
    gitlab = GitLab(pair.key, pair.certificate)
    with scripted() as server:
        server.answers = gitlab.answer
        yield gitlab, server.url


@pytest.fixture
def gitlab(gitlab_and_url: tuple[GitLab, str]) -> GitLab:
    gitlab_and_url[0].given.clear()
    return gitlab_and_url[0]


@pytest.fixture(params=["legacy", "database"])
def running(request: pytest.FixtureRequest, gitlab_and_url: tuple[GitLab, str], tmp_path: Path) -> Iterator[Running]:
    gitlab, url = gitlab_and_url
    (tmp_path / "bundle.crt").write_text(gitlab.certificate)
    (tmp_path / "storage").mkdir()
    token = {"realm": f"{url}/jwt/auth", "service": "container_registry", "issuer": "omnibus-gitlab-issuer"}
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{free_port()}", "secret": "not so secret"},
        "auth": {"token": {**token, "rootcertbundle": str(tmp_path / "bundle.crt")}},
    }
    if request.param == "database":
        database: Database = request.getfixturevalue("postgres_database")
        config["database"] = {
            "enabled": True,
            "host": database.host,
            "port": database.port,
            "dbname": database.name,
            "user": database.user,
            "password": database.password,
            "sslmode": "disable",
        }
        (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
        migrate = [sys.executable, "-m", "georeg_lab.registry", "database", "migrate", "up"]
        subprocess.run([*migrate, str(tmp_path / "config.yml")], check=True, capture_output=True)
    running = Running(tmp_path, config)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def registry(
    running: Running, gitlab_and_url: tuple[GitLab, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[RegistryAPI]:
    monkeypatch.setenv("TOKEN", "glpat-correct-horse")
    registry = RegistryAPI(
        RegistryParameters.model_validate({"url": f"http://{running.config['http']['addr']}"}),
        GitLabParameters.model_validate({"url": gitlab_and_url[1], "token": "env:TOKEN"}),
    )
    yield registry
    registry.close()


def test_a_whole_life(registry: RegistryAPI, running: Running, gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    database = "database" in running.config
    identity = registry.identity()
    assert (identity.database, identity.version) == (database, "4.32.0-gitlab")
    assert list(registry.catalog()) == []

    monkeypatch.setattr(client, "PAGE", 2)  # so that pages have to be followed
    digests = {tag: registry.push_image("g/p/a", tag, tag) for tag in ("t1", "t2", "t3", "t4", "t5")}
    for path in ("g/p", "g/p/b", "h/x"):
        assert registry.push_image(path, "latest", "same everywhere") == digest_of(small_image("same everywhere")[2])
    assert sorted(registry.catalog()) == ["g/p", "g/p/a", "g/p/b", "h/x"]
    assert sorted(registry.tags("g/p/a")) == sorted(digests)
    assert {tag: registry.digest("g/p/a", tag) for tag in digests} == digests
    assert registry.digest("g/p/a", "none") is None and registry.digest("g/none", "t1") is None
    assert registry.tags("g/none") == [] and registry.manifest("g/p/a", "none") is None

    manifest = registry.manifest("g/p/a", "t1")
    assert manifest and manifest.digest == digests["t1"] and hashes_to(manifest.payload, manifest.digest)
    assert registry.manifest("g/p/a", manifest.digest) == manifest
    layer, config, _ = small_image("t1")
    assert registry.has_blob("g/p/a", digest_of(config)) and not registry.has_blob("g/p", digest_of(config))
    assert registry.blob("g/p/a", digest_of(layer)) == layer

    assert registry.delete_tag("g/p/a", "t1") and not registry.delete_tag("g/p/a", "t1")
    assert sorted(registry.tags("g/p/a")) == ["t2", "t3", "t4", "t5"]
    assert gitlab.given.count("repository:g/p/a:pull") == 1


def test_the_probe_tells_read_only_and_leaves_nothing(registry: RegistryAPI, running: Running) -> None:
    registry.push_image("g/p", "latest", "x")
    assert registry.probe_write("g/p") == "accepted"
    uploads = [
        name for folder, _, names in os.walk(running.folder / "storage") for name in names if "_uploads" in folder
    ]
    assert uploads == []
    running.stop()
    running.start(read_only=True)
    assert registry.probe_write("g/p") == "refused"
    with pytest.raises(HttpRefused) as refused:
        registry.push_image("g/p", "again", "y")
    assert refused.value.status == 405
    assert registry.tags("g/p") == ["latest"]


def test_tokens_that_have_expired_are_renewed(registry: RegistryAPI, gitlab: GitLab) -> None:
    gitlab.age = 600
    assert registry.tags("g/p") == []
    assert gitlab.given == ["repository:g/p:pull"] * 2
