"""A node over SSH: commands and files through one master connection, with the meaning that they have locally.

What is run there is told apart from what happens to the connection by the last words of command.sh, which answers one
request after the other. A command that was cut off is run once more over a fresh connection where it only reads, and
never where it may have changed something. When a command's time is up its channel is closed, and command.sh on the node
ends it with all that it started; what cannot be promised is that this reaches a node that hangs or is cut off at that
moment.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

from georeg_nb.errors import CommandTimeout, ConnectionLost, NodeFileMissing, StepFailed, SudoRefused
from georeg_nb.nodes.channel import COMMAND, Answer, ChannelClosed
from georeg_nb.nodes.master import Master
from georeg_nb.nodes.transport import PROGRAMS, Result, Transport

FILES = resources.files("georeg_nb.nodes").joinpath("files.sh").read_text()
_MISSING = ("No such file or directory", "Not a directory")
_SUDO = ("sudo", "-n", "--")
EXISTS, OWNER = 3, 4  # exit statuses of files.sh


class SshTransport(Transport):
    """A host reached by `ssh`. `sudo`: become root by `sudo -n`. `root`: the node's paths lie below it, over there."""

    def __init__(self, node: str, master: Master, *, sudo: bool = False, root: str = "") -> None:
        self.node = node
        self.master = master
        self.sudo = sudo
        self.root = root.rstrip("/")
        self._programs: dict[str, str] = {}

    def path(self, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError(f"a path on a node is absolute: {path!r}")
        return self.root + path

    def command(self, argv: Sequence[str]) -> list[str]:
        program, *arguments = argv
        if program not in self._programs:
            places = [program] if program.startswith("/") else [f"{folder}/{program}" for folder in PROGRAMS]
            found = self._file("find", program, *map(self.path, places)).stdout.decode(errors="surrogateescape")
            if not found:
                if self.root:
                    arguments = [self.path(text) if text.startswith("/") else text for text in arguments]
                return [program, *arguments]
            self._programs[program] = found
        return [self._programs[program], *arguments]

    def environment(self) -> dict[str, str]:
        return {"GEOREG_NODE_ROOT": self.root} if self.root else {}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        changes: bool = False,
    ) -> Result:
        raw = self._run(argv, stdin or b"", timeout, env or {}, changes)
        return Result(tuple(argv), raw.status, raw.stdout.decode(errors="replace"), raw.stderr.decode(errors="replace"))

    def read(self, path: str, offset: int = 0) -> bytes:
        return self._checked("read", path, self._file("read", self.path(path), str(offset)))

    def exists(self, path: str) -> bool:
        return self._checked("look at", path, self._file("exists", self.path(path))) == b"yes\n"

    def list_dir(self, path: str) -> list[str]:
        names = self._checked("list", path, self._file("list", self.path(path)))
        return sorted(os.fsdecode(name) for name in names.split(b"\0") if name)

    def write(self, path: str, data: bytes, *, mode: int, owner: str | None, exclusive: bool) -> bool:
        words = [f"{mode:o}", owner or "-", str(int(exclusive)), str(int(bool(self.root)))]
        raw = self._file("write", self.path(path), *words, stdin=data, changes=True)
        if raw.status == EXISTS:
            return False
        if raw.status == OWNER:
            raise StepFailed(
                f"{path} cannot be given to {owner or 'its present owner'}: {_reason(raw)}",
                remedy="log in as root on this node, or set sudo: true",
                node=self.node,
            )
        self._checked("write", path, raw)
        return True

    def remove(self, path: str) -> None:
        self._checked("remove", path, self._file("remove", self.path(path), changes=True))

    @property
    def route(self) -> Callable[[str, int], tuple[str, int]]:
        return self.master.forward

    def close(self) -> None:
        self.master.close()

    # inside

    def _file(self, verb: str, path: str, *words: str, stdin: bytes = b"", changes: bool = False) -> Answer:
        return self._run(["sh", "-c", FILES, "georeg-file", verb, path, *words], stdin, 120, {}, changes)

    def _checked(self, verb: str, path: str, raw: Answer) -> bytes:
        if raw.status == 0:
            return raw.stdout
        reason = _reason(raw)
        if verb in ("read", "list") and reason in _MISSING:
            raise NodeFileMissing(path, node=self.node)
        raise StepFailed(
            f"cannot {verb} {path}: {reason}",
            remedy="check the user that georeg logs in as (root, or sudo: true), and the disk",
            node=self.node,
        )

    def _run(self, argv: Sequence[str], stdin: bytes, timeout: float, env: Mapping[str, str], changes: bool) -> Answer:
        try:
            return self._once(argv, stdin, timeout, env)
        except ConnectionLost:
            self.master.break_off()
            if changes:
                raise
        return self._once(argv, stdin, timeout, env)

    def _once(self, argv: Sequence[str], stdin: bytes, timeout: float, env: Mapping[str, str]) -> Answer:
        variables = [f"{key}={value}" for key, value in {**self.environment(), **env}.items()]
        shell = [*(_SUDO if self.sudo else ()), "sh", "-c", COMMAND, "georeg-commands"]
        try:
            with self.master.channel(shlex.join(shell)) as channel:
                return channel.ask(shlex.join([self.root or "/", *variables, "--", *argv]), stdin, timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(argv, timeout, node=self.node) from None
        except ChannelClosed as closed:
            if self.sudo and closed.status not in (255, 0) and closed.said:
                raise SudoRefused(
                    f"sudo is refused: {closed.said.splitlines()[-1]}",
                    remedy="let this account run commands as root without a password (NOPASSWD in sudoers), "
                    "or log in as root",
                    node=self.node,
                ) from None
            raise self.master.lost(closed.said) from None


def _reason(raw: Answer) -> str:
    """What a tool says, without its own name and the path: `cat: /x: Permission denied` → `Permission denied`."""
    lines = raw.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].rpartition(": ")[2] if lines else f"status {raw.status}"
