"""Puma: Rails' HTTP on a plain local port, behind the node's nginx.

    python -m georeg_lab.rails.puma --root ROOT

The primary answers everything; a secondary answers reads from its replica and its own Geo records, forwards
`/api/graphql` to the primary (procedures 5.4) and takes no other write.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import requests
from tornado.web import Application, ErrorHandler, RequestHandler

from georeg_lab.layout import Lab, root_from_environment
from georeg_lab.rails import access, api, events_api, graphql, tokens
from georeg_lab.rails.access import ApiError
from georeg_lab.rails.config import Config, Databases, current_site
from georeg_lab.rails.registry_client import RegistryError

THREADS = 4
MAXIMUM_BODY = 16 << 20
READ = ("api", "read_api")
GRAPHQL_SCOPE = "geo_graphql"


class Handler(RequestHandler):
    """What all routes share: the databases, the caller, JSON answers and errors."""

    def initialize(self, databases: Databases, pool: ThreadPoolExecutor) -> None:
        """Called by tornado with the application's own."""
        self.databases, self.pool = databases, pool

    async def reply(self, work: Callable[[], Any], status: int = 200) -> None:
        """Run the work beside the event loop and answer its result as JSON."""
        try:
            body = await asyncio.get_running_loop().run_in_executor(self.pool, work)
        except ApiError as problem:
            status, body = problem.status, problem.body
        except (psycopg.OperationalError, RegistryError):
            status, body = 500, {"message": "500 Internal Server Error"}
        except requests.RequestException as problem:
            status, body = 502, {"message": f"502 Bad Gateway ({type(problem).__name__})"}
        self.set_status(status)
        if status == 204:
            self.finish()
            return
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body, default=str))

    @property
    def token(self) -> str:
        """The personal access token, from PRIVATE-TOKEN or a Bearer header."""
        scheme, _, value = self.request.headers.get("Authorization", "").partition(" ")
        return str(self.request.headers.get("PRIVATE-TOKEN") or (value if scheme.lower() == "bearer" else ""))

    @property
    def authorization(self) -> str:
        """The whole Authorization header."""
        return str(self.request.headers.get("Authorization", ""))

    def flag(self, name: str) -> bool:
        """A boolean parameter of the query."""
        return self.get_query_argument(name, "").lower() in ("true", "1")

    def write_error(self, status_code: int, **_: Any) -> None:
        """Errors of tornado itself as JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": f"{status_code} {self._reason}"}))


class Metadata(Handler):
    """`/metadata`, and `/version` with two of its fields: any user."""

    async def get(self, name: str) -> None:
        """Version and revision; with KAS and edition as metadata."""

        def work() -> Any:
            access.api_user(self.databases, self.token, *READ, "read_user")
            found = api.metadata(self.databases.config.version)
            return found if name == "metadata" else {key: found[key] for key in ("version", "revision")}

        await self.reply(work)


class ForAdministrators(Handler):
    """Routes for administrators; `work` gets the path's parts."""

    scopes = READ
    work: Callable[..., Any]

    async def get(self, *arguments: str) -> None:
        """Answer with the route's `work`."""

        def run() -> Any:
            access.administrator(self.databases, self.token, *self.scopes)
            return type(self).work(self.databases, *arguments)

        await self.reply(run)


def _for_administrators(work: Callable[..., Any], *scopes: str) -> type[ForAdministrators]:
    attributes = {"work": staticmethod(work), "scopes": scopes or READ, "__doc__": work.__doc__}
    return type(f"Administrators_{work.__name__}", (ForAdministrators,), attributes)


class GeoSites(ForAdministrators):
    """`/geo_sites`: the list, and a new site."""

    work = staticmethod(api.sites)

    async def post(self) -> None:
        """Register a site."""
        body = self.request.body

        def work() -> Any:
            access.administrator(self.databases, self.token, "api")
            return api.create_site(self.databases, body)

        await self.reply(work, 201)


class GeoSite(ForAdministrators):
    """`/geo_sites/:id`."""

    work = staticmethod(lambda databases, number: api.site(databases, int(number)))

    async def delete(self, number: str) -> None:
        """Remove the site's record."""

        def work() -> Any:
            access.administrator(self.databases, self.token, "api")
            api.delete_site(self.databases, int(number))

        await self.reply(work, 204)


class Repositories(Handler):
    """`/projects/:id/registry/repositories`."""

    async def get(self, project: str) -> None:
        """Records of the project, with tags and their number where asked for."""
        tags, tags_count = self.flag("tags"), self.flag("tags_count")

        def work() -> Any:
            access.api_user(self.databases, self.token, *READ)
            return api.registry_repositories(self.databases, project.replace("%2F", "/"), tags, tags_count)

        await self.reply(work)


class RegistryAuth(Handler):
    """`/jwt/auth`."""

    async def get(self) -> None:
        """A registry token for the scopes asked for."""
        service, scopes = self.get_query_argument("service", ""), self.get_query_arguments("scope")
        await self.reply(lambda: access.registry_auth(self.databases, self.authorization, service, scopes))


class RegistryEvents(Handler):
    """`/container_registry_event/events`."""

    async def post(self) -> None:
        """Take a batch of notifications."""
        body = self.request.body
        await self.reply(lambda: events_api.take(self.databases, self.authorization, body))


class StatusReport(Handler):
    """`/geo/status`: between sites."""

    async def post(self) -> None:
        """Take a secondary's status."""
        body = self.request.body
        await self.reply(lambda: api.take_status(self.databases, self.authorization, body), 201)


class GeoGraphql(Handler):
    """`/geo/graphql`: this site's own answer, never forwarded."""

    async def post(self) -> None:
        """Query or mutation; an administrator's token, or another site's."""
        body = self.request.body

        def work() -> Any:
            if tokens.geo_site(self.databases, self.authorization, GRAPHQL_SCOPE) is None:
                access.administrator(self.databases, self.token, "api")
            return graphql.answer(self.databases, body)

        await self.reply(work)


class Graphql(Handler):
    """`/api/graphql`: a secondary forwards it to the primary."""

    async def post(self) -> None:
        """Query or mutation."""
        body, token = self.request.body, self.token

        def work() -> Any:
            site = current_site(self.databases)
            if site is not None and not site["primary"]:
                return _forward(self.databases, "/api/graphql", body, {"PRIVATE-TOKEN": token})
            access.administrator(self.databases, token, "api")
            return graphql.answer(self.databases, body)

        await self.reply(work)


class NodeProxy(Handler):
    """`/geo/node_proxy/:id/graphql` on the primary: asks that site's `/geo/graphql`."""

    async def post(self, number: str) -> None:
        """Query or mutation for the site."""
        body = self.request.body

        def work() -> Any:
            access.administrator(self.databases, self.token, "api")
            site, own = api.find_site(self.databases, int(number)), current_site(self.databases)
            if own is not None and site["id"] == own["id"]:
                return graphql.answer(self.databases, body)
            if own is None:
                raise ApiError(403, {"message": "403 Forbidden"})
            headers = {"Authorization": tokens.geo_authorization(self.databases.config, own, GRAPHQL_SCOPE)}
            return _forward(self.databases, "/api/v4/geo/graphql", body, headers, site["internal_url"] or site["url"])

        await self.reply(work)


def _forward(databases: Databases, path: str, body: bytes, headers: dict[str, str], url: str | None = None) -> Any:
    """The other site's answer (without `url`: the primary's). Raises ApiError with its status when that is no 200."""
    if url is None:
        primary = databases.one('SELECT coalesce(internal_url, url) AS url FROM geo_nodes WHERE "primary"')
        url = primary["url"] if primary else ""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = databases.config.ca_file
        sent = {"Content-Type": "application/json", **headers}
        response = session.post(str(url).rstrip("/") + path, data=body, headers=sent, timeout=30)
    try:
        answer = response.json()
    except ValueError:
        answer = {"message": f"{response.status_code} {response.reason}"}
    if not response.ok:
        raise ApiError(response.status_code, answer)
    return answer


def _number(work: Callable[[Databases, int], Any]) -> Callable[[Databases, str], Any]:
    def with_number(databases: Databases, number: str) -> Any:
        return work(databases, int(number))

    return with_number


def application(databases: Databases, pool: ThreadPoolExecutor) -> Application:
    """All routes."""
    routes: list[tuple[str, type[Handler]]] = [
        (r"/jwt/auth", RegistryAuth),
        (r"/api/graphql", Graphql),
        (r"/api/v4/(metadata|version)", Metadata),
        (r"/api/v4/license", _for_administrators(api.current_license, "api")),
        (r"/api/v4/application/settings", _for_administrators(api.application_settings, "api")),
        (r"/api/v4/geo_sites", GeoSites),
        (r"/api/v4/geo_sites/status", _for_administrators(api.statuses)),
        (r"/api/v4/geo_sites/(\d+)", GeoSite),
        (r"/api/v4/geo_sites/(\d+)/status", _for_administrators(_number(api.site_status))),
        (r"/api/v4/container_registry_event/events", RegistryEvents),
        (r"/api/v4/projects/([^/]+)/registry/repositories", Repositories),
        (r"/api/v4/geo/status", StatusReport),
        (r"/api/v4/geo/graphql", GeoGraphql),
        (r"/api/v4/geo/node_proxy/(\d+)/graphql", NodeProxy),
    ]
    facts = {"databases": databases, "pool": pool}
    missing = {"status_code": 404}
    return Application(
        [(path, handler, facts) for path, handler in routes],
        default_handler_class=ErrorHandler,
        default_handler_args=missing,
        log_function=lambda _: None,
    )


async def serve(config: Config, port: int) -> None:
    """Listen on 127.0.0.1:port until SIGTERM."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="puma") as pool:
        server = application(Databases(config), pool).listen(port, "127.0.0.1", max_body_size=MAXIMUM_BODY)
        await stopping.wait()
        server.stop()
        await server.close_all_connections()


def main(root: Path) -> None:
    """Serve the node on its port of the lab."""
    asyncio.run(serve(Config.load(root), Lab.of_root(root).ports.puma(root.name)))


if __name__ == "__main__":
    main(root_from_environment())
