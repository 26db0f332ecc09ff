"""What the lab has in place of the socket and the peer authentication of the package's PostgreSQL: TCP and a password.

Every start of the registry imports this: keep it cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from georeg_lab.layout import inside

SOCKET = "/var/opt/gitlab/postgresql"
PGPASS = f"{SOCKET}/.pgpass"


def way_in(root: Path) -> tuple[str, int, str, str]:
    """Host, port, superuser and password of the node's own server. Raises FileNotFoundError where there is none."""
    host, port, _, superuser, password = inside(root, PGPASS).read_text().splitlines()[0].split(":", 4)
    return host, int(port), superuser, password


def without_peer(root: Path, database: dict[str, Any]) -> dict[str, Any]:
    """The registry's connection settings as they work in the lab, where they name the package's own server."""
    if database.get("host") != SOCKET or not inside(root, PGPASS).exists():
        return database
    host, port, _, password = way_in(root)
    return {**database, "host": host, "port": port, "password": database.get("password") or password}
