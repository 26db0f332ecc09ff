"""Real SSH servers in front of the lab's nodes: one sshd for each, and one for a jump host, on ports of their own.

They have host keys of their own and let in one key of the lab's. As root, each node's sshd runs in a mount namespace
of its own in which an account `georeg` exists that may use sudo and owns nothing: real sudo, and the machine's own
/etc stays as it is. Elsewhere the present user logs in, without sudo. Source: sshd(8), sshd_config(5), unshare(1).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "georeg"
JUMP = "jump"
PROGRAMS = ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd")
# Bound over the machine's own files, for the sshd and what it starts only.
_IN_NAMESPACE = """
for name in passwd shadow group sudoers hosts; do mount --bind "$0/etc/$name" "/etc/$name" || exit 1; done
exec "$@"
"""
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/{name}_host_key
PidFile {folder}/{name}.pid
AuthorizedKeysCommand {cat} {folder}/user_key.pub
AuthorizedKeysCommandUser {owner}
AuthorizedKeysFile none
AuthenticationMethods publickey
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
MaxStartups 100
PrintMotd no
"""
CLIENT = """\
# The lab's nodes, as `ssh -F` and the sites file's ssh_config take them.
Host *
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    User {account}
"""


class SshdError(Exception):
    """There is no SSH server to start, or it does not start; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """One sshd: its name is also its alias in the ssh_config."""

    folder: Path
    name: str
    port: int
    namespace: bool

    def start(self) -> None:
        """Start it unless it runs. Raises SshdError with the end of its log."""
        if self.pid() is not None:
            return
        log = self.folder / f"{self.name}.log"
        command = [find_sshd(), "-D", "-f", str(self.folder / f"{self.name}.conf"), "-E", str(log)]
        if self.namespace:
            command = ["unshare", "--mount", "sh", "-c", _IN_NAMESPACE, str(self.folder), *command]
        if os.geteuid() == 0:  # where its unprivileged part is confined to; the service's unit makes it otherwise
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        limit = time.monotonic() + 10
        while time.monotonic() < limit and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                if self.pid() is not None:  # it listens first, and tells its number a moment later
                    process.returncode = 0  # not ours to wait for
                    return
            time.sleep(0.02)
        text = log.read_text(errors="replace")[-1500:]
        raise SshdError(f"sshd for {self.name} does not start on port {self.port}:\n{text}")

    def pid(self) -> int | None:
        """The listening process."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / f"{self.name}.pid").read_text())
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def sessions(self) -> list[int]:
        """The processes that serve its connections: killed, they are cut; stopped, the node hangs."""
        return [pid for pid in _below(self.pid()) if _program(pid).startswith("sshd")]

    def cut(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all of its sessions, and to none of the commands that they have started."""
        for pid in self.sessions():
            _send(pid, number)

    def stop(self) -> None:
        """End it and its connections. What was detached goes on."""
        pid = self.pid()
        if pid is None:
            return
        self.cut(signal.SIGCONT)
        sessions = self.sessions()
        _send(pid, signal.SIGTERM)
        for session in sessions:
            _send(session, signal.SIGKILL)
        limit = time.monotonic() + 5
        while self.pid() is not None:
            if time.monotonic() > limit:
                _send(pid, signal.SIGKILL)
            time.sleep(0.02)


class SshServers:
    """The SSH servers of a folder. `ports`: name → port; the one named `jump` is the way to all others.

    `sudo`: log in to the nodes as an account that is not root and may use sudo; see `why_no_sudo`. `hosts`: names of
    127.0.0.1 that only those nodes know.
    """

    def __init__(self, folder: Path, ports: Mapping[str, int], *, sudo: bool, hosts: Sequence[str] = ()) -> None:
        self.folder = folder
        self.hosts = hosts
        self.sudo = sudo
        self.servers = {name: Server(folder, name, port, sudo and name != JUMP) for name, port in ports.items()}

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`."""
        return self.folder / "ssh_config"

    def create(self) -> None:
        """Make keys, configurations and the account's files. Raises SshdError where there is no sshd."""
        find_sshd()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _key(self.folder / "user_key")
        known, present = [], getpass.getuser()
        account = ACCOUNT if self.sudo else present
        client = [CLIENT.format(folder=self.folder, account=account)]
        for name, server in self.servers.items():
            key = self.folder / f"{name}_host_key"
            _key(key)
            public = key.with_suffix(".pub").read_text().split()[:2]
            known.append(f"[127.0.0.1]:{server.port} {' '.join(public)}\n")
            text = CONFIG.format(
                port=server.port, folder=self.folder, name=name, cat=shutil.which("cat"), owner=present
            )
            (self.folder / f"{name}.conf").write_text(text)
            lines = ["HostName 127.0.0.1", f"Port {server.port}"]
            lines += [f"ProxyJump {JUMP}"] if JUMP in self.servers and name != JUMP else []
            lines += [f"User {present}"] if name == JUMP else []
            client.append(f"Host {name}\n" + "".join(f"    {line}\n" for line in lines))
        # ssh takes the first value that it finds: what is for one host stands before what is for all
        self.ssh_config.write_text("\n".join([*client[1:], client[0]]))
        (self.folder / "known_hosts").write_text("".join(known))
        if self.sudo:
            _write_account(self.folder / "etc")
            names = f"127.0.0.1 localhost {' '.join(self.hosts)}\n"
            (self.folder / "etc/hosts").write_text(Path("/etc/hosts").read_text() + names)

    def start(self) -> None:
        """Start those that do not run."""
        for server in self.servers.values():
            server.start()

    def stop(self) -> None:
        """End them all."""
        for server in self.servers.values():
            server.stop()


def find_sshd() -> str:
    """sshd's absolute path, which it wants to be called by. Raises SshdError."""
    for path in (shutil.which("sshd"), *PROGRAMS):
        if path and os.access(path, os.X_OK):
            return path
    raise SshdError(
        "There is no sshd on this machine. Install the OpenSSH server (package openssh-server); it need not run."
    )


def why_no_sudo() -> str:
    """Why no account with sudo can be had here; empty when it can."""
    if os.geteuid() != 0:
        return "only root can make an account for the SSH servers alone"
    if not shutil.which("sudo"):
        return "there is no sudo on this machine"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "this machine allows no mount namespace"


def _key(path: Path) -> None:
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)


def _write_account(folder: Path) -> None:
    """The machine's accounts and one more; whoever it is may become root, and only he."""
    folder.mkdir(mode=0o700, exist_ok=True)
    number = 64242
    for name, line, mode in (
        ("passwd", f"{ACCOUNT}:x:{number}:{number}::/:/bin/sh", 0o644),
        ("group", f"{ACCOUNT}:x:{number}:", 0o644),
        ("shadow", f"{ACCOUNT}:*:19000:0:99999:7:::", 0o600),
    ):
        lines = Path("/etc", name).read_text().splitlines()
        kept = [text for text in lines if not text.startswith(f"{ACCOUNT}:")]
        (folder / name).write_text("\n".join([*kept, line]) + "\n")
        (folder / name).chmod(mode)
    sudoers = f"Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n{ACCOUNT} ALL=(ALL:ALL) NOPASSWD: ALL\n"
    (folder / "sudoers").write_text(sudoers)
    (folder / "sudoers").chmod(0o440)


def _below(pid: int | None) -> list[int]:
    """All descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid or 0]
    while queue and pid:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
