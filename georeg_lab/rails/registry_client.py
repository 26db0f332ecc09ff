"""Rails' client of a registry: tags, manifests and blobs, with the error texts that end up in geo.log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlencode, urljoin

import requests

from georeg_lab.rails.config import Databases
from georeg_lab.rails.repositories import access_entry
from georeg_lab.rails.tokens import expire_delay, registry_token

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join([DOCKER_LIST, OCI_INDEX, DOCKER_MANIFEST, OCI_MANIFEST])

TAGS_PAGE_SIZE = 10_000
TIMEOUT = (5, 60)
CHUNK = 1 << 20
SIDE_BY_SIDE = 4  # digests asked for at once; GitLab asks one after the other, which shows in nothing but the time


class RegistryError(Exception):
    """The registry refused; the message is what Rails writes into geo.log."""


@dataclass
class _Stream:
    """A body of known length: requests then sends it with Content-Length instead of in chunks."""

    content: Iterator[bytes]
    size: int

    def __iter__(self) -> Iterator[bytes]:
        return self.content

    def __len__(self) -> int:
        return self.size


@dataclass
class RegistryClient:
    """A registry at `url`; `token` makes a fresh token, which is kept for half of `life` seconds."""

    url: str
    token: Callable[[], str]
    life: int = 300
    ca: str | bool = True
    version: str = ""
    _kept: tuple[str, float] = field(default=("", 0.0), repr=False)

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.verify = self.ca
        session.headers["User-Agent"] = f"GitLab/{self.version}"
        return session

    def _authorization(self) -> str:
        if time.monotonic() >= self._kept[1]:
            self._kept = (self.token(), time.monotonic() + self.life / 2)
        return f"Bearer {self._kept[0]}"

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": self._authorization(), "Accept": ACCEPT, **options.pop("headers", {})}
        try:
            return self._session.request(
                method, urljoin(self.url + "/", path), headers=headers, timeout=TIMEOUT, **options
            )
        except requests.RequestException as problem:
            raise RegistryError(f"{type(problem).__name__}: {problem}") from problem

    def connected(self) -> bool:
        """`GET /v2/` is answered with success. What GitLab counts was not read (rails 2.2): no answer, 401 and any
        other status count as not connected here."""
        try:
            return self._request("GET", "/v2/").ok
        except RegistryError:
            return False

    def tags(self, path: str) -> list[dict[str, str | None]]:
        """Name and digest of the tags on the first page. No reply, no `tags` member: an empty list (rails 2.4)."""
        response = self._request("GET", f"/v2/{path}/tags/list?n={TAGS_PAGE_SIZE}")
        try:
            names = response.json().get("tags") if response.ok else None
        except (ValueError, AttributeError):
            names = None
        if not names:
            return []
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            digests = pool.map(lambda name: self.digest(path, name), names)
            return [{"name": name, "digest": digest} for name, digest in zip(names, digests, strict=True)]

    def digest(self, path: str, reference: str) -> str | None:
        """`Docker-Content-Digest` of a manifest, None when the registry does not give it."""
        response = self._request("HEAD", f"/v2/{path}/manifests/{reference}")
        return response.headers.get("Docker-Content-Digest") if response.ok else None

    def raw_manifest(self, path: str, reference: str) -> bytes:
        """The manifest's bytes. Raises RegistryError."""
        response = self._request("GET", f"/v2/{path}/manifests/{reference}")
        if not response.ok:
            raise RegistryError(f"Get raw manifest error: {response.status_code} - {response.text}")
        return response.content

    def has_blob(self, path: str, digest: str) -> bool:
        """Whether the blob is linked in the repository."""
        return self._request("HEAD", f"/v2/{path}/blobs/{digest}").ok

    def pull_blob(self, path: str, digest: str) -> tuple[Iterator[bytes], int]:
        """The blob as a stream, and its size; a redirect is followed without the token. Raises RegistryError."""
        response = self._request("GET", f"/v2/{path}/blobs/{digest}", stream=True, allow_redirects=False)
        if response.is_redirect:
            response = requests.get(response.headers["Location"], stream=True, timeout=TIMEOUT, verify=self.ca)
        if not response.ok:
            raise RegistryError(f"Pull error for blob {digest}:{response.status_code} - {response.text}")
        return response.iter_content(CHUNK), int(response.headers.get("Content-Length", 0))

    def push_blob(self, path: str, digest: str, content: Iterator[bytes], size: int) -> None:
        """POST, then one PUT. Raises RegistryError."""
        response = self._request("POST", f"/v2/{path}/blobs/uploads/")
        if not response.ok:
            raise RegistryError(f"Get upload URL error: {response.text}")
        target = urljoin(self.url + "/", response.headers["Location"])
        target += ("&" if "?" in target else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream"}
        response = self._request("PUT", target, data=_Stream(content, size) if size else b"", headers=headers)
        if not response.ok:
            raise RegistryError(f"Push Blob error: {response.text}")

    def push_manifest(self, path: str, reference: str, manifest: bytes, media_type: str | None) -> None:
        """PUT the manifest by tag or digest, without a type where that is None. Raises RegistryError."""
        response = self._request(
            "PUT", f"/v2/{path}/manifests/{reference}", data=manifest, headers={"Content-Type": media_type}
        )
        if not response.ok:
            raise RegistryError(f"Push manifest error: {response.text}")

    def delete(self, path: str, reference: str) -> None:
        """DELETE by digest or tag; not found is as good as deleted. Raises RegistryError."""
        response = self._request("DELETE", f"/v2/{path}/manifests/{reference}")
        if not response.ok and response.status_code != requests.codes.not_found:
            raise RegistryError(f"Delete tag error: {response.status_code} - {response.text}")


def primary_client(databases: Databases, path: str) -> RegistryClient:
    """The primary's registry, with a pull token that this site signs itself (rails 2.3)."""
    config, life = databases.config, expire_delay(databases)

    def token() -> str:
        return registry_token(config, [access_entry(databases, path, ["pull"])], life)

    return RegistryClient(config.primary_api_url, token, life, config.ca_file, config.version)


def own_client(databases: Databases, path: str) -> RegistryClient:
    """This site's own registry, with all rights on one repository."""
    config, life = databases.config, expire_delay(databases)

    def token() -> str:
        return registry_token(config, [access_entry(databases, path, ["*"])], life)

    return RegistryClient(config.registry_api_url, token, life, config.ca_file, config.version)
