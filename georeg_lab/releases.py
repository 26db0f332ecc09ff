"""The releases of GitLab that a lab can be made as, and what of each is not a matter of the package's own profile.

The package: `omnibus/profiles.py`. The registry program: `registry/release.py`. Every stand-in imports this: keep it
cheap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from georeg_lab.layout import GITLAB_VERSION, inside

VERSION_MANIFEST = "/opt/gitlab/version-manifest.txt"


@dataclass(frozen=True)
class Release:
    """`gitlab`: the patch release whose packaging was recorded. `registry`: the one in that package (procedures 3.1).

    What concerns Rails is split as the two copies that were read are, newest and older (rails); where the border lies
    is a guess, said in docs/stand-ins.md.
    """

    gitlab: str
    registry: str
    older_reports: bool = False  # geo:status in its older form, and only below `geo:`
    older_sync: bool = False  # rails 2, item 9
    hidden_fields: frozenset[str] = frozenset()  # of GraphQL's ContainerRepositoryRegistry


RELEASES = {
    "17.5": Release(
        "17.5.5",
        "v4.10.0-gitlab",
        older_reports=True,
        older_sync=True,
        hidden_fields=frozenset({"modelRecordId", "verificationFailure", "verificationStartedAt", "missingOnPrimary"}),
    ),
    "18.2": Release("18.2.8", "v4.24.0-gitlab", older_sync=True),
    "18.5": Release("18.5.5", "v4.28.0-gitlab"),
    "18.7": Release("18.7.7", "v4.32.0-gitlab"),
    "19.1": Release("19.1.6", "v4.40.1-gitlab"),
}


def release(version: str) -> Release:
    """The release of `18.7`, `18.7.7` or `18.7.7-ee`. Raises ValueError for one that the lab cannot be made as."""
    line = ".".join(re.findall(r"\d+", version)[:2])
    if line not in RELEASES:
        raise ValueError(f"GitLab {version} is not one of {', '.join(RELEASES)}")
    return RELEASES[line]


def installed(root: Path) -> str:
    """Version of the package on the node with this root folder, e.g. `18.7.7`."""
    manifest = inside(root, VERSION_MANIFEST)
    return manifest.read_text().split()[1] if manifest.exists() else GITLAB_VERSION


def of_node(root: Path) -> Release:
    """The release that is installed on a node; the default one where its version was written by hand."""
    try:
        return release(installed(root))
    except ValueError:
        return release(GITLAB_VERSION)
