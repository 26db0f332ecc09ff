"""Registry migrations: the wrapper's node in the lab, and the automatic migrations of reconfigure (18.3 on)."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from georeg_lab.layout import inside
from georeg_lab.omnibus import services
from georeg_lab.omnibus.node_state import registry_dir
from georeg_lab.omnibus.peer import without_peer
from georeg_lab.omnibus.profiles import Profile
from georeg_lab.omnibus.registry_database import USER, run
from georeg_lab.omnibus.registry_process import below
from georeg_lab.omnibus.render import Rendered
from georeg_lab.omnibus.ruby_values import truthy

LOGS = "/var/log/gitlab/registry"
CHECKS, INTERVAL = 20, 5.0  # postgresql['max_service_checks'], ['service_check_interval'] (seconds)
REGISTRY = "registry"


class LabNode:
    """A lab node as the wrapper sees it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cwd = root

    def out(self, text: str) -> None:
        """To stdout, in order with what the programs print."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def err(self, text: str) -> None:
        """To stderr."""
        sys.stderr.write(text)
        sys.stderr.flush()

    def enabled(self) -> bool:
        """The registry's service link is there."""
        return services.enabled(self.root, REGISTRY)

    def running(self) -> bool:
        """`gitlab-ctl status registry` succeeds."""
        return services.status(self.root, REGISTRY).pid is not None

    def read_only(self, config: str) -> bool:
        """config.yml says read-only, as the boolean."""
        import yaml

        found = yaml.safe_load(inside(self.root, config).read_text())
        for key in ("storage", "maintenance", "readonly", "enabled"):
            found = found.get(key) if isinstance(found, dict) else None
        return found is True

    def exists(self, path: str) -> bool:
        """A file of the node."""
        return inside(self.root, path).exists()

    def folder(self) -> str:
        """The registry's folder."""
        return registry_dir(self.root)

    def enter(self, folder: str) -> None:
        """Change the working directory of what is run. Raises FileNotFoundError."""
        self.cwd = inside(self.root, folder).resolve(strict=True)

    def user(self) -> str:
        """Who runs this; the number of a user without a name."""
        try:
            return pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            return str(os.geteuid())

    def answer(self) -> str | None:
        """A line of standard input."""
        return sys.stdin.readline() or None

    def system(self, argv: list[str]) -> bool:
        """Run a program of the node in the foreground."""
        words = [str(inside(self.root, argv[0])), *argv[1:]]
        environment = {**os.environ, "GEOREG_NODE_ROOT": str(self.root)}
        return subprocess.run(words, check=False, cwd=self.cwd, env=environment).returncode == 0

    def start(self) -> None:
        """`sv start registry`."""
        for state in services.start(self.root, [REGISTRY]):
            self.out(f"{'ok' if state.pid else 'timeout'}: {state.text}\n")

    def stop(self) -> None:
        """`sv stop registry`."""
        for state in services.stop(self.root, [REGISTRY]):
            self.out(f"ok: {state.text}\n")


class _MigrationNode(LabNode):
    """The wrapper as reconfigure calls it: as the user `registry`, everything into the log."""

    def __init__(self, root: Path, log: Path) -> None:
        super().__init__(root)
        self.log = log

    def out(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(text)

    err = out

    def user(self) -> str:
        return USER

    def system(self, argv: list[str]) -> bool:
        words = [str(inside(self.root, argv[0])), *argv[1:]]
        environment = {**os.environ, "GEOREG_NODE_ROOT": str(self.root)}
        with self.log.open("a") as log:
            done = subprocess.run(
                words,
                check=False,
                cwd=self.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return done.returncode == 0


class MigrationsFailed(ValueError):
    """Reconfigure fails: the database does not answer, or the migrations ended with an error."""


def wanted(rendered: Rendered, profile: Profile) -> bool:
    """Whether a reconfigure migrates the registry's database. Source: procedures 3.2."""
    registry = rendered.section("registry")
    automatic = registry.get("auto_migrate")
    if not profile.auto_migrate or not (automatic is None or truthy(automatic)):
        return False
    enabled = (registry.get("database") or {}).get("enabled")
    return truthy(enabled) if profile.migrates_any_truth else enabled in ("prefer", "true", True)


def migrate(root: Path, profile: Profile, rendered: Rendered, out: Callable[[str], object]) -> None:
    """Run the automatic migrations if they are due. Raises MigrationsFailed."""
    if not wanted(rendered, profile):
        return
    resource = "registry_database_migrations[registry] (registry::database_migrations)"
    if profile.waits_for_database:
        problem = _wait_for_database(root, rendered)
        if problem:
            raise MigrationsFailed(f"{resource} had an error: RuntimeError: {problem}")
    out("  * bash_hide_env[migrate registry database: registry] action run\n")
    log = inside(root, f"{LOGS}/db-migrations-{time.strftime('%Y-%m-%d-%H-%M-%S')}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch(mode=0o600)
    status = run(["migrate", "up"], profile, _MigrationNode(root, log))
    if status:
        raise MigrationsFailed(
            f"{resource} had an error: Mixlib::ShellOut::ShellCommandFailed: Expected process to exit with [0], but "
            f"received '{status}'\n---- Begin output ----\n{log.read_text()[-3000:]}\n---- End output ----"
        )


def _wait_for_database(root: Path, rendered: Rendered) -> str:
    """`pg_isready` until the server answers; what is wrong, "" when it does."""
    from psycopg.pq import PGconn, Ping

    database = without_peer(root, rendered.section("registry")["database"])
    postgresql = rendered.section("postgresql")
    host = below(root, database["host"])
    address = f"host='{host}' port={database.get('port') or 5432} connect_timeout=3"
    checks = int(postgresql.get("max_service_checks") or CHECKS)
    pause = float(postgresql.get("service_check_interval") or INTERVAL)
    for attempt in range(1, checks + 1):
        answer = PGconn.ping(address.encode())
        if answer == Ping.OK:
            return ""
        if answer == Ping.NO_ATTEMPT:
            return "PostgreSQL is not receiving the correct connection parameters"
        if attempt < checks:
            time.sleep(pause)
    if answer == Ping.NO_RESPONSE:
        return "PostgreSQL did not respond before service checks were exhausted"
    return "Exhausted service checks and database is still not available"
