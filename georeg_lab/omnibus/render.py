"""From evaluated gitlab.rb to the attributes that a reconfigure works with, and to what the recordings show of them.

The order is the package's: secrets, roles, gitlab_rails, registry, postgresql. Source: procedures 2.2 to 2.4 and 4; run
(recordings of five versions).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from georeg_lab.omnibus import templates
from georeg_lab.omnibus.gitlab_rb import ROLES, Settings
from georeg_lab.omnibus.profiles import Profile
from georeg_lab.omnibus.ruby_values import Mash, Refused, RubyError, no_method, plain, to_mash, truthy

POSTGRESQL_DIR = "/var/opt/gitlab/postgresql"
SHARED_PATH = "/var/opt/gitlab/gitlab-rails/shared"
GEO_ROLES = ("geo_primary_role", "geo_secondary_role")
NOTIFICATION_DEFAULTS = {"timeout": "500ms", "threshold": 5, "maxretries": 5, "backoff": "1s", "headers": {}}
ROLE_DEFAULTS: dict[str, dict[str, Any]] = {
    "geo_primary_role": {
        "sql_replication_user": "gitlab_replicator",
        "wal_level": "hot_standby",
        "max_wal_senders": 10,
        "wal_keep_segments": 50,
        "max_replication_slots": 1,
        "hot_standby": "on",
    },
    "geo_secondary_role": {
        "wal_level": "hot_standby",
        "max_wal_senders": 10,
        "wal_keep_segments": 10,
        "max_standby_archive_delay": "60s",
        "max_standby_streaming_delay": "60s",
        "hot_standby": "on",
    },
}
# what the recordings (and `render`) show
CONFIG_SECTIONS = ("storage", "database", "notifications", "gc", "auth", "http", "health", "validation")
_POSTGRESQL_SHOWN = """
dir port listen_address md5_auth_cidr_addresses trust_auth_cidr_addresses hostssl sql_user_password
sql_replication_user sql_replication_password wal_level wal_keep_segments max_wal_senders max_replication_slots
hot_standby registry
"""
POSTGRESQL_SHOWN = tuple(_POSTGRESQL_SHOWN.split())


@dataclass
class Rendered:
    """A node's attributes: `top` as in Settings, completed; `warnings` go to stderr at reconfigure."""

    top: dict[str, Any]
    profile: Profile
    warnings: list[str] = field(default_factory=list)  # those that the recordings hold
    rails_warnings: list[str] = field(default_factory=list)

    def section(self, name: str) -> Mash:
        """A section such as `registry`."""
        section = self.top[name]
        assert isinstance(section, Mash)
        return section

    @property
    def registry_enabled(self) -> bool:
        """The registry service is set up on this node."""
        return truthy(self.section("registry").get("enable"))

    @property
    def geo_role(self) -> str:
        """ "primary", "secondary" or "" as the enabled Geo role says."""
        for role in GEO_ROLES:
            if truthy(self.section(role).get("enable")):
                return role.removeprefix("geo_").removesuffix("_role")
        return ""

    def config_yml(self) -> str:
        """Text of the registry's config.yml."""
        return templates.registry_config(self.section("registry"), self.section("gitlab_rails"), self.profile)

    def shown(self) -> dict[str, Any]:
        """The part that the recordings show, as JSON would hold it."""
        config = yaml.safe_load(self.config_yml())
        rails = {k: v for k, v in self.section("gitlab_rails").items() if k.startswith(("registry_", "geo_"))}
        postgresql = self.section("postgresql")
        result = {
            "registry_enabled": self.registry_enabled,
            "config_yml": {name: config[name] for name in CONFIG_SECTIONS if name in config},
            "gitlab_rails": plain(strip_nil(rails)),
            "postgresql": plain(strip_nil({k: postgresql[k] for k in POSTGRESQL_SHOWN if k in postgresql})),
        }
        return {**result, "stderr": self.warnings} if self.warnings else result


def render(
    settings: Settings,
    profile: Profile,
    secrets: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
) -> Rendered:
    """Attributes of a node. `secrets` is gitlab-secrets.json, `cluster` gitlab-cluster.json.

    Raises RubyError where reconfigure would stop, Refused where the result would be a guess.
    """
    rendered = Rendered(settings.top, profile)
    _merge_secrets(rendered, secrets or {})
    _load_roles(rendered, settings, cluster or {})
    _parse_rails(rendered)
    if truthy(rendered.section("letsencrypt").get("enable")):
        raise Refused("letsencrypt['enable']")
    _parse_registry_url(rendered)
    _parse_storage(rendered)
    _parse_notifications(rendered)
    if profile.database_default is not None:
        _parse_database(rendered)
        _parse_registry_role(rendered)
    return rendered


def strip_nil(value: Any) -> Any:
    """A hash without nil values, at every depth: nil in gitlab.rb means the default (run)."""
    if isinstance(value, dict):
        return {key: strip_nil(item) for key, item in value.items() if item is not None}
    return value


def _merge_secrets(rendered: Rendered, secrets: dict[str, Any]) -> None:
    """gitlab.rb wins over gitlab-secrets.json, also inside hashes. Source: procedures 4.1."""
    for name, values in secrets.items():
        section = rendered.top.get(name)
        if not isinstance(section, Mash):
            rendered.rails_warnings.append(
                f"Ignoring section {name} in /etc/gitlab/gitlab-secrets.json, does not exist in gitlab.rb"
            )
            continue
        for key, value in values.items():
            if isinstance(value, dict):
                section.write(key, {**value, **(section.get(key) or {})})
            else:
                section.default(key, value)


def _load_roles(rendered: Rendered, settings: Settings, cluster: dict[str, Any]) -> None:
    roles = rendered.top.get("roles")
    if truthy(roles):
        names = [str(role).replace("-", "_") for role in _flat(roles)]
        invalid = [name for name in names if name.removesuffix("_role") not in ROLES or not name.endswith("_role")]
        if invalid:
            raise RubyError(
                "RuntimeError", f"The following invalid roles have been set in 'roles': {', '.join(invalid)}"
            )
        for name in names:
            rendered.section(name).write("enable", True)
    for name in (f"{role}_role" for role in ROLES):
        if name not in GEO_ROLES and truthy(rendered.section(name).get("enable")):
            raise Refused(f"role `{name}`", settings.lines.get("roles", 0))
    for flag in ("primary", "secondary"):  # written by `gitlab-ctl geo promote`; beats gitlab.rb
        if cluster.get(flag) is not None:
            rendered.section(f"geo_{flag}_role").write("enable", cluster[flag])
    for role in GEO_ROLES:
        if truthy(rendered.section(role).get("enable")):
            for key, value in ROLE_DEFAULTS[role].items():
                rendered.section("postgresql").default(key, value)


def _flat(value: Any) -> list[Any]:
    return [item for part in value for item in _flat(part)] if isinstance(value, list) else [value]


def _parse_rails(rendered: Rendered) -> None:
    rails, postgresql = rendered.section("gitlab_rails"), rendered.section("postgresql")
    rails.default("shared_path", SHARED_PATH)
    url = rendered.top.get("external_url")
    if truthy(url):
        scheme, host, port, _ = split_url(str(url))
        if not host:
            raise RubyError(
                "RuntimeError", "GitLab external URL must include a schema and FQDN, e.g. http://gitlab.example.com/"
            )
        if scheme not in ("http", "https"):
            raise RubyError("RuntimeError", f"Unsupported external URL scheme: {scheme}")
        rails.write("gitlab_url", str(url).removesuffix("/"))
        rails.write("gitlab_host", host)
        rails.write("gitlab_https", scheme == "https")
        rails.write("gitlab_port", port)
        if scheme == "https":
            _certificate(rendered.section("nginx"), host)
    for key, source, default in (("db_host", "listen_address", None), ("db_port", "port", 5432)):
        if rails.get(key) is None:
            value = postgresql.get(source) if truthy(postgresql.get(source)) else default
            rails.write(key, value)
    host_list = rails.get("db_host")
    if isinstance(host_list, str) and "," in host_list:
        rails.write("db_host", host_list.split(",")[0])
        rendered.rails_warnings += [
            f"Received gitlab_rails['db_host'] value was: \"{host_list}\".",
            f"  First listen_address '{rails['db_host']}' will be used.",
        ]
    rails.default("db_host", postgresql.get("dir") or POSTGRESQL_DIR)


def split_url(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port (the scheme's own when none is given) and path, as Ruby's URI sees them."""
    if re.search(r"\s", url):
        raise RubyError("URI::InvalidURIError", f'bad URI(is not URI?): "{url}"')
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme), parts.path


def _certificate(nginx: Mash, host: str) -> None:
    nginx.default("ssl_certificate", f"/etc/gitlab/ssl/{host}.crt")
    nginx.default("ssl_certificate_key", f"/etc/gitlab/ssl/{host}.key")


def _parse_registry_url(rendered: Rendered) -> None:
    url = rendered.top.get("registry_external_url")
    if not truthy(url):
        return
    registry, rails = rendered.section("registry"), rendered.section("gitlab_rails")
    scheme, host, port, path = split_url(str(url))
    if not host:
        raise RubyError(
            "RuntimeError",
            "GitLab Container Registry external URL must include a schema and FQDN, e.g. https://registry.example.com/",
        )
    if registry.get("enable") is None:
        registry.write("enable", True)
    if truthy(registry["enable"]):
        rails.write("registry_enabled", True)
    rails.write("registry_host", host)
    registry.default("registry_http_addr", "127.0.0.1:5000")
    registry.default("token_realm", rendered.top.get("external_url"))
    rails.default("registry_api_url", f"http://{registry['registry_http_addr']}")
    if scheme not in ("http", "https"):
        raise RubyError("RuntimeError", f"Unsupported GitLab Registry external URL scheme: {scheme}")
    if scheme == "https":
        _certificate(rendered.section("registry_nginx"), host)
    if path not in ("", "/"):
        raise RubyError("RuntimeError", f"Unsupported GitLab Registry external URL path: {path}")
    if port not in (80, 443):
        rails.write("registry_port", port)


def _parse_storage(rendered: Rendered) -> None:
    """Defaults of the storage section, only for an enabled registry. Source: procedures 4.3."""
    registry, rails = rendered.section("registry"), rendered.section("gitlab_rails")
    if not rendered.registry_enabled:
        return
    if rails.get("registry_path") is None:
        rails.write("registry_path", f"{rails['shared_path']}/registry")
    for key in ("storage_delete_enabled", "health_storagedriver_enabled"):
        if registry.get(key) is None:
            registry.write(key, True)
    storage = registry.default("storage", {"filesystem": {"rootdirectory": rails["registry_path"]}})
    if not isinstance(storage, Mash):
        raise Refused("registry['storage'] that is no hash")
    storage.default("cache", {"blobdescriptor": "inmemory"})
    storage.default("delete", {"enabled": registry["storage_delete_enabled"]})


def _parse_notifications(rendered: Rendered) -> None:
    """Defaults of each endpoint, and GitLab's secret from the one named geo_event. Source: procedures 2.4; run."""
    registry, rails = rendered.section("registry"), rendered.section("gitlab_rails")
    endpoints = registry.get("notifications")
    if not truthy(endpoints) or endpoints == {}:
        return
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, dict) for endpoint in endpoints):
        raise Refused("registry['notifications'] that is no array of hashes")
    default = {key: registry.default(f"default_notifications_{key}", v) for key, v in NOTIFICATION_DEFAULTS.items()}
    threshold = rendered.profile.threshold_default
    for endpoint in endpoints:
        keys = ["timeout", *(["threshold"] if threshold else []), "maxretries", "backoff"]
        if not threshold and truthy(endpoint.get("threshold")):
            keys.remove("maxretries")
        for key in keys:
            if not truthy(endpoint.get(key)):
                endpoint[key] = default[key]
        endpoint["headers"] = {**default["headers"], **(to_mash(endpoint.get("headers")) or {})}
        if endpoint.get("name") == "geo_event" and not truthy(rails.get("registry_notification_secret")):
            values = endpoint["headers"].get("Authorization")
            if not isinstance(values, list):
                raise no_method("last", values)
            rails.write("registry_notification_secret", values[-1] if values else None)


def _parse_database(rendered: Rendered) -> None:
    """registry['database'] completed. An unset host becomes the bundled server: the trap of procedures 4.4."""
    registry, postgresql = rendered.section("registry"), rendered.section("postgresql")
    profile = rendered.profile
    database = registry.get("database")
    if not truthy(database):
        database = Mash()
    if not isinstance(database, Mash):
        raise Refused("registry['database'] that is no hash")
    host = database.default("host", postgresql.get("listen_address") or postgresql.get("dir") or POSTGRESQL_DIR)
    if isinstance(host, str) and "," in host:
        rendered.warnings += [
            "Received multiple postgresql address values.",
            f"  First address from '{host}' will be used for registry database.",
        ]
        database.write("host", host.split(",")[0])
    if profile.port_follows_postgresql:
        database.default("port", postgresql.get("port") or 5432)
    if database.get("enabled") is None:
        database.write("enabled", profile.database_default)
    if profile.prefer_needs_bundled and database["enabled"] == "prefer" and not bundled_postgresql(rendered):
        database.write("enabled", "false")
        database.write("_prefer_mode_overridden", True)
    registry.write("database", database)


def bundled_postgresql(rendered: Rendered) -> bool:
    """The package runs its own PostgreSQL on this node."""
    enable = rendered.section("postgresql").get("enable")
    return enable is None or truthy(enable)


def _parse_registry_role(rendered: Rendered) -> None:
    """The registry's role in the bundled server; its password is the md5 of theirs. Source: procedures 2.3."""
    role = rendered.section("postgresql").default("registry", {})
    if not isinstance(role, Mash):
        raise Refused("postgresql['registry'] that is no hash")
    database = rendered.section("registry")["database"]
    merged = {**templates.DATABASE_DEFAULTS, **strip_nil(database)}
    for key in ("dbname", "user", "port", "sslmode"):
        role.default(key, merged[key])
    password = database.get("password")
    if truthy(password) and not truthy(role.get("password")):
        if not isinstance(password, str):
            raise Refused("registry['database']['password'] that is no string")
        role.write("password", hashlib.md5(f"{password}{merged['user']}".encode(), usedforsecurity=False).hexdigest())
