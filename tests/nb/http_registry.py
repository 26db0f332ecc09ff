"""A registry of dictionaries behind real HTTP, with the pages, the order and the troubles that a test wants."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pytest
from scripted_http import Answer, Request, ScriptedServer, json_answer, scripted

from georeg_nb.parameters import GitLabParameters, RegistryParameters
from georeg_nb.registry_api import MANIFEST_TYPES, RegistryAPI

OCI, OCI_INDEX, DOCKER, DOCKER_LIST = MANIFEST_TYPES
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class HttpRegistry:
    """Contents, and how they are served. `page`: the most names of a page; `legacy`: all tags in one page, always.

    `trouble` is asked first with method and path, and may answer in the registry's place.
    """

    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    page: int = 1000
    legacy: bool = False
    order: Callable[[str], Any] = str
    trouble: Callable[[str, str], Answer | None] = lambda method, path: None
    life: int = 0  # seconds that its GitLab's tokens live for; 0: they do not say
    tokens: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)  # tokens that are not accepted any more
    server: ScriptedServer = field(init=False)
    gitlab: ScriptedServer = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def copy(self) -> HttpRegistry:
        """Another one with the same content."""
        return HttpRegistry(dict(self.tags), dict(self.manifests), dict(self.blobs))

    def blob(self, path: str, data: bytes) -> str:
        """Put a blob; returns its digest."""
        self.blobs[path, digest_of(data)] = data
        return digest_of(data)

    def put(self, path: str, document: dict[str, Any], *tags: str, kind: str = OCI) -> str:
        """Put a manifest under some tags; returns its digest."""
        payload = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        digest = digest_of(payload)
        self.manifests[path, digest] = kind, payload
        self.tags.update({(path, tag): digest for tag in tags})
        return digest

    def image(self, path: str, name: str, *tags: str, kind: str = OCI) -> str:
        """An image with one config and two layers, one of them the same for all."""
        blobs = [f"config {name}".encode(), b"base layer", f"layer {name}".encode() * 50]
        config, *layers = ({"digest": self.blob(path, data), "size": len(data)} for data in blobs)
        return self.put(path, {"config": config, "layers": layers}, *tags, kind=kind)

    def index(self, path: str, children: list[str], *tags: str, kind: str = OCI_INDEX) -> str:
        """An index over manifests that are there, or not."""
        platforms = [{"os": "linux", "architecture": f"cpu{n}"} for n in range(len(children))]
        entries = [
            {"digest": child, "mediaType": self.manifests.get((path, child), (OCI, b""))[0], "platform": platform}
            for child, platform in zip(children, platforms, strict=True)
        ]
        return self.put(path, {"manifests": entries}, *tags, kind=kind)

    # HTTP

    def answer(self, request: Request) -> Answer:
        parts = urlsplit(request.path)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in self.refused:
            return json_answer({"errors": [{"code": "UNAUTHORIZED"}]}, 401)
        if (found := self.trouble(request.method, path)) is not None:
            return found
        if path == "/v2/":
            return Answer(body=b"{}")
        if path == "/v2/_catalog":
            return self._listed({name for name, _ in self.manifests}, "repositories", parts.path, query)
        repository, _, rest = path.removeprefix("/v2/").rpartition("/tags/list")
        if repository and not rest:
            names = {tag for name, tag in self.tags if name == repository}
            if repository not in {name for name, _ in self.manifests}:
                return json_answer({"errors": [{"code": "NAME_UNKNOWN"}]}, 404)
            return self._listed(names, "tags", parts.path, {} if self.legacy else query, whole=self.legacy)
        kind = "manifests" if "/manifests/" in path else "blobs"
        repository, _, reference = path.removeprefix("/v2/").rpartition(f"/{kind}/")
        if kind == "blobs":
            blob = self.blobs.get((repository, reference))
            return Answer(404) if blob is None else Answer(body=blob)
        digest = self.tags.get((repository, reference), reference)
        media_type, payload = self.manifests.get((repository, digest), ("", b""))
        if not payload or (media_type in MANIFEST_TYPES and media_type not in request.headers.get("Accept", "")):
            return json_answer({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, 404)
        return Answer(body=payload, headers={"Content-Type": media_type, "Docker-Content-Digest": digest})

    def _listed(self, names: set[str], key: str, path: str, query: dict[str, str], whole: bool = False) -> Answer:
        ordered = sorted(names, key=self.order)
        if "last" in query:
            ordered = [name for name in ordered if self.order(name) > self.order(query["last"])]
        size = len(ordered) if whole else min(self.page, int(query.get("n", 100)))
        page = ordered[:size]
        more = {"Link": f'<{path}?{urlencode({"last": page[-1], "n": size})}>; rel="next"'} if ordered[size:] else {}
        return json_answer({key: page or None}, **more)

    def token(self, request: Request) -> Answer:
        scope = parse_qs(urlsplit(request.path).query).get("scope", [""])[0]
        with self._lock:
            self.tokens[scope] += 1
            return json_answer({"token": f"{quote(scope, safe='')}.{self.tokens[scope]}"})


@contextmanager
def served(*registries: HttpRegistry) -> Iterator[list[RegistryAPI]]:
    """Clients of registries that run."""
    from contextlib import ExitStack

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKEN", "glpat-correct-horse")
        clients = []
        for number, registry in enumerate(registries):
            registry.server, registry.gitlab = stack.enter_context(scripted()), stack.enter_context(scripted())
            registry.server.answers, registry.gitlab.answers = registry.answer, registry.token
            client = RegistryAPI(
                RegistryParameters.model_validate({"url": registry.server.url}),
                GitLabParameters.model_validate({"url": registry.gitlab.url, "token": "env:TOKEN"}),
                site=f"site{number}",
            )
            client._http._sleep = lambda _: None
            clients.append(client)
            stack.callback(client.close)
        yield clients
