"""The registry's role and database that the package makes in its own PostgreSQL from 18.3 on, used or not.

Existence is not use. Source: procedures 2.3 (notes), 3.2.
"""

from __future__ import annotations

from pathlib import Path

from georeg_lab.layout import inside
from georeg_lab.omnibus import services
from georeg_lab.omnibus.peer import PGPASS, way_in
from georeg_lab.omnibus.render import Rendered
from georeg_lab.omnibus.ruby_values import truthy


def wanted(root: Path, rendered: Rendered) -> bool:
    """The version does it, it is not switched off, and the server runs here."""
    role = rendered.section("postgresql").get("registry") or {}
    automatic = role.get("auto_create")
    return (
        rendered.profile.database_default is not None
        and (automatic is None or truthy(automatic))
        and inside(root, PGPASS).exists()
        and services.status(root, "postgresql").pid is not None
    )


def provision(root: Path, rendered: Rendered) -> bool:
    """Make role and database unless they are there or the server is a standby; whether anything was made."""
    if not wanted(root, rendered):
        return False
    import psycopg
    from psycopg import sql

    role = rendered.section("postgresql")["registry"]
    host, port, superuser, password = way_in(root)
    with psycopg.connect(
        host=host, port=port, user=superuser, password=password, dbname="template1", autocommit=True, connect_timeout=10
    ) as connection:
        found = connection.execute(
            "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_roles WHERE rolname = %s), "
            "EXISTS (SELECT FROM pg_database WHERE datname = %s)",
            [role["user"], role["dbname"]],
        ).fetchone()
        standby, has_role, has_database = found or (True, True, True)
        if standby or (has_role and has_database):
            return False
        if not has_role:
            secret = f"md5{role['password']}" if role.get("password") else password
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role["user"]), secret)
            connection.execute(create)
        if not has_database:
            names = sql.Identifier(role["dbname"]), sql.Identifier(role["user"])
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
    return True
