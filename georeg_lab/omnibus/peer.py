"""What the lab has in place of the socket and the peer authentication of the package's PostgreSQL: TCP and a password.

Every start of the registry imports this: keep it cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from georeg_lab.layout import inside

SOCKET = "/var/opt/gitlab/postgresql"
PGPASS = f"{SOCKET}/.pgpass"
# Where no `listen_address` is set a real server has its socket alone. In the lab it listens here in place of it, and
# not on the address that sites know of each other, 127.0.0.1.
ADDRESS = "127.0.0.2"


def way_in(root: Path, folder: str = SOCKET) -> tuple[str, int, str, str]:
    """Host, port, superuser and password of the node's own server. Raises FileNotFoundError where there is none."""
    host, port, _, superuser, password = inside(root, f"{folder}/.pgpass").read_text().splitlines()[0].split(":", 4)
    return host, int(port), superuser, password


def write(folder: Path, host: str, port: int, users: dict[str, str]) -> None:
    """Write the folder's .pgpass (0600): the passwords of these users, the superuser first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".pgpass"
    path.touch(mode=0o600)
    path.write_text("".join(f"{host}:{port}:*:{user}:{password}\n" for user, password in users.items()))


def in_place_of_socket(pgpass: Path) -> str:
    """The address that the server of this folder listens on in the lab."""
    return pgpass.read_text().partition(":")[0] if pgpass.exists() else "127.0.0.1"


def without_peer(root: Path, database: dict[str, Any]) -> dict[str, Any]:
    """The registry's connection settings as they work in the lab, where they name the package's own server."""
    if database.get("host") != SOCKET or not inside(root, PGPASS).exists():
        return database
    host, port, _, password = way_in(root)
    return {**database, "host": host, "port": port, "password": database.get("password") or password}
