"""The two rehearsal sites as a whole: up, down, reset, status. `LabSites` is also the interface for tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from georeg_lab import sshd, states
from georeg_lab.layout import DEFAULT_BASE_PORT, Lab, Ports, inside
from georeg_lab.omnibus import services
from georeg_lab.pki import Authority
from georeg_lab.postgres import EPHEMERAL_START, find_bin_dir, port_is_free
from georeg_lab.registry_client import RegistryClient, RegistryError
from georeg_lab.sites import databases, migrating, node_files, parameters, pristine, processes, seeding
from georeg_lab.sites.node_files import Secrets
from georeg_lab.sites.settings import LabError, refuse_another, settings_of

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """One row of the lab's status. `site` is the node: a site's name, or that of a further registry node; `port` 0: it
    listens nowhere."""

    site: str
    name: str
    running: bool
    port: int = 0


@dataclass
class LabSites:
    """A lab on disk and its running processes."""

    lab: Lab
    progress: Progress = field(default=lambda _: None, repr=False)

    @classmethod
    def at(cls, directory: Path, progress: Progress = lambda _: None) -> LabSites:
        """The lab in this folder. Raises LabError where there is none."""
        try:
            return cls(Lab.load(directory), progress)
        except FileNotFoundError:
            raise LabError(f"There is no lab in {directory}. `georeg lab up --dir {directory}` makes one.") from None

    @classmethod
    def up(
        cls,
        directory: Path,
        base_port: int | None = None,
        *,
        secondaries: int | None = None,
        registry_nodes: Mapping[str, int] | None = None,
        registry_binary: Path | None = None,
        pg_bin: Path | None = None,
        gitlab_version: str | None = None,
        tags: int | None = None,
        ssh: bool = False,
        state: str | None = None,
        keep_on_failure: bool = False,
        progress: Progress = lambda _: None,
    ) -> LabSites:
        """Make the lab, or start the one that is there; nothing happens when it runs. Whatever fails or interrupts the
        making of a new lab removes it again, unless `keep_on_failure`. Raises LabError.

        `state` is one of `states.STATES`; `secondaries` is their number, 1 unless given; `registry_nodes` has for a
        site the number of its registry nodes, where there is more than one; `tags` is the number of tags in the largest
        repository of a new lab; `ssh` puts a real SSH server before each node, and a jump host before them all."""
        directory = directory.resolve()
        wanted = settings_of(
            secondaries=secondaries,
            registry_nodes=registry_nodes,
            registry_binary=registry_binary,
            pg_bin=pg_bin,
            gitlab_version=gitlab_version,
            tags=tags,
            ssh=ssh,
            state=state,
        )
        if (directory / "lab.json").exists():
            lab = Lab.load(directory)
            refuse_another(lab, base_port, wanted, sized=bool(secondaries or registry_nodes))
            sites = cls(lab, progress)
            if sites.complete:
                sites.start()
                return sites
            progress("an unfinished lab is removed")
            sites.down(purge=True)
        elif directory.exists() and any(directory.iterdir()):
            raise LabError(f"{directory} exists and is no lab; name another folder with --dir.")
        sites = cls(Lab(directory, Ports(base_port or DEFAULT_BASE_PORT), wanted), progress)
        sites._make(keep_on_failure)
        return sites

    @property
    def complete(self) -> bool:
        """Whether `up` has once gone through to its end."""
        return pristine.exists(self.lab.dir)

    def _make(self, keep_on_failure: bool) -> None:
        self._refuse_taken_ports()
        self.lab.dir.mkdir(mode=0o711, parents=True, exist_ok=True)  # config.yml holds secrets and is 0644
        before = set(threading.enumerate())
        try:
            with self._locked():
                self._build()
        except BaseException:
            if keep_on_failure:
                self.progress(f"failed; what there is stays in {self.lab.dir}")
            else:
                self.progress("stopping and removing what was made so far")
                _await_threads(before)
                self.down(purge=True)
            raise

    def _build(self) -> None:
        lab, state = self.lab, states.of(self.lab)
        lab.save()
        if lab.ssh:
            self.ssh_servers.create()
        Authority(lab.pki)
        shared = node_files.Shared()
        for site in lab.sites:
            node_files.write_site(lab, site, shared if state.geo else node_files.Shared(fast_lookup=False))
        (lab.dir / "sites.yml").write_text(parameters.sites_file(lab))
        self.progress(f"PostgreSQL from {find_bin_dir(_text(lab.settings.get('pg_bin')))}: creating clusters")
        with ThreadPoolExecutor() as pool:
            storage = pool.submit(seeding.seed_storage, lab)
            databases.create(lab)
            self.progress("main and tracking database: tables and records")
            repositories = seeding.seed_main(lab)
            seeding.seed_tracking(lab, repositories)
            if state.geo:
                self.progress(f"main database of {' and '.join(lab.secondaries)}: streaming replica")
            databases.replicate(lab)
            storage.result()
        for cluster in databases.supervised_clusters(lab):
            cluster.stop()  # their nodes supervise them from here on
        self.progress("gitlab-ctl reconfigure on every node")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: self.run(node, "gitlab-ctl", "reconfigure"), lab.nodes))
        self.ssh_servers.start()
        self._require_running()
        try:
            if state.images:
                self.progress("replication: pushing images to the primary")
                replicas = lab.secondaries if state.replication else []
                secondaries = {site: self.registry_client(site) for site in replicas}
                seeding.prove_replication(self.registry_client("primary"), secondaries, self.progress)
            seeding.wait_until_verified(lab)
            migrating.use_databases(lab, self.run, self.progress)
            seeding.wait_until_verified(lab)
        except (RegistryError, OSError, TimeoutError) as problem:
            raise LabError(f"What the primary holds does not reach every secondary: {problem}") from problem
        self.progress("keeping a pristine copy")
        self._stop()
        pristine.keep(lab.dir, self._kept)
        self._start()

    @property
    def _kept(self) -> list[str]:
        return [*self.lab.nodes, "databases"]

    def start(self) -> None:
        """Start what does not run. Raises LabError when a port that is needed is taken by something else."""
        if all(service.running for service in self.status()):
            self.progress("the lab is already running")
            return
        with self._locked():
            self._refuse_taken_ports()
            self.progress("starting the lab")
            self._start()

    def down(self, *, purge: bool = False) -> None:
        """Stop everything, also what is half started or was left by an abrupt end; `purge` removes the folder too."""
        if not self.lab.dir.exists():
            return
        with self._locked():
            self._stop()
            if purge:
                subprocess.run(["rm", "-rf", "--", str(self.lab.dir)], check=True)

    def keep(self, copy: str) -> None:
        """Keep the present state under a name, for `reset`; the sites are stopped meanwhile."""
        with self._locked():
            self._stop()
            pristine.keep(self.lab.dir, self._kept, copy)
            self._start()

    def reset(self, copy: str = pristine.PRISTINE) -> None:
        """Bring back the state right after the first `up`, or one that was kept, running. Raises LabError for an
        unfinished lab."""
        if not self.complete:
            raise LabError("The lab was never completed: there is no pristine copy. Use `down --purge` and `up`.")
        with self._locked():
            self._stop()
            pristine.restore(self.lab.dir, self._kept, copy)
            (self.lab.dir / "commands.jsonl").unlink(missing_ok=True)
            self._refuse_taken_ports()
            self._start()

    def status(self) -> list[Service]:
        """Every enabled service of every node, and the external databases."""
        rows = []
        for node in self.lab.nodes:
            root = self.lab.node_root(node)
            ports = self._ports_by_service(node)
            for name in services.names(root):
                if not services.enabled(root, name):
                    continue
                rows.append(Service(node, name, services.status(root, name).pid is not None, ports.get(name, 0)))
        for site, cluster in zip(self.lab.sites, databases.external_clusters(self.lab), strict=True):
            rows.append(Service(site, "external registry database", cluster.pid() is not None, cluster.port))
        for name, server in self.ssh_servers.servers.items():
            rows.append(Service(name, "sshd", server.pid() is not None, server.port))
        return rows

    @cached_property
    def ssh_servers(self) -> sshd.SshServers:
        """The SSH servers: the jump host's, and one for each node."""
        names = [sshd.JUMP, *map(self.lab.node_name, self.lab.nodes)] if self.lab.ssh else []
        ports = {name: self.lab.ports.ssh(number) for number, name in enumerate(names)}
        return sshd.SshServers(self.lab.ssh_folder, ports, sudo=self.lab.ssh == "sudo")

    def run(self, node: str, program: str, *arguments: str, timeout: float = 120) -> str:
        """Run one of a node's programs (`gitlab-ctl`, …); its output. Raises LabError with the output's end."""
        root = self.lab.node_root(node)
        path = next(inside(root, f"/{path}") for path in node_files.PROGRAMS if path.endswith(f"/{program}"))
        command = [str(path), *arguments]
        environment = {**os.environ, "GEOREG_NODE_ROOT": str(root)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=root, env=environment, timeout=timeout
        )
        if done.returncode:
            output = (done.stdout + done.stderr).strip()[-3000:]
            raise LabError(f"{node}: `{program} {' '.join(arguments)}` ended with {done.returncode}:\n{output}")
        return done.stdout

    def registry_client(self, site: str, node: str = "") -> RegistryClient:
        """A client of the site's registry, as root; with `node`, of that node's own, past the load balancer."""
        ports = self.lab.ports
        return RegistryClient(
            f"https://127.0.0.1:{ports.gitlab(site)}",
            f"http://127.0.0.1:{ports.registry_http(node)}" if node else f"https://127.0.0.1:{ports.registry(site)}",
            self.lab.pki / "ca.crt",
            token=Secrets(self.lab.secrets).gitlab_token,
        )

    def metadata_dsn(self, site: str) -> str:
        """libpq connection string of the site's external registry database, as its owner."""
        port, password = self.lab.ports.registry_database(site), Secrets(self.lab.secrets).registry_database(site)
        ca = self.lab.pki / "ca.crt"
        return (
            f"host=127.0.0.1 port={port} dbname=registry user=registry password={password}"
            f" sslmode=verify-full sslrootcert={ca}"
        )

    def storage(self, site: str) -> Path:
        """Root directory of the site's registry storage."""
        return inside(self.lab.node_root(site), node_files.STORAGE)

    @property
    def sites_file(self) -> Path:
        """The inventory that `up` wrote."""
        return self.lab.dir / "sites.yml"

    def _start(self) -> None:
        with ThreadPoolExecutor() as pool:
            external = pool.map(lambda cluster: cluster.start(), databases.external_clusters(self.lab))
            list(pool.map(lambda node: self.run(node, "gitlab-ctl", "start"), self.lab.nodes))
            list(external)
        self.ssh_servers.start()
        self._require_running()

    def _require_running(self) -> None:
        """Raises LabError with the end of the log of each service that is down."""
        texts = []
        for service in self.status():
            if not service.running:
                log = inside(self.lab.node_root(service.site), f"/var/log/gitlab/{service.name}/current")
                tail = log.read_text(errors="replace")[-1500:] if log.exists() else ""
                texts.append(f"{service.site}: {service.name} does not run\n{tail}")
        if texts:
            raise LabError("\n".join(texts))

    def _stop(self) -> None:
        self.ssh_servers.stop()
        roots = [self.lab.node_root(node) for node in self.lab.nodes]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_stop_all_but_databases, roots))
        for root in roots:  # the primary's database before its replicas, which so receive everything
            services.stop(root, [name for name in services.names(root) if name in services.DATABASES])
        for cluster in databases.all_clusters(self.lab):
            cluster.stop()
        processes.end(self.lab)

    def _ports_by_service(self, node: str) -> dict[str, int]:
        ports = self.lab.ports
        if node not in self.lab.sites:
            return {"registry": ports.registry_http(node)}
        return {
            "registry": ports.registry_http(node),
            "puma": ports.puma(node),
            "nginx": ports.gitlab(node),
            "postgresql": ports.postgresql(node),
            "geo-postgresql": ports.geo_postgresql(node),
        }

    def _refuse_taken_ports(self) -> None:
        ours = {service.port for service in (self.status() if self.lab.dir.exists() else ()) if service.running}
        base, needed = self.lab.ports.base, self.lab.all_ports()
        highest = EPHEMERAL_START - max(30, needed[-1] - base + 1)
        if not 1024 <= base < highest:
            raise LabError(f"Base port {base} is not between 1024 and {highest}.")
        for site in self.lab.sites:  # nginx listens on two
            if self.lab.ports.gitlab(site) in ours:
                ours.add(self.lab.ports.registry(site))
        taken = [port for port in needed if port not in ours and not port_is_free(port)]
        if taken:
            names = ", ".join(map(str, taken))
            raise LabError(
                f"The lab needs 127.0.0.1 ports that something else listens on: {names}. End that, or take other ports "
                f"with --base-port (e.g. --base-port {base + 100})."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.lab.dir / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"Another `georeg lab` command is working on {self.lab.dir}.") from None
            yield


def _await_threads(before: set[threading.Thread]) -> None:
    """Wait for every thread begun since then. An executor forgets the one in whose start it was interrupted (the
    signal comes between its beginning and the note of it), and would go on without it."""
    for thread in set(threading.enumerate()) - before:
        while thread in threading.enumerate() and not thread.is_alive():
            time.sleep(0.01)  # not begun yet: it cannot be joined
        if thread.is_alive():
            thread.join()


def _stop_all_but_databases(root: Path) -> None:
    services.stop(root, [name for name in services.names(root) if name not in services.DATABASES])


def _text(value: Any) -> str | None:
    return str(value) if value else None
