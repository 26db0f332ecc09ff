"""What there is on a site before anything is decided, as plain facts: read once, nothing is changed.

A fact that cannot be read is None, and `problems` says why: an assessment tells what it does not know, and never
guesses it. Source: procedures 2.0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from georeg_nb.errors import GeoregError, NodeFileMissing
from georeg_nb.omnibus import Omnibus, RegistryConfig
from georeg_nb.procedures import state
from georeg_nb.procedures.places import place_of
from georeg_nb.site import Site, Sites

MainDatabase = Literal["writable", "standby"]
Geo = Literal["none", "primary", "secondary"]
Registry = Literal["off", "empty", "legacy", "bundled", "own", "other", "unknown"]
"""A site's registry: not enabled; without an image; with images and its metadata in the storage, in the package's own
PostgreSQL, in the database that the sites file names, or in another one; or it cannot be told."""

Answer = TypeVar("Answer")
UNFINISHED = "migrate-legacy"  # the scenario whose half-done work is recognised
REGISTRIES: dict[Registry, str] = {
    "off": "not enabled",
    "empty": "enabled, without an image",
    "legacy": "legacy metadata, with images",
    "bundled": "the package's own database, with images",
    "own": "the site's own external database, with images",
    "other": "another external database, with images",
    "unknown": "cannot be told",
}


@dataclass(frozen=True)
class SiteFacts:
    """One site. `images` is whether its registry serves any, `stored` whether its storage holds any; `held` and
    `window`: image sync is held, pushes are refused, by a migration of georeg's that is not finished.
    """

    name: str
    role: Literal["primary", "secondary"]
    gitlab: str | None = None
    enterprise: bool | None = None
    licence: str | None = None
    geo: Geo | None = None
    registered: bool | None = None
    healthy: str | None = None
    main_database: MainDatabase | None = None
    promoted: bool | None = None
    enabled: bool | None = None
    running: bool | None = None
    mode: str | None = None
    on_database: bool | None = None
    where: Literal["own", "bundled", "other"] | None = None
    lockfiles: str | None = None
    images: bool | None = None
    stored: bool | None = None
    storage: str | None = None
    nodes: int = 1
    replicates: bool | None = None
    notifies: bool | None = None
    held: bool = False
    window: bool = False
    problems: tuple[str, ...] = ()

    @property
    def database(self) -> bool:
        """Whether the registry works on a database: as it runs, else as it is configured."""
        return self.on_database if self.on_database is not None else self.mode == "database"

    @property
    def registry(self) -> Registry:
        """What the site's registry is, in one word."""
        if self.enabled is False:
            return "off"
        has = self.images if self.images is not None else self.stored
        if self.enabled is None or self.mode is None or has is None:
            return "unknown"
        if not has:
            return "empty"
        return (self.where or "unknown") if self.database else "legacy"

    def row(self) -> dict[str, object]:
        """As a row of the table of facts."""
        shown = {
            "site": f"{self.name} ({self.role})",
            "GitLab": self.gitlab,
            "licence": self.licence if self.role == "primary" else "the primary's",
            "Geo": self.geo,
            "health": self.healthy,
            "main database": self.main_database,
            "registry": REGISTRIES[self.registry],
            "metadata": self._metadata(),
            "lock files": self.lockfiles,
            "storage": self.storage,
            "registry nodes": self.nodes,
            "replicates images": {True: "on", False: "off", None: None}[self.replicates],
            "unfinished": ", ".join(self.unfinished) or "nothing",
            "not known": "; ".join(self.problems) or "",
        }
        return {name: "unknown" if value is None else value for name, value in shown.items()}

    def _metadata(self) -> str | None:
        if self.enabled is False:
            return "none"
        if self.mode is None:
            return None
        running = {True: "database", False: "legacy", None: "no answer"}[self.on_database]
        place = {"own": "the site's own", "bundled": "the package's own", "other": "another", None: "unknown"}[
            self.where
        ]
        return f"configured {self.mode} ({place} database); running: {running}"

    @property
    def unfinished(self) -> list[str]:
        """What a migration of georeg's left open here."""
        return [text for there, text in ((self.window, "pushes refused"), (self.held, "image sync held")) if there]


@dataclass(frozen=True)
class PairFacts:
    """The sites of a sites file."""

    primary: SiteFacts
    secondaries: tuple[SiteFacts, ...] = field(default_factory=tuple)

    @property
    def all(self) -> tuple[SiteFacts, ...]:
        """The primary first."""
        return (self.primary, *self.secondaries)


def read(sites: Sites) -> PairFacts:
    """Facts of every site. Never raises for what the sites answer."""
    return PairFacts(read_site(sites.primary), tuple(read_site(site) for site in sites.secondaries))


class _Reading:
    """Answers to single questions; what could not be asked is kept as a problem."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def ask(self, what: str, question: Callable[[], Answer | None]) -> Answer | None:
        try:
            return question()
        except GeoregError as error:
            self.problems.append(f"{what}: {error.message.splitlines()[0]}")
            return None


def read_site(site: Site) -> SiteFacts:
    """Facts of one site, each asked by itself."""
    reading = _Reading()
    ask = reading.ask
    version = ask("GitLab", site.gitlab.version)
    entry = ask("Geo sites", lambda: _entry(site)) if version else None
    enabled = ask("registry", lambda: any(package.registry_is_enabled() for package in site.packages("registry")))
    config = ask("registry configuration", site.omnibus.registry_config) if enabled else None
    rails = ask("gitlab.yml", lambda: _rails(site))
    here = _of_migration(site)  # each fact is asked by itself: one that fails leaves the others
    on_database = ask("running registry", lambda: _on_database(site)) if enabled else None
    running = ask("registry service", lambda: _running(site)) if enabled else None
    return SiteFacts(
        name=site.name,
        role=site.role,
        gitlab=version.version if version else None,
        enterprise=version.enterprise if version else None,
        licence=ask("licence", lambda: _licence(site)) if version and site.role == "primary" else None,
        geo=entry[0] if entry else None,
        registered=entry[1] if entry else None,
        healthy=ask("Geo's health", lambda: _health(site)) if entry else None,
        main_database=ask("main database", lambda: _main_database(site)),
        promoted=ask("promotion", lambda: any(package.promoted() for package in site.packages())),
        enabled=enabled,
        running=running,
        mode=config.mode if config else None,
        on_database=on_database,
        where=_where(config, site) if config else None,
        lockfiles=str(ask("lock files", lambda: state.lockfiles(site))) if enabled else "none",
        images=ask("catalog", lambda: next(iter(site.registry.catalog()), None) is not None) if enabled else False,
        stored=ask("storage", lambda: _stored(site.omnibus, config)) if config else None,
        storage=ask("storage", lambda: place_of(site.omnibus, site.name)[0]) if enabled else "none",
        nodes=len(site.registry_nodes),
        replicates=rails[0] if rails and site.role == "secondary" else None,
        notifies=_notifies(config) if site.role == "primary" else None,
        held=bool(ask("held sync", lambda: _held(here))) if site.role == "secondary" else False,
        window=bool(ask("read-only window", lambda: _window_is_open(here))) if enabled else False,
        problems=tuple(reading.problems),
    )


def _entry(site: Site) -> tuple[Geo, bool]:
    """(role by the site's own API, whether it is one of the Geo sites): a site without Geo lists none."""
    entries = site.gitlab.geo_sites()
    mine = next((entry for entry in entries if entry.current), None)
    mine = mine or next((entry for entry in entries if entry.name == site.parameters.geo_site_name), None)
    if mine is None:
        return "none", False
    return ("primary" if mine.primary else "secondary"), True


def _licence(site: Site) -> str:
    found = site.gitlab.license()
    return (found.plan or "none") + (", expired" if found.expired else "")


def _health(site: Site) -> str | None:
    """Geo's word on a secondary, as the primary has it; None where there is none."""
    if site.role == "primary":
        return "asked of the secondaries"
    entries = site.sites.primary.gitlab.geo_sites()
    mine = next((entry for entry in entries if entry.name == site.parameters.geo_site_name), None)
    status = site.sites.primary.gitlab.geo_status(mine.id) if mine else None
    return ("Healthy" if status.healthy else status.health) if status else "never reported"


def _main_database(site: Site) -> MainDatabase | None:
    command = ["gitlab-psql", "-d", "gitlabhq_production", "-tAc", "SELECT pg_is_in_recovery()"]
    answer = site.rails_node.run(command, check=False).stdout.strip()
    words: dict[str, MainDatabase] = {"f": "writable", "t": "standby"}
    return words.get(answer)


def _rails(site: Site) -> tuple[bool]:
    try:
        return (site.rails.gitlab_yml().replication_enabled,)
    except NodeFileMissing:
        return (False,)


def _running(site: Site) -> bool:
    services = [package.service("registry") for package in site.packages("registry")]
    return all(service is not None and service.up for service in services)


def _on_database(site: Site) -> bool | None:
    answers = set(state.running_on_database(site).values())
    return answers.pop() if len(answers) == 1 else None


def _where(config: RegistryConfig, site: Site) -> Literal["own", "bundled", "other"]:
    """Which database is named: the sites file's, the package's own (by its folder or its address), or another."""
    if state.is_ours(config, site):
        return "own"
    return "bundled" if state.is_bundled(config) or _is_this_node(config, site) else "other"


def _is_this_node(config: RegistryConfig, site: Site) -> bool:
    """An address of the node itself, while the package's PostgreSQL is up there (procedures 2.0)."""
    host, port, _ = config.database_address
    package = site.rails
    if host not in ("127.0.0.1", "localhost", "::1") or port != package.bundled_port():
        return False
    service = package.service("postgresql")
    return service is not None and service.up


def _stored(package: Omnibus, config: RegistryConfig | None) -> bool | None:
    """Whether the storage holds a repository in legacy form; None where the node cannot look into it."""
    root = config.root_directory if config else None
    if not root:
        return None
    try:
        return bool(package.node.list_dir(f"{root}/docker/registry/v2/repositories"))
    except NodeFileMissing:
        return False


def _notifies(config: RegistryConfig | None) -> bool:
    return any(endpoint.get("name") == "geo_event" for endpoint in (config.endpoints if config else []))


def _of_migration(site: Site) -> Site:
    """The site as the migration sees it: what that scenario keeps there."""
    view = copy.copy(site)
    view.scenario = UNFINISHED
    return view


def _held(site: Site) -> bool:
    return bool(state.block_there(site, state.HOLD) or site.keep.load("hold"))


def _window_is_open(site: Site) -> bool:
    opened = state.window(site)
    return opened is not None and not opened.closed and bool(state.read_only_nodes(site))
