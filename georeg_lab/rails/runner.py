"""`gitlab-rails runner 'EXPRESSION'`: exactly the expressions that the procedures use; any other is refused by name.

    python -m georeg_lab.rails.runner --root ROOT runner 'puts ContainerRepository.count'

`EXPRESSIONS` is the whole list. What an expression prints is what Ruby's `puts` prints: one line per item, an empty
line for nil, `true`/`false`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from georeg_lab.layout import log_command, root_from_environment
from georeg_lab.rails.config import Config, Databases, role

Expression = Callable[[Databases, str], str | None]

CONTAINER_REPOSITORY_COUNT = "puts ContainerRepository.count"
GEO_ROLE = 'puts Gitlab::Geo.primary? ? "primary" : Gitlab::Geo.secondary? ? "secondary" : "none"'
REPOSITORY_STORAGES = "puts Gitlab.config.repositories.storages.keys"
REPLICATION_ENABLED = "puts Geo::ContainerRepositoryRegistry.replication_enabled?"
MAXIMUM_EVENT_ID = 'puts Geo::Event.where(replicable_name: "container_repository").maximum(:id)'
SYNC_ONE = "Geo::ContainerRepositoryRegistry.find(<id>).replicator.sync"
VERIFY_ONE = "ContainerRepository.find(<id>).replicator.verify"
REGISTRY_STATES = (
    "puts Geo::ContainerRepositoryRegistry.order(:id)"
    ".map { |r| r.slice(:id, :container_repository_id, :state, :last_synced_at, :last_sync_failure) }.to_json"
)
RUNNING_SYNC_JOBS = (
    "puts Sidekiq::WorkSet.new.count { |_, _, work| "
    "%w[Geo::SyncWorker Geo::EventWorker Geo::ContainerRepositorySyncWorker].include?(work.job.klass) "
    '&& (work.job.klass.include?("ContainerRepository") || work.job.args.first == "container_repository") }'
)
SYNC_LEASES = (
    "puts Gitlab::Redis::SharedState.with { |redis| "
    'redis.scan_each(match: "gitlab:exclusive_lease:geo_container_sync:*").to_a.uniq.size }'
)
STARTED_COUNT = "puts Geo::ContainerRepositoryRegistry.with_state(:started).count"
UPDATE_STATUS = "Geo::MetricsUpdateWorker.new.perform"


def _puts(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _moment(value: datetime | None) -> str | None:
    """A time as Rails writes it in JSON: UTC with milliseconds."""
    return None if value is None else f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"


def _container_repository_count(databases: Databases, _: str) -> str:
    return _puts(databases.value("SELECT count(*) FROM container_repositories"))


def _geo_role(databases: Databases, _: str) -> str:
    return role(databases)


def _repository_storages(databases: Databases, _: str) -> str:
    return "\n".join(databases.config.storages)


def _replication_enabled(databases: Databases, _: str) -> str:
    return _puts(databases.config.replication_enabled)


def _maximum_event_id(databases: Databases, _: str) -> str:
    return _puts(databases.value("SELECT max(id) FROM geo_events WHERE replicable_name = 'container_repository'"))


def _registry_states(databases: Databases, _: str) -> str:
    rows = databases.all(
        "SELECT id, container_repository_id, state, last_synced_at, last_sync_failure"
        " FROM container_repository_registry ORDER BY id",
        database="geo",
    )
    return json.dumps([{**row, "last_synced_at": _moment(row["last_synced_at"])} for row in rows])


def _running_sync_jobs(databases: Databases, _: str) -> str:
    from georeg_lab.rails.jobs import running

    return _puts(len(running(databases)))


def _sync_leases(databases: Databases, _: str) -> str:
    from georeg_lab.rails.jobs import leases

    return _puts(len(leases(databases)))


def _started_count(databases: Databases, _: str) -> str:
    from georeg_lab.rails.records import TABLE, is_state

    return _puts(databases.value(f"SELECT count(*) FROM {TABLE} WHERE {is_state('started')}", database="geo"))


def _sync_one(databases: Databases, registry_id: str) -> None:
    from georeg_lab.rails.sync import sync_now

    sync_now(databases, int(registry_id))


def _verify_one(databases: Databases, repository: str) -> None:
    from georeg_lab.rails.geo_verification import recompute_on_primary

    recompute_on_primary(databases, int(repository))


def _update_status(databases: Databases, _: str) -> None:
    from georeg_lab.rails.status import report

    report(databases)


EXPRESSIONS: dict[str, Expression] = {
    CONTAINER_REPOSITORY_COUNT: _container_repository_count,  # procedures 2.0: a number
    GEO_ROLE: _geo_role,  # procedures 2.0: primary, secondary or none
    REPOSITORY_STORAGES: _repository_storages,  # procedures 2.1: one name a line
    REPLICATION_ENABLED: _replication_enabled,  # procedures 2.4, 2.6 H1: true or false
    MAXIMUM_EVENT_ID: _maximum_event_id,  # procedures 2.7 row 4: a number, or an empty line before the first event
    SYNC_ONE: _sync_one,  # procedures 2.7 "Repair": prints nothing; <id> is a decimal number
    VERIFY_ONE: _verify_one,  # on the primary: compute the checksum of one repository anew; prints nothing
    REGISTRY_STATES: _registry_states,  # procedures 2.6 H4: one line of JSON, times in UTC; `state` as stored
    RUNNING_SYNC_JOBS: _running_sync_jobs,  # procedures 2.6 H1: a number
    SYNC_LEASES: _sync_leases,  # procedures 2.6 H1: a number
    STARTED_COUNT: _started_count,  # records in state started: a sync runs, or died and waits for its time-out
    UPDATE_STATUS: _update_status,  # procedures 6 row 48: this site's status, now; prints nothing
}
"""Exact text → what it does. `<id>` in a text stands for one decimal number."""


def find(text: str) -> tuple[Expression, str] | None:
    """The entry of `EXPRESSIONS` for this text and the number given for its `<id>`; None when there is none."""
    for expression, action in EXPRESSIONS.items():
        pattern = re.escape(expression).replace(re.escape("<id>"), r"(\d+)")
        match = re.fullmatch(pattern, text.strip())
        if match:
            return action, match.group(1) if match.groups() else ""
    return None


def run(root: Path, arguments: Sequence[str]) -> int:
    """Run `runner EXPRESSION` for the node; exit status 0, or 1 for what is refused or not found."""
    if len(arguments) != 2 or arguments[0] != "runner":
        print(
            f"gitlab-rails {' '.join(arguments)}: the lab knows `gitlab-rails runner EXPRESSION` alone", file=sys.stderr
        )
        return 1
    found = find(arguments[1])
    if found is None:
        print(f"gitlab-rails runner: the lab does not know the expression {arguments[1]!r}", file=sys.stderr)
        return 1
    databases = Databases(Config.load(root))
    try:
        text = found[0](databases, found[1])
    except LookupError as problem:
        print(problem.args[0], file=sys.stderr)
        return 1
    finally:
        databases.close()
    if text is not None:
        print(text)
    return 0


if __name__ == "__main__":
    node = root_from_environment()
    log_command(node, ["gitlab-rails", *sys.argv[1:]])
    sys.exit(run(node, sys.argv[1:]))
