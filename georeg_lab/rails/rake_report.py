"""Texts of Geo's Rake tasks about replication, as pure functions of the numbers they show (rails 6).

Two forms: "newest" (from about 17.7 on; what 18.7 prints) and "older".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Form = Literal["newest", "older"]

WIDTHS: dict[Form, int] = {"newest": 44, "older": 35}
OLDER_RULE = 53
NOT_APPLICABLE = "Not applicable."
SUCCESS = "SUCCESS - Replication is up-to-date."
ERROR = (
    "ERROR - Replication is not up-to-date. ",
    "Please see documentation to complete replication: https://docs.gitlab.com/ee/administration/geo/disaster_recovery/"
    "planned_failover.html#ensure-geo-replication-is-up-to-date",
)
NO_LICENSE = (
    "GitLab Geo is not supported with this license. Please contact the sales team: https://about.gitlab.com/sales."
)
NO_SITE = "Gitlab Geo is not configured for this site"
NOT_SECONDARY = "This command is only available on a secondary node"


@dataclass(frozen=True)
class Counts:
    """One data type whose replication is on."""

    title: str
    registry: int
    synced: int
    failed: int
    verified: int
    verification_failed: int

    @property
    def complete(self) -> bool:
        """All records synced and verified; a type without records counts as complete."""
        return self.synced == self.registry and self.verified == self.registry


@dataclass(frozen=True)
class Event:
    """An event of the log."""

    id: int
    at: datetime


@dataclass(frozen=True)
class Report:
    """What `geo:status` shows. `summary` is the health text, shown when unhealthy; `lag` in seconds."""

    name: str
    url: str
    version: str
    healthy: bool
    summary: str
    counts: Sequence[Counts]
    selective: bool
    lag: int | None
    last_event: Event | None
    cursor: Event | None
    reported: datetime | None
    now: datetime


def row(succeeded: int, failed: int, total: int) -> str:
    """`[failed N / ]succeeded N / total N (P%)`, the share rounded down."""
    share = 100 * succeeded // total if total else 0
    return (f"failed {failed} / " if failed else "") + f"succeeded {succeeded} / total {total} ({share}%)"


def ago(then: datetime, now: datetime) -> str:
    """How long ago, in the words of Rails' `time_ago_in_words`."""
    seconds = (now - then).total_seconds()
    minutes = round(seconds / 60)
    if minutes == 0:
        return "less than a minute ago"
    if minutes < 45:
        return "1 minute ago" if minutes == 1 else f"{minutes} minutes ago"
    if minutes < 90:
        return "about 1 hour ago"
    if minutes < 1440:
        return f"about {round(minutes / 60)} hours ago"
    days = round(minutes / 1440)
    return "1 day ago" if days == 1 else f"{days} days ago"


def _line(label: str, value: str, form: Form) -> str:
    return f"{label}: ".rjust(WIDTHS[form]) + value


def _rows(counts: Sequence[Counts], form: Form) -> list[str]:
    """Rows of both blocks; the older form has one block, each type followed by its verification."""
    synced = {kind.title: row(kind.synced, kind.failed, kind.registry) for kind in counts}
    verified = {kind.title: row(kind.verified, kind.verification_failed, kind.registry) for kind in counts}
    if form == "older":
        both = [((title, synced[title]), (f"{title} Verified", verified[title])) for title in synced]
        return [_line(label, value, form) for pair in both for label, value in pair]
    first = [_line(f"{title} replicated", value, form) for title, value in synced.items()]
    second = [_line(f"{title} verified", value, form) for title, value in verified.items()]
    return [*_heading("Replication Status"), *first, "", *_heading("Verification Status"), *second]


def _heading(text: str) -> list[str]:
    return [text.rjust(WIDTHS["newest"]), "-" * WIDTHS["newest"]]


def _event(event: Event | None, now: datetime) -> str:
    return NOT_APPLICABLE if event is None else f"{event.id} ({ago(event.at, now)})"


def status(report: Report, form: Form = "newest") -> list[str]:
    """Lines of `geo:status` on a secondary."""
    site = [("Name", report.name), ("URL", report.url)]
    health = [("Health Status", "Healthy" if report.healthy else "Unhealthy")]
    if not report.healthy:
        health.append(("Health Status Summary", report.summary))
    events = [("Last event ID seen from primary", _event(report.last_event, report.now))]
    if report.last_event is not None:
        events.append(("Last event ID processed", _event(report.cursor, report.now)))
    replication = [
        ("Sync Settings", "Selective" if report.selective else "Full"),
        ("Database replication lag", "N/A" if report.lag is None else f"{report.lag} seconds"),
        *events,
        ("Last status report was", "Never" if report.reported is None else ago(report.reported, report.now)),
    ]

    def lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
        return [_line(label, value, form) for label, value in pairs]

    if form == "older":
        head = [f"{label}: {value}" for label, value in site]
        version = [("GitLab Version", report.version), ("Geo Role", "Secondary")]
        rule = "-" * OLDER_RULE
        rows = _rows(report.counts, form)
        return ["", *head, rule, *lines(version), *lines(health), *rows, *lines(replication), ""]
    version = [("This Node's GitLab Version", report.version)]
    first = lines([*site, ("Geo Role", "Secondary"), *health, *version])
    information = ["", *_heading("Geo Site Information"), *first, "", *_heading("Replication Information")]
    return [*information, *lines(replication), "", *_rows(report.counts, form), ""]


def verification(counts: Sequence[Counts], form: Form = "newest") -> tuple[list[str], int]:
    """Lines and exit status of `gitlab:geo:check_replication_verification_status` on a secondary."""
    complete = all(kind.complete for kind in counts)
    rows = ["", *_rows(counts, form)]
    return ([*rows, SUCCESS], 0) if complete else ([*rows, *ERROR], 1)
