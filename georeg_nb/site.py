"""A site as procedures see it: its nodes and packages, its database, its registry, its GitLab, and what is kept on it.

Nothing is contacted when the sites are opened: every connection is made by the first question that needs it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any, Literal, Protocol

from georeg_nb import gitlab_rb, redaction
from georeg_nb.database import IdleConnections
from georeg_nb.errors import GeoregError, NodeFileMissing, StepFailed
from georeg_nb.gitlab_api import GitLabAPI
from georeg_nb.http import Route
from georeg_nb.metadata_db import MetadataDB
from georeg_nb.nodes import Node, node_of
from georeg_nb.omnibus import Omnibus
from georeg_nb.parameters import ScenarioParameters, SiteParameters, SitesFile
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.versions import Profile

KEEP = "/var/lib/georeg/keep"
Role = Literal["primary", "secondary"]
BlockChanges = Mapping[str, str | None] | Callable[[Omnibus], Mapping[str, str | None]]
"""georeg's blocks to put (text) or to remove (None), the same on every node or as each node needs them."""


class Observer(Protocol):
    """Who is told what happens: the run's reporter."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """A command on a node."""

    def kept(self, site: str, name: str, data: Any) -> None:
        """A fact that was kept on a site."""

    def progress(self, site: str, text: str, fraction: float | None = None) -> None:
        """How far something is."""


class Keep:
    """Small facts kept on the site's first registry node, so that any later run, from any machine, finds them.

    What is kept is also copied into the record. Files are 0600: repository names are nobody else's business.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._node = site.registry_nodes[0]

    def path(self, name: str) -> str:
        """The file on the node."""
        return f"{KEEP}/{self._site.scenario}/{name}.json"

    def save(self, name: str, data: Any) -> None:
        """Keep `data` (plain JSON) under a name, in place of what was there."""
        text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        self._node.write_file(self.path(name), text.encode(), mode=0o600)
        self._site.observer.kept(self._site.name, name, data)

    def load(self, name: str) -> Any:
        """What is kept under a name; None when nothing is. Raises StepFailed when the file was damaged."""
        try:
            return json.loads(self._node.read_file(self.path(name)))
        except NodeFileMissing:
            return None
        except ValueError:
            raise StepFailed(
                f"{self.path(name)} is damaged",
                remedy="move it away and run again; it will be taken as missing",
                site=self._site.name,
                node=self._node.name,
            ) from None

    def remove(self, name: str) -> None:
        """Forget it."""
        self._node.remove_file(self.path(name))


class Site:
    """One Geo site. `role` is the one that the sites file gives it; checks find out whether GitLab agrees."""

    def __init__(
        self,
        parameters: SiteParameters,
        role: Role,
        options: ScenarioParameters,
        observer: Observer,
        scenario: str,
    ) -> None:
        self.parameters = parameters
        self.name = parameters.name
        self.role = role
        self.sites: Sites
        self.options: Any = options
        self.observer = observer
        self.scenario = getattr(options, "facts_of", "") or scenario  # whose facts are kept on the site
        self.nodes: list[Node] = [node_of(node, observer) for node in parameters.nodes]
        self.readonly = False
        self._idle = IdleConnections()  # views share them: they only read
        # what is compared → each difference there, and when (monotonic clock) this run first saw it; views share it
        self.differences_seen: dict[str, dict[Any, float]] = {}

    def __repr__(self) -> str:
        return f"<Site {self.name} ({self.role}){' read-only' if self.readonly else ''}>"

    # nodes

    def with_role(self, *roles: str) -> list[Node]:
        """Nodes with any of these roles; without roles, all."""
        return [node for node in self.nodes if not roles or node.roles & set(roles)]

    @property
    def rails_node(self) -> Node:
        """The node that answers questions about Rails and holds the site's lock."""
        return (self.with_role("rails") or self.nodes)[0]

    @property
    def registry_nodes(self) -> list[Node]:
        """Nodes that run a registry."""
        return self.with_role("registry")

    def packages(self, *roles: str) -> list[Omnibus]:
        """The package on every node with any of these roles."""
        return [Omnibus(node, progress=self.progress) for node in self.with_role(*roles)]

    @property
    def omnibus(self) -> Omnibus:
        """The package on the first registry node: there imports run, and facts are kept."""
        return Omnibus(self.registry_nodes[0], progress=self.progress)

    @property
    def rails(self) -> Omnibus:
        """The package on the Rails node."""
        return Omnibus(self.rails_node, progress=self.progress)

    def is_manual(self, node: Node) -> bool:
        """Whether another tool owns this node's gitlab.rb."""
        return any(entry.manual for entry in self.parameters.nodes if entry.name == node.name)

    # what the site is made of

    @cached_property
    def gitlab(self) -> GitLabAPI:
        """The site's own API."""
        gitlab = self.parameters.gitlab
        return GitLabAPI.of(gitlab, site=self.name, readonly=self.readonly, route=self._route(gitlab.via))

    @cached_property
    def registry(self) -> RegistryAPI:
        """The site's registry, through its public address."""
        return self._registry(route=self._route(self.parameters.registry.via))

    def registry_at(self, node: Node) -> RegistryAPI:
        """The registry process on one node, at the address that it listens on there."""
        config = Omnibus(node).registry_config()
        address = config.http_address if config else "127.0.0.1:5000"
        return self._registry(address=f"http://{address}", route=node.route)

    def _registry(self, **options: Any) -> RegistryAPI:
        tokens = self._route(self.parameters.gitlab.via)
        return RegistryAPI.of(self.parameters, readonly=self.readonly, gitlab_route=tokens, **options)

    def _route(self, via: str | None) -> Route | None:
        """The way through the node of that name."""
        return next((node.route for node in self.nodes if node.name == via), None)

    @property
    def metadata_db(self) -> MetadataDB:
        """The site's own external metadata database. A new object each time: what is there changes in a run."""
        database = self.parameters.database
        return MetadataDB(database, site=self.name, route=self._route(database.via), idle=self._idle)

    @property
    def profile(self) -> Profile:
        """What differs in the release that is installed on the registry's node: asked each time, it may be upgraded."""
        try:
            return Profile.of(self.omnibus.version(), self.omnibus.registry_version())
        except NodeFileMissing:  # before the registry's first reconfigure
            return Profile.of(self.omnibus.version())

    @property
    def keep(self) -> Keep:
        """Facts kept on the site."""
        return Keep(self)

    # changes of gitlab.rb

    def change_gitlab_rb(
        self,
        step: str,
        changes: BlockChanges,
        differences: Callable[[Omnibus], list[str]],
        *roles: str,
        patience: float = 90,
        every: bool = False,
    ) -> None:
        """Put or remove georeg's blocks on every node of these roles, one node after the other, each as a unit.

        `differences` lists what a node does not show yet. Raises StepFailed naming the node, which was put back; the
        nodes after it are not changed, unless `every`: then the others are, and what failed is said afterwards. A file
        that another tool owns is not written: it must show the change already.
        """
        failures: list[GeoregError] = []
        for package in self.packages(*roles):
            try:
                blocks = changes(package) if callable(changes) else changes
                if self.is_manual(package.node):
                    _require_by_hand(package.node, blocks, differences(package))
                    continue
                edit = partial(gitlab_rb.edit, changes=blocks)
                package.change(f"{self.name}-{step}", edit, partial(differences, package), patience=patience)
            except GeoregError as error:
                error.node = error.node or package.node.name
                if not every:
                    raise
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            remedies = "; ".join(dict.fromkeys(error.remedy for error in failures if error.remedy))
            messages = "\n  ".join(f"{error.node}: {error.message}" for error in failures)
            raise StepFailed(messages, remedy=remedies, site=self.name)

    def leftovers(self) -> list[str]:
        """What runs that were killed left on the nodes and nobody needs once every step is done."""
        return [f"{name} on {package.node.name}" for package in self.packages() for name in package.leftovers()]

    def tidy(self) -> None:
        """Remove the leftovers."""
        for package in self.packages():
            package.tidy()

    def masked(self, text: str) -> str:
        """Text for a plan, without secrets."""
        redaction.register_from_gitlab_rb(text)
        return redaction.redact(text)

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Tell how far something on this site is."""
        self.observer.progress(self.name, text, fraction)

    def rest(self) -> None:
        """End what is kept open only while questions follow each other: the next one may come in an hour."""
        self._idle.close()

    def close(self) -> None:
        """End the connections to its nodes and its database. The next question makes them again."""
        self._idle.close()
        for node in self.nodes:
            node.close()

    def read_only_view(self) -> Site:
        """The same site, refusing every change."""
        view = copy.copy(self)
        view.readonly = True
        view.nodes = [node.read_only_view() for node in self.nodes]
        for name in ("gitlab", "registry"):  # the view makes its own, which refuse changes too
            view.__dict__.pop(name, None)
        return view


def _require_by_hand(node: Node, blocks: Mapping[str, str | None], left: list[str]) -> None:
    if left:
        what = " and ".join(
            f"{'remove' if body is None else 'set'} what is named {name}" for name, body in blocks.items()
        )
        raise StepFailed(
            f"another tool owns {gitlab_rb.PATH}, and {'; '.join(left)}",
            remedy=f"on {node.name}, {what} by that tool, reconfigure, and run this again",
            node=node.name,
        )


class Sites:
    """All sites of a run."""

    def __init__(self, primary: Site, secondaries: list[Site]) -> None:
        self.primary = primary
        self.secondaries = secondaries

    @property
    def all(self) -> list[Site]:
        """The primary first."""
        return [self.primary, *self.secondaries]

    def rest(self) -> None:
        """No question follows for now."""
        for site in self.all:
            site.rest()

    def close(self) -> None:
        """End the connections to all nodes."""
        for site in self.all:
            site.close()

    def read_only_view(self) -> Sites:
        """All sites, refusing every change."""
        view = Sites(self.primary.read_only_view(), [site.read_only_view() for site in self.secondaries])
        for site in view.all:
            site.sites = view
        return view


def open_sites(
    sites: SitesFile, options: ScenarioParameters, observer: Observer, scenario: str = "migrate-legacy"
) -> Sites:
    """The sites of a sites file. Contacts nothing."""
    opened = Sites(
        Site(sites.primary, "primary", options, observer, scenario),
        [Site(parameters, "secondary", options, observer, scenario) for parameters in sites.secondaries],
    )
    for site in opened.all:
        site.sites = opened
    return opened
