"""A host of a site, as checks and steps see it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from georeg_nb import readers
from georeg_nb.errors import CommandFailed, ReadOnlySite
from georeg_nb.nodes import jobs
from georeg_nb.nodes.jobs import Job
from georeg_nb.nodes.master import Master, SshTarget
from georeg_nb.nodes.ssh import SshTransport
from georeg_nb.nodes.transport import LocalTransport, Result, Transport
from georeg_nb.parameters import NodeParameters

Observer = Callable[[dict[str, Any]], object]


class Node:
    """One host with its roles (rails, sidekiq, registry, postgres).

    `on_command` is told of every command, job start and file change, as a dictionary: time, node, kind, argv or path,
    and status and seconds where there are any. `readonly` nodes refuse whatever changes something.
    """

    def __init__(
        self, name: str, roles: Iterable[str], transport: Transport, *, on_command: Observer | None = None
    ) -> None:
        self.name = name
        self.roles = frozenset(roles)
        self.transport = transport
        self.on_command = on_command
        self.readonly = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{' read-only' if self.readonly else ''}>"

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        stdin: str | bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command that only reads and wait for it.

        Raises NotAReader when it is not in `readers.READERS`, CommandTimeout after `timeout` seconds, and, with
        `check`, CommandFailed when it ends with a status other than 0.
        """
        readers.require(argv, stdin=stdin is not None)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        started = time.time()
        try:
            raw = self.transport.run(self.transport.command(argv), stdin=data, timeout=timeout, env=env)
        except BaseException as error:
            self._tell("read", argv=list(argv), seconds=time.time() - started, error=type(error).__name__)
            raise
        result = Result(tuple(argv), raw.status, raw.stdout, raw.stderr)
        self._tell("read", argv=list(argv), status=result.status, seconds=round(time.time() - started, 3))
        if check and result.status != 0:
            raise CommandFailed(argv, result.status, result.stdout, result.stderr, node=self.name)
        return result

    def read_file(self, path: str) -> bytes:
        """Content of a file. Raises NodeFileMissing."""
        return self.transport.read(path)

    def exists(self, path: str) -> bool:
        """Is there anything (also a dangling link) at `path`?"""
        return self.transport.exists(path)

    def list_dir(self, path: str) -> list[str]:
        """Names in a folder, sorted. Raises NodeFileMissing."""
        return self.transport.list_dir(path)

    def write_file(self, path: str, data: bytes, *, mode: int = 0o600, owner: str | None = None) -> None:
        """Replace a file in one step; a reader sees the old or the new content, never a part.

        An existing file keeps its mode and owner unless `owner` ("user" or "user:group") is given; `mode` is for a new
        one. Missing folders are made (0700).
        """
        self._must_be_writable(f"write {path}")
        self.transport.write(path, data, mode=mode, owner=owner, exclusive=False)
        self._tell("write", path=path, bytes=len(data))

    def create_file(self, path: str, data: bytes, *, mode: int = 0o600) -> bool:
        """Make a file unless there is one: of several that try at once, exactly one gets True. For locks."""
        self._must_be_writable(f"write {path}")
        created = self.transport.write(path, data, mode=mode, owner=None, exclusive=True)
        self._tell("create", path=path, bytes=len(data), created=created)
        return created

    def remove_file(self, path: str) -> None:
        """Remove a file; none there is fine."""
        self._must_be_writable(f"remove {path}")
        self.transport.remove(path)
        self._tell("remove", path=path)

    def start_job(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        private: bool = False,
    ) -> Job:
        """Start a detached command; if one of that name is running, return that one. See `jobs.start` and `Job`."""
        self._must_be_writable(f"start {' '.join(argv)}")
        job = jobs.start(self.transport, name, argv, stdin=stdin, env=env, cwd=cwd, private=private)
        self._tell("job", argv=list(argv), job=name, generation=job.generation)
        return job

    def job(self, name: str) -> Job | None:
        """The newest start of the job of that name, if there is one. Only looks."""
        found = jobs.look(self.transport, name, self.readonly)
        return found[0] if found else None

    def jobs(self) -> list[Job]:
        """Every job that the node knows of, running or ended."""
        return jobs.look(self.transport, readonly=self.readonly)

    @property
    def route(self) -> Callable[[str, int], tuple[str, int]] | None:
        """What leads to a host and port as this node reaches them; None where this machine is the node."""
        return self.transport.route

    def close(self) -> None:
        """End the connection to it, if there is one. The next use makes another."""
        self.transport.close()

    def read_only_view(self) -> Node:
        """The same node, refusing every change with ReadOnlySite."""
        view = copy.copy(self)
        view.readonly = True
        return view

    def _must_be_writable(self, what: str) -> None:
        if self.readonly:
            raise ReadOnlySite(f"a check or a plan tried to {what}", node=self.name)

    def _tell(self, kind: str, **facts: Any) -> None:
        if self.on_command:
            self.on_command({"time": time.time(), "node": self.name, "kind": kind, **facts})


class LocalNode(Node):
    """This machine as a node. With `root`, all of the node lies below that folder: several nodes on one machine."""

    def __init__(
        self, name: str, roles: Iterable[str], root: Path | None = None, *, on_command: Observer | None = None
    ) -> None:
        super().__init__(name, roles, LocalTransport(name, root), on_command=on_command)
        self.root = root


class SshNode(Node):
    """A host reached by the user's own OpenSSH client. `root`: as for LocalNode, a folder on that host."""

    def __init__(
        self,
        name: str,
        roles: Iterable[str],
        target: SshTarget,
        *,
        sudo: bool = False,
        root: Path | None = None,
        on_command: Observer | None = None,
    ) -> None:
        transport = SshTransport(name, Master(name, target), sudo=sudo, root=str(root or ""))
        super().__init__(name, roles, transport, on_command=on_command)
        self.root = root


def node_of(parameters: NodeParameters, on_command: Observer | None = None) -> Node:
    """A node as the sites file describes it. Contacts nothing."""
    p = parameters
    if p.connection == "local":
        return LocalNode(p.name, p.roles, p.root, on_command=on_command)
    target = SshTarget(p.host or p.name, p.user, p.port, p.ssh_config)
    return SshNode(p.name, p.roles, target, sudo=p.sudo, root=p.root, on_command=on_command)
