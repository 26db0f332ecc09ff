"""What reconfigure renders for the package's PostgreSQL, as far as setting Geo up needs it. Source: procedures 2.1.

Only for servers whose configuration the package owns (`manage`): those of the lab's states without Geo. As on a real
node a changed listen address or number of slots counts from the server's next restart, which reconfigure leaves to the
operator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from georeg_lab.omnibus import files, peer
from georeg_lab.omnibus.ruby_values import to_text, truthy
from georeg_lab.pki import token_key_pair

RENDERED, STANDBY = "gitlab.conf", "gitlab-geo.conf"
KEYS = ("max_replication_slots", "max_wal_senders", "hot_standby")
HBA = """\
# TYPE  DATABASE     USER               ADDRESS            METHOD
host    all          all                127.0.0.1/32       md5
"""


def manage(data: Path) -> None:
    """Hand a new server's configuration to the package."""
    with (data / "postgresql.conf").open("a") as file:
        file.writelines(f"include_if_exists = '{name}'\n" for name in (RENDERED, STANDBY))
    pair = token_key_pair()
    files.write(data / "server.crt", pair.certificate, 0o600)
    files.write(data / "server.key", pair.key, 0o600)
    render(data, {})


def managed(data: Path) -> bool:
    """The package owns this server's configuration."""
    return (data / RENDERED).exists()


def follow(data: Path, address: str, slot: str = "") -> None:
    """Make the server a standby of the one at this address (libpq settings, the password included)."""
    lines = f"primary_conninfo = '{address}'\n" + (f"primary_slot_name = '{slot}'\n" if slot else "")
    files.write(data / STANDBY, lines, 0o600)
    (data / "standby.signal").touch(mode=0o600)


def render(data: Path, attributes: dict[str, Any]) -> bool:
    """Write the settings of `postgresql[...]`; whether anything changed."""
    listen = [peer.ADDRESS, *([to_text(address)] if truthy(address := attributes.get("listen_address")) else [])]
    lines = [f"listen_addresses = '{','.join(listen)}'"]
    lines += [f"{key} = '{to_text(attributes[key])}'" for key in KEYS if attributes.get(key) is not None]
    lines += ["ssl = 'on'", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"]
    user = to_text(attributes.get("sql_replication_user") or "gitlab_replicator")
    hosts = attributes.get("md5_auth_cidr_addresses") or []
    hba = HBA + "".join(f"host    replication  {user}  {to_text(host)}  md5\n" for host in hosts)
    changed = files.write(data / RENDERED, "\n".join(lines) + "\n", 0o600)
    return files.write(data / "pg_hba.conf", hba, 0o600) or changed
