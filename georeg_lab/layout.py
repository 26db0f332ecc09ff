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
SITES = ("primary", "secondary")  # of a lab that was not grown
REGISTRY_NODE = "-registry-"
MOST_SECONDARIES, MOST_REGISTRY_NODES = 8, 4  # as many as there are ports for
MANY_TAGS = 1000
GITLAB_VERSION = "18.7.7"
FAULTS = "faults"  # folder of a lab with what the way back from each fault needs


@dataclass(frozen=True)
class Ports:
    """The lab's TCP ports on 127.0.0.1, all below the ephemeral range so that no client connection takes one."""

    base: int = DEFAULT_BASE_PORT

    def _site(self, site: str) -> int:
        """First port of a site. The ten behind the secondary's are those of the databases that no node supervises."""
        number = _number(site)
        return self.base + 10 * (number if number < 2 else number + 1)

    def gitlab(self, site: str) -> int:
        """TLS port of `external_url`."""
        return self._site(site) + 1

    def registry(self, site: str) -> int:
        """TLS port of `registry_external_url`."""
        return self._site(site) + 2

    def registry_http(self, node: str) -> int:
        """Plain port of the registry process (127.0.0.1:5000 on a real node)."""
        site, _, number = node.partition(REGISTRY_NODE)
        return self._site(site) + (5 + int(number) if number else 3)

    def puma(self, site: str) -> int:
        """Plain port of the Rails stand-in."""
        return self._site(site) + 4

    def postgresql(self, site: str) -> int:
        """The main database: the primary's own, a secondary's streaming replica."""
        return self._site(site) + 5

    def geo_postgresql(self, site: str = "secondary") -> int:
        """A secondary's tracking database."""
        return self._site(site) + 6

    def registry_database(self, site: str) -> int:
        """The site's external PostgreSQL for registry metadata."""
        return self.base + 21 + _number(site)

    def ssh(self, number: int) -> int:
        """SSH server of the jump host (0) or of a node (from 1)."""
        return self.base + 10 * (MOST_SECONDARIES + 3) + number

    def all(self, sites: Sequence[str] = SITES, more_registries: Sequence[str] = ()) -> list[int]:
        """Every port that a lab of these sites and additional registry nodes listens on."""
        per_site = (self.gitlab, self.registry, self.registry_http, self.puma, self.postgresql, self.registry_database)
        found = [port(site) for site in sites for port in per_site]
        found += [self.geo_postgresql(site) for site in sites if site != "primary"]
        return sorted(found + [self.registry_http(node) for node in more_registries])


def _number(site: str) -> int:
    """0 for the primary, 1 for the secondary, then the number in the name."""
    return SITES.index(site) if site in SITES else int(site.rpartition("-")[2])


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

    @property
    def tags(self) -> int:
        """How many tags the largest repository was seeded with."""
        return int(str(self.settings.get("tags") or MANY_TAGS))

    def save(self) -> None:
        """Write `lab.json`."""
        (self.dir / "lab.json").write_text(json.dumps({"base_port": self.ports.base, **self.settings}, indent=1) + "\n")

    @property
    def secondaries(self) -> list[str]:
        """Names of the secondaries: secondary, secondary-2, …"""
        count = int(str(self.settings.get("secondaries", 1)))
        return ["secondary", *(f"secondary-{number}" for number in range(2, count + 1))]

    @property
    def sites(self) -> list[str]:
        """Names of the sites, the primary first."""
        return ["primary", *self.secondaries]

    def registry_nodes(self, site: str) -> list[str]:
        """The site's nodes with a registry: its main node, which has all roles, then those that have no other."""
        counts = self.settings.get("registry_nodes")
        count = int(counts.get(site, 1)) if isinstance(counts, dict) else 1
        return [site, *(f"{site}{REGISTRY_NODE}{number}" for number in range(2, count + 1))]

    @property
    def nodes(self) -> list[str]:
        """Every node, by the name of its root folder; a site's main node has the site's name."""
        return [node for site in self.sites for node in self.registry_nodes(site)]

    def all_ports(self) -> list[int]:
        """Every port that the lab listens on."""
        found = self.ports.all(self.sites, [node for node in self.nodes if REGISTRY_NODE in node])
        return found + [self.ports.ssh(number) for number in range(len(self.nodes) + 1 if self.ssh else 0)]

    @property
    def ssh(self) -> str:
        """How nodes are logged in to over SSH: `direct` or `sudo`; empty where they are this machine's folders."""
        return str(self.settings.get("ssh") or "")

    @property
    def ssh_folder(self) -> Path:
        """Keys and configurations of the SSH servers; `ssh_config` is for clients."""
        return self.dir / "ssh"

    def node_name(self, node: str) -> str:
        """Its name in the sites file, and over SSH."""
        return f"{node}-node" if node in self.sites else node

    def node_root(self, node: str) -> Path:
        """Root folder of a node (of a site's main node: the site): GitLab's absolute paths lie below it."""
        return self.dir / node

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
