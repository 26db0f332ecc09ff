"""What GitLab rendered and reports: pure parsers of config.yml, gitlab.yml, `gitlab-ctl status` and version texts.

These files are the truth about a node; gitlab.rb is only what somebody wants (procedures 2.0, 4.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from georeg_nb import redaction
from georeg_nb.errors import StepFailed

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

REGISTRY_FOLDER = "/var/opt/gitlab/registry"
REGISTRY_CONFIG = f"{REGISTRY_FOLDER}/config.yml"
PUBLIC_ATTRIBUTES = "/var/opt/gitlab/public_attributes.json"
GITLAB_YML = "/var/opt/gitlab/gitlab-rails/etc/gitlab.yml"
REGISTRY_SERVICE = "/opt/gitlab/service/registry"
REGISTRY_VERSION = "/var/opt/gitlab/registry/VERSION"
VERSION_MANIFEST = "/opt/gitlab/version-manifest.txt"
BUNDLED_DATABASE = "/var/opt/gitlab/postgresql"
LOCKFILES = "docker/registry/lockfiles"
# keys of config.yml's `storage` that are no storage driver (procedures 4.3)
NOT_DRIVERS = frozenset({"cache", "delete", "maintenance", "redirect"})


def _load(text: str, path: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - both loaders are the safe ones
    except yaml.YAMLError as error:
        # the file holds secrets, and the parser's message quotes it: only the place is passed on
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise StepFailed(
            f"{path} is not valid YAML{place}", remedy="run `gitlab-ctl reconfigure` on that node"
        ) from None
    redaction.register_from_object(data)  # whatever secrets it holds are masked everywhere from now on
    return data if isinstance(data, dict) else {}


def _section(data: Mapping[str, Any], *names: str) -> dict[str, Any]:
    found: Any = data
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class RegistryConfig:
    """The registry's rendered config.yml."""

    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> RegistryConfig:
        """Read the file's text. Raises StepFailed when it is no YAML."""
        return cls(_load(text, REGISTRY_CONFIG))

    @property
    def database(self) -> dict[str, Any]:
        """The `database` section (holds the password)."""
        return _section(self.data, "database")

    @property
    def mode(self) -> str:
        """`legacy`, `database` or `prefer`. The strings "false" and "true" count like booleans (procedures 3.2)."""
        enabled = self.database.get("enabled")
        if enabled in (True, "true"):
            return "database"
        return "prefer" if enabled == "prefer" else "legacy"

    @property
    def database_address(self) -> tuple[str, int, str]:
        """Host, port, database name. An unset host is the package's own PostgreSQL."""
        section = self.database
        host = section.get("host") or BUNDLED_DATABASE
        return str(host), int(section.get("port") or 5432), str(section.get("dbname") or "registry")

    @property
    def storage(self) -> dict[str, Any]:
        """The `storage` section (cloud drivers: holds keys)."""
        return _section(self.data, "storage")

    @property
    def drivers(self) -> list[str]:
        """Storage drivers in the file; a working registry has exactly one (procedures 4.3)."""
        return sorted(set(self.storage) - NOT_DRIVERS)

    @property
    def root_directory(self) -> str | None:
        """Where the filesystem driver keeps everything; None for any other driver."""
        value = _section(self.storage, "filesystem").get("rootdirectory")
        return str(value) if value else None

    @property
    def read_only(self) -> bool:
        """Whether read-only mode is configured; only the boolean counts (procedures 4.3). The process may be older."""
        return _section(self.storage, "maintenance", "readonly").get("enabled") is True

    @property
    def endpoints(self) -> list[dict[str, Any]]:
        """Notification endpoints (headers hold tokens)."""
        found = _section(self.data, "notifications").get("endpoints") or []
        return [dict(item) for item in found if isinstance(item, Mapping)]

    @property
    def collects_garbage(self) -> bool:
        """Whether online garbage collection is on: it is by default, and works in database mode alone (registry 7)."""
        return _section(self.data, "gc").get("disabled") is not True

    @property
    def http_address(self) -> str:
        """Where the registry process listens on its node (plain HTTP behind nginx)."""
        return str(_section(self.data, "http").get("addr") or "127.0.0.1:5000")

    @property
    def issuer(self) -> str:
        """Issuer of tokens that this registry accepts."""
        return str(_section(self.data, "auth", "token").get("issuer") or "")

    @property
    def log_level(self) -> str:
        """Level of the log, of imports too: above `info` an import does not say that it succeeded (registry 1.6)."""
        return str(_section(self.data, "log").get("level") or "info")


@dataclass(frozen=True)
class GitlabYml:
    """What concerns the registry and Geo in gitlab.yml."""

    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> GitlabYml:
        """Read the file's text (its `production` part). Raises StepFailed when it is no YAML."""
        data = _load(text, GITLAB_YML)
        return cls(_section(data, "production") or data)

    @property
    def registry_enabled(self) -> bool:
        """Whether Rails knows a registry."""
        return _section(self.data, "registry").get("enabled") is True

    @property
    def registry_issuer(self) -> str:
        """Issuer that Rails writes into tokens."""
        return str(_section(self.data, "registry").get("issuer") or "")

    @property
    def notification_secret(self) -> str:
        """What a registry's notifications must carry in `Authorization` (a secret)."""
        return str(_section(self.data, "registry").get("notification_secret") or "")

    @property
    def storage_names(self) -> list[str]:
        """Names of the Git storages; none where the file does not list them."""
        return sorted(_section(self.data, "repositories", "storages"))

    @property
    def geo_node_name(self) -> str:
        """Name under which this node looks itself up among the Geo sites."""
        return str(_section(self.data, "geo").get("node_name") or "")

    @property
    def replication_enabled(self) -> bool:
        """Whether a secondary syncs images (rails 4: both switches)."""
        geo = _section(self.data, "geo", "registry_replication")
        return self.registry_enabled and geo.get("enabled") is True

    @property
    def primary_api_url(self) -> str:
        """Where a secondary pulls images from."""
        return str(_section(self.data, "geo", "registry_replication").get("primary_api_url") or "")


@dataclass(frozen=True)
class Service:
    """One line of `gitlab-ctl status`. `up` is what the supervisor says; `seconds` is since the last change."""

    name: str
    up: bool
    pid: int | None
    seconds: int | None


_STATUS = re.compile(r"(run|down): ([a-z0-9-]+): (?:\(pid (\d+)\) )?(\d+)s")


def parse_status(text: str) -> dict[str, Service]:
    """Services of `gitlab-ctl status`, by name; the loggers' halves of the lines are left out."""
    found = {}
    for line in text.splitlines():
        if match := _STATUS.match(line.strip()):
            state, name, pid, seconds = match.groups()
            found[name] = Service(name, state == "run", int(pid) if pid else None, int(seconds))
    return found
