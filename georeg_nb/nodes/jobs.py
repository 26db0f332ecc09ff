"""Detached jobs: every command that changes a node is one.

A job runs in a session of its own below a small waiting shell (job.sh), so it outlives this process, the kernel, the
browser and the connection. Its folder on the node says what it is, how far it is, and how it ended; any later run
finds it by its name. See job.sh for the files and for what makes a start unique.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Literal, cast

from georeg_nb.errors import (
    CommandFailed,
    CommandTimeout,
    ConnectionLost,
    GeoregError,
    JobLost,
    JobOutOfReach,
    NodeFileMissing,
    NodeUnreachable,
    ReadOnlySite,
    StepFailed,
    Unreachable,
)
from georeg_nb.nodes.transport import Transport

JOBS = "/var/lib/georeg/jobs"
SHELL = resources.files("georeg_nb.nodes").joinpath("job.sh").read_text()
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

RECONNECT_SECONDS = 120.0
"""How long a job whose node cannot be reached is waited for: it goes on without us."""

State = Literal["running", "exited", "lost"]


@dataclass(frozen=True)
class Job:
    """One start of a detached command, as it was when looked at; `refresh` looks again.

    `state`: running; exited (`status` is its exit status); lost (no status: the node was restarted or the job killed).
    `private`: its output may hold secrets, so it is forgotten as soon as it has been read to its end.
    """

    name: str
    argv: tuple[str, ...]
    state: State
    status: int | None
    started_at: datetime | None
    generation: int
    pid: int | None
    transport: Transport = field(repr=False, compare=False)
    readonly: bool = field(default=False, repr=False, compare=False)
    private: bool = field(default=False, compare=False)

    @property
    def folder(self) -> str:
        """Where the node keeps this start's files."""
        return f"{JOBS}/{self.name}/{self.generation}"

    def output(self, offset: int = 0) -> bytes:
        """What it has written so far, both streams as they came, from byte `offset` on."""
        return self._read("output", offset)

    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._read("stderr").decode(errors="replace")

    def refresh(self) -> Job:
        """The same start, looked at again. Raises JobLost when its folder is gone or a newer start took its place."""
        for found in look(self.transport, self.name, self.readonly):
            if found.generation == self.generation:
                return found
        raise JobLost(
            f"job {self.name} is no longer on the node", remedy="run again: the site's state decides what is left to do"
        )

    def wait(
        self, timeout: float | None = None, on_output: Callable[[str], object] | None = None, poll: float = 0.5
    ) -> Job:
        """Follow it to its end and return how it ended. New output is given to `on_output` as text, as it comes.

        Raises CommandTimeout after `timeout` seconds: the job goes on, and is found again by its name.
        An interrupt (Ctrl-C) leaves it running as well; so does a connection that breaks: it is made again, and only
        when that fails for RECONNECT_SECONDS JobOutOfReach is raised, which is a CommandTimeout too.
        """
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        offset, job, heard = 0, self, began
        while True:
            try:
                job = job.refresh()
                data = job.output(offset) if on_output else b""
            except Unreachable as error:
                passing = isinstance(error, ConnectionLost | NodeUnreachable)
                if not passing or time.monotonic() - heard > RECONNECT_SECONDS:
                    raise _out_of_reach(self.name, self.argv, error) from None
                time.sleep(1)
                continue
            heard = time.monotonic()
            if on_output:
                offset += len(data)
                if text := decoder.decode(data, final=job.state != "running"):
                    on_output(text)
            if job.state != "running":
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise CommandTimeout(
                    self.argv,
                    timeout or 0,
                    remedy=f"job {self.name} goes on by itself; run again to follow it",
                    node=self._node,
                )
            time.sleep(
                min(poll, max(0.05, (time.monotonic() - began) / 10))
            )  # a tenth of it is waited too long at most

    def check(self) -> Job:
        """Itself, if it ended with status 0. Raises CommandFailed, or JobLost."""
        if self.state == "exited" and self.status != 0:
            output = self.output().decode(errors="replace")
            raise CommandFailed(self.argv, self.status or 0, output, self.stderr() or output, node=self._node)
        if self.state == "lost":
            raise JobLost(
                f"job {self.name} (`{' '.join(self.argv)}`) ended without leaving its exit status: "
                "the node was restarted, or the job was killed",
                remedy="run the section again: it looks at the site, and plans what is not done",
                node=self._node,
            )
        return self

    def forget(self) -> None:
        """Remove the files of an ended job, so that its name is free. A running one is refused (StepFailed)."""
        if self.readonly:
            raise ReadOnlySite(f"a check tried to remove job {self.name}")
        job = self.refresh()
        if job.state == "running":
            raise StepFailed(f"job {self.name} is still running", node=self._node)
        # the empty folder stays: its number must never be used again while another starter may still believe in it
        self.transport.write(f"{self.folder}/forgotten", b"", mode=0o600, owner=None, exclusive=False)
        for name in ("description", "output", "stderr", "errors", "pid", "boot_id", "started", "exit"):
            self.transport.remove(f"{self.folder}/{name}")

    @property
    def _node(self) -> str:
        return str(getattr(self.transport, "node", ""))

    def _read(self, name: str, offset: int = 0) -> bytes:
        try:
            return self.transport.read(f"{self.folder}/{name}", offset)
        except NodeFileMissing:
            return b""


def look(transport: Transport, name: str | None = None, readonly: bool = False) -> list[Job]:
    """The newest start of every job on the node (or of the one named), those that were forgotten left out."""
    arguments = [transport.path(JOBS)] + ([checked(name)] if name else [])
    result = transport.run(["sh", "-c", SHELL, "georeg-job", "look", *arguments])
    if result.status != 0:
        raise ConnectionLost(
            f"the jobs cannot be listed: {result.stderr.strip()}", node=str(getattr(transport, "node", ""))
        )
    jobs = []
    for line in result.stdout.splitlines():
        job_name, generation, state, status, started, pid = line.split(" ")
        if state != "forgotten":
            jobs.append(_job(transport, job_name, int(generation), state, status, started, pid, readonly))
    return jobs


def start(
    transport: Transport,
    name: str,
    argv: Sequence[str],
    *,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    private: bool = False,
) -> Job:
    """Start a detached command, unless one of that name is running: then return that one. An ended one is replaced.

    `stdin` is text without NUL; secrets go there, because arguments and variables are visible on the node.
    Raises CommandFailed when the node could not start it, ConnectionLost when the input did not arrive in full, and
    JobOutOfReach when the connection broke so that nobody knows whether it was started.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    if b"\0" in data:
        raise ValueError("the input of a job is text: it must not contain NUL")
    present = _newest_generation(transport, checked(name))
    running = [job for job in look(transport, name) if job.state == "running"]
    if running:
        return running[0]
    description = json.dumps({"argv": list(argv), "cwd": cwd or "/", "private": private})
    variables = [f"{key}={value}" for key, value in {**transport.environment(), **(env or {})}.items()]
    folder, working = transport.path(JOBS), transport.path(cwd or "/")
    unit = "" if transport.environment() else " ".join(systemd_options(name))  # a node below a folder is no machine
    launch = ["sh", "-c", SHELL, "georeg-job", "launch", SHELL, unit, folder, name]
    launch += [str(present + 1), str(len(data)), working]
    command = [*launch, description, *variables, "--", *transport.command(argv)]
    try:
        result = transport.run(command, stdin=data, changes=True)
    except ConnectionLost:  # started or not: asked again with the same number, which only one start can ever have
        try:
            result = transport.run(command, stdin=data, changes=True)
        except Unreachable as error:
            raise _out_of_reach(name, argv, error) from None
    answer = result.stdout.strip()
    if answer == "incomplete":
        raise ConnectionLost(f"job {name} was not started: its input did not arrive", remedy="run again")
    if answer not in ("started", "taken"):
        raise CommandFailed(
            argv, result.status, result.stdout, result.stderr, remedy=f"is {JOBS} writable on the node?"
        )
    try:
        found = look(transport, name)  # taken: another starter was first, and its job is the one that runs
    except Unreachable as error:
        raise _out_of_reach(name, argv, error) from None
    if not found:
        raise JobLost(f"job {name} vanished right after its start", remedy="run again")
    return found[0]


def _out_of_reach(name: str, argv: Sequence[str], error: GeoregError) -> JobOutOfReach:
    remedy = f"job {name} goes on by itself if its node lives; when it can be reached, run again to follow it"
    return JobOutOfReach(argv, error, remedy=remedy, node=error.node)


def systemd_options(name: str) -> list[str]:
    """Options of the `systemd-run` that starts a job where systemd runs: no session's end, and no sshd's, ends it.

    The unit is named after the job, so that systemd itself refuses a second one; it is gone when the job has ended
    (--collect). What the command leaves running stays, as it does without systemd (KillMode=process: the default would
    end it). No property that the oldest supported release, systemd 239, does not know. Source: systemd-run(1),
    systemd.kill(5).
    """
    unit = f"--unit=georeg-{checked(name)}.service"
    return ["--quiet", "--no-ask-password", "--collect", unit, "--property=KillMode=process"]


def checked(name: str) -> str:
    """A job name that is safe as a folder's name. Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"not a name for a job: {name!r}")
    return name


def _newest_generation(transport: Transport, name: str) -> int:
    try:
        names = transport.list_dir(f"{JOBS}/{name}")
    except NodeFileMissing:
        return 0
    return max((int(text) for text in names if text.isdigit()), default=0)


def _job(
    transport: Transport, name: str, generation: int, state: str, status: str, started: str, pid: str, readonly: bool
) -> Job:
    job = Job(
        name=name,
        argv=(),
        state=cast(State, state),
        status=int(status) if status.isdigit() else None,
        started_at=datetime.fromtimestamp(int(started), UTC) if started.isdigit() else None,
        generation=generation,
        pid=int(pid) if pid.isdigit() else None,
        transport=transport,
        readonly=readonly,
    )
    if state == "exited" and job.status is None:  # the disk was full, or power failed before it was written
        job = replace(job, state="lost")
    try:
        description = json.loads(transport.read(f"{job.folder}/description"))
    except (NodeFileMissing, ValueError):
        return job
    return replace(job, argv=tuple(description["argv"]), private=bool(description.get("private")))
