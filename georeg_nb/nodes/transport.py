"""How a node is reached: run a program there, and read and write its files. Here: this very machine.

`georeg_nb.nodes.ssh` is the other way; `Node` and `Job` know nothing but `Transport`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from georeg_nb.errors import CommandTimeout, NodeFileMissing, StepFailed

# What a command on a node may see of our environment. The rest may hold the secrets of `env:` references.
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
PROGRAMS = ("/usr/bin", "/opt/gitlab/bin", "/opt/gitlab/embedded/bin")
STALE_SECONDS = 600


@dataclass(frozen=True)
class Result:
    """What a command gave. `status`: its exit status, 128 + n if signal n ended it, 127 if there is no such program."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Transport(ABC):
    """The few things that `Node` and `Job` need of a host. Paths are the node's own absolute paths."""

    @abstractmethod
    def path(self, path: str) -> str:
        """The path that a program on the node must use for the node's absolute `path`."""

    @abstractmethod
    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` with its program (and, for the host's own tools, its absolute paths) as they are found on the node."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Variables that every command on this node gets in addition to a login's."""

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        changes: bool = False,
    ) -> Result:
        """Run a resolved command (see `command`) and wait. Raises CommandTimeout; its processes are ended then.

        `changes`: it may change something, so it is never sent a second time when a connection breaks.
        """

    @abstractmethod
    def read(self, path: str, offset: int = 0) -> bytes:
        """Content of a file from `offset` on. Raises NodeFileMissing."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Is there anything at `path`?"""

    @abstractmethod
    def list_dir(self, path: str) -> list[str]:
        """Names in a folder, sorted. Raises NodeFileMissing."""

    @abstractmethod
    def write(self, path: str, data: bytes, *, mode: int, owner: str | None, exclusive: bool) -> bool:
        """Replace a file in one step (exclusive: make it unless it exists). False: it existed and was left alone."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; none there is fine."""

    @property
    def route(self) -> Callable[[str, int], tuple[str, int]] | None:
        """What leads to a host and port as this node reaches them: gives the address here. None: they are the same."""
        return None

    def close(self) -> None:  # noqa: B027 - nothing to end here
        """End the connection, if there is one. The next use makes another."""


class LocalTransport(Transport):
    """This machine. With `root`, the node's absolute paths lie below that folder; programs are looked up there first.

    Programs below `root` map absolute paths themselves; for the machine's own tools (`df` …) they are mapped here.
    """

    def __init__(self, node: str, root: Path | None = None) -> None:
        self.node = node
        self.root = root.resolve() if root else None

    def path(self, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError(f"a path on a node is absolute: {path!r}")
        return str(self.root / path.lstrip("/")) if self.root else path

    def command(self, argv: Sequence[str]) -> list[str]:
        program, *arguments = argv
        places = [program] if program.startswith("/") else [f"{folder}/{program}" for folder in PROGRAMS]
        for place in places:
            found = self.path(place)
            if os.access(found, os.X_OK) and Path(found).is_file():
                return [found, *arguments]
        if self.root:
            arguments = [self.path(text) if text.startswith("/") else text for text in arguments]
        return [program, *arguments]

    def environment(self) -> dict[str, str]:
        return {"GEOREG_NODE_ROOT": str(self.root)} if self.root else {}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        changes: bool = False,
    ) -> Result:
        inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.root or "/",
                env={**inherited, **self.environment(), **(env or {})},
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError):  # a folder of PATH that is closed to us is told as the latter
            if "/" in argv[0] and Path(argv[0]).exists():
                return Result(tuple(argv), 126, "", f"{argv[0]}: permission denied")
            return Result(tuple(argv), 127, "", f"{argv[0]}: not found")
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandTimeout(argv, timeout, node=self.node) from None
            raise
        status = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return Result(tuple(argv), status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def read(self, path: str, offset: int = 0) -> bytes:
        try:
            with Path(self.path(path)).open("rb") as file:
                file.seek(offset)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise NodeFileMissing(path, node=self.node) from None
        except OSError as error:
            raise self._refused("read", path, error) from None

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def list_dir(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in Path(self.path(path)).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            raise NodeFileMissing(path, node=self.node) from None
        except OSError as error:
            raise self._refused("list", path, error) from None

    def write(self, path: str, data: bytes, *, mode: int, owner: str | None, exclusive: bool) -> bool:
        target = Path(self.path(path))
        target = target.resolve() if target.is_symlink() else target
        try:
            for folder in [*reversed(target.parents)]:  # `parents=True` would give all but the last the default mode
                folder.mkdir(mode=0o700, exist_ok=True)
            self._remove_leftovers(target)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.georeg-", dir=target.parent)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    self._set_owner_and_mode(file.fileno(), target, mode, owner)
                    os.fsync(file.fileno())
                if exclusive:
                    os.link(temporary, target)
                else:
                    temporary.replace(target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except OSError as error:
            raise self._refused("write", path, error) from None
        return True

    def remove(self, path: str) -> None:
        target = Path(self.path(path))
        try:
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                _sync_folder(target.parent)
        except NotADirectoryError:
            return
        except OSError as error:
            raise self._refused("remove", path, error) from None

    def _set_owner_and_mode(self, handle: int, target: Path, mode: int, owner: str | None) -> None:
        """As given, or as the file had them. Below a root folder the node's users need not exist."""
        present = target.stat() if target.exists() else None
        os.fchmod(handle, mode if owner or not present else stat.S_IMODE(present.st_mode))
        try:
            if owner:
                shutil.chown(handle, *owner.split(":", 1))
            elif present and (present.st_uid, present.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, present.st_uid, present.st_gid)
        except (LookupError, PermissionError) as error:
            if not self.root:
                raise StepFailed(
                    f"{target} cannot be given to {owner or 'its present owner'}: {error}",
                    remedy="run georeg as root on this node",
                    node=self.node,
                ) from None

    @staticmethod
    def _remove_leftovers(target: Path) -> None:
        """A writer that was killed left its temporary file, perhaps with secrets in it."""
        for path in target.parent.glob(f".{target.name}.georeg-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _refused(self, verb: str, path: str, error: OSError) -> StepFailed:
        return StepFailed(
            f"cannot {verb} {path}: {error.strerror or error}",
            remedy="check the user that georeg runs as (root on a node), and the disk",
            node=self.node,
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
