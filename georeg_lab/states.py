"""The starting states that a lab can be made in, as data: one for each starting point of the six scenarios, and those
between them. Source: procedures 1.2 and 1.4.

Every stand-in may import this: keep it cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from georeg_lab.layout import Lab

Registry = Literal["none", "empty", "legacy", "external", "bundled"]
"""What a site's registry is: not set up; without images; with images, in legacy metadata, in its own external database,
or in the database of the package's own PostgreSQL."""


@dataclass(frozen=True)
class State:
    """A starting state. `scenario`: the scenario that begins here. `geo`: Geo is set up and healthy; without it every
    other site is an instance of its own, just installed. `replication`: images are replicated (P4)."""

    name: str
    title: str
    scenario: str
    primary: Registry
    secondary: Registry
    geo: bool = True

    @property
    def images(self) -> bool:
        """The primary's registry holds images."""
        return self.primary not in ("none", "empty")

    @property
    def replication(self) -> bool:
        """Registry replication is set up, which takes a registry on every site."""
        return self.geo and self.images and self.secondary != "none"

    def registry(self, site: str) -> Registry:
        """What the registry of this site is."""
        return self.primary if site == "primary" else self.secondary


DEFAULT = "legacy"
_ALL = (
    State(DEFAULT, "Geo with registries on legacy metadata, replicating images", "05", "legacy", "legacy"),
    State("geo-no-registry", "Geo, and no registry on any site", "02", "none", "none"),
    State("geo-empty-registry", "Geo; the primary's registry has no image, no other registry", "02", "empty", "none"),
    State("migrated", "Geo; every registry on its own external database", "none", "external", "external"),
    State("migrated-primary", "Geo; the primary migrated, the secondary still legacy", "05", "external", "legacy"),
    State("migrated-secondary-new", "Geo; the primary migrated, no other registry yet", "none", "external", "none"),
    State("new-no-geo", "two new instances; the primary's registry has no image", "01", "empty", "none", geo=False),
    State("no-registry-no-geo", "an instance without registry, and a new one", "03", "none", "none", geo=False),
    State(
        "registry-no-geo", "a registry on its external database, and a new one", "04a", "external", "none", geo=False
    ),
    State("legacy-no-geo", "a registry on legacy metadata, and a new instance", "04a", "legacy", "none", geo=False),
    State("bundled-no-geo", "a registry on the default database, and a new one", "04b", "bundled", "none", geo=False),
)
STATES = {state.name: state for state in _ALL}


def of(lab: Lab) -> State:
    """The state that this lab was made in. Raises KeyError for one that only another version knows."""
    return STATES[str(lab.settings.get("state") or DEFAULT)]
