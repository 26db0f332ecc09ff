"""The parameters as typed models. Their descriptions become the JSON Schema that editors complete from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
)
from pydantic_core import CoreSchema, core_schema

from georeg_nb import credentials
from georeg_nb.credentials import Secret
from georeg_nb.parameters.files import below_project, project_root


class SecretReference(str):
    """Where a secret is: `env:NAME`, `file:PATH`, `command:PROGRAM …` or `keyring:SERVICE/USER`."""

    __slots__ = ()

    def resolve(self) -> Secret:
        """The secret, read now. Raises SecretUnavailable."""
        return credentials.resolve(str(self), project_root())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(pattern=rf"^({'|'.join(credentials.KINDS)}):.", strict=True)
        return core_schema.no_info_before_validator_function(
            _no_clear_secret, core_schema.no_info_after_validator_function(cls, text)
        )


def _no_clear_secret(value: Any) -> Any:
    if isinstance(value, str) and not credentials.is_reference(value):
        if value:
            Secret(value, "a secret given in clear")  # from now on it is masked wherever it turns up
        raise ValueError(f"is not a reference to a secret; {credentials.HOW_TO}")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is no URL: it must begin with https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be the plain address, without user, password, query or fragment")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("must be https: tokens are sent there")
    return value.rstrip("/")


def _path(value: Any) -> Any:
    return below_project(value) if isinstance(value, str) and value else value


def _node_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must be an absolute path on the node")
    return value


Url = Annotated[str, AfterValidator(_url)]
WorkstationPath = Annotated[Path, BeforeValidator(_path, json_schema_input_type=str)]
NodePath = Annotated[str, AfterValidator(_node_path)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,38}$")]
Name = Annotated[str, StringConstraints(min_length=1)]
SshName = Annotated[str, StringConstraints(pattern=r"^[^-\s][^\s]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Role = Literal["rails", "sidekiq", "registry", "postgres"]
VerifyLevel = Annotated[str, StringConstraints(pattern=r"^(metadata|api|content(:(100|[1-9][0-9]?)%)?)$")]
TagName = Annotated[str, StringConstraints(pattern=r"^[^:\s]+:[^:\s]+$")]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


class GitLabParameters(_Model):
    """The site's GitLab: its API, and the tokens for its registry."""

    url: Url
    """The site's own external_url, as the workstation reaches it."""
    token: SecretReference
    """Reference to an administrator's personal access token (scopes api, admin_mode, read_registry, write_registry)."""
    user: Name = "root"
    """The user that the token belongs to."""
    ca: WorkstationPath | None = None
    """File with the certificate authorities to trust, on the workstation; without it, the system's."""
    via: Slug | None = None
    """Name of the site's node (connection: ssh) that the connection goes through, where only nodes reach it."""


class RegistryParameters(_Model):
    """The site's container registry."""

    url: Url
    """The site's own registry_external_url. Not an address that two sites share."""
    ca: WorkstationPath | None = None
    """File with the certificate authorities to trust, on the workstation; without it, the system's."""
    via: Slug | None = None
    """Name of the site's node (connection: ssh) that the connection goes through, where only nodes reach it."""
    hold_garbage_collection: bool = False
    """Hold online garbage collection from before the registry goes on its database until the migration is signed off:
    the way back stays open until the first push, and not for a day only."""


class DatabaseParameters(_Model):
    """The site's own, writable PostgreSQL database for registry metadata."""

    host: Name
    """Host name as the site's registry nodes reach it; also the name in its certificate."""
    port: Port = 5432
    name: Name = "registry"
    user: Name = "registry"
    password: SecretReference
    """Reference to the password of `user`."""
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    """How TLS is checked, here and by the registry; anything below verify-full is shown as a warning."""
    ca: WorkstationPath | None = None
    """File with the database's certificate authority, on the workstation."""
    node_sslrootcert: NodePath | None = None
    """The same file on the registry nodes; this path goes into gitlab.rb."""
    connect_host: Name | None = None
    """Host that the workstation connects to, where it differs (a port forward); certificates are checked for `host`."""
    connect_port: Port | None = None
    """Port that the workstation connects to, where it differs."""
    via: Slug | None = None
    """Name of the site's node (connection: ssh) that the connection goes through, where only nodes reach it."""


class NodeParameters(_Model):
    """One host of the site."""

    name: Slug
    roles: Annotated[list[Role], Field(min_length=1)]
    """What runs there. A single-node site has all four."""
    connection: Literal["local", "ssh"] = "local"
    """How the node is reached. local: georeg runs on the node itself, or its files lie below `root`. ssh: by the
    OpenSSH client and configuration of the user who runs georeg."""
    host: SshName | None = None
    """ssh: host name, address or alias of the ssh configuration; without it, `name`."""
    user: SshName | None = None
    """ssh: who logs in; without it, as the ssh configuration says."""
    port: Port | None = None
    """ssh: port; without it, as the ssh configuration says."""
    ssh_config: WorkstationPath | None = None
    """ssh: configuration file to use in place of ~/.ssh/config (ssh -F)."""
    sudo: bool = False
    """ssh: the account is not root and becomes it by `sudo -n`, without a password."""
    root: WorkstationPath | None = None
    """Folder that the node's absolute paths lie below; empty on a real node."""
    manual: bool = False
    """Another tool owns this node's gitlab.rb: georeg shows what to change and waits for it to be attested."""


class SiteParameters(_Model):
    """One Geo site."""

    name: Slug
    """Short name, used in step ids: lower-case letters, digits and dashes."""
    geo_name: Name | None = None
    """The Geo site's name in GitLab (geo_node_name), where it differs from `name`."""
    gitlab: GitLabParameters
    registry: RegistryParameters
    database: DatabaseParameters
    nodes: Annotated[list[NodeParameters], Field(min_length=1)]
    """Every host with registry, Rails or Sidekiq; the first one with a role is used for that role's commands."""

    @property
    def geo_site_name(self) -> str:
        """The name that GitLab knows the site by."""
        return self.geo_name or self.name


class SitesFile(_Model):
    """The inventory: the primary site and its secondaries."""

    primary: SiteParameters
    secondaries: Annotated[list[SiteParameters], Field(min_length=1)]

    @cached_property
    def sites(self) -> list[SiteParameters]:
        """The primary first, then the secondaries."""
        return [self.primary, *self.secondaries]


class ScenarioParameters(_Model):
    """What every scenario takes."""

    facts_of: ClassVar[str] = ""  # the scenario whose facts, kept on the sites, are this one's too

    sites: Name
    """The sites file, from the working directory, else from the project's root."""
    approve: list[Name] = []
    """Approved beforehand: all, a section, a step, a full step id, or id@plan-digest. Empty: a plan, no change."""
    attest: dict[str, Name] = {}
    """Manual steps that were done, each with who and what: {"step": "text"}."""


class ComparingParameters(ScenarioParameters):
    """What every scenario takes that compares the sites' images."""

    accept_losses: list[TagName] = []
    """Tags, as path:tag, that may be left behind because the importer cannot bring them over."""
    verify_with: list[VerifyLevel] = []
    """Levels of the final comparison: metadata, api, content, or content:5% for a share of the images. Empty: metadata,
    with a sample over HTTP, and everything over HTTP where a database cannot be asked."""
    canary_project: str = ""
    """Path of a project that a small test image may be pushed to, to measure the replication; empty: none."""

    @property
    def content_percent(self) -> int:
        """Share of the images whose every byte is read; 0: of none."""
        levels = [level.partition(":") for level in self.verify_with]
        return max((int(share.rstrip("%") or 100) for name, _, share in levels if name == "content"), default=0)


class MigrateLegacyParameters(ComparingParameters):
    """Scenario migrate-legacy: both sites' legacy metadata into their own PostgreSQL databases."""

    import_method: Literal["auto", "one-step", "three-step"] = "auto"
    """one-step refuses pushes for the whole import, three-step for its middle part alone; auto decides by the size."""
    read_only_limit_minutes: Annotated[int, Field(ge=1)] = 120
    """A read-only window that is predicted to last longer is not opened."""


class AddRegistryParameters(ComparingParameters):
    """Scenario add-registry-to-geo-sites: a registry on each site, on a database of its own, replicated by Geo."""

    notification_token: SecretReference
    """Reference to the token by which GitLab knows the registry's notifications; 32 letters and digits at least. The
    one that is in use already, where there is one."""


class DiagnoseParameters(ScenarioParameters):
    """Scenario diagnose: what is known to go wrong, looked for on all sites. It has no steps to approve."""


class RevertToLegacyParameters(ComparingParameters):
    """Scenario revert-to-legacy: both sites back to the legacy metadata of before the import."""

    facts_of: ClassVar[str] = "migrate-legacy"

    by_restore: bool = False
    """The way back is closed, and what came since the import is given up: a backup of the storage is restored first,
    where garbage collection ran."""


class VerifyReplicationParameters(ComparingParameters):
    """Scenario verify-replication: do the sites hold the same images? Reads only, but for the canary."""


class AssessSitesParameters(ScenarioParameters):
    """Scenario assess-sites: which scenario fits the sites. It reads only."""


SCENARIOS: dict[str, type[ScenarioParameters]] = {
    "add-registry-to-geo-sites": AddRegistryParameters,
    "assess-sites": AssessSitesParameters,
    "migrate-legacy": MigrateLegacyParameters,
    "diagnose": DiagnoseParameters,
    "revert-to-legacy": RevertToLegacyParameters,
    "verify-replication": VerifyReplicationParameters,
}
