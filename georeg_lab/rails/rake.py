"""`gitlab-rake`: the Geo tasks, with the real ones' texts and exit statuses (rails 6).

python -m georeg_lab.rails.rake --root ROOT geo:status
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from georeg_lab.layout import log_command, root_from_environment
from georeg_lab.rails import api, geo_check, rake_report, status
from georeg_lab.rails.config import Config, Databases, Row, current_site, role
from georeg_lab.rails.datatypes import ALL
from georeg_lab.rails.rake_report import NO_LICENSE, NO_SITE, NOT_SECONDARY, Counts, Event, Form, Report


class Abort(Exception):
    """Ruby's `abort`: the text goes to stderr, exit status 1."""


def _licensed_secondary(databases: Databases) -> Row | None:
    """The site record; None on a primary. Raises Abort without licence or record, in this order."""
    if not api.licensed(databases):
        raise Abort(NO_LICENSE)
    site = current_site(databases)
    if site is None:
        raise Abort(NO_SITE)
    return None if site["primary"] else site


def geo_status(databases: Databases, _: Sequence[str]) -> int:
    """`geo:status`: exit 0 also when Unhealthy, and on a primary."""
    site = _licensed_secondary(databases)
    if site is None:
        print(NOT_SECONDARY)
        return 0
    facts = status.compute_secondary(databases, site)
    reported = databases.value("SELECT updated_at FROM geo_node_statuses WHERE geo_node_id = %s", [site["id"]])
    healthy, summary = status.health({**facts, "updated_at": reported})
    report = Report(
        name=site["name"],
        url=site["url"],
        version=databases.config.version,
        healthy=healthy,
        summary=summary,
        counts=counts(facts["status"]),
        selective=site["selective_sync_type"] is not None,
        lag=facts.get("db_replication_lag_seconds"),
        last_event=_event(facts["last_event_id"], facts["last_event_date"]),
        cursor=_event(facts.get("cursor_last_event_id"), facts.get("cursor_last_event_date")),
        reported=reported,
        now=datetime.now(UTC),
    )
    print("\n".join(rake_report.status(report, _form(databases))))
    return 0


def verification_status(databases: Databases, _: Sequence[str]) -> int:
    """`gitlab:geo:check_replication_verification_status`: every data type, not only images."""
    site = _licensed_secondary(databases)
    if site is None:
        print(NOT_SECONDARY)
        return 0
    found = counts(status.compute_secondary(databases, site)["status"])
    lines, code = rake_report.verification(found, _form(databases))
    print("\n".join(lines))
    return code


def _form(databases: Databases) -> Form:
    return "older" if databases.config.release.older_reports else "newest"


def counts(numbers: Row) -> list[Counts]:
    """Rows of the types whose replication is on, from a status' numbers."""
    names = ("registry", "synced", "failed", "verified", "verification_failed")
    return [
        Counts(kind.title, *(int(numbers[f"{kind.plural}_{name}_count"]) for name in names))
        for kind in ALL
        if numbers[f"{kind.plural}_replication_enabled"]
    ]


def _event(number: int | None, at: datetime | None) -> Event | None:
    return None if number is None or at is None else Event(number, at)


def check(databases: Databases, _: Sequence[str]) -> int:
    """`gitlab:geo:check`: exit 0 whatever the lines say."""
    print("\n".join(geo_check.lines(databases)))
    return 0


def site_role(databases: Databases, _: Sequence[str]) -> int:
    """`geo:site:role`."""
    found = role(databases)
    print("misconfigured" if found == "none" else found)
    return 1 if found == "none" else 0


def set_primary_node(databases: Databases, _: Sequence[str]) -> int:
    """`geo:set_primary_node`: registers this node as the primary site."""
    from georeg_lab.rails.schema import add_site

    if not api.licensed(databases):
        raise Abort(NO_LICENSE)
    if databases.value('SELECT count(*) FROM geo_nodes WHERE "primary"'):
        raise Abort("GitLab Geo primary node already present")
    name, url = databases.config.node_name, f"{databases.config.external_url}/"
    print(f"Saving primary Geo node with name {name} and URL {url} ...")
    add_site(databases.main, name, url, primary=True)
    print(f"{url} is now the primary Geo node")
    return 0


def tcp_check(_: Databases, arguments: Sequence[str]) -> int:
    """`gitlab:tcp_check[host,port]`. The text was not read (procedures 2.1: unconfirmed)."""
    if len(arguments) != 2:
        raise Abort("Please specify a host and port: `rake gitlab:tcp_check[<host>,<port>]`")
    host, port = arguments
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            local, remote = connection.getsockname(), connection.getpeername()
    except (OSError, ValueError) as problem:
        print(f"TCP connection to {host}:{port} failed: {problem}")
        print("Check that host and port are correct, and that the traffic is permitted through any firewalls.")
        return 1
    print(f"TCP connection from {local[0]}:{local[1]} to {remote[0]}:{remote[1]} succeeded!")
    return 0


Task = Callable[[Databases, Sequence[str]], int]

_BOTH: dict[str, Task] = {"status": geo_status, "site:role": site_role, "set_primary_node": set_primary_node}
TASKS: dict[str, Task] = {
    **{f"geo:{name}": task for name, task in _BOTH.items()},
    **{f"gitlab:geo:{name}": task for name, task in _BOTH.items()},
    "gitlab:geo:check": check,
    "gitlab:geo:check_replication_verification_status": verification_status,
    "gitlab:tcp_check": tcp_check,
}


ONLY_NEWEST = frozenset(f"gitlab:geo:{name}" for name in _BOTH)


def run(root: Path, arguments: Sequence[str]) -> int:
    """Run the tasks in order (`NAME=value` words are settings and are left alone); the first that fails ends it."""
    databases = Databases(Config.load(root))
    try:
        for word in arguments:
            if re.fullmatch(r"[A-Z_]+=.*", word):
                continue
            name, _, rest = word.partition("[")
            if name not in TASKS or (name in ONLY_NEWEST and databases.config.release.older_reports):
                print(
                    f"rake aborted!\nDon't know how to build task '{word}' (the lab has: {', '.join(TASKS)})",
                    file=sys.stderr,
                )
                return 1
            code = TASKS[name](databases, [part.strip() for part in rest.rstrip("]").split(",")] if rest else [])
            if code:
                return code
    except Abort as problem:
        print(problem, file=sys.stderr)
        return 1
    finally:
        databases.close()
    return 0


if __name__ == "__main__":
    node = root_from_environment()
    log_command(node, ["gitlab-rake", *sys.argv[1:]])
    sys.exit(run(node, sys.argv[1:]))
