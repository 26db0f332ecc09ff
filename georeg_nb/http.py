"""One HTTP session for all that georeg asks: explicit authentication, certificates as given, patient with hiccups.

Nothing of the environment takes part: no .netrc, no proxy variables, no certificate bundle variable. A redirect is
followed only where the caller expects one, and never takes a token to another host. Errors name method, address and
status, with a short, redacted piece of the answer, and what to do.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from georeg_nb.credentials import Secret
from georeg_nb.errors import HttpRefused, Unreachable
from georeg_nb.redaction import redact

RETRIED_STATUS = frozenset({429, 502, 503, 504})
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY = 64 * 1024 * 1024
MAX_REDIRECTS = 4
LONGEST_PAUSE = 30.0
EXCERPT = 300

Route = Callable[[str, int], tuple[str, int]]
"""Where to connect to for a host and port, when that is another address (a forward): the names stay what they are."""


class NoAuth(AuthBase):
    """Sends no credentials."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class HeaderAuth(AuthBase):
    """Sends a secret in a header, e.g. ("PRIVATE-TOKEN", token) or ("Authorization", token, "Bearer ")."""

    def __init__(self, header: str, secret: Secret, prefix: str = "") -> None:
        self.header = header
        self.secret = secret
        self.prefix = prefix

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers[self.header] = self.prefix + self.secret.reveal()
        return request


class BasicAuth(AuthBase):
    """Sends user and secret."""

    def __init__(self, user: str, secret: Secret) -> None:
        self.user = user
        self.secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return HTTPBasicAuth(self.user.encode(), self.secret.reveal().encode())(request)


class _Rerouted(HTTPAdapter):
    """Connects to where the route leads, as `curl --connect-to`: TLS and the Host header keep the real name."""

    def __init__(self, route: Route, **options: Any) -> None:
        self._route = route
        super().__init__(**options)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        route = self._route

        def connect(connection: HTTPConnection) -> Any:
            address = route(connection.host, connection.port or connection.default_port)
            try:
                return create_connection(address, connection.timeout, socket_options=connection.socket_options)
            except OSError as error:
                raise NewConnectionError(connection, f"no connection through {address[1]}: {error}") from error

        plain = type("Plain", (HTTPConnection,), {"_new_conn": connect})
        secure = type("Secure", (HTTPSConnection,), {"_new_conn": connect})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }


class HttpSession:
    """A pool of connections to one address. Safe to use from several threads.

    `base` is what paths are appended to. `site` is named in errors. `retries` counts the further attempts after
    connection errors, time-outs and 429/502/503/504, for requests that may be repeated; `sleep` is the pause between.
    An address that gave no answer through all of them is asked only once each time, until it answers again.
    `route` leads to the host of `base`, whatever the port; a redirect to another host goes there directly.
    """

    def __init__(
        self,
        base: str,
        *,
        ca: Path | None = None,
        auth: AuthBase | None = None,
        site: str = "",
        pool: int = 16,
        timeout: tuple[float, float] = (10, 60),
        retries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
        route: Route | None = None,
    ) -> None:
        self.base = base.rstrip("/")
        self.site = site
        self.auth = auth or NoAuth()
        self.ca = ca
        self.timeout = timeout
        self.retries = retries
        self._sleep = sleep
        self._silent = False
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = "georeg"
        pools: dict[str, Any] = {"pool_connections": 2, "pool_maxsize": pool, "max_retries": 0, "pool_block": True}
        adapter = HTTPAdapter(**pools)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        if route:
            host = f"//{urlsplit(self.base).netloc.rpartition('@')[2].removesuffix(f':{urlsplit(self.base).port}')}"
            rerouted = _Rerouted(route, **pools)
            for prefix in (f"{scheme}:{host}{end}" for scheme in ("http", "https") for end in (":", "/")):
                self._session.mount(prefix, rerouted)

    def __enter__(self) -> HttpSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def note(self, on_response: Callable[[requests.Response], object]) -> None:
        """Tell of every answer from now on; its body can be read once the request has returned."""

        def hook(response: requests.Response, **options: Any) -> None:
            on_response(response)

        self._session.hooks["response"].append(hook)

    def mount(self, adapter: HTTPAdapter) -> None:
        """Send everything through this adapter, e.g. one that answers from a recording."""
        for prefix in ("https://", "http://"):
            self._session.mount(prefix, adapter)

    def url(self, path: str) -> str:
        """The address of a path below the base. A full address must be of the same origin, else ValueError."""
        if path.startswith("/"):
            return self.base + path
        if _origin(path) != _origin(self.base):
            raise ValueError(f"{without_query(path)} is not below {self.base}")
        return path

    def request(
        self,
        method: str,
        path: str,
        *,
        ok: Collection[int] = (200,),
        auth: AuthBase | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | list[tuple[str, str]] | None = None,
        json: Any = None,
        data: bytes | None = None,
        follow: bool = False,
        repeat: bool | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_BODY,
        consume: Callable[[Iterator[bytes]], None] | None = None,
        remedy: str = "",
    ) -> requests.Response:
        """Send a request and read its answer. Statuses in `ok` are returned, any other raises HttpRefused.

        No answer at all raises Unreachable. `repeat` says whether it may be sent again (default: GET, HEAD, OPTIONS).
        `follow`: follow redirects of GET and HEAD, without credentials to another host. `max_bytes` bounds the body.
        `consume` gets the body of a 200 part by part, however long, once for each attempt; then it is not kept.
        """
        url = self.url(path)
        repeat = method in IDEMPOTENT if repeat is None else repeat
        left = self.retries if repeat and not self._silent else 0
        options = {"headers": headers, "params": params, "json": json, "data": data, "timeout": timeout}
        options["consume"] = consume
        for attempt in range(left + 1):
            try:
                response = self._once(method, url, auth or self.auth, follow, max_bytes, options)
            except requests.RequestException as error:
                if attempt == left or not _may_pass(error):
                    cut = isinstance(error, requests.exceptions.ChunkedEncodingError)  # it did answer
                    self._silent = self._silent or (repeat and _may_pass(error) and not cut)
                    raise self._no_answer(method, url, error) from None
                self._sleep(_pause(attempt))
                continue
            self._silent = False
            if response.status_code in RETRIED_STATUS and response.status_code not in ok and attempt < left:
                self._sleep(_retry_after(response) or _pause(attempt))
                continue
            if response.status_code not in ok:
                raise self.refused(response, remedy=remedy)
            return response
        raise AssertionError("the loop ends with an answer or an error")

    def get(self, path: str, **options: Any) -> requests.Response:
        """`request("GET", …)`."""
        return self.request("GET", path, **options)

    def refused(self, response: requests.Response, *, remedy: str = "") -> HttpRefused:
        """The error for an answer that is no success."""
        request = response.request
        text = response.text[: EXCERPT * 4] if response.content else ""
        for value in request.headers.values():  # an answer that quotes what we sent must not pass on our token
            secret = value.rpartition(" ")[2] if isinstance(value, str) else ""
            text = text.replace(secret, "[secret]") if len(secret) > 15 else text
        body = redact(text)[:EXCERPT]
        where = f"{request.method} {without_query(request.url or '')}"
        location = response.headers.get("Location", "")
        to = f" (to {without_query(urljoin(request.url or '', location))})" if response.is_redirect and location else ""
        message = f"{where} answered {response.status_code}{to}" + (f": {' '.join(body.split())}" if body else "")
        return HttpRefused(
            message,
            status=response.status_code,
            body=body,
            remedy=remedy or _REMEDIES.get(response.status_code) or _REMEDIES.get(response.status_code // 100, ""),
            site=self.site,
        )

    def _once(
        self, method: str, url: str, auth: AuthBase, follow: bool, max_bytes: int, options: dict[str, Any]
    ) -> requests.Response:
        timeout = (self.timeout[0], options["timeout"] or self.timeout[1])
        rest = {key: value for key, value in options.items() if key not in ("timeout", "consume")}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._session.request(
                method,
                url,
                auth=auth,
                timeout=timeout,
                allow_redirects=False,
                stream=True,
                verify=str(self.ca) if self.ca else True,
                **rest,
            )
            self._read(response, max_bytes, options["consume"])
            location = response.headers.get("Location")
            if not (follow and response.is_redirect and location and method in ("GET", "HEAD")):
                return response
            target = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
                return response  # what was asked for in private is not fetched in public
            if _origin(target) != _origin(url):
                auth, rest = NoAuth(), {"headers": {"Accept": "*/*"}}
            rest["params"] = None
            url = target
        return response

    def _read(
        self, response: requests.Response, max_bytes: int, consume: Callable[[Iterator[bytes]], None] | None
    ) -> None:
        """Read the body, but never more than asked for: an address that is something else may send without end."""
        parts, size = [], 0
        try:
            if consume and response.status_code == 200:
                consume(response.iter_content(1024 * 1024))
                return
            for part in response.iter_content(65536):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise HttpRefused(
                        f"{without_query(response.url)} sends more than {max_bytes} bytes",
                        status=response.status_code,
                        remedy="is this the address of a GitLab or of its registry?",
                        site=self.site,
                    )
        except BaseException:
            response.close()
            raise
        response._content = b"".join(parts)

    def _no_answer(self, method: str, url: str, error: requests.RequestException) -> Unreachable:
        what, remedy = _explain(error, self.ca)
        return Unreachable(f"{method} {without_query(url)}: {what}", remedy=remedy, site=self.site)


_REMEDIES = {
    3: "the address is not the site's own; take the one in its external_url or registry_external_url",
    4: "compare the address and the rights of the token with what the documentation of the parameters asks for",
    5: "look at the site's logs; run again when it answers",
    401: "the token is wrong or has expired, or is of another user than the parameters say",
    403: "the token's user needs more rights: an administrator, with the scopes that the parameters file names",
    404: "there is nothing at this address: is it the site's own, and is the feature switched on?",
    429: "the site limits the rate of requests; run again later",
    503: "the site is not available right now; run again when it is",
}


def without_query(url: str) -> str:
    """An address as it may be shown: without user, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _pause(attempt: int) -> float:
    return float(min(LONGEST_PAUSE, 0.5 * 2**attempt) * random.uniform(0.5, 1))  # noqa: S311 - spreads requests only


def _retry_after(response: requests.Response) -> float:
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return min(float(value), LONGEST_PAUSE)
    with contextlib.suppress(ValueError, TypeError):
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - time.time()), LONGEST_PAUSE)
    return 0.0


def _may_pass(error: requests.RequestException) -> bool:
    """Can another attempt help? A certificate that is refused, or an address that is none, stays so."""
    permanent = (requests.exceptions.SSLError, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, passing) and not isinstance(error, permanent)


def _explain(error: requests.RequestException, ca: Path | None) -> tuple[str, str]:
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        why = text.rpartition("certificate verify failed: ")[2].split(" (_ssl")[0] if "verify failed" in text else ""
        trusted = f"the authorities in {ca.name}" if ca else "the authorities of this system"
        if why:
            return (
                f"the server's certificate is refused: {why}",
                f"trusted are {trusted}; set `ca` to the site's authority, and check the name",
            )
        return "TLS fails", "is this port meant for https?"
    if isinstance(error, requests.ConnectTimeout):
        return "no connection: no answer in time", "check host, port and firewall from this machine"
    if isinstance(error, requests.Timeout):
        return "no answer in time", "the site is slow or hangs: look at its logs, then run again"
    if "NameResolutionError" in text or "Name or service not known" in text:
        return "the host name is unknown", "check the name in the parameters, and this machine's DNS"
    if "refused" in text:
        return "the connection is refused", "nothing listens there: check host and port, and that the service runs"
    return f"the connection breaks ({type(error).__name__})", "check host, port and firewall, then run again"
