"""Where things are in the lab: folders, ports, and the command log. Every stand-in imports it: keep it cheap."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_DIR = ".lab"
DEFAULT_BASE_PORT = 18700
SITES = ("primary", "secondary")
GITLAB_VERSION = "18.7.7"


@dataclass(frozen=True)
class Ports:
    """The lab's TCP ports on 127.0.0.1, all below the ephemeral range so that no client connection takes one."""

    base: int = DEFAULT_BASE_PORT

    def _site(self, site: str) -> int:
        return self.base + 10 * SITES.index(site)

    def gitlab(self, site: str) -> int:
        """TLS port of `external_url`."""
        return self._site(site) + 1

    def registry(self, site: str) -> int:
        """TLS port of `registry_external_url`."""
        return self._site(site) + 2

    def registry_http(self, site: str) -> int:
        """Plain port of the registry process (127.0.0.1:5000 on a real node)."""
        return self._site(site) + 3

    def puma(self, site: str) -> int:
        """Plain port of the Rails stand-in."""
        return self._site(site) + 4

    def postgresql(self, site: str) -> int:
        """The main database: the primary's own, the secondary's streaming replica."""
        return self._site(site) + 5

    def geo_postgresql(self) -> int:
        """The secondary's tracking database."""
        return self._site("secondary") + 6

    def registry_database(self, site: str) -> int:
        """The site's external PostgreSQL for registry metadata."""
        return self.base + 21 + SITES.index(site)

    def all(self) -> list[int]:
        """Every port the lab listens on."""
        per_site = (self.gitlab, self.registry, self.registry_http, self.puma, self.postgresql, self.registry_database)
        return sorted([port(site) for site in SITES for port in per_site] + [self.geo_postgresql()])


@dataclass(frozen=True)
class Lab:
    """A lab on disk. `settings` is what `lab.json` holds beside the base port (e.g. `registry_binary`, `pg_bin`)."""

    dir: Path
    ports: Ports = field(default_factory=Ports)
    settings: dict[str, object] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Lab:
        """Read `<directory>/lab.json`. Raises FileNotFoundError where there is no lab."""
        data = json.loads((directory / "lab.json").read_text())
        return cls(directory.resolve(), Ports(int(data.pop("base_port"))), data)

    @classmethod
    def of_root(cls, root: Path) -> Lab:
        """The lab that the node with this root folder belongs to."""
        return cls.load(root.resolve().parent)

    @property
    def gitlab_version(self) -> str:
        """The release that the lab was made as."""
        return str(self.settings.get("gitlab_version") or GITLAB_VERSION)

    def save(self) -> None:
        """Write `lab.json`."""
        (self.dir / "lab.json").write_text(json.dumps({"base_port": self.ports.base, **self.settings}, indent=1) + "\n")

    def node_root(self, site: str) -> Path:
        """Root folder of the site's node: GitLab's absolute paths lie below it."""
        return self.dir / site

    @property
    def pki(self) -> Path:
        """Folder of the certificate authority and the certificates made with it (`ca.crt` is the authority's)."""
        return self.dir / "pki"

    @property
    def secrets(self) -> Path:
        """Folder (0700) with one file (0600) per secret that the parameters refer to."""
        return self.dir / "secrets"

    @property
    def databases(self) -> Path:
        """Folder with the data directories of the external registry databases."""
        return self.dir / "databases"


def inside(root: Path, path: str) -> Path:
    """The file on disk for a node's absolute path."""
    return root / path.lstrip("/")


def root_from_environment() -> Path:
    """Root of the node that a stand-in runs on: `--root DIR` in its arguments (removed), else GEOREG_NODE_ROOT."""
    if "--root" in sys.argv:
        at = sys.argv.index("--root")
        root = sys.argv[at + 1]
        del sys.argv[at : at + 2]
        return Path(root)
    return Path(os.environ["GEOREG_NODE_ROOT"])


def log_command(root: Path, argv: Sequence[str]) -> None:
    """Append one line to the lab's command log: what was called on which node."""
    line = json.dumps({"time": time.time(), "node": root.name, "argv": list(argv)}) + "\n"
    with (root.parent / "commands.jsonl").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.write(line)
