"""The external databases: reachable, new enough, writable, ours, and each site's own. Source: procedures 2.3, 2.6."""

from __future__ import annotations

from georeg_nb.errors import DatabaseRefused
from georeg_nb.procedures import state
from georeg_nb.procedures.import_metadata import checks
from georeg_nb.runbook import Finding, check, expect, failed, passed, warning
from georeg_nb.site import Site, Sites

OLDEST, OLDEST_TABLES, RECOMMENDED = 15_00_00, 13_00_00, 16_00_00
UNSURE = ("disable", "require")


@check("the site's own database answers", source="procedures 2.3", evidence="source")
def database_answers(site: Site) -> Finding:
    """From here; that the registry node reaches it too is seen when its tables are made."""
    try:
        server = site.metadata_db.server()
    except DatabaseRefused as error:
        return failed(error.message.splitlines()[0], f"{site.metadata_db.address} answers", remedy=error.remedy)
    mode = site.parameters.database.sslmode
    found = f"PostgreSQL {server.version_text}, {server.tls_version or 'no TLS'} ({mode})"
    if not server.tls:
        return failed(found, "TLS", remedy="switch TLS on at the server, and sslmode: verify-full in the sites file")
    if mode in UNSURE:
        return warning(
            found, "verify-full", remedy="this mode checks no certificate: set sslmode: verify-full and a CA"
        )
    return passed(found, "answers, over TLS")


@check("its version is supported", source="procedures 2.3, registry 4", evidence="run")
def database_is_new_enough(site: Site) -> Finding:
    """The registry refuses servers older than 15; before its release 4.24 (GitLab 18.2) it did not look."""
    server = site.metadata_db.server()
    found = f"PostgreSQL {server.version_text}"
    if OLDEST_TABLES <= server.version < OLDEST and not site.profile.supports("needs-postgresql-15"):
        return warning(found, "15 or later", remedy="the registry of GitLab 18.2 and later will not start on it")
    if server.version < OLDEST:
        return failed(found, "15 or later", remedy="upgrade the server, or use another one")
    if server.version < RECOMMENDED:
        return warning(found, "16 or later", remedy="16 or later is recommended")
    return passed(found, "15 or later, 16 or later recommended")


@check("it is writable, and no standby", source="procedures 2.3, registry 0 fact 8", evidence="run")
def database_is_writable(site: Site) -> Finding:
    """Neither import nor migrate checks it: they die in the middle."""
    server = site.metadata_db.server()
    wrong = []
    if server.in_recovery:
        wrong.append("it is a standby (in recovery)")
    if server.read_only_by_default:
        wrong.append("default_transaction_read_only is on")
    if wrong:
        return failed(
            "; ".join(wrong),
            "writable",
            remedy="every site needs a writable database of its own, never a replica; or ALTER DATABASE … SET "
            "default_transaction_read_only = off",
        )
    return passed("writable", "writable")


@check("the registry's user owns it and may create tables", source="procedures 2.3", evidence="source")
def database_belongs_to_registry(site: Site) -> Finding:
    """From PostgreSQL 15 on, only the owner may create in schema public."""
    server, user = site.metadata_db.server(), site.parameters.database.user
    found = f"owner {server.owner}; {'may' if server.may_create else 'may not'} create"
    if server.owner == user and server.may_create:
        return passed(found, f"owner {user}; may create")
    if server.may_create:
        return warning(found, f"owner {user}; may create", remedy=f"ALTER DATABASE … OWNER TO {user}")
    return failed(found, f"owner {user}; may create", remedy=f"ALTER DATABASE … OWNER TO {user}")


@check("bytea_output is hex", source="procedures 2.3", evidence="source")
def bytea_is_hex(site: Site) -> Finding:
    """Otherwise the registry cannot read digests."""
    remedy = "ALTER DATABASE … SET bytea_output = 'hex'"
    return expect(site.metadata_db.server().bytea_output, "hex", remedy=remedy)


@check("it is not the package's own server", source="procedures 2.6", evidence="source")
def database_is_external(site: Site) -> Finding:
    """The bundled PostgreSQL of a secondary is a read-only copy of the primary's. Told by the servers' own identity."""
    command = ["gitlab-psql", "-d", "template1", "-tAc", "SELECT system_identifier FROM pg_control_system()"]
    answer = site.rails_node.run(command, check=False)
    bundled = answer.stdout.strip()
    if answer.status != 0 or not bundled:
        return warning(
            "the bundled server does not tell its identity", "another server", remedy="compare them yourself"
        )
    if bundled == site.metadata_db.server().system_identifier:
        return failed(
            "it is the bundled server", "another server", remedy="set up an external PostgreSQL for this site"
        )
    return passed("another server", "another server")


@check("it is empty, or holds our own work", source="procedures 2.3, 2.6", evidence="run")
def database_is_empty_or_ours(site: Site) -> Finding:
    """A database that anything else has written to is not touched."""
    expected = "empty, or made by this runbook"
    if state.on_own_database(site) or state.is_switching(site):
        return passed("in use by this site's registry", expected)
    database = site.metadata_db
    tables = database.tables()
    if not tables:
        return passed("empty", expected)
    if "schema_migrations" not in tables:
        return failed(
            f"{len(tables)} tables that are not the registry's: {', '.join(sorted(tables)[:5])}",
            expected,
            remedy="give the site an empty database: DROP DATABASE and CREATE DATABASE … OWNER …, if nobody needs it",
        )
    counts = database.counts(("repositories", "tags"))
    if not any(counts.values()):
        return passed("the registry's tables, without content", expected)
    clean = checks.never_in_use(site).verdict == "passed"
    if clean and (counts["tags"] == 0 or state.imported(site) or checks.import_runs(site)):
        return passed(f"{counts['repositories']} repositories and {counts['tags']} tags of an import", expected)
    ours = checks.half_import_is_ours(site)
    if ours.verdict == "passed":
        return warning(
            f"a half-finished import: {ours.found}",
            expected,
            remedy="step clear-half-import empties it, once it is approved",
        )
    return failed(
        f"{counts['tags']} tags: {ours.found}",
        expected,
        remedy="a registry may be using it. Give this site an empty database of its own",
    )


@check("every site has a server of its own", source="procedures 2.3", evidence="unconfirmed", scope="pair")
def databases_are_distinct(sites: Sites) -> Finding:
    """Two registries on one database would each delete the other's rows. Told by the servers' identity, not by their
    names: a standby has its primary's.
    """
    rows = []
    for site in sites.all:
        server = site.metadata_db.server()
        rows.append(
            {
                "site": site.name,
                "address": site.metadata_db.address,
                "server": server.system_identifier,
                "standby": server.in_recovery,
            }
        )
    identities = [row["server"] for row in rows]
    if len(set(identities)) == len(identities):
        return passed("; ".join(str(row["address"]) for row in rows), "different servers", rows=rows)
    twice = [row["site"] for row in rows if identities.count(row["server"]) > 1]
    return failed(
        f"{' and '.join(map(str, twice))} have the same server, or one is a standby of the other",
        "different servers",
        remedy="give each site its own PostgreSQL server, not a replica of the other site's",
        rows=rows,
    )
