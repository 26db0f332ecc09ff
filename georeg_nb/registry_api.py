"""A site's container registry over HTTP: what is in it, what it answers to a push, and a small image of our own.

Works in both metadata modes. Tokens come from the site's own GitLab, one for each scope, and are renewed when they
have expired. Every manifest is asked for with all four types: without them a registry answers with another manifest,
or with none. Source: registry 5; procedures 5.5.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests

from georeg_nb.credentials import Secret
from georeg_nb.errors import ReadOnlySite
from georeg_nb.http import BasicAuth, HeaderAuth, HttpSession
from georeg_nb.parameters import GitLabParameters, RegistryParameters, SiteParameters

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
LARGEST_MANIFEST = 4 * 1024 * 1024
PAGE = 1000
CATALOG = "registry:catalog:*"


@dataclass(frozen=True)
class Identity:
    """What a registry says it is. `database`: None where it does not say."""

    version: str
    database: bool | None
    features: str


@dataclass(frozen=True)
class Manifest:
    """A manifest as stored: its very bytes, its type, and the digest that the registry names it by."""

    payload: bytes
    media_type: str
    digest: str


class RegistryAPI:
    """One registry. `address` is where it is asked: the public address, or one node's own.

    Safe to use from several threads. Raises Unreachable when there is no answer, HttpRefused when it is no success.
    """

    def __init__(
        self,
        registry: RegistryParameters,
        gitlab: GitLabParameters,
        *,
        address: str = "",
        site: str = "",
        readonly: bool = False,
        pool: int = 16,
    ) -> None:
        self.address = address.rstrip("/") or registry.url
        self.site = site
        self.readonly = readonly
        self._gitlab = gitlab
        self._http = HttpSession(self.address, ca=registry.ca, site=site, pool=pool)
        self._tokens: dict[str, Secret] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @classmethod
    def of(cls, parameters: SiteParameters, *, address: str = "", readonly: bool = False) -> RegistryAPI:
        """The registry of a site."""
        return cls(parameters.registry, parameters.gitlab, address=address, site=parameters.name, readonly=readonly)

    def __repr__(self) -> str:
        return f"<RegistryAPI {self.address}>"

    def identity(self) -> Identity:
        """Version and metadata mode: `GET /v2/`, which tells them only to who is let in (registry 5.1)."""
        headers = self._ask("GET", "/v2/", "").headers
        mode = headers.get("Gitlab-Container-Registry-Database-Enabled", "").lower()
        return Identity(
            version=headers.get("Gitlab-Container-Registry-Version", ""),
            database={"true": True, "false": False}.get(mode),
            features=headers.get("Gitlab-Container-Registry-Features", ""),
        )

    ping = identity

    def catalog(self) -> Iterator[str]:
        """Every repository path, in the registry's own order."""
        yield from self._pages("/v2/_catalog", CATALOG, "repositories")

    def tags(self, path: str) -> list[str]:
        """Tag names of a repository, in the registry's own order; none for a repository that it does not know."""
        return list(self._pages(f"/v2/{path}/tags/list", _scope(path, "pull"), "tags"))

    def digest(self, path: str, reference: str) -> str | None:
        """Digest of the manifest that a tag names; None where there is none. HEAD, and GET where HEAD does not say."""
        response = self._manifest("HEAD", path, reference)
        if response is None:
            return None
        if digest := response.headers.get("Docker-Content-Digest"):
            return digest
        manifest = self.manifest(path, reference)
        return manifest.digest if manifest else None

    def manifest(self, path: str, reference: str) -> Manifest | None:
        """A manifest by tag or digest; None where there is none. Its bytes are not checked: see `hashes_to`."""
        response = self._manifest("GET", path, reference)
        if response is None:
            return None
        digest = (
            response.headers.get("Docker-Content-Digest") or f"sha256:{hashlib.sha256(response.content).hexdigest()}"
        )
        return Manifest(response.content, response.headers.get("Content-Type", "").partition(";")[0], digest)

    def has_blob(self, path: str, digest: str) -> bool:
        """Can a config or layer be pulled from this repository? A redirect to its storage is a yes."""
        response = self._ask("HEAD", f"/v2/{path}/blobs/{digest}", _scope(path, "pull"), ok=(200, 307, 404))
        return response.status_code != 404

    def blob(self, path: str, digest: str) -> bytes:
        """Content of a blob. The token does not follow a redirect to the storage."""
        return self._ask("GET", f"/v2/{path}/blobs/{digest}", _scope(path, "pull"), follow=True).content

    def probe_write(self, path: str) -> Literal["refused", "accepted"]:
        """Would a push be taken? An upload is asked for: 405 is the read-only mode; one that is accepted is cancelled.

        `path` is a repository that exists: asking for a push token creates GitLab's record of one that does not.
        Anything else than those two answers raises HttpRefused. Source: registry 5.3.
        """
        scope = _scope(path, "delete", "pull", "push")
        response = self._ask("POST", f"/v2/{path}/blobs/uploads/", scope, ok=(202, 405))
        if response.status_code == 202:
            self._cancel(response, scope)
            return "accepted"
        if "json" in response.headers.get("Content-Type", ""):  # UNSUPPORTED: a feature is off, not the whole writing
            raise self._http.refused(response)
        return "refused"

    def push_image(self, path: str, tag: str, text: str) -> str:
        """WRITES: push an image with one layer, one small file that holds `text`. Returns its digest.

        `path` is a repository of an existing project. Raises HttpRefused 405 on a read-only registry.
        """
        self._must_be_writable(f"push {path}:{tag}")
        layer, config, manifest = small_image(text)
        for blob in (layer, config):
            self._push_blob(path, blob)
        scope = _scope(path, "pull", "push")
        headers = {"Content-Type": "application/vnd.docker.distribution.manifest.v2+json"}
        self._ask("PUT", f"/v2/{path}/manifests/{quote(tag)}", scope, ok=(201,), headers=headers, data=manifest)
        return digest_of(manifest)

    def delete_tag(self, path: str, tag: str) -> bool:
        """WRITES: remove a tag; its manifest stays for garbage collection. False: there was none."""
        self._must_be_writable(f"delete {path}:{tag}")
        scope = _scope(path, "delete", "pull")
        response = self._ask("DELETE", f"/v2/{path}/manifests/{quote(tag)}", scope, ok=(202, 404))
        return response.status_code == 202

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        if "_token_http" in self.__dict__:
            self._token_http.close()

    # how it is asked

    @cached_property
    def _token_http(self) -> HttpSession:
        auth = BasicAuth(self._gitlab.user, self._gitlab.token.resolve())
        return HttpSession(self._gitlab.url, ca=self._gitlab.ca, site=self.site, auth=auth)

    def _token(self, scope: str, old: Secret | None = None) -> Secret:
        """A token for a scope; with `old`, a newer one. Several threads ask at once: GitLab is asked once."""
        with self._locks[scope]:
            known = self._tokens.get(scope)
            if known is not None and known is not old:
                return known
            response = self._token_http.get(
                "/jwt/auth",
                params=[("service", "container_registry"), *([("scope", scope)] if scope else [])],
                remedy="is the registry switched on in this GitLab, and is the token an administrator's, "
                "with the scopes read_registry and write_registry?",
            )
            try:
                token = Secret(response.json()["token"], "registry token", masked=False)
            except (ValueError, KeyError, TypeError):
                raise self._token_http.refused(response, remedy="is this the address of a GitLab?") from None
            self._tokens[scope] = token
            return token

    def _ask(
        self, method: str, path: str, scope: str, *, ok: tuple[int, ...] = (200,), **options: Any
    ) -> requests.Response:
        token = self._token(scope)
        for attempt in (1, 2):
            response = self._http.request(
                method, path, ok=(*ok, 401), auth=HeaderAuth("Authorization", token, "Bearer "), **options
            )
            if response.status_code != 401 or attempt == 2:
                break
            token = self._token(scope, token)  # they live for five minutes
        if response.status_code == 401:
            raise self._http.refused(response, remedy=_refused_token(scope, self._gitlab.user))
        return response

    def _manifest(self, method: str, path: str, reference: str) -> requests.Response | None:
        response = self._ask(
            method,
            f"/v2/{path}/manifests/{quote(reference, safe=':')}",
            _scope(path, "pull"),
            ok=(200, 404),
            headers=ACCEPT,
            max_bytes=2 * LARGEST_MANIFEST,
        )
        return response if response.status_code == 200 else None

    def _pages(self, path: str, scope: str, key: str) -> Iterator[str]:
        seen: set[str] = set()
        page: str | None = f"{path}?{urlencode({'n': PAGE})}"
        while page and page not in seen:
            seen.add(page)
            response = self._ask("GET", page, scope, ok=(200, 404))
            if response.status_code == 404:
                return
            yield from _listed(response, key, self._http)
            link = response.links.get("next", {}).get("url")
            page = _path_and_query(urljoin(self.address + page, link)) if link else None

    def _push_blob(self, path: str, blob: bytes) -> None:
        scope, digest = _scope(path, "pull", "push"), digest_of(blob)
        if self.has_blob(path, digest):
            return
        started = self._ask("POST", f"/v2/{path}/blobs/uploads/", scope, ok=(202,))
        place = self._location(started)
        place += ("&" if "?" in place else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", place, scope, ok=(201,), headers=headers, data=blob)

    def _cancel(self, started: requests.Response, scope: str) -> None:
        self._ask("DELETE", self._location(started), scope, ok=(204, 404))

    def _location(self, response: requests.Response) -> str:
        """Where an upload goes on: at this same address, whatever name the registry knows itself by."""
        return _path_and_query(urljoin(response.url, response.headers.get("Location", "")))

    def _must_be_writable(self, what: str) -> None:
        if self.readonly:
            raise ReadOnlySite(f"a check or a plan tried to {what}", site=self.site)


def digest_of(data: bytes) -> str:
    """`sha256:…` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hashes_to(data: bytes, digest: str) -> bool:
    """Do these bytes have that digest (sha256 or sha512)?"""
    algorithm, _, value = digest.partition(":")
    return algorithm in ("sha256", "sha512") and hashlib.new(algorithm, data).hexdigest() == value


def small_image(text: str) -> tuple[bytes, bytes, bytes]:
    """Layer, config and manifest of an image that holds one file; the same text gives the same bytes."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("georeg.txt")
        entry.size = len(text.encode())
        archive.addfile(entry, io.BytesIO(text.encode()))
    layer = gzip.compress(tar.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [digest_of(tar.getvalue())]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    types = "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"
    described = [
        {"mediaType": kind, "size": len(blob), "digest": digest_of(blob)}
        for kind, blob in zip(types, (config, layer), strict=True)
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described[0],
        "layers": described[1:],
    }
    return layer, config, json.dumps(manifest).encode()


def _scope(path: str, *actions: str) -> str:
    return f"repository:{path}:{','.join(actions)}"


def _listed(response: requests.Response, key: str, http: HttpSession) -> list[str]:
    try:
        names = response.json()[key]
    except (ValueError, KeyError, TypeError):
        raise http.refused(response, remedy="is this the address of a container registry?") from None
    return [str(name) for name in names or []]  # tags of an empty repository are null


def _path_and_query(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _refused_token(scope: str, user: str) -> str:
    if not scope:
        return "the registry does not accept this GitLab's tokens: are its key, issuer and service those of the site?"
    what = "list the registry" if scope == CATALOG else f"do this in {scope.split(':')[1]}"
    return f"{user}'s token may not {what}: it must be an administrator's, with the scopes of the parameters file"
