"""What a reconfigure does to the package's PostgreSQL servers on the way to Geo: settings, passwords, and a secondary's
tracking database. Source: procedures 2.1, steps 3 to 6 and 12.

Only on nodes whose main server the package owns (see postgresql_conf): those of the lab's states without Geo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from georeg_lab.layout import Lab, inside
from georeg_lab.omnibus import peer, postgresql_conf
from georeg_lab.omnibus.render import Rendered
from georeg_lab.omnibus.ruby_values import to_text, truthy

TRACKING_USER = "gitlab_geo"
TRACKING = "gitlabhq_geo_production"


def _data(root: Path) -> Path:
    return inside(root, peer.SOCKET) / "data"


def prepare(root: Path, rendered: Rendered) -> bool:
    """Before services are started: the main server's settings, and a new tracking server; whether anything changed."""
    if not postgresql_conf.managed(_data(root)):
        return False
    changed = postgresql_conf.render(_data(root), rendered.section("postgresql"))
    if rendered.geo_role == "secondary":
        changed |= _tracking_server(root)
    return changed


def _tracking_server(root: Path) -> bool:
    from georeg_lab.sites.databases import tracking_cluster

    cluster = tracking_cluster(Lab.of_root(root), root.name)
    if (cluster.data_dir / "PG_VERSION").exists():
        return False
    cluster.init()
    peer.write(cluster.data_dir.parent, cluster.address, cluster.port, {cluster.superuser: cluster.password})
    return True


def provision(root: Path, rendered: Rendered) -> None:
    """Once the servers run: the passwords of SQL users, and the tracking database with its tables."""
    if not postgresql_conf.managed(_data(root)):
        return
    _passwords(root, rendered)
    if rendered.geo_role == "secondary":
        _tracking_database(root, rendered)


def _passwords(root: Path, rendered: Rendered) -> None:
    """On a server that takes writes. A hash comes without the prefix that PostgreSQL tells one by."""
    import psycopg
    from psycopg import sql

    section = rendered.section("postgresql")
    host, port, superuser, password = peer.way_in(root)
    settings: dict[str, Any] = {"host": host, "user": superuser, "password": password, "dbname": "template1"}
    with psycopg.connect(port=port, autocommit=True, connect_timeout=10, **settings) as connection:
        if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            return
        replicator = to_text(section.get("sql_replication_user") or "gitlab_replicator")
        wanted = [("gitlab", "LOGIN", section.get("sql_user_password"))]
        if rendered.geo_role:
            wanted.append((replicator, "LOGIN REPLICATION", section.get("sql_replication_password")))
        for user, attributes, hashed in wanted:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} WITH " + attributes).format(sql.Identifier(user)))
            if truthy(hashed):
                secret = sql.Literal(f"md5{to_text(hashed)}")
                connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), secret))


def _tracking_database(root: Path, rendered: Rendered) -> None:
    from georeg_lab.rails.schema import create_tracking
    from georeg_lab.sites.databases import tracking_cluster

    cluster = tracking_cluster(Lab.of_root(root), root.name)
    with cluster.connect() as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TRACKING]).fetchone():
            return
    password = to_text(rendered.section("geo_secondary").get("db_password") or cluster.password)
    cluster.create_role(TRACKING_USER, password)
    cluster.create_database(TRACKING, TRACKING_USER)
    users = {cluster.superuser: cluster.password, TRACKING_USER: password}
    peer.write(cluster.data_dir.parent, cluster.address, cluster.port, users)
    with cluster.connect(TRACKING, TRACKING_USER, password) as connection:
        create_tracking(connection)
