"""Which path leads where. Source: registry 5, the recorded 301, 404 and 405 answers."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field

# `-+`, where the original has `-*`: the same names, without its exponential backtracking
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
NAME = rf"(?:{_HOST}(?:\.{_HOST})*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
TAG = r"[\w][\w.-]{0,127}"
DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+"
UUID = r"[a-zA-Z0-9\-_.=]+"
NAME_LIMIT = 255


@dataclass(frozen=True)
class Route:
    """One kind of path. `read` and `write` are the methods it answers; read-only mode switches the latter off."""

    name: str
    path: str
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.path, re.ASCII))

    @property
    def is_v1(self) -> bool:
        """GitLab's own API: only with the metadata database."""
        return self.name.startswith("v1-")

    def methods(self, read_only: bool) -> tuple[str, ...]:
        """The methods that are answered; () = every one."""
        return self.read if read_only else tuple(sorted(self.read + self.write))


_N = f"(?P<name>{NAME})"
ROUTES = (
    Route("base", "/v2/"),
    Route("tags", f"/v2/{_N}/tags/list", ("GET",)),
    Route("manifest", f"/v2/{_N}/manifests/(?P<reference>{TAG}|{DIGEST})", ("GET", "HEAD"), ("DELETE", "PUT")),
    Route("catalog", "/v2/_catalog", ("GET",)),
    Route("blob", f"/v2/{_N}/blobs/(?P<digest>{DIGEST})", ("GET", "HEAD"), ("DELETE",)),
    Route("upload-start", f"/v2/{_N}/blobs/uploads/", ("GET", "HEAD"), ("DELETE", "PATCH", "POST", "PUT")),
    Route("upload", f"/v2/{_N}/blobs/uploads/(?P<uuid>{UUID})", ("GET", "HEAD"), ("DELETE", "PATCH", "POST", "PUT")),
    Route("v1-base", "/gitlab/v1/"),
    Route("v1-tags", f"/gitlab/v1/repositories/{_N}/tags/list/", ("GET",)),
    Route("v1-tag", f"/gitlab/v1/repositories/{_N}/tags/detail/(?P<tag>{TAG})/", ("GET",)),
    Route("v1-repositories", f"/gitlab/v1/repository-paths/{_N}/repositories/list/", ("GET",)),
    Route("v1-repository", f"/gitlab/v1/repositories/{_N}/", ("GET", "PATCH")),
    Route("v1-statistics", "/gitlab/v1/statistics/", ("GET",)),
)


def match(path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a decoded path and the parts it names, or None."""
    for route in ROUTES:
        found = route.pattern.fullmatch(path)
        if found:
            return route, found.groupdict()
    return None


def redirect(path: str) -> str:
    """The path with the slash that it lacks, or without the one too many, where a route wants that, else ""."""
    other = path[:-1] if path.endswith("/") else path + "/"
    wanted = match(other)
    return "" if wanted is None or wanted[0].name == "v1-base" else other


def clean(path: str) -> str:
    """The path without empty and dotted parts."""
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    return cleaned + "/" if path.endswith("/") and cleaned != "/" else cleaned
