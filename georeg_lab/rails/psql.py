"""`gitlab-psql`: psql as superuser on the node's own PostgreSQL; with `--geo` (`gitlab-geo-psql`) on the tracking one.

    python -m georeg_lab.rails.psql --root ROOT [--geo] -d gitlabhq_production -tAc 'SELECT 1'

A real node has peer authentication over the socket. The lab's password lies in a .pgpass file beside the data; it is
named in the environment and never in the arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from georeg_lab.layout import Lab, inside, log_command, root_from_environment
from georeg_lab.omnibus.peer import in_place_of_socket

SUPERUSER = "gitlab-psql"
MAIN = ("/var/opt/gitlab/postgresql", "gitlabhq_production")
TRACKING = ("/var/opt/gitlab/geo-postgresql", "gitlabhq_geo_production")
OWN_DATABASE = ("-d", "--dbname")


def command(root: Path, arguments: Sequence[str], *, geo: bool = False) -> tuple[list[str], dict[str, str]]:
    """Command line of psql, and what its environment needs beside the usual."""
    from georeg_lab.postgres import find_bin_dir

    lab = Lab.of_root(root)
    configured = lab.settings.get("pg_bin")
    folder, database = TRACKING if geo else MAIN
    port = lab.ports.geo_postgresql(root.name) if geo else lab.ports.postgresql(root.name)
    named = any(word.startswith(OWN_DATABASE) for word in arguments)
    host = in_place_of_socket(inside(root, folder) / ".pgpass")
    argv = [str(find_bin_dir(str(configured) if configured else None) / "psql"), "-X", "-h", host]
    argv += ["-p", str(port), "-U", SUPERUSER, "-w", *([] if named else ["-d", database]), *arguments]
    return argv, {"PGPASSFILE": str(inside(root, folder) / ".pgpass")}


def main(root: Path, arguments: Sequence[str]) -> None:
    """Become psql."""
    from georeg_lab.postgres import environment

    geo = "--geo" in arguments[:1]
    argv, extra = command(root, arguments[1:] if geo else arguments, geo=geo)
    os.execve(argv[0], argv, environment(Path(argv[0]).parent, extra))  # noqa: S606


if __name__ == "__main__":
    node = root_from_environment()
    log_command(node, ["gitlab-geo-psql" if "--geo" in sys.argv[1:2] else "gitlab-psql", *sys.argv[1:]])
    main(node, sys.argv[1:])
