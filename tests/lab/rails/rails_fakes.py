"""A registry in memory behind real HTTP, a node with minimal rendered files, and images for both."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from georeg_lab.layout import Lab, Ports, inside
from georeg_lab.rails import repositories
from georeg_lab.rails.config import GEO_LOG, Config, Databases, Row
from georeg_lab.rails.registry_client import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST
from georeg_lab.rails.sync import sync_repository

MAIN, TRACKING = "gitlabhq_production", "gitlabhq_geo_production"
ROOT_TOKEN, USER_TOKEN, READ_TOKEN = "glpat-root", "glpat-user", "glpat-read"
SECRET = "notification-secret"
LISTS = (DOCKER_LIST, OCI_INDEX)
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class FakeRegistry:
    """What the real one answers to the calls of a sync (registry reference 5.2, 5.3); faults are attributes."""

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest → media type, body
    tags: dict[str, str] = field(default_factory=dict)  # name → digest
    blobs: dict[str, bytes] = field(default_factory=dict)
    connected: bool = True
    read_only: bool = False
    database: bool = False
    page: int | None = None  # tags on the first page
    tag_list: bytes | None = None  # body sent in place of the tag list
    broken: set[str] = field(default_factory=set)  # references whose manifest cannot be read
    on_request: Any = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def blob(self, data: bytes) -> str:
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def manifest(self, document: dict[str, Any], media_type: str, *tags: str) -> str:
        body = json.dumps(document).encode()
        digest = digest_of(body)
        self.manifests[digest] = (media_type, body)
        self.tags.update(dict.fromkeys(tags, digest))
        return digest

    def image(self, name: str, *tags: str, media_type: str = OCI_MANIFEST) -> str:
        """An image of one layer, under these tags."""
        config, layer = self.blob(f"config {name}".encode()), self.blob(f"layer {name}".encode())
        document = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": CONFIG_TYPE, "digest": config, "size": 1},
            "layers": [{"mediaType": LAYER_TYPE, "digest": layer, "size": 1}],
        }
        return self.manifest(document, media_type, *tags)

    def index(self, children: list[str], *tags: str, media_type: str | None = OCI_INDEX) -> str:
        """An index over these manifests; `media_type` None leaves the body's member out."""
        listed = [{"mediaType": self.manifests[child][0], "digest": child, "size": 1} for child in children]
        document: dict[str, Any] = {"schemaVersion": 2, "manifests": listed}
        if media_type:
            document["mediaType"] = media_type
        return self.manifest(document, media_type or OCI_INDEX, *tags)

    def put(self, reference: str, content_type: str, body: bytes) -> tuple[int, bytes]:
        document = json.loads(body)
        if document.get("mediaType", content_type) != content_type:
            return 400, b'{"errors":[{"code":"MANIFEST_INVALID"}]}'
        listed = [entry["digest"] for entry in document.get("manifests", [])]
        if content_type in LISTS and not set(listed) <= set(self.manifests):
            return 400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}'
        if content_type not in LISTS:
            needed = [entry["digest"] for entry in document.get("layers", [])]
            needed += [document["config"]["digest"]] if "config" in document else []
            if "manifests" in document or not set(needed) <= set(self.blobs):
                return 400, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}'
        digest = digest_of(body)
        self.manifests[digest] = (content_type, body)
        if not reference.startswith("sha256:"):
            self.tags[reference] = digest
        return 201, b""

    def delete(self, reference: str) -> tuple[int, bytes]:
        if not reference.startswith("sha256:"):
            return (202, b"") if self.tags.pop(reference, None) else (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        if reference not in self.manifests:
            return 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
        lists = [json.loads(body) for media_type, body in self.manifests.values() if media_type in LISTS]
        if self.database and any(reference == child["digest"] for found in lists for child in found["manifests"]):
            return 409, b'{"errors":[{"code":"MANIFEST_REFERENCED"}]}'
        del self.manifests[reference]
        self.tags = {name: digest for name, digest in self.tags.items() if digest != reference}
        return 202, b""


class _Handler(RequestHandler):
    def initialize(self, registry: FakeRegistry) -> None:
        self.registry = registry

    def prepare(self) -> None:
        registry, request = self.registry, self.request
        registry.requests.append((str(request.method), request.uri or ""))
        if registry.on_request:
            registry.on_request(str(request.method), request.uri)
        if not registry.connected or not request.headers.get("Authorization", "").startswith("Bearer "):
            self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        elif registry.read_only and request.method not in ("GET", "HEAD"):
            self.answer(405, b"Method not allowed\n")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name.replace("_", "-"), value)
        self.finish(body or None)


class _Base(_Handler):
    def get(self) -> None:
        self.answer(200, b"{}")


class _Tags(_Handler):
    def get(self) -> None:
        names = sorted(self.registry.tags)[: self.registry.page]
        body = json.dumps({"name": "x", "tags": names or None}).encode()
        self.answer(200, self.registry.tag_list if self.registry.tag_list is not None else body)


class _Manifests(_Handler):
    def head(self, reference: str) -> None:
        self.get(reference)

    def get(self, reference: str) -> None:
        digest = self.registry.tags.get(reference, reference)
        if reference in self.registry.broken or digest not in self.registry.manifests:
            self.answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
            return
        media_type, body = self.registry.manifests[digest]
        self.answer(200, body, Content_Type=media_type, Docker_Content_Digest=digest)

    def put(self, reference: str) -> None:
        self.answer(*self.registry.put(reference, self.request.headers["Content-Type"], self.request.body))

    def delete(self, reference: str) -> None:
        self.answer(*self.registry.delete(reference))


class _Blobs(_Handler):
    def head(self, digest: str) -> None:
        self.get(digest)

    def get(self, digest: str) -> None:
        found = self.registry.blobs.get(digest)
        self.answer(200, found) if found is not None else self.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')


class _Uploads(_Handler):
    def post(self) -> None:
        self.answer(202, Location=f"{self.request.path}{uuid.uuid4()}?_state=s")


class _Upload(_Handler):
    def put(self, _: str) -> None:
        digest = self.get_query_argument("digest")
        if digest_of(self.request.body) != digest:
            self.answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        self.registry.blobs[digest] = self.request.body
        self.answer(201)


class Server:
    """Web applications on their own event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._servers: list[HTTPServer] = []
        self._thread.start()

    def serve(self, application: Application) -> str:
        """Base URL that it is served at."""
        sockets = bind_sockets(0, "127.0.0.1")

        async def start() -> None:
            server = HTTPServer(application)
            server.add_sockets(sockets)
            self._servers.append(server)

        asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)
        return f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    def registry(self) -> FakeRegistry:
        """A new registry, served."""
        made = FakeRegistry()
        routes = [
            (r"/v2/", _Base),
            (r"/v2/.+/tags/list", _Tags),
            (r"/v2/.+/manifests/([^/]+)", _Manifests),
            (r"/v2/.+/blobs/(sha256:[0-9a-f]+)", _Blobs),
            (r"/v2/.+/blobs/uploads/", _Uploads),
            (r"/v2/.+/blobs/uploads/(.+)", _Upload),
        ]
        quiet = {"log_function": lambda _: None}
        made.url = self.serve(Application([(path, kind, {"registry": made}) for path, kind in routes], **quiet))
        return made

    def close(self) -> None:
        async def stop() -> None:
            for server in self._servers:
                server.stop()
                await server.close_all_connections()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def render_node(
    root: Path,
    *,
    url: str,
    main: dict[str, Any],
    key: bytes,
    geo: dict[str, Any] | None = None,
    registry_url: str = "",
    primary_registry_url: str = "",
    replication: bool = True,
    registry: bool = True,
    secret: str = "",
) -> None:
    """Write what reconfigure would: gitlab.yml, database.yml, the registry key; and a lab.json beside the node."""
    etc = root / "var/opt/gitlab/gitlab-rails/etc"
    etc.mkdir(parents=True, exist_ok=True)
    host, port = url.removeprefix("http://").split(":")
    document = {
        "gitlab": {"host": host, "port": int(port), "https": False},
        "registry": {
            "enabled": registry,
            "host": host,
            "port": 5050,
            "api_url": registry_url,
            "key": "/var/opt/gitlab/gitlab-rails/etc/gitlab-registry.key",
            "issuer": "omnibus-gitlab-issuer",
            "notification_secret": secret,
        },
        "geo": {
            "node_name": root.name,
            "registry_replication": {"enabled": replication, "primary_api_url": primary_registry_url + "/"},
        },
    }
    (etc / "gitlab.yml").write_text(yaml.safe_dump({"production": document}))
    databases = {"main": main, **({"geo": geo} if geo else {})}
    (etc / "database.yml").write_text(yaml.safe_dump({"production": databases}))
    (etc / "gitlab-registry.key").write_bytes(key)
    Lab(root.parent, Ports(20000)).save()


@dataclass
class Pair:
    """Both sites: their databases, registries and API addresses; `path` is the one repository that exists."""

    primary: Databases
    secondary: Databases
    registries: dict[str, FakeRegistry]
    urls: dict[str, str]
    settings: dict[str, Any]
    path: str = "group/app"
    roots: dict[str, Path] = field(default_factory=dict)

    @property
    def repository(self) -> Row:
        row = repositories.by_path(self.secondary, self.path)
        assert row is not None
        return row

    @property
    def record(self) -> Row:
        query = "SELECT * FROM container_repository_registry WHERE container_repository_id = %s"
        row = self.secondary.one(query, [self.repository["id"]], database="geo")
        assert row is not None
        return row

    def sync(self) -> None:
        sync_repository(self.secondary, self.repository)

    def log(self) -> list[str]:
        path = inside(self.secondary.config.root, GEO_LOG)
        return [json.loads(line)["message"] for line in path.read_text().splitlines()] if path.exists() else []

    def render(self, site: str, **changes: Any) -> Databases:
        """Render the node's files again with other settings, as after a reconfigure and restart."""
        render_node(self.roots[site], **{**self.settings[site], **changes})
        return Databases(Config.load(self.roots[site]))
