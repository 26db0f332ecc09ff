"""`gitlab-psql` and `/opt/gitlab/embedded/bin/psql`: the lab's own client, with the arguments as they are.

Without a host it goes to the node's own PostgreSQL as its superuser, as `gitlab-psql` does over the socket.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from georeg_lab.layout import Lab, inside, log_command, root_from_environment

PGPASS = "/var/opt/gitlab/postgresql/.pgpass"
DATABASE = "gitlabhq_production"
INFORMATION = ("--version", "-V", "--help", "-?")


def local(argv: list[str], root: Path) -> dict[str, str]:
    """Environment that leads to the node's own PostgreSQL; {} when the arguments or the environment name a server."""
    named = any(
        w.startswith(("-h", "--host", "postgres://", "postgresql://", "service=")) or "host=" in w for w in argv
    )
    passwords = inside(root, PGPASS)
    if named or "PGHOST" in os.environ or "PGSERVICE" in os.environ or not passwords.exists():
        return {}
    host, port, _, user, _ = passwords.read_text().splitlines()[0].split(":", 4)
    return {"PGHOST": host, "PGPORT": port, "PGUSER": user, "PGDATABASE": DATABASE, "PGPASSFILE": str(passwords)}


def main(argv: list[str], root: Path) -> None:
    """Replace this process by psql. Raises PostgresError when there is none."""
    from georeg_lab.postgres import environment, find_bin_dir

    configured = None
    with contextlib.suppress(FileNotFoundError):
        configured = Lab.of_root(root).settings.get("pg_bin")
    bin_dir = find_bin_dir(str(configured) if configured else None)
    kept = {key: value for key, value in os.environ.items() if key.startswith("PG") or key in ("HOME", "TERM")}
    if not any(word in INFORMATION for word in argv):
        kept |= local(argv, root)
    os.execve(bin_dir / "psql", ["psql", *argv], environment(bin_dir, kept))  # noqa: S606


if __name__ == "__main__":
    ROOT = root_from_environment()
    log_command(ROOT, ["psql", *sys.argv[1:]])
    main(sys.argv[1:], ROOT)
