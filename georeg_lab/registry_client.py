"""A small client of one site's registry, with tokens from its GitLab: what a `docker push` does, without Docker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from georeg_lab.images import MANIFEST_TYPES, Image


class RegistryError(Exception):
    """The registry or GitLab answered with something else than was asked for. `status` is the HTTP status."""

    def __init__(self, response: requests.Response) -> None:
        self.status = response.status_code
        request = response.request
        super().__init__(f"{request.method} {request.url}: {response.status_code} {response.text[:300].strip()}")


@dataclass
class RegistryClient:
    """One site's registry. `gitlab` and `registry` are base URLs, `ca` the authority that signed both."""

    gitlab: str
    registry: str
    ca: Path
    user: str = "root"
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(self.ca)
        self._tokens: dict[str, str] = {}

    def request(self, method: str, path: str, scope: str, **options: Any) -> requests.Response:
        """One request with a token for `scope` (e.g. "repository:a/b:pull"), which is fetched again when it expired."""
        headers = dict(options.pop("headers", {}))
        url = urljoin(self.registry, path)
        for _ in range(2):
            if scope not in self._tokens:
                self._tokens[scope] = self._fetch_token(scope)
            headers["Authorization"] = f"Bearer {self._tokens[scope]}"
            response = self._session.request(method, url, headers=headers, timeout=30, **options)
            if response.status_code != 401:
                break
            del self._tokens[scope]
        return response

    def _fetch_token(self, scope: str) -> str:
        response = self._session.get(
            urljoin(self.gitlab, "/jwt/auth"),
            params={"service": "container_registry", "scope": scope},
            auth=(self.user, self.token),
            timeout=30,
        )
        return str(_expect(response, 200).json()["token"])

    def push(self, repository: str, image: Image, *tags: str) -> None:
        """Push blobs, children and manifest; without tags the manifest goes by its digest. Raises RegistryError."""
        scope = f"repository:{repository}:pull,push"
        for child in image.children:
            self.push(repository, child)
        for digest, data in image.blobs:
            if self.request("HEAD", f"/v2/{repository}/blobs/{digest}", scope).status_code != 200:
                start = _expect(self.request("POST", f"/v2/{repository}/blobs/uploads/", scope), 202)
                location = requests.compat.urljoin(self.registry, start.headers["Location"])
                location += f"{'&' if '?' in location else '?'}digest={digest}"
                kind = {"Content-Type": "application/octet-stream"}
                _expect(self.request("PUT", location, scope, data=data, headers=kind), 201)
        for reference in tags or (image.digest,):
            path, kind = f"/v2/{repository}/manifests/{reference}", {"Content-Type": image.media_type}
            _expect(self.request("PUT", path, scope, data=image.payload, headers=kind), 201)

    def tags(self, repository: str) -> list[str]:
        """All tags of a repository, in the registry's order; empty when it is unknown."""
        found: list[str] = []
        path: str | None = f"/v2/{repository}/tags/list?n=1000"
        while path:
            response = self.request("GET", path, f"repository:{repository}:pull")
            if response.status_code == 404:
                return found
            found += _expect(response, 200).json()["tags"] or []
            path = response.links.get("next", {}).get("url")
        return found

    def digest(self, repository: str, reference: str) -> str | None:
        """Digest of the manifest that a tag or digest names, None when there is none."""
        headers = {"Accept": ", ".join(MANIFEST_TYPES)}
        path = f"/v2/{repository}/manifests/{reference}"
        response = self.request("HEAD", path, f"repository:{repository}:pull", headers=headers)
        if response.status_code == 404:
            return None
        return _expect(response, 200).headers["Docker-Content-Digest"]

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete one tag, not its manifest."""
        path = f"/v2/{repository}/manifests/{tag}"
        _expect(self.request("DELETE", path, f"repository:{repository}:delete,pull"), 202)

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete a manifest with all its tags."""
        self.delete_tag(repository, digest)

    def repositories(self) -> list[str]:
        """The catalog."""
        found: list[str] = []
        path: str | None = "/v2/_catalog?n=1000"
        while path:
            response = _expect(self.request("GET", path, "registry:catalog:*"), 200)
            found += response.json()["repositories"] or []
            path = response.links.get("next", {}).get("url")
        return found

    def all_tags(self) -> dict[tuple[str, str], str | None]:
        """(repository, tag) → digest of everything in the registry. One HEAD per tag: slow for many."""
        return {(name, tag): self.digest(name, tag) for name in self.repositories() for tag in self.tags(name)}

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def _expect(response: requests.Response, status: int) -> requests.Response:
    if response.status_code != status:
        raise RegistryError(response)
    return response
