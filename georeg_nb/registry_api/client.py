"""One registry over HTTP, as a client of ours.

Works in both metadata modes. Tokens come from the site's own GitLab, one for each scope, and are renewed when they
have expired. Every manifest is asked for with all four types: without them a registry answers with another manifest,
or with none. Source: registry 5; procedures 5.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal
from urllib.parse import quote, urlencode, urljoin, urlsplit

import requests

from georeg_nb.errors import HttpRefused, ReadOnlySite
from georeg_nb.http import BasicAuth, HeaderAuth, HttpSession, Route
from georeg_nb.parameters import GitLabParameters, RegistryParameters, SiteParameters
from georeg_nb.registry_api.images import digest_of, small_image
from georeg_nb.registry_api.tokens import Tokens

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
class Head:
    """What a registry says of a manifest without sending it."""

    digest: str
    media_type: str


@dataclass(frozen=True)
class Manifest:
    """A manifest as stored: its very bytes, its type, and the digest that the registry names it by."""

    payload: bytes
    media_type: str
    digest: str


class RegistryAPI:
    """One registry. `address` is where it is asked: the public address, or one node's own.

    Safe to use from several threads; sent to another process it opens connections and gets tokens of its own there.
    Raises Unreachable when there is no answer, HttpRefused when it is no success.
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
        route: Route | None = None,
        gitlab_route: Route | None = None,
    ) -> None:
        self.address = address.rstrip("/") or registry.url
        self.site = site
        self.readonly = readonly
        self._gitlab = gitlab
        self._gitlab_route = gitlab_route
        self._made_of = (registry, gitlab, self.address, site, readonly, pool, route, gitlab_route)
        self._http = HttpSession(self.address, ca=registry.ca, site=site, pool=pool, route=route)
        self._tokens = Tokens(lambda: self._token_http)

    @classmethod
    def of(cls, parameters: SiteParameters, **options: Any) -> RegistryAPI:
        """The registry of a site; options as above."""
        return cls(parameters.registry, parameters.gitlab, site=parameters.name, **options)

    def __repr__(self) -> str:
        return f"<RegistryAPI {self.address}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_once, self._made_of

    @property
    def http(self) -> HttpSession:
        """Its HTTP session."""
        return self._http

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
        """Every repository path once, in the registry's own order. Raises HttpRefused when its pages have no end."""
        yield from self._pages("/v2/_catalog", CATALOG, "repositories")

    def tags(self, path: str) -> list[str]:
        """Tag names of a repository, in the registry's own order; none for a repository that it does not know."""
        return list(self._pages(f"/v2/{quote(path)}/tags/list", _scope(path, "pull"), "tags", none="NAME_UNKNOWN"))

    def head(self, path: str, reference: str) -> Head | None:
        """Digest and type of the manifest that a tag names; None where there is none. GET where HEAD does not say."""
        response = self._manifest("HEAD", path, reference)
        if response is None:
            return None
        if digest := response.headers.get("Docker-Content-Digest"):
            return Head(digest, _media_type(response))
        manifest = self.manifest(path, reference)
        return Head(manifest.digest, manifest.media_type) if manifest else None

    def digest(self, path: str, reference: str) -> str | None:
        """Digest of the manifest that a tag names; None where there is none."""
        found = self.head(path, reference)
        return found.digest if found else None

    def manifest(self, path: str, reference: str) -> Manifest | None:
        """A manifest by tag or digest; None where there is none. Its bytes are not checked: see `hashes_to`."""
        response = self._manifest("GET", path, reference)
        if response is None:
            return None
        digest = response.headers.get("Docker-Content-Digest") or digest_of(response.content)
        return Manifest(response.content, _media_type(response), digest)

    def has_blob(self, path: str, digest: str) -> bool:
        """Can a config or layer be pulled from this repository? A redirect to its storage is a yes."""
        response = self._ask("HEAD", f"/v2/{quote(path)}/blobs/{digest}", _scope(path, "pull"), ok=(200, 307, 404))
        return response.status_code != 404

    def blob(self, path: str, digest: str) -> bytes:
        """Content of a blob. The token does not follow a redirect to the storage."""
        return self._ask("GET", f"/v2/{quote(path)}/blobs/{digest}", _scope(path, "pull"), follow=True).content

    def digest_of_blob(self, path: str, digest: str) -> str | None:
        """Read a whole blob, however large, and tell the digest that its bytes really have; None where there is none.

        Nothing of it is kept. The digest is made by the same algorithm as the one that is asked for.
        """
        algorithm = digest.partition(":")[0]
        found = ""

        def consume(parts: Iterator[bytes]) -> None:
            nonlocal found
            sum_ = hashlib.new(algorithm if algorithm in ("sha256", "sha512") else "sha256")
            for part in parts:
                sum_.update(part)
            found = f"{sum_.name}:{sum_.hexdigest()}"

        response = self._ask(
            "GET",
            f"/v2/{quote(path)}/blobs/{digest}",
            _scope(path, "pull"),
            ok=(200, 404),
            follow=True,
            consume=consume,
            headers={"Accept-Encoding": "identity"},
        )
        return found if response.status_code == 200 else None

    def probe_write(self, path: str) -> Literal["refused", "accepted"]:
        """Would a push be taken? An upload is asked for: 405 is the read-only mode; one that is accepted is cancelled.

        `path` is a repository that exists: asking for a push token creates GitLab's record of one that does not.
        Anything else than those two answers raises HttpRefused. Source: registry 5.3.
        """
        scope = _scope(path, "delete", "pull", "push")
        response = self._ask("POST", f"/v2/{quote(path)}/blobs/uploads/", scope, ok=(202, 405))
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
        self._ask("PUT", f"/v2/{quote(path)}/manifests/{quote(tag)}", scope, ok=(201,), headers=headers, data=manifest)
        return digest_of(manifest)

    def delete_tag(self, path: str, tag: str) -> bool:
        """WRITES: remove a tag; its manifest stays for garbage collection. False: there was none."""
        self._must_be_writable(f"delete {path}:{tag}")
        scope = _scope(path, "delete", "pull")
        response = self._ask("DELETE", f"/v2/{quote(path)}/manifests/{quote(tag)}", scope, ok=(202, 404))
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
        return HttpSession(self._gitlab.url, ca=self._gitlab.ca, site=self.site, auth=auth, route=self._gitlab_route)

    def _ask(
        self, method: str, path: str, scope: str, *, ok: tuple[int, ...] = (200,), **options: Any
    ) -> requests.Response:
        token = self._tokens.get(scope)
        for attempt in (1, 2):
            response = self._http.request(
                method, path, ok=(*ok, 401), auth=HeaderAuth("Authorization", token, "Bearer "), **options
            )
            if response.status_code != 401 or attempt == 2:
                break
            token = self._tokens.get(scope, token)
        if response.status_code == 401:
            raise self._http.refused(response, remedy=_refused_token(scope, self._gitlab.user))
        return response

    def _manifest(self, method: str, path: str, reference: str) -> requests.Response | None:
        response = self._ask(
            method,
            f"/v2/{quote(path)}/manifests/{quote(reference, safe=':')}",
            _scope(path, "pull"),
            ok=(200, 404),
            headers=ACCEPT,
            max_bytes=2 * LARGEST_MANIFEST,
        )
        return response if response.status_code == 200 else None

    def _pages(self, path: str, scope: str, key: str, *, none: str = "") -> Iterator[str]:
        """Names from all pages, each once. `none`: code of the 404 that means that there are none.

        A full page without a link to the next is not taken for the last: a proxy may have dropped the link.
        """
        seen: set[str] = set()
        page, on_our_own = f"{path}?{urlencode({'n': PAGE})}", False
        while True:
            response = self._ask("GET", page, scope, ok=(200, 404) if none else (200,))
            if response.status_code == 404:
                if none in response.text:
                    return
                raise self._http.refused(response)
            names = _listed(response, key, self._http)
            new = [name for name in dict.fromkeys(names) if name not in seen]
            seen.update(new)
            yield from new
            link = response.links.get("next", {}).get("url")
            if not new and link and not on_our_own:
                raise HttpRefused(
                    f"GET {self.address}{path} has no end: its next page brings only names that are known",
                    status=response.status_code,
                    remedy="does a proxy before the registry drop the query? ask the registry at its own address",
                    site=self.site,
                )
            on_our_own = not link
            if link:
                page = _path_and_query(urljoin(self.address + page, link))
            elif new and len(names) == PAGE:
                page = f"{path}?{urlencode({'last': names[-1], 'n': PAGE})}"
            else:
                return

    def _push_blob(self, path: str, blob: bytes) -> None:
        scope, digest = _scope(path, "pull", "push"), digest_of(blob)
        if self.has_blob(path, digest):
            return
        started = self._ask("POST", f"/v2/{quote(path)}/blobs/uploads/", scope, ok=(202,))
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


@lru_cache(maxsize=32)
def _opened_once(*made_of: Any) -> RegistryAPI:
    """In a process that got a registry sent: the same connections and tokens for everything that it is asked there."""
    registry, gitlab, *rest = made_of
    names = ("address", "site", "readonly", "pool", "route", "gitlab_route")
    return RegistryAPI(registry, gitlab, **dict(zip(names, rest, strict=True)))


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip()


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
