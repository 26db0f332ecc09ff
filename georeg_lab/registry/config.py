"""The registry's configuration file as typed sections.

Source: registry 2; error texts as recorded. Only what the stand-in acts on has a field; other keys are ignored, as the
real program ignores keys that it does not know."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from georeg_lab.registry import import_log, release
from georeg_lab.registry.config_decode import DecodeError, Decoder, Duration, build, compose, override

DatabaseEnabled = Literal["true", "false", "prefer"]
NOT_A_DRIVER = ("maintenance", "cache", "delete", "redirect")


class ConfigError(ValueError):
    """The configuration cannot be used; the message is the registry's, without `configuration error: `."""


@dataclass(frozen=True)
class AccessLog:
    disabled: bool = False
    formatter: str = "json"


@dataclass(frozen=True)
class Log:
    level: str = "info"
    formatter: str = "json"
    output: str = "stdout"
    fields: dict[str, Any] = field(default_factory=dict)
    access_log: AccessLog = field(default_factory=AccessLog)


@dataclass(frozen=True)
class Storage:
    """`driver` and `parameters` are the one storage type; the four side sections are kept as YAML gave them."""

    driver: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The root directory of the filesystem driver."""
        return Path(str(self.parameters.get("rootdirectory") or "/var/lib/registry"))

    @property
    def maintenance(self) -> dict[str, Any]:
        """`readonly` and `uploadpurging`, unchecked: `serve` complains about their shape when it starts."""
        return cast("dict[str, Any]", self.sections.get("maintenance") or {})

    @property
    def delete_enabled(self) -> bool:
        return bool((self.sections.get("delete") or {}).get("enabled", False))

    @property
    def redirect_disabled(self) -> bool:
        return bool((self.sections.get("redirect") or {}).get("disable", False))

    @property
    def blob_descriptor_cache(self) -> str:
        return str((self.sections.get("cache") or {}).get("blobdescriptor") or "")


@dataclass(frozen=True)
class Pool:
    max_open: int = 0
    max_idle: int = 0
    max_lifetime: Duration = 0.0
    max_idle_time: Duration = 0.0


@dataclass(frozen=True)
class BackgroundMigrations:
    enabled: bool = False
    job_interval: Duration = 60.0
    max_job_retries: int = 0


@dataclass(frozen=True)
class Database:
    enabled: str = "false"
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    dbname: str = ""
    sslmode: str = ""
    sslcert: str = ""
    sslkey: str = ""
    sslrootcert: str = ""
    connect_timeout: Duration = 0.0
    drain_timeout: Duration = 0.0
    prepared_statements: bool = False
    primary: str = ""
    pool: Pool = field(default_factory=Pool)
    background_migrations: BackgroundMigrations = field(default_factory=BackgroundMigrations)

    @property
    def mode(self) -> DatabaseEnabled:
        """`enabled`, spelt one way."""
        return cast("DatabaseEnabled", self.enabled)


@dataclass(frozen=True)
class Ignore:
    mediatypes: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Endpoint:
    name: str = ""
    url: str = ""
    disabled: bool = False
    headers: dict[str, Any] = field(default_factory=dict, repr=False)
    timeout: Duration = 0.0
    backoff: Duration = 0.0
    max_retries: int = 0
    threshold: int = 0
    ignored_media_types: list[str] = field(default_factory=list)
    ignore: Ignore = field(default_factory=Ignore)
    queue_size_limit: int = 0
    queue_purge_timeout: Duration = 0.0

    @property
    def header_lists(self) -> dict[str, list[str]]:
        """Headers with each value as a list of lines."""
        return {k: [str(x) for x in (v if isinstance(v, list) else [v])] for k, v in self.headers.items()}


@dataclass(frozen=True)
class EventOptions:
    include_references: bool = False


@dataclass(frozen=True)
class Notifications:
    fanout_timeout: Duration = 15.0
    events: EventOptions = field(default_factory=EventOptions)
    endpoints: list[Endpoint] = field(default_factory=list)


@dataclass(frozen=True)
class TLS:
    certificate: str = ""
    key: str = ""
    client_cas: list[str] = field(default_factory=list)
    minimum_tls: str = ""


@dataclass(frozen=True)
class Prometheus:
    enabled: bool = False
    path: str = "/metrics"


@dataclass(frozen=True)
class Debug:
    addr: str = ""
    prometheus: Prometheus = field(default_factory=Prometheus)
    tls: TLS = field(default_factory=TLS)


@dataclass(frozen=True)
class HTTP:
    addr: str = ""
    net: str = "tcp"
    host: str = ""
    prefix: str = ""
    secret: str = field(default="", repr=False)
    relative_urls: bool = False
    drain_timeout: Duration = 0.0
    headers: dict[str, Any] = field(default_factory=dict)
    tls: TLS = field(default_factory=TLS)
    debug: Debug = field(default_factory=Debug)

    @property
    def header_lists(self) -> dict[str, list[str]]:
        """Headers of `/v2/` answers with each value as a list of lines."""
        return {k: [str(x) for x in (v if isinstance(v, list) else [v])] for k, v in self.headers.items()}


@dataclass(frozen=True)
class Auth:
    """At most one provider; an empty `provider` means no authorization at all."""

    provider: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageDriverHealth:
    enabled: bool = False
    interval: Duration = 10.0
    threshold: int = 0


@dataclass(frozen=True)
class DatabaseHealth:
    enabled: bool = False
    interval: Duration = 10.0
    timeout: Duration = 5.0
    threshold: int = 0


@dataclass(frozen=True)
class Health:
    storage_driver: StorageDriverHealth = field(default_factory=StorageDriverHealth)
    database: DatabaseHealth = field(default_factory=DatabaseHealth)


@dataclass(frozen=True)
class GCBlobs:
    disabled: bool = False
    interval: Duration = 5.0
    storage_timeout: Duration = 5.0


@dataclass(frozen=True)
class GCManifests:
    disabled: bool = False
    interval: Duration = 5.0


@dataclass(frozen=True)
class GC:
    disabled: bool = False
    max_backoff: Duration = 86400.0
    no_idle_backoff: bool = False
    transaction_timeout: Duration = 10.0
    error_cooldown_period: Duration = 0.0
    review_after: Duration = 0.0
    blobs: GCBlobs = field(default_factory=GCBlobs)
    manifests: GCManifests = field(default_factory=GCManifests)


@dataclass(frozen=True)
class URLs:
    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ManifestValidation:
    reference_limit: int = 0
    payload_size_limit: int = 0
    urls: URLs = field(default_factory=URLs)


@dataclass(frozen=True)
class Validation:
    disabled: bool = False
    enabled: bool = True
    manifests: ManifestValidation = field(default_factory=ManifestValidation)


@dataclass(frozen=True)
class _Version:
    version: str = ""


@dataclass(frozen=True)
class _File:
    """The file as it is typed when read: storage, auth and `database.enabled` are interpreted afterwards."""

    version: str = ""
    log: Log = field(default_factory=Log)
    storage: dict[str, Any] = field(default_factory=dict)
    auth: dict[str, Any] = field(default_factory=dict)
    http: HTTP = field(default_factory=HTTP)
    notifications: Notifications = field(default_factory=Notifications)
    health: Health = field(default_factory=Health)
    gc: GC = field(default_factory=GC)
    validation: Validation = field(default_factory=Validation)
    database: Database = field(default_factory=Database)


@dataclass(frozen=True)
class Config:
    """One configuration file with the environment's overrides applied. Durations are seconds."""

    storage: Storage = field(default_factory=Storage)
    database: Database = field(default_factory=Database)
    notifications: Notifications = field(default_factory=Notifications)
    auth: Auth = field(default_factory=Auth, repr=False)
    http: HTTP = field(default_factory=HTTP)
    health: Health = field(default_factory=Health)
    gc: GC = field(default_factory=GC)
    validation: Validation = field(default_factory=Validation)
    log: Log = field(default_factory=Log)


def load(
    arguments: list[str], *, storage: bool = True, environment: Mapping[str, str] | None = None
) -> tuple[Config, str]:
    """The configuration named by the first argument, else by `REGISTRY_CONFIGURATION_PATH`, and its path.

    `storage=False` accepts a file without a storage section (`database migrate`). Raises ConfigError."""
    variables = os.environ if environment is None else environment
    path = arguments[0] if arguments else variables.get("REGISTRY_CONFIGURATION_PATH", "")
    if not path:
        raise ConfigError("configuration path unspecified")
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"parsing {path}: yaml: invalid leading UTF-8 octet") from None
    try:
        return parse(content, storage=storage, environment=variables), path
    except ConfigError as error:
        raise ConfigError(f"parsing {path}: {error}") from None


def parse(text: str, *, storage: bool = True, environment: Mapping[str, str] | None = None) -> Config:
    """The configuration in `text`. Raises ConfigError with the text that follows `parsing <path>: `."""
    try:
        return _parse(text, storage, environment or {})
    except DecodeError as error:
        raise ConfigError(str(error)) from None


def _parse(text: str, storage: bool, environment: Mapping[str, str]) -> Config:
    node = compose(text)
    if node is not None and not isinstance(node, yaml.MappingNode):
        decoder = Decoder()
        decoder.misfit(node, "struct { Version configuration.Version }")
        decoder.check()
    values: dict[str, Any] = {}
    if node is not None:
        version = Decoder().struct(node, _Version) or {}
        if version.get("version") != "0.1":
            raise ConfigError(f'unsupported version: "{version.get("version") or ""}"')
        decoder = Decoder()
        values = decoder.struct(node, _File) or {}
        if not release.PREFER:
            decoder.plain_bool(node, "database", "enabled")
        decoder.check()
    else:
        raise ConfigError('unsupported version: ""')
    for name in override(values, _File, environment):
        import_log.Logger(sys.stderr, formatter="text").warning("ignoring unrecognized environment variable", name=name)
    file: _File = build(_File, values)
    enabled = file.database.enabled.lower()
    if enabled not in ("true", "false", "prefer"):
        raise ConfigError(
            f'invalid database.enabled value: "{file.database.enabled}", valid values: false, true, prefer'
        )
    return Config(
        storage=_storage(file.storage, required=storage),
        database=build(Database, {**(values.get("database") or {}), "enabled": enabled}),
        notifications=file.notifications,
        auth=_auth(file.auth),
        http=file.http,
        health=file.health,
        gc=file.gc,
        validation=file.validation,
        log=file.log,
    )


def _storage(section: dict[str, Any] | None, *, required: bool) -> Storage:
    section = section or {}
    drivers = sorted(key for key in section if key not in NOT_A_DRIVER)
    if len(drivers) > 1:
        raise ConfigError(f"must provide exactly one storage type. Provided: [{' '.join(drivers)}]")
    if not drivers:
        if required:
            raise ConfigError("no storage configuration provided")
        return Storage()
    sections = {key: value for key, value in section.items() if key in NOT_A_DRIVER}
    return Storage(drivers[0], dict(section[drivers[0]] or {}), sections)


def _auth(section: dict[str, Any] | None) -> Auth:
    providers = sorted(section or {})
    if len(providers) > 1:
        raise ConfigError(f"must provide exactly one type. Provided: [{' '.join(providers)}]")
    return Auth(providers[0], dict((section or {})[providers[0]] or {})) if providers else Auth()
