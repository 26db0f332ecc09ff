"""Two Geo sites in memory: real `Site`, `Omnibus` and procedures over nodes, registries, databases and APIs of
dictionaries.

`World` is healthy and ready to be migrated; a test breaks one thing. A reconfigure renders what georeg's own blocks
say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from georeg_nb import gitlab_rb, readers, scenarios
from georeg_nb.database import Server
from georeg_nb.errors import ConnectionLost, DatabaseRefused, HttpRefused, NodeFileMissing, ReadOnlySite, Unreachable
from georeg_nb.gitlab_api import GeoSite, GeoStatus, License, SyncRecord, Version
from georeg_nb.metadata_db import Bucket
from georeg_nb.nodes import Result
from georeg_nb.omnibus import CLUSTER, GITLAB_RB, GITLAB_YML, REGISTRY_CONFIG, SECRETS, Omnibus, RegistryConfig
from georeg_nb.parameters import AddRegistryParameters, MigrateLegacyParameters, SiteParameters
from georeg_nb.procedures import state
from georeg_nb.procedures.add_registry import blocks as add_registry
from georeg_nb.registry_api import MANIFEST_TYPES, Head, Identity, Manifest
from georeg_nb.site import Site, Sites
from georeg_nb.versions import Profile

STORAGE = "/var/opt/gitlab/gitlab-rails/shared/registry"
TOKEN = "notification-token-of-the-primary"
TAGS = {
    ("acme/app", "1.0"): "sha256:" + "1" * 64,
    ("acme/app", "latest"): "sha256:" + "1" * 64,
    ("acme/app/sub", "v1"): "sha256:" + "2" * 64,
    ("acme/old", "lossy"): "sha256:" + "3" * 64,
}
LOSSY = "acme/old:lossy"
VERSION = b"/opt/gitlab/embedded/bin/registry github.com/x v4.32.0-gitlab"
MIGRATED = frozenset({"20210503145024_a"}), frozenset({"20250414074231_b"})
CURL = "the registry at that address answers"


@dataclass
class FakeJob:
    name: str
    argv: tuple[str, ...]
    state: str = "exited"
    status: int | None = 0
    text: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    finish: Callable[[], FakeJob] | None = None

    def wait(self, timeout: float | None = None, on_output: Callable[[str], object] | None = None) -> FakeJob:
        ended = self.finish() if self.finish else self
        if on_output:
            on_output(ended.text)
        return ended

    def output(self, offset: int = 0) -> bytes:
        return self.text.encode()

    def stderr(self) -> str:
        return ""

    private: bool = False

    def forget(self) -> None:
        self.text = ""

    def check(self) -> FakeJob:
        from georeg_nb.errors import CommandFailed, JobLost

        if self.state == "lost":
            raise JobLost(f"job {self.name} ended without leaving its exit status")
        if self.status:
            raise CommandFailed(self.argv, self.status, self.text)
        return self


class FakeNode:
    """Files in a dictionary; commands and jobs by table."""

    def __init__(self, site: FakeSite, name: str, roles: Sequence[str]) -> None:
        self.site = site
        self.name = name
        self.roles = frozenset(roles)
        self.files: dict[str, bytes] = {}
        self.commands: dict[str, str | Callable[[], str]] = {}
        self.kept_jobs: dict[str, FakeJob] = {}
        self.started: list[str] = []
        self.readonly = False

    def read_only_view(self) -> FakeNode:
        view = object.__new__(FakeNode)
        view.__dict__ = {**self.__dict__, "readonly": True}
        return view

    def _writable(self) -> None:
        if self.readonly:
            raise ReadOnlySite("a check or a plan tried to change something", node=self.name)

    def close(self) -> None:
        """Nothing is open."""

    def _files(self, path: str) -> dict[str, bytes]:
        """The nodes of a site share their storage."""
        if self.name in self.site.away:
            raise ConnectionLost("the connection was cut", node=self.name)
        return self.site.node.files if path.startswith(STORAGE) else self.files

    def read_file(self, path: str) -> bytes:
        files = self._files(path)
        if path not in files:
            raise NodeFileMissing(path, node=self.name)
        return files[path]

    def exists(self, path: str) -> bool:
        files = self._files(path)
        return path in files or any(name.startswith(path + "/") for name in files)

    def list_dir(self, path: str) -> list[str]:
        names = {name[len(path) + 1 :].split("/")[0] for name in self._files(path) if name.startswith(path + "/")}
        if not names:
            raise NodeFileMissing(path, node=self.name)
        return sorted(names)

    def write_file(self, path: str, data: bytes, **_: Any) -> None:
        self._writable()
        self._files(path)[path] = data

    def create_file(self, path: str, data: bytes, **_: Any) -> bool:
        self._writable()
        if path in self._files(path):
            return False
        self._files(path)[path] = data
        return True

    def remove_file(self, path: str) -> None:
        self._writable()
        self._files(path).pop(path, None)

    def run(self, argv: Sequence[str], *, check: bool = True, timeout: float = 60, **_: Any) -> Result:
        readers.require(argv)
        line = " ".join(argv)
        self._files("")
        for start, answer in self.commands.items():
            if line.startswith(start):
                text = self.site.world.curl(line) if answer is CURL else answer() if callable(answer) else answer
                return Result(tuple(argv), 0, text, "")
        return Result(tuple(argv), 0, "", "")

    def start_job(self, name: str, argv: Sequence[str], *, stdin: str | None = None, **_: Any) -> FakeJob:
        self._writable()
        present = self.kept_jobs.get(name)
        if present and present.state == "running":
            return present
        self.started.append(" ".join(argv) + (f" <<< {stdin.strip()}" if stdin else ""))
        job = self.site.world.perform(self.site, name, tuple(argv), self)
        self.kept_jobs[name] = job
        return job

    def job(self, name: str) -> FakeJob | None:
        self._files("")
        return self.kept_jobs.get(name)

    def jobs(self) -> list[FakeJob]:
        self._files("")
        return list(self.kept_jobs.values())


class FakeRegistry:
    """Serves the storage in legacy mode, the database in database mode."""

    def __init__(self, site: FakeSite, node: FakeNode | None = None) -> None:
        self.site = site
        self.node = node or site.node

    @property
    def _tags(self) -> dict[tuple[str, str], str]:
        return self.site.database.tags if self.identity().database else self.site.storage

    def identity(self) -> Identity:
        if self.node.name in self.site.registries_down:
            raise Unreachable("nobody listens there")
        mode = self.site.process_mode or self.site.rendered(self.node).mode
        return Identity("4.32.0", None if mode == "silent" else mode == "database", "")

    def catalog(self) -> Iterator[str]:
        if self.site.silent:
            raise HttpRefused("GET /v2/_catalog answered 401", status=401)
        yield from sorted({path for path, _ in self._tags})

    def tags(self, path: str) -> list[str]:
        return sorted(tag for name, tag in self._tags if name == path)

    def digest(self, path: str, reference: str) -> str | None:
        return self._tags.get((path, reference))

    def head(self, path: str, reference: str) -> Head | None:
        digest = self.site.served.get((path, reference)) or self._tags.get((path, reference))
        return Head(digest, MANIFEST_TYPES[0]) if digest else None

    def manifest(self, path: str, reference: str) -> Manifest | None:
        if reference in self.site.missing:
            return None
        payload = self.site.payloads.get(reference, image())
        if payload == b"refuse":
            raise HttpRefused("GET answered 500", status=500)
        return Manifest(payload, "", reference)

    def has_blob(self, path: str, digest: str) -> bool:
        return digest not in self.site.missing

    def probe_write(self, path: str) -> str:
        self.identity()
        if self.site.ignores_read_only:
            return "accepted"
        return "refused" if self.site.rendered(self.node).read_only else "accepted"

    def push_image(self, path: str, tag: str, text: str) -> str:
        digest = "sha256:" + "c" * 64
        self._tags[path, tag] = digest
        self.site.world.events.append(("push", path, tag))
        self.site.world.replicate()
        return digest

    def delete_tag(self, path: str, tag: str) -> bool:
        self.site.world.events.append(("delete", path, tag))
        there = self._tags.pop((path, tag), None) is not None
        self.site.world.replicate()
        return there


def image(config: str = "sha256:" + "a" * 64, layers: Sequence[str] = (), **more: Any) -> bytes:
    """A manifest."""
    document = {
        "schemaVersion": 2,
        "config": {"digest": config, "size": 100},
        "layers": [{"digest": layer} for layer in layers],
        **more,
    }
    return json.dumps(document).encode()


@dataclass
class FakeDatabase:
    """One PostgreSQL server with the registry's database."""

    site: FakeSite
    server_facts: Server
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    schema: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    other_tables: frozenset[str] = frozenset()
    sessions: list[str] = field(default_factory=list)
    statistics: list[dict[str, Any]] = field(default_factory=list)
    read: set[tuple[str, str]] = field(default_factory=set)  # manifests that an import brought
    traces: list[str] = field(default_factory=list)
    pushed_later: set[tuple[str, str]] = field(default_factory=set)
    refuses: str = ""
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        parameters = self.site.parameters.database
        return f"{parameters.host}:{parameters.port}/{parameters.name}"

    def _asked(self) -> None:
        if self.refuses:
            raise DatabaseRefused(self.refuses, remedy="start it")

    def server(self) -> Server:
        self._asked()
        return self.server_facts

    def tables(self) -> frozenset[str]:
        self._asked()
        ours = (
            frozenset({"schema_migrations", "tags", "repositories", "import_statistics"})
            if self.schema[0]
            else frozenset()
        )
        return ours | self.other_tables

    def migrations(self) -> tuple[frozenset[str], frozenset[str]]:
        self._asked()
        return self.schema

    def count(self, table: str) -> int:
        self._asked()
        return len(self.tags) if table == "tags" else len({path for path, _ in [*self.tags, *self.read]})

    def counts(self, tables: Sequence[str] = ("repositories", "tags")) -> dict[str, int]:
        return {table: self.count(table) for table in tables}

    def import_statistics(self) -> list[dict[str, Any]]:
        return self.statistics

    def all_tags(self) -> dict[tuple[str, str], str]:
        self._asked()
        return dict(self.tags)

    def repositories(self, namespaces: Any = None) -> dict[str, Bucket]:
        paths = {path for path, _ in self.tags}
        return {path: Bucket(len(self._of(path)), repr(sorted(self._of(path).items()))) for path in paths}

    def _of(self, path: str) -> dict[str, str]:
        return {tag: digest for (name, tag), digest in self.tags.items() if name == path}

    def tag_buckets(self, repository: str) -> dict[str, Bucket]:
        return {"0": Bucket(len(self._of(repository)), repr(sorted(self._of(repository).items())))}

    def repository_tags(self, repository: str, buckets: Any = None) -> dict[str, str]:
        return self._of(repository)

    def truncate_tags(self) -> None:
        self.tags.clear()

    def rows(self, query: str, values: Any = None) -> list[Any]:
        assert "pg_stat_activity" in query, query
        self._asked()
        return [(text,) for text in self.sessions]

    def manifests(self) -> set[tuple[str, str]]:
        return set(self.read)

    def traces_of_use(self) -> list[str]:
        return list(self.traces)

    def pushed_since(self, moment: datetime) -> dict[tuple[str, str], datetime]:
        return dict.fromkeys(self.pushed_later, datetime.now(UTC))

    def broken_manifests(self) -> list[dict[str, str]]:
        return [{"repository": path, "digest": digest, "cause": "a layer is missing"} for path, digest in self.broken]


class FakeGitLab:
    def __init__(self, site: FakeSite) -> None:
        self.site = site

    @property
    def world(self) -> World:
        return self.site.world

    def version(self) -> Version:
        return Version(self.site.version, self.world.enterprise)

    def license(self) -> License:
        return self.world.license

    def geo_sites(self) -> list[GeoSite]:
        if self.world.token_status:
            raise HttpRefused(f"GET /geo_sites answered {self.world.token_status}", status=self.world.token_status)
        entries = self.world.geo_sites
        return [replace(entry, current=entry.name == self.site.answers_as) for entry in entries]

    def geo_status(self, site_id: int) -> GeoStatus | None:
        return GeoStatus(dict(self.world.status)) if self.world.status is not None else None

    def sync_records(self, site: GeoSite, state: str = "") -> list[SyncRecord]:
        return [record for record in self.world.records if not state or record.state == state]

    def resync_all(self, site: GeoSite) -> None:
        secondary = next(one for one in self.world.sites.secondaries if one.name == site.name)
        if not state.is_held(secondary):
            self.world.sync(secondary)
        moment = datetime.now(UTC) + timedelta(seconds=1)
        self.world.records = [replace(record, last_synced_at=moment) for record in self.world.records]

    def wait_until_synced(self, site: GeoSite, since: datetime, **_: Any) -> list[SyncRecord]:
        return [r for r in self.world.records if r.last_synced_at is None or r.last_synced_at < since]

    def repository_id(self, path: str) -> int | None:
        return self.world.repository_ids.get(path, 1)


class Quiet:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, record: Mapping[str, Any]) -> None:
        pass

    def kept(self, site: str, name: str, data: Any) -> None:
        json.dumps(data)

    def progress(self, site: str, text: str, fraction: float | None = None) -> None:
        self.told.append(f"{site}: {text}")


class FakeSite(Site):
    """A real site whose surroundings are fake."""

    def __init__(self, world: World, name: str, role: Any, port: int, options: Any, registry_nodes: int = 1) -> None:
        super().__init__(parameters(name, port, registry_nodes), role, options, world.observer, world.scenario.id)
        self.world = world
        self.storage = dict(TAGS)
        self.missing: set[str] = set()
        self.payloads: dict[str, bytes] = {}
        self.process_mode = ""
        self.served: dict[tuple[str, str], str] = {}  # what its registry serves in place of what it keeps
        self.silent = False  # its registry lets nobody list
        self.ignores_read_only = False
        self.version = "18.7.7-ee"
        self.answers_as = name
        self.manual: bool | str = False  # every node, or the one of that name
        self.registries_down: set[str] = set()
        self.away: set[str] = set()  # nodes that cannot be reached
        self.seen: list[list[tuple[str, bool]]] = []  # after every reconfigure: mode and read-only, node by node
        server = Server(170010, False, False, f"identity-{name}", "registry", True, "hex", True, "TLSv1.3")
        self.database = FakeDatabase(self, server)
        self.replication = role == "secondary"
        self.has_registry = True  # also without a block of georeg's
        self.default_database: dict[str, Any] = {}
        self.endpoints: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.nodes = [FakeNode(self, node.name, node.roles) for node in self.parameters.nodes]  # type: ignore[misc]

    @property
    def gitlab(self) -> Any:  # type: ignore[override]
        return FakeGitLab(self)

    @property
    def registry(self) -> Any:  # type: ignore[override]
        if not Omnibus(self.node).registry_is_enabled():  # type: ignore[arg-type]
            raise Unreachable("nobody listens there")
        return FakeRegistry(self)

    def registry_at(self, node: Any) -> Any:
        return FakeRegistry(self, node)

    @property
    def metadata_db(self) -> Any:
        return self.database

    def is_manual(self, node: Any) -> bool:
        return self.manual in (True, node.name)

    @property
    def node(self) -> FakeNode:
        return self.nodes[0]  # type: ignore[return-value]

    def rendered(self, node: FakeNode | None = None) -> Any:
        config = Omnibus(node or self.node).registry_config()  # type: ignore[arg-type]
        assert config is not None
        return config

    def lock(self, name: str, there: bool = True) -> None:
        path = f"{STORAGE}/docker/registry/lockfiles/{name}-in-use"
        if there:
            self.node.files[path] = b'{"version":1}'
        else:
            self.node.files.pop(path, None)


def parameters(name: str, port: int, registry_nodes: int = 1) -> SiteParameters:
    more = [{"name": f"{name}-registry-{n}", "roles": ["registry"]} for n in range(2, registry_nodes + 1)]
    return SiteParameters.model_validate(
        {
            "name": name,
            "gitlab": {"url": f"https://gitlab-{name}.example.com", "token": "env:WORLD_TOKEN"},
            "registry": {"url": f"https://registry-{name}.example.com"},
            "database": {
                "host": f"db-{name}.example.com",
                "port": port,
                "password": "env:WORLD_PASSWORD",
                "node_sslrootcert": "/etc/gitlab/ssl/db-ca.crt",
            },
            "nodes": [{"name": f"{name}-node", "roles": ["rails", "sidekiq", "registry", "postgres"]}, *more],
        }
    )


class World:
    """The sites and what happens between them."""

    scenario = scenarios.MIGRATE_LEGACY
    attest: Mapping[str, str] = {"backup": "backup 4711"}
    token = TOKEN  # what GitLab on the primary expects of notifications

    def make_options(self, values: dict[str, Any]) -> Any:
        return MigrateLegacyParameters.model_validate(values)

    def __init__(
        self, *, secondaries: int = 1, registry_nodes: Mapping[str, int] | None = None, **options: Any
    ) -> None:
        self.observer = Quiet()
        self.options = self.make_options({"sites": "sites.yml", **options})
        self.enterprise = True
        self.license = License("ultimate", False)
        self.token_status = 0
        self.syncs_running = 0
        self.replicates = True
        self.repository_ids: dict[str, int | None] = {"acme/old": 7}
        self.events: list[tuple[str, str, str]] = []
        self.fail: dict[str, str] = {}  # part of a job's name → how it fails: status, lost, silent, not enabled
        self.lost: set[tuple[str, str]] = set()  # what the importer leaves behind
        self.step_seconds = 1.0  # how long a step of it takes
        counts = registry_nodes or {}
        primary = FakeSite(self, "primary", "primary", 5432, self.options, counts.get("primary", 1))
        names = ["secondary", *(f"secondary-{number}" for number in range(2, secondaries + 1))]
        others = [
            FakeSite(self, name, "secondary", 5432 + number, self.options, counts.get(name, 1))
            for number, name in enumerate(names, 1)
        ]
        secondary = others[0]
        self.sites = Sites(primary, list(others))
        for site in self.sites.all:
            site.sites = self.sites
        self.primary, self.secondary = primary, secondary
        self.geo_sites = [
            GeoSite(number, site.name, site.parameters.gitlab.url, site.role == "primary", True, False)
            for number, site in enumerate(self.sites.all, 1)
        ]
        self.status: dict[str, Any] | None = {
            "healthy": True,
            "health": "Healthy",
            "updated_at": datetime.now(UTC).isoformat(),
            "db_replication_lag_seconds": 0,
            "cursor_last_event_id": 9,
            "container_repositories_replication_enabled": True,
            "container_repositories_registry_count": 3,
            "container_repositories_synced_count": 3,
            "container_repositories_failed_count": 0,
            "uploads_registry_count": 5,
            "uploads_synced_count": 5,
            "uploads_failed_count": 0,
        }
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        self.records = [SyncRecord(str(n), str(n), "SYNCED", moment, "", "SUCCEEDED") for n in (1, 2, 3)]
        primary.endpoints = [
            {
                "name": "geo_event",
                "url": f"{primary.parameters.gitlab.url}/api/v4/container_registry_event/events",
                "maxretries": 5,
                "headers": {"Authorization": [TOKEN]},
            }
        ]
        for site in (primary, *others):
            for node in site.nodes:
                self._furnish(site, node)  # type: ignore[arg-type]

    def _furnish(self, site: FakeSite, node: FakeNode) -> None:
        files, commands = node.files, node.commands
        files[GITLAB_RB] = b"external_url 'https://gitlab.example.com'\n"
        files[SECRETS] = json.dumps({"registry": {"internal_key": "key", "internal_certificate": "crt"}}).encode()
        files["/opt/gitlab/version-manifest.txt"] = b"gitlab-ee 18.7.7\n\nComponent\n"
        files["/etc/gitlab/disable-postgresql-upgrade"] = b""
        files["/etc/gitlab/ssl/db-ca.crt"] = b"certificate"
        for name in ("repositories", "blobs"):
            files[f"{STORAGE}/docker/registry/v2/{name}/x"] = b""
        commands["gitlab-ctl status registry"] = "run: registry: (pid 1) 9s; run: log: (pid 2) 9s\n"
        commands["gitlab-psql -d gitlabhq_production -tAc SHOW"] = "16.8\n"
        commands["ldd --version"] = "ldd (GNU libc) 2.35\nCopyright\n"
        commands["gitlab-rails runner puts Gitlab.config"] = "default\n"
        commands["gitlab-psql -d gitlabhq"] = "t\n" if site.role == "secondary" else "f\n"
        commands["gitlab-psql -d template1"] = f"bundled-{site.name}\n"
        commands["gitlab-rails runner puts Gitlab::Geo"] = lambda: self.role_on_node(site)
        commands["gitlab-rails runner puts Geo::ContainerRepositoryRegistry.replication"] = lambda: (
            "true\n" if site.rails.gitlab_yml().replication_enabled else "false\n"
        )
        commands["gitlab-rails runner puts Sidekiq"] = lambda: f"{self.syncs_running}\n"
        commands["gitlab-rails runner puts Gitlab::Redis"] = "0\n"
        commands["/opt/gitlab/embedded/bin/curl"] = CURL
        commands["date"] = lambda: f"{int(datetime.now(UTC).timestamp())}\n"
        commands["stat -c %Y"] = "100\n"
        commands["stat -L"] = f"1{len(site.name)}\n2{len(site.name)}\n"
        commands["du"] = "1000\t/x\n"
        self.render(site, node)

    def curl(self, line: str) -> str:
        """What the registry at that address answers without a token."""
        asked = next((s for s in self.sites.all if s.parameters.registry.url in line), self.primary)
        return (
            f'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm="{asked.parameters.gitlab.url}'
            '/jwt/auth",service="container_registry"\r\n\r\n'
        )

    def install(self, gitlab: str) -> None:
        """Another release on both sites."""
        for site in self.sites.all:
            site.version = f"{gitlab}-ee"  # type: ignore[attr-defined]
            registry = ".".join(map(str, Profile.of(gitlab).registry))
            for node in site.nodes:
                files = node.files  # type: ignore[attr-defined]
                files["/opt/gitlab/version-manifest.txt"] = f"gitlab-ee {gitlab}\n\nComponent\n".encode()
                files["/var/opt/gitlab/registry/VERSION"] = f"/opt/x/registry x/y v{registry}-gitlab".encode()

    def role_on_node(self, site: FakeSite) -> str:
        return f"{site.role}\n"

    def render(self, site: FakeSite, node: FakeNode | None = None) -> None:
        """What a reconfigure makes of gitlab.rb."""
        node = node or site.node
        text = node.files[GITLAB_RB].decode()
        blocks = gitlab_rb.blocks(text)
        on = site.has_registry or add_registry.REGISTRY in blocks
        endpoints = [one for block in (blocks.get(add_registry.NOTIFICATIONS),) if block for one in _endpoints(block)]
        database: dict[str, Any] = {
            "enabled": "false",
            "host": "/var/opt/gitlab/postgresql",
            "port": 5432,
            "dbname": "registry",
        }
        database |= site.default_database
        if block := blocks.get(state.DATABASE):
            pairs = dict(re.findall(r"'(\w+)' => (.*?),?$", block, re.MULTILINE))
            database = {
                "enabled": pairs["enabled"] == "true",
                "host": pairs["host"].strip("'"),
                "port": int(pairs["port"]),
                "dbname": pairs["dbname"].strip("'"),
            }
        storage: dict[str, Any] = {"filesystem": {"rootdirectory": STORAGE}, "delete": {"enabled": True}}
        if state.READ_ONLY in blocks:
            storage["maintenance"] = {"readonly": {"enabled": True}}
        config = {
            "storage": storage,
            "database": database,
            "notifications": {"endpoints": endpoints or site.endpoints},
            "auth": {"token": {"issuer": "omnibus-gitlab-issuer"}},
            "http": {"addr": "127.0.0.1:5000"},
            "log": {"level": "info", "formatter": "text"},
        }
        if state.COLLECTION in blocks:
            config["gc"] = {"disabled": True}
        for section, value in site.config.items():
            config[section] = {**config[section], **value}
        gitlab = {
            "registry": {
                "enabled": on,
                "issuer": "omnibus-gitlab-issuer",
                "notification_secret": _secret(blocks) or self.token,
            },
            "geo": {
                "registry_replication": {
                    "enabled": (site.replication or add_registry.REPLICATION in blocks) and state.HOLD not in blocks,
                    "primary_api_url": f"{self.sites.primary.parameters.registry.url}/"
                    if site.role == "secondary"
                    else "",
                }
            },
        }
        if on and "registry" in node.roles:
            node.files[REGISTRY_CONFIG] = yaml.safe_dump(config).encode()
            node.files["/opt/gitlab/service/registry"] = b""
            node.files.setdefault("/var/opt/gitlab/registry/VERSION", VERSION)
            self.started_registry(site, RegistryConfig.parse(node.files[REGISTRY_CONFIG].decode()))
        else:
            node.files.pop("/opt/gitlab/service/registry", None)
        if "rails" in node.roles:
            node.files[GITLAB_YML] = yaml.safe_dump({"production": gitlab}).encode()
        texts = [one.files[REGISTRY_CONFIG].decode() for one in site.nodes if REGISTRY_CONFIG in one.files]  # type: ignore[attr-defined]
        configs = [RegistryConfig.parse(text) for text in texts]
        site.seen.append([(config.mode, config.read_only) for config in configs])

    def started_registry(self, site: FakeSite, config: Any) -> None:
        """A registry was started with this configuration."""

    def replicate(self) -> None:
        """An event on the primary, which reaches each secondary unless sync is held there."""
        for secondary in self.sites.secondaries:
            if self.replicates and not state.is_held(secondary):
                self.sync(secondary)

    def sync(self, site: Any) -> None:
        """What Geo's sync does: the secondary's registry becomes as the primary's."""
        tags = site.registry._tags
        tags.clear()
        tags.update(self.primary.registry._tags)

    # jobs

    def perform(self, site: FakeSite, name: str, argv: tuple[str, ...], node: FakeNode) -> FakeJob:
        place = f"{name}@{node.name}"
        how = next((how for part, how in self.fail.items() if part in place and not name.endswith("-back")), "")
        if how == "lost":
            self._partly(site, argv)
            return FakeJob(name, argv, "lost", None)
        if how == "not enabled":
            return FakeJob(name, argv, text="Container registry is not enabled, exiting...\n")
        if how.isdigit():
            self._partly(site, argv)
            return FakeJob(name, argv, status=int(how), text="failed to import metadata: it broke\n")
        if argv == ("gitlab-ctl", "reconfigure"):
            if how != "silent":
                self.render(site, node)
            return FakeJob(name, argv)
        if "migrate" in argv:
            site.database.schema = MIGRATED
            return FakeJob(name, argv, text="OK: applied 0\n")
        if "import" in argv:
            if how == "running":
                return FakeJob(name, argv, "running", None, finish=lambda: self._import(site, name, argv))
            return self._import(site, name, argv)
        if "runner" in argv or argv == ("gitlab-ctl", "start", "registry"):
            return FakeJob(name, argv)
        raise AssertionError(f"the world does not know: {argv}")

    def _partly(self, site: FakeSite, argv: tuple[str, ...]) -> None:
        if "import" in argv and "--step-one" not in argv and "--step-three" not in argv:
            site.database.tags.update(list(site.storage.items())[:2])

    def _import(self, site: FakeSite, name: str, argv: tuple[str, ...]) -> FakeJob:
        steps = [number for number in ("one", "two", "three") if f"--step-{number}" in argv] or ["one", "two", "three"]
        kept = {key: digest for key, digest in site.storage.items() if key not in self.lost}
        read = {(path, digest) for (path, _), digest in kept.items()}
        if "one" in steps:
            self.on_step_one(site)
            site.database.read |= read
        if "two" in steps:
            assert not site.database.tags, "the importer refuses: tags are there"
            assert steps != ["two"] or site.rendered().read_only, "the wrapper refuses: not read-only"
            site.database.tags.update(kept)
            site.database.read |= read
            site.lock("database")
            site.lock("filesystem", False)
        self._note(site, steps, len(read))
        lines = [
            json.dumps({"level": "warning", "msg": "broken", "repository": path, "tag_name": tag, "error": "why"})
            for path, tag in (self.lost if "two" in steps else ())
        ]
        lines.append(json.dumps({"level": "info", "msg": "metadata import complete", "tags": len(kept)}))
        job = FakeJob(name, argv, text="\n".join(lines) + "\n")
        site.node.kept_jobs[name] = job
        return job

    def on_step_one(self, site: FakeSite) -> None:
        """Something that happens while it runs."""

    def _note(self, site: FakeSite, steps: list[str], manifests: int) -> None:
        """The row that an import leaves."""
        now = datetime.now(UTC)
        row: dict[str, Any] = {"id": len(site.database.statistics) + 1, "tags_count": manifests}
        for part, number in zip(("pre_import", "tag_import", "blob_import"), ("one", "two", "three"), strict=True):
            done = number in steps
            row |= {
                part: done,
                f"{part}_started_at": now - timedelta(seconds=self.step_seconds) if done else None,
                f"{part}_finished_at": now if done else None,
                f"{part}_error": None,
            }
        site.database.statistics.append(row)

    # running a scenario

    def open(self, tmp: Path, *, approve: Sequence[str] = (), attest: bool = True) -> Any:
        """A run of the scenario over this world."""
        from georeg_nb.records import Record
        from georeg_nb.runbook.reporter import Reporter
        from georeg_nb.runbook.run import Run

        update = {"approve": list(approve), "attest": self.attest if attest else {}}
        options = self.options.model_copy(update=update)
        for site in self.sites.all:
            site.options = options
        record = Record.create(self.scenario.id, tmp)
        return Run(self.scenario, self.sites, options, record, Reporter(record), show=lambda shown: None)


def _endpoints(block: str) -> list[dict[str, Any]]:
    """The array of notifications in a block: Ruby's hashes are nearly JSON."""
    array = block.partition("registry['notifications'] = ")[2] or "[]"
    found, _ = json.JSONDecoder().raw_decode(array.replace(" =>", ":").replace("'", '"'))
    return list(found)


def _secret(blocks: Mapping[str, str]) -> str:
    """The token that one of georeg's blocks gives to Rails."""
    found = re.search(r"\['registry_notification_secret'\] = '(\w+)'", "\n".join(blocks.values()))
    return found[1] if found else ""


class NewWorld(World):
    """Geo sites without a registry."""

    scenario = scenarios.ADD_REGISTRY
    attest: Mapping[str, str] = {}
    token = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for site in self.sites.all:
            site.storage.clear()  # type: ignore[attr-defined]
            self.switch_off(site)
        self.primary.endpoints = []
        self.records = []
        self.status |= {f"container_repositories_{name}_count": 0 for name in ("registry", "synced")}  # type: ignore[operator]

    def make_options(self, values: dict[str, Any]) -> Any:
        return AddRegistryParameters.model_validate({"notification_token": "env:WORLD_NOTIFICATIONS", **values})

    def switch_off(self, site: Any) -> None:
        """As if there had never been a registry."""
        site.has_registry = site.replication = False
        for node in site.nodes:
            for path in (REGISTRY_CONFIG, "/var/opt/gitlab/registry/VERSION"):
                node.files.pop(path, None)
            self.render(site, node)

    def switch_on(self, site: Any, **database: Any) -> None:
        """A registry that somebody set up, on the package's own database where `enabled` says so."""
        site.has_registry = True
        site.default_database = database
        for node in site.nodes:
            self.render(site, node)

    def started_registry(self, site: FakeSite, config: Any) -> None:
        site.process_mode = "" if config.mode == "legacy" else "database"
        if site.process_mode:
            site.lock("database")
            if state.is_ours(config, site):  # reconfigure migrates it
                site.database.schema = MIGRATED
        else:
            assert not site.omnibus.lockfiles().database, "the registry refuses to start: metadata database in use"


SECTIONS = ("guard", "hold", "secondary.import", "primary.import", "release", "verify", "sign-off")
__all__ = ["CLUSTER", "LOSSY", "SECTIONS", "TAGS", "NewWorld", "World", "image"]
