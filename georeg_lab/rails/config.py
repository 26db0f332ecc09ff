"""What Rails reads at its start: gitlab.yml, database.yml, keys; and its connections to the databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from georeg_lab.layout import inside
from georeg_lab.omnibus.peer import in_place_of_socket
from georeg_lab.releases import Release, installed, of_node

if TYPE_CHECKING:
    import psycopg

REVISION = "5ea27f0b1a2"
ETC = "/var/opt/gitlab/gitlab-rails/etc"
GEO_LOG = "/var/log/gitlab/gitlab-rails/geo.log"

Row = dict[str, Any]
Result = TypeVar("Result")


def _production(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    return dict(data.get("production") or data)


@dataclass(frozen=True)
class Config:
    """A node's rendered Rails configuration. Read once, as Rails does: a change counts from the next start."""

    root: Path
    gitlab_yml: dict[str, Any] = field(repr=False)  # both hold secrets
    database_yml: dict[str, Any] = field(repr=False)
    version: str
    release: Release

    @classmethod
    def load(cls, root: Path) -> Config:
        """Read gitlab.yml and database.yml of the node. Raises FileNotFoundError before the first reconfigure."""
        etc = inside(root, ETC)
        files = _production(etc / "gitlab.yml"), _production(etc / "database.yml")
        return cls(root, *files, f"{installed(root)}-ee", of_node(root))

    def _section(self, *names: str) -> dict[str, Any]:
        found: dict[str, Any] = self.gitlab_yml
        for name in names:
            found = found.get(name) or {}
        return found

    @property
    def external_url(self) -> str:
        """`external_url` without a trailing slash, put together from host, port and https as Rails does."""
        gitlab = self._section("gitlab")
        scheme, port = ("https", 443) if gitlab.get("https") else ("http", 80)
        actual = int(gitlab.get("port") or port)
        return f"{scheme}://{gitlab.get('host', 'localhost')}" + ("" if actual == port else f":{actual}")

    @property
    def node_name(self) -> str:
        """The name that is looked up among the Geo sites: `geo_node_name`, else the external URL (procedures 2.1)."""
        return str(self._section("geo").get("node_name") or self.external_url)

    @property
    def registry_enabled(self) -> bool:
        """`registry.enabled`."""
        return bool(self._section("registry").get("enabled"))

    @property
    def registry_api_url(self) -> str:
        """This site's own registry, as Rails talks to it."""
        return str(self._section("registry").get("api_url") or "").rstrip("/")

    @property
    def registry_host(self) -> str:
        """Host, and port where it is not 443, in image names."""
        registry = self._section("registry")
        port = registry.get("port")
        return f"{registry.get('host', '')}:{port}" if port and int(port) != 443 else str(registry.get("host", ""))

    @property
    def registry_issuer(self) -> str:
        """`iss` of tokens."""
        return str(self._section("registry").get("issuer") or "omnibus-gitlab-issuer")

    @property
    def notification_secret(self) -> str:
        """What the registry's notifications must carry as their whole Authorization header; "" refuses all."""
        return str(self._section("registry").get("notification_secret") or "")

    @cached_property
    def registry_key(self) -> bytes:
        """The private key that signs registry tokens (PEM)."""
        path = str(self._section("registry").get("key") or f"{ETC}/gitlab-registry.key")
        return inside(self.root, path).read_bytes()

    @property
    def replication_enabled(self) -> bool:
        """Container registry replication, as the secondary sees it (rails 4: both switches)."""
        return self.registry_enabled and bool(self._section("geo", "registry_replication").get("enabled"))

    @property
    def primary_api_url(self) -> str:
        """The primary's registry, from the secondary's gitlab.yml."""
        return str(self._section("geo", "registry_replication").get("primary_api_url") or "").rstrip("/")

    @cached_property
    def db_key_base(self) -> str:
        """The secret that values in the database are encrypted with; "" where secrets.yml does not hold it."""
        path = inside(self.root, f"{ETC}/secrets.yml")
        return str(_production(path).get("db_key_base") or "") if path.exists() else ""

    @property
    def storages(self) -> list[str]:
        """Names of the repository storages."""
        return list(self._section("repositories", "storages") or {"default": None})

    @property
    def has_tracking(self) -> bool:
        """Whether database.yml names the Geo tracking database."""
        return "geo" in self.database_yml

    def connection_settings(self, name: str) -> dict[str, Any]:
        """libpq settings of `main` or `geo`. A socket folder that has no socket here means what the lab has for it."""
        entry = self.database_yml.get(name) or (self.database_yml if name == "main" else {})
        host, port = str(entry.get("host") or "127.0.0.1"), int(entry.get("port") or 5432)
        kept: Path | None = None
        if host.startswith("/"):
            folder = inside(self.root, host)
            socket, kept = folder / f".s.PGSQL.{port}", folder / ".pgpass"
            host = str(folder) if socket.exists() else in_place_of_socket(kept)
        settings: dict[str, Any] = {"host": host, "port": port, "dbname": entry["database"], "user": entry["username"]}
        if entry.get("password"):
            settings["password"] = str(entry["password"])
        elif kept is not None:
            settings["passfile"] = str(kept)
        return settings

    @cached_property
    def ca_file(self) -> str | bool:
        """Certificate authorities that Rails trusts: /etc/gitlab/trusted-certs and the package's own, as one file."""
        folders = ("/etc/gitlab/trusted-certs", "/opt/gitlab/embedded/ssl/certs")
        files = [path for folder in folders for path in sorted(inside(self.root, folder).glob("*.*"))]
        found = [path.read_text() for path in files if path.suffix in (".crt", ".pem")]
        if not found:
            return True
        bundle, text = inside(self.root, "/run/rails/ca.pem"), "\n".join(dict.fromkeys(found))
        if not bundle.exists() or bundle.read_text() != text:
            bundle.parent.mkdir(parents=True, exist_ok=True)
            fresh = bundle.with_name(f"ca-{os.getpid()}.pem")
            fresh.write_text(text)
            fresh.replace(bundle)
        return str(bundle)


@dataclass
class Databases:
    """Connections to main and tracking database, one per thread, opened when needed and again when they broke."""

    config: Config
    _local: threading.local = field(default_factory=threading.local, repr=False)
    _opened: list[psycopg.Connection[Row]] = field(default_factory=list, repr=False)

    def connection(self, name: str = "main") -> psycopg.Connection[Row]:
        """An autocommit connection with rows as dicts. Raises psycopg.OperationalError when the server is away."""
        import psycopg
        from psycopg.rows import dict_row

        kept: dict[str, psycopg.Connection[Row]] = self._local.__dict__.setdefault("kept", {})
        if name not in kept or kept[name].closed or kept[name].broken:
            settings = self.config.connection_settings(name)
            kept[name] = psycopg.connect(
                **settings, autocommit=True, row_factory=dict_row, connect_timeout=10, application_name="rails"
            )
            self._opened[:] = [*(other for other in self._opened if not other.closed), kept[name]]
        return kept[name]

    @property
    def main(self) -> psycopg.Connection[Row]:
        """gitlabhq_production: on a secondary the read-only replica."""
        return self.connection("main")

    @property
    def tracking(self) -> psycopg.Connection[Row]:
        """gitlabhq_geo_production; only a secondary has one."""
        return self.connection("geo")

    def one(self, query: str, values: Any = (), *, database: str = "main") -> Row | None:
        """First row of a query, None when there is none."""
        return self._retried(lambda: self.connection(database).execute(query.encode(), values).fetchone())

    def all(self, query: str, values: Any = (), *, database: str = "main") -> list[Row]:
        """All rows of a query."""
        return self._retried(lambda: self.connection(database).execute(query.encode(), values).fetchall())

    def value(self, query: str, values: Any = (), *, database: str = "main") -> Any:
        """First column of the first row, None when there is none."""
        row = self.one(query, values, database=database)
        return None if row is None else next(iter(row.values()))

    def run(self, query: str, values: Any = (), *, database: str = "main") -> int:
        """Run a statement; number of rows it touched."""
        return self._retried(lambda: self.connection(database).execute(query.encode(), values).rowcount)

    def _retried(self, action: Callable[[], Result]) -> Result:
        """Once more on a new connection when the old one is gone (the server was restarted)."""
        import psycopg

        try:
            return action()
        except psycopg.OperationalError:
            kept = self._local.__dict__.get("kept", {})
            if all(not connection.broken and not connection.closed for connection in kept.values()):
                raise
            return action()

    def close(self) -> None:
        """Close the connections of all threads; each opens a new one when it needs it."""
        for connection in list(self._opened):
            connection.close()


def current_site(databases: Databases) -> Row | None:
    """The Geo site record whose name is this node's, None when no record matches."""
    return databases.one("SELECT * FROM geo_nodes WHERE name = %s", [databases.config.node_name])


def role(databases: Databases) -> str:
    """`primary`, `secondary`, or `none`."""
    site = current_site(databases)
    return "none" if site is None else "primary" if site["primary"] else "secondary"
