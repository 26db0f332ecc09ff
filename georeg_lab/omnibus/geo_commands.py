"""`gitlab-ctl set-geo-primary-node`, `pg-password-md5` and `replicate-geo-database`. Source: procedures 2.1.

Traps kept: nothing of a Rake task's exit status is handed on; a replication that fails leaves every service stopped,
and perhaps the data directory moved aside; end of input at its prompt asks for ever (the lab: a hundred times).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus import postgresql_conf, services
from georeg_lab.omnibus.options import Exit, Option, OptionError, parse
from georeg_lab.omnibus.peer import PGPASS, SOCKET, way_in

ROOT_CERTIFICATE = f"{SOCKET}/.postgresql/root.crt"
PROMPTS = 100
USAGE = "Usage: gitlab-ctl replicate-geo-database [options]"
FAILED = """\
*** Initial replication failed! ***

Replication tool returned with a non zero exit status!

Troubleshooting tips:
  - replication should be run by root user
  - check if `roles ['geo_primary_role']` or `geo_primary_role['enable'] = true` exists in `gitlab.rb` on the primary node
  - check your trust settings `md5_auth_cidr_addresses` in `gitlab.rb` on the primary node

Failed to execute: """  # noqa: E501
VALUES = {
    "host": "",
    "user": "gitlab_replicator",
    "port": "5432",
    "slot-name": "",
    "backup-timeout": "1800",
    "sslmode": "verify-full",
    "sslcompression": "0",
    "recovery-target-timeline": "latest",
    "db_name": "gitlabhq_production",
}
SWITCHES = ("no-wait", "force", "skip-backup", "skip-replication-slot")


class _Failed(Exception):
    """A command of the replication failed; the message is what it said."""

    def __init__(self, command: str, said: str = "") -> None:
        super().__init__(said)
        self.command = command


def password_line() -> str:
    """One line of standard input: a password that is never in the arguments."""
    return sys.stdin.readline().rstrip("\r\n")


def set_geo_primary_node(root: Path) -> int:
    """Run the Rake task; its exit status is not handed on."""
    if not services.enabled(root, "puma"):
        print("puma not enabled, exiting...")
        return 1
    subprocess.run([str(inside(root, "/usr/bin/gitlab-rake")), "geo:set_primary_node"], check=False)
    return 0


def pg_password_md5(words: list[str]) -> int:
    """Print the hash that `postgresql['sql_user_password']` takes: without the prefix `md5`."""
    if len(words) != 1:
        print("Usage: gitlab-ctl pg-password-md5 USERNAME", file=sys.stderr)
        return 1
    print(hashlib.md5(f"{password_line()}{words[0]}".encode(), usedforsecurity=False).hexdigest())
    return 0


def replicate(root: Path, words: list[str]) -> int:
    """Replace this node's main database by a streaming standby of the primary's."""
    values, switches = dict(VALUES), set[str]()

    def value(name: str) -> Option:
        def act(text: str | None) -> None:
            values[name] = text or ""

        return Option("", name, act, True)

    def helped(_: str | None) -> None:
        raise Exit(0, USAGE)

    try:
        flags = [Option("", name, lambda _, name=name: switches.add(name)) for name in SWITCHES]  # type: ignore[misc]
        parse([*map(value, VALUES), *flags, Option("h", "help", helped)], words)
        if not values["host"]:
            raise OptionError("missing argument: host")
        if not values["slot-name"] and "skip-replication-slot" not in switches:
            raise OptionError("missing argument: --slot-name")
    except Exit as done:
        print(done.text)
        return done.status
    except OptionError as error:
        print(f"{error}\n{USAGE}")
        return 1
    return _Replication(root, values, switches).execute()


@dataclass
class _Replication:
    root: Path
    values: dict[str, str]
    switches: set[str]

    def execute(self) -> int:
        database, host = self.values["db_name"], self.values["host"]
        data = self._has_data()
        if data and "force" not in self.switches:
            print(
                f"Found data inside the {database} database! If you are sure you are in the secondary server, override "
                "with --force"
            )
            return 1
        if data:
            print(f"Found data inside the {database} database! Proceeding because --force was supplied")
        if not services.enabled(self.root, "postgresql"):
            print("There is no PostgreSQL instance enabled in omnibus, exiting...")
            return 1
        line = "-" * 63
        print(f"\n{line}\nWARNING: Make sure this script is run from the secondary server\n{line}\n")
        print("*** You are about to delete your local PostgreSQL database, and replicate the primary database. ***")
        print(f"*** The primary geo node is `{host}` ***\n")
        if "no-wait" not in self.switches and not _confirmed():
            return 0
        print(f"Enter the password for {self.values['user']}@{host}: ")
        password = password_line()
        try:
            if "skip-backup" not in self.switches and data:
                print("* Executing GitLab backup task to prevent accidental data loss")
                self._run(str(inside(self.root, "/usr/bin/gitlab-rake")), "gitlab:backup:create")
            print("* Stopping PostgreSQL and all GitLab services", flush=True)
            services.stop(self.root, services.names(self.root))
            self._replace(password)
        except _Failed as failed:
            print(f"{failed}\n{FAILED}{failed.command}")
            return 1
        print("* Starting PostgreSQL and all GitLab services", flush=True)
        enabled = [name for name in services.names(self.root) if services.enabled(self.root, name)]
        services.start(self.root, enabled)
        return 0

    def _has_data(self) -> bool:
        """The database has projects; not where the server is down or has no such table."""
        import psycopg

        host, port, user, password = way_in(self.root)
        settings: dict[str, Any] = {"host": host, "port": port, "user": user, "password": password}
        try:
            with psycopg.connect(dbname=self.values["db_name"], connect_timeout=10, **settings) as connection:
                return connection.execute("SELECT 1 FROM projects LIMIT 1").fetchone() is not None
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return False

    def _replace(self, password: str) -> None:
        from georeg_lab.postgres import find_bin_dir, hand_over

        folder = inside(self.root, SOCKET)
        data, kept = folder / "data", folder / "postgresql.conf"
        own = inside(self.root, PGPASS)
        theirs = f"{self.values['host']}:{self.values['port']}:*:{self.values['user']}:{password}\n"
        lines = [text for text in own.read_text().splitlines(keepends=True) if f":{self.values['user']}:" not in text]
        own.write_text("".join([*lines, theirs]))
        address = self._address()
        if "skip-replication-slot" not in self.switches:
            self._slot(address)
        print("* Backing up postgresql.conf")
        (data / "postgresql.conf").rename(kept)
        aside = folder / f"data.{int(time.time())}"
        print(f"* Moving old data directory to '/var/opt/gitlab/postgresql/{aside.name}'")
        data.rename(aside)
        data.mkdir(mode=0o700)
        hand_over(data)
        print(f"* Starting base backup as the replicator user ({self.values['user']})", flush=True)
        slot = [] if "skip-replication-slot" in self.switches else ["-S", self.values["slot-name"]]
        configured = Lab.of_root(self.root).settings.get("pg_bin")
        program = find_bin_dir(str(configured) if configured else None) / "pg_basebackup"
        self._run(str(program), "-d", address, "-D", str(data), "-w", "-c", "fast", "-X", "stream", "--no-sync", *slot)
        print("* Writing standby settings")
        postgresql_conf.follow(data, f"{address} password={password}", *slot[1:])
        print("* Restoring postgresql.conf")
        kept.rename(data / "postgresql.conf")
        print("* Setting ownership permissions in PostgreSQL data directory")
        hand_over(data)

    def _address(self) -> str:
        """How the primary's server is reached; its certificate is checked with the one that was copied here."""
        values, root_certificate = self.values, inside(self.root, ROOT_CERTIFICATE)
        return (
            f"host={values['host']} port={values['port']} user={values['user']} sslmode={values['sslmode']}"
            f" sslrootcert={root_certificate}"
        )

    def _slot(self, address: str) -> None:
        import psycopg

        name = self.values["slot-name"]
        print(f"* Checking for replication slot {name}")
        settings: dict[str, Any] = {"dbname": self.values["db_name"], "passfile": str(inside(self.root, PGPASS))}
        try:
            with psycopg.connect(address, autocommit=True, connect_timeout=10, **settings) as connection:
                found = connection.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name])
                if found.fetchone() is None:
                    print(f"* Creating replication slot {name}")
                    connection.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
        except psycopg.Error as error:
            raise _Failed(
                f"gitlab-psql -h {self.values['host']} -p {self.values['port']}", str(error).strip()
            ) from None

    def _run(self, program: str, *arguments: str) -> None:
        from georeg_lab.postgres import environment, run_prefix

        postgresql = program.endswith("pg_basebackup")
        extra = {"PGPASSFILE": str(inside(self.root, PGPASS))}
        done = subprocess.run(
            [*(run_prefix() if postgresql else ()), program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=float(self.values["backup-timeout"]),
            cwd="/",
            env=environment(Path(program).parent, extra) if postgresql else dict(os.environ),
        )
        if done.returncode:
            raise _Failed(Path(program).name, f"{done.stdout}{done.stderr}".strip())


def _confirmed() -> bool:
    """`replicate` was typed; `no` ends the command."""
    print("*** Are you sure you want to continue (replicate/no)? ***")
    for _ in range(PROMPTS):
        print("Confirmation: ", end="")
        answer = password_line().strip()
        if answer in ("replicate", "no"):
            return answer == "replicate"
        print(f"*** You entered `{answer}` instead of `replicate` or `no`.")
    return False
