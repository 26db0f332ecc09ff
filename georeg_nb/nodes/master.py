"""One OpenSSH master connection to a node, by the user's own `ssh` and configuration, and what runs over it.

The user's configuration decides how the host is reached: aliases, jump hosts, agents, certificates, host keys. We only
add what an unattended run needs: no questions, time-outs, keepalive, and a control socket of our own in a private
folder. The master lives in the session of a remote `cat`, whose input is a pipe from this process: when this process
is gone, however it ended, the pipe closes, the session ends, and with it the master, its forwards and its folder.
Source: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from georeg_nb.errors import (
    ConnectionLost,
    HostKeyChanged,
    HostKeyUnknown,
    LoginRefused,
    NodeHangs,
    NodeUnreachable,
    PrerequisiteError,
    Unreachable,
)
from georeg_nb.nodes.channel import Channel

CONNECT_SECONDS = 10
OPEN_SECONDS = 60.0  # for all of it: name, jump hosts, keys, login, shell
KEEPALIVE = (5, 3)  # seconds, and unanswered ones: a node that hangs is given up after their product
SESSIONS = 4  # at once; sshd's MaxSessions is 10 unless somebody lowered it, and one holds the master
LONGEST_SOCKET = 104 - 1 - 17  # sun_path of the smallest system, and ssh's suffix while it makes the socket
READY = "georeg-connection-ready"
# The shell outlives both us and the master, and takes the folder away whatever ended them.
_KEEPER = '"$@"; status=$?; rm -rf -- "$0"; exit $status'
_SESSION = f"sh -c 'echo {READY}; exec cat >/dev/null'"


@dataclass(frozen=True)
class SshTarget:
    """Where and as whom to log in; what is not given is the user's ssh configuration's to say."""

    host: str
    user: str | None = None
    port: int | None = None
    config: Path | None = None

    def options(self) -> list[str]:
        """For `ssh`, before the host."""
        given = [("-F", self.config), ("-l", self.user), ("-p", self.port)]
        return [str(text) for option, value in given if value is not None for text in (option, value)]


class Master:
    """The master connection to one node: opened by the first need, opened anew when it broke, closed by `close`.

    Safe to use from several threads. `keepalive` is (seconds, unanswered ones).
    """

    def __init__(self, node: str, target: SshTarget, *, keepalive: tuple[int, int] = KEEPALIVE) -> None:
        self.node = node
        self.target = target
        self.keepalive = keepalive
        self._sessions = threading.BoundedSemaphore(SESSIONS)
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._words: deque[str] = deque(maxlen=40)
        self._forwards: dict[tuple[str, int], int] = {}
        self._idle: list[Channel] = []

    def __reduce__(self) -> tuple[object, ...]:
        """Sent to another process it makes a connection of its own there, one for all that is sent."""
        return _one_for_all, (self.node, self.target, self.keepalive)

    # the connection

    def open(self) -> None:
        """Make sure that it stands. Raises one of the subclasses of Unreachable that say why it cannot."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._drop()
                self._connect()

    def client(self, *command: str) -> list[str]:
        """Arguments that run one command over it. They never connect by themselves, to wherever that might be."""
        return [*self._control(), "-T", "-o", "LogLevel=ERROR", "--", self.target.host, *command]

    @contextlib.contextmanager
    def channel(self, line: str) -> Iterator[Channel]:
        """A channel with `line`, which is always the same, at its end: an idle one, or a new one.

        It is closed when what is done with it raises, and else kept for the next need.
        """
        with self._sessions:
            with self._lock:
                self.open()
                channel = self._take_idle() or Channel(self.client(line))
                connection = self._process
            try:
                yield channel
            except BaseException:
                channel.close()
                raise
            with self._lock:
                if self._process is connection:
                    self._idle.append(channel)
                else:
                    channel.close()

    def lost(self, words: str = "") -> ConnectionLost:
        """The error for a connection that broke under a command. `words` is what the command's ssh said."""
        with self._lock:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1)  # its last words come a moment later
            said = "\n".join([*self._words, words])
            if "Session open refused" in said:
                return ConnectionLost(
                    "the node's SSH server opens no further session on this connection",
                    remedy=f"MaxSessions in its sshd_config must be at least {SESSIONS + 1}",
                    node=self.node,
                )
            if "not responding" in said:
                return NodeHangs(
                    f"the node has not answered for {self.keepalive[0] * self.keepalive[1]} s",
                    remedy="look at the node; jobs that were started there go on by themselves if it lives, "
                    "and a run follows them again by their name",
                    node=self.node,
                )
            return ConnectionLost(
                f"the SSH connection broke{_quoted(said)}",
                remedy="run again; jobs that were started there go on by themselves, and are found by their name",
                node=self.node,
            )

    def break_off(self) -> None:
        """Forget a connection that is no good any more: the next need makes a fresh one."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """End the connection, its forwards, and what still runs over it."""
        with self._lock:
            self._close_idle()
            if self._process is not None and self._process.poll() is None:
                self._ask("-O", "exit")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(5)
            self._drop()

    # forwards

    def forward(self, host: str, port: int) -> tuple[str, int]:
        """Address on this machine that leads to `host:port` as the node reaches it. The same one while it stands."""
        with self._lock:
            self.open()
            for _ in range(20):
                local = self._forwards.get((host, port)) or _free_port()
                if (host, port) in self._forwards:
                    return "127.0.0.1", local
                there = f"[{host}]" if ":" in host else host
                done = self._ask("-O", "forward", "-L", f"127.0.0.1:{local}:{there}:{port}")
                if done.returncode == 0:
                    self._forwards[host, port] = local
                    return "127.0.0.1", local
                if self._process is None or self._process.poll() is not None:
                    raise self.lost(done.stderr)
            raise Unreachable(
                f"no port on this machine can be forwarded to {host}:{port}: {done.stderr.strip()}",
                remedy="does the user's or the node's SSH configuration forbid forwards (AllowTcpForwarding)?",
                node=self.node,
            )

    # inside

    def _control(self) -> list[str]:
        socket_options = ["-o", f"ControlPath={self._folder / 's'}", "-o", "ControlMaster=no"]
        return ["ssh", "-F", "none", *socket_options, "-o", "ProxyCommand=false"]

    def _ask(self, *request: str) -> subprocess.CompletedProcess[str]:
        argv = [*self._control(), *request, "--", self.target.host]
        try:
            return subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            return subprocess.CompletedProcess(argv, 255, "", str(error))

    def _connect(self) -> None:
        self._folder = private_folder()
        interval, count = self.keepalive
        settings = (
            *("BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "LogLevel=INFO"),  # INFO tells of keepalives
            *(f"ServerAliveInterval={interval}", f"ServerAliveCountMax={count}"),
            *("ControlMaster=yes", f"ControlPath={self._folder / 's'}", "ControlPersist=no"),
            *("ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none", "RequestTTY=no"),
        )
        options = [text for setting in settings for text in ("-o", setting)]
        command = ["ssh", "-a", "-x", *options, *self.target.options(), "--", self.target.host, _SESSION]
        try:
            self._process = process = subprocess.Popen(
                ["sh", "-c", _KEEPER, str(self._folder), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,  # an interrupt at the terminal is not for it
            )
        except OSError as error:
            remove_folder(self._folder)
            raise PrerequisiteError(f"cannot start ssh: {error}", node=self.node) from None
        atexit.register(self.close)
        self._words = deque(maxlen=40)
        ready = threading.Event()
        assert process.stdout and process.stderr
        readers = [
            threading.Thread(target=_listen, args=(process.stdout, self._words, ready), daemon=True),
            threading.Thread(target=_listen, args=(process.stderr, self._words, ready), daemon=True),
        ]
        for reader in readers:
            reader.start()
        limit = time.monotonic() + OPEN_SECONDS
        while not ready.wait(0.02) and process.poll() is None and time.monotonic() < limit:
            pass
        if ready.is_set() and process.poll() is None:
            return
        hung = process.poll() is None
        self._drop()
        for reader in readers:
            reader.join(5)
        raise self._why(hung)

    def _drop(self) -> None:
        """End what is there of the connection, gently or not, with its folder."""
        self._close_idle()
        process, self._process, self._forwards = self._process, None, {}
        atexit.unregister(self.close)
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
        with contextlib.suppress(ProcessLookupError):  # a jump host's ssh, or the shell, whatever is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin,):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        remove_folder(self._folder)

    def _take_idle(self) -> Channel | None:
        while self._idle:
            channel = self._idle.pop()
            if channel.stands:
                return channel
            channel.close()
        return None

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _why(self, hung: bool) -> Unreachable | PrerequisiteError:
        said = "\n".join(self._words)
        where = f"{self.target.host} ({self.node})" if self.target.host != self.node else self.node
        by_hand = f"try it by hand: ssh {' '.join([*self.target.options(), self.target.host])}"
        if hung:
            return NodeHangs(
                f"{where} takes the connection and does not answer within {OPEN_SECONDS:g} s",
                remedy=by_hand,
                node=self.node,
            )
        for kind, signs, what, remedy in _REASONS:
            if any(sign in said for sign in signs):
                return kind(f"{what}: {where}{_quoted(said)}", remedy=remedy.format(by_hand=by_hand), node=self.node)
        return NodeUnreachable(f"no SSH connection to {where}{_quoted(said)}", remedy=by_hand, node=self.node)


_Reason = tuple[type[Unreachable], tuple[str, ...], str, str]
_REASONS: tuple[_Reason, ...] = (
    (
        HostKeyChanged,
        ("IDENTIFICATION HAS CHANGED", "host key has changed", "REVOKED HOST KEY"),
        "the host key is not the known one",
        "was the node installed anew? Ask who runs it for its key's fingerprint; only when it is right, remove the old "
        "key (ssh-keygen -R) and log in once by hand. Nothing was sent to it",
    ),
    (
        HostKeyUnknown,
        ("Host key verification failed", "host key is known for"),
        "the host key is not known on this machine",
        "{by_hand}, compare the fingerprint, accept it, and run again",
    ),
    (
        LoginRefused,
        ("Permission denied", "Too many authentication failures", "not allowed because", "account is currently not"),
        "the login is refused",
        "{by_hand}; it must log in without a question (key in the agent, or a certificate that is still valid)",
    ),
    (
        NodeUnreachable,
        (
            "Connection refused",
            "No route to host",
            "timed out",
            "Could not resolve",
            "unreachable",
            "Connection closed",
        ),
        "no SSH server answers",
        "is the node up, and are name, port, jump host and firewall right? {by_hand}",
    ),
)


@lru_cache
def _one_for_all(node: str, target: SshTarget, keepalive: tuple[int, int]) -> Master:
    return Master(node, target, keepalive=keepalive)


def private_folder() -> Path:
    """A folder (0700) for one control socket, with a path short enough for it."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - made by mkdtemp
        if place and Path(place).is_dir() and os.access(place, os.W_OK | os.X_OK):
            folder = Path(tempfile.mkdtemp(prefix="georeg-ssh-", dir=place))
            if len(os.fsencode(folder / "s")) <= LONGEST_SOCKET:
                return folder
            folder.rmdir()
    raise PrerequisiteError(
        "there is no folder with a path short enough for ssh's control socket", remedy="set XDG_RUNTIME_DIR or TMPDIR"
    )


def remove_folder(folder: Path) -> None:
    """Remove a control socket's folder."""
    for path in folder.glob("s*") if folder.name.startswith("georeg-ssh-") else ():
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _free_port() -> int:
    """A port that was free just now; who takes it first is seen by ssh, which then refuses, and another is tried."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listen(stream: object, words: deque[str], ready: threading.Event) -> None:
    for line in stream:  # type: ignore[attr-defined]
        text = line.decode(errors="replace").strip()
        if text == READY:
            ready.set()
        elif text:
            words.append(text)
    stream.close()  # type: ignore[attr-defined]


def _quoted(said: str) -> str:
    """What ssh said, without the frames of its warnings, its last three lines."""
    lines: Sequence[str] = [line for line in dict.fromkeys(said.splitlines()) if line.strip("@ \t")]
    return f" ({' / '.join(lines[-3:])})" if lines else ""
