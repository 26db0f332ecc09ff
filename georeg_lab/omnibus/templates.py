"""Texts of the files that reconfigure renders. Source: procedures 4.6; run for config.yml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from georeg_lab.omnibus.profiles import Profile
from georeg_lab.omnibus.ruby_values import to_json, to_text, truthy

if TYPE_CHECKING:
    from georeg_lab.omnibus.render import Rendered

REGISTRY_DIR = "/var/opt/gitlab/registry"
RAILS_ETC = "/var/opt/gitlab/gitlab-rails/etc"
ISSUER = "omnibus-gitlab-issuer"
DATABASE_DEFAULTS: dict[str, Any] = {"user": "registry", "dbname": "registry", "port": 5432, "sslmode": "prefer"}
PLACEHOLDER = "S"  # http secret where no secrets file was given


def registry_config(registry: Mapping[str, Any], rails: Mapping[str, Any], profile: Profile) -> str:
    """The registry's config.yml. Nested sections are inline JSON, as in the package."""

    def text(key: str, default: Any = None) -> str:
        value = registry.get(key)
        return to_text(default if value is None else value)

    folder = text("dir", REGISTRY_DIR)
    lines = [
        "version: 0.1",
        "log:",
        f"  level: {text('log_level', 'info')}",
        f"  formatter: {text('log_formatter', 'text')}",
        "  fields:",
        "    service: registry",
        "    environment: production",
        f"storage: {to_json(_without_nil(registry.get('storage')))}",
        *_optional("middleware", registry.get("middleware")),
        "http:",
        f"  addr: {text('registry_http_addr')}",
        *([f"  draintimeout: {text('http_draintimeout', 0)}"] if profile.draintimeout else []),
        f'  secret: "{text("http_secret", PLACEHOLDER)}"',
        "  headers:",
        "    X-Content-Type-Options: [nosniff]",
    ]
    if truthy(registry.get("debug_addr")):
        lines += ["  debug:", f"    addr: {text('debug_addr')}"]
        lines += ["    prometheus:", "      enabled: true", "      path: /metrics"]
    lines += [
        "health:",
        "  storagedriver:",
        f"    enabled: {text('health_storagedriver_enabled', True)}",
        "    interval: 10s",
        "    threshold: 3",
        "auth:",
        "  token:",
        f"    realm: {text('token_realm')}/jwt/auth",
        "    service: container_registry",
        f"    issuer: {to_text(rails.get('registry_issuer') or ISSUER)}",
        f"    rootcertbundle: {text('rootcertbundle', f'{folder}/gitlab-registry.crt')}",
        f"    autoredirect: {text('autoredirect', False)}",
        "validation:",
        f"  disabled: {to_text(not truthy(registry.get('validation_enabled')))}",
    ]
    if truthy(registry.get("compatibility_schema1_enabled")):
        lines += ["compatibility:", "  schema1:", "    enabled: true"]
    if truthy(registry.get("notifications")):
        lines += ["notifications:", f"  endpoints: {to_json(registry['notifications'])}"]
    database = _without_nil(registry.get("database"))
    if profile.database_default is not None:
        database = {"enabled": profile.database_default, **DATABASE_DEFAULTS, **(database or {})}
    lines += [*_optional("database", database), *_optional("gc", _without_nil(registry.get("gc")))]
    lines += _optional("reporting", registry.get("reporting"))
    return "\n".join(lines) + "\n"


def gitlab_yml(rails: Mapping[str, Any]) -> str:
    """The parts of gitlab.yml that concern the address, the registry and Geo."""

    def text(key: str, default: Any = None) -> str:
        value = rails.get(key)
        return to_text(default if value is None else value)

    return f"""\
# This file is managed by gitlab-ctl. Manual changes will be
# erased! To change the contents below, edit /etc/gitlab/gitlab.rb
# and run `sudo gitlab-ctl reconfigure`.

production: &base
  gitlab:
    host: {text("gitlab_host")}
    port: {text("gitlab_port")}
    https: {text("gitlab_https", False)}

  registry:
    enabled: {text("registry_enabled", False)}
    host: {text("registry_host")}
    port: {text("registry_port")}
    api_url: {text("registry_api_url")} # internal address to the registry, will be used by GitLab to directly communicate with API
    path: {text("registry_path")}
    key: {text("registry_key_path", f"{RAILS_ETC}/gitlab-registry.key")}
    issuer: {text("registry_issuer", ISSUER)}
    notification_secret: {text("registry_notification_secret")}

  geo:
    # If it is blank, it defaults to external_url.
    node_name: {text("geo_node_name")}

    registry_replication:
      enabled: {text("geo_registry_replication_enabled", False)}
      primary_api_url: {text("geo_registry_replication_primary_api_url")} # internal address to the primary registry
"""  # noqa: E501


def database_yml(rails: Mapping[str, Any], geo: Mapping[str, Any] | None) -> str:
    """database.yml: `main`, and `geo` (the tracking database) on a secondary."""
    databases = {"main": _connection(rails, "gitlabhq_production", "gitlab")}
    if geo is not None:
        databases["geo"] = {
            **_connection(geo, "gitlabhq_geo_production", "gitlab_geo"),
            "migrations_paths": "ee/db/geo/migrate",
            "schema_migrations_path": "ee/db/geo/schema_migrations",
        }
    return yaml.safe_dump({"production": databases}, sort_keys=False)


def secrets_yml(keys: Mapping[str, Any]) -> str:
    """Rails' own secrets."""
    return yaml.safe_dump({"production": dict(keys)})


def lab_json(rendered: Rendered) -> str:
    """What a real node keeps in nginx's files: addresses and certificates (run/lab.json, the lab's own)."""
    top = rendered.top
    nginx = {name: rendered.section(name) for name in ("nginx", "registry_nginx")}
    keys = ("ssl_certificate", "ssl_certificate_key")
    document = {
        "external_url": top.get("external_url"),
        "registry_external_url": top.get("registry_external_url"),
        "puma_port": rendered.section("puma").get("port") or 8080,
        "registry_http_addr": rendered.section("registry").get("registry_http_addr"),
        "geo_role": rendered.geo_role,
        **{name: {key: section.get(key) for key in keys} for name, section in nginx.items()},
    }
    return json.dumps(document, indent=1) + "\n"


def _connection(attributes: Mapping[str, Any], database: str, user: str) -> dict[str, Any]:
    def value(key: str, default: Any = None) -> Any:
        found = attributes.get(f"db_{key}")
        return default if found is None else found

    return {
        "adapter": "postgresql",
        "encoding": "unicode",
        "database": value("database", database),
        "username": value("username", user),
        "password": value("password"),
        "host": value("host"),
        "port": value("port"),
        "sslmode": value("sslmode"),
        "sslrootcert": value("sslrootcert"),
        "prepared_statements": value("prepared_statements", False),
    }


def _optional(name: str, value: Any) -> list[str]:
    return [f"{name}: {to_json(value)}"] if truthy(value) else []


def _without_nil(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nil(item) for key, item in value.items() if item is not None}
    return value
