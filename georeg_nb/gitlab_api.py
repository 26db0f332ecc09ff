"""GitLab's API as far as a migration needs it: version, licence, Geo sites, their status, and Geo's records of images.

Every number in an answer may be null, missing, or a string; every field may be missing in an older release
(procedures 5.2). So answers become small objects here, and nothing else reads their JSON.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from georeg_nb.errors import HttpRefused, ReadOnlySite, StepFailed, Unreachable
from georeg_nb.http import HeaderAuth, HttpSession, Route, without_query
from georeg_nb.parameters import GitLabParameters

REGISTRY_CLASS = "CONTAINER_REPOSITORY_REGISTRY"
IMAGES = "container_repositories"
PAGE = 100

RECORDS = """
query ($site: String!, $after: String) {
  geoNode(name: $site) {
    containerRepositoryRegistries(first: %d, after: $after%s) {
      pageInfo { hasNextPage endCursor }
      nodes { %s }
    }
  }
}
"""
RECORD_TYPE = '{ __type(name: "ContainerRepositoryRegistry") { fields { name } } }'
RECORD_FIELDS = (
    *("id", "state", "lastSyncFailure", "lastSyncedAt", "verificationState", "verificationFailure"),
    *("containerRepositoryId", "modelRecordId"),
)
NEEDED_FIELDS = {"id", "state", "lastSyncedAt"}
RESYNC_ALL = """
mutation ($class: GeoRegistryClass!, $action: GeoRegistriesBulkAction!) {
  geoRegistriesBulkUpdate(input: { registryClass: $class, action: $action }) { errors }
}
"""


@dataclass(frozen=True)
class Version:
    """Version (`18.7.7-ee`) and edition of an instance."""

    version: str
    enterprise: bool


@dataclass(frozen=True)
class License:
    """Plan (`premium`, `ultimate` …; empty: there is none) and whether it has run out."""

    plan: str
    expired: bool


@dataclass(frozen=True)
class GeoSite:
    """One Geo site as registered on the primary."""

    id: int
    name: str
    url: str
    primary: bool
    enabled: bool
    current: bool
    internal_url: str = ""


@dataclass(frozen=True)
class GeoStatus:
    """A site's last status report. Counters that are null or missing are None."""

    data: Mapping[str, Any]

    def number(self, field: str) -> int | None:
        """A counter; strings count too (the published description of the API declares them so)."""
        value = self.data.get(field)
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def healthy(self) -> bool:
        """Geo's own verdict."""
        return self.data.get("healthy") is True

    @property
    def health(self) -> str:
        """The text to it."""
        return str(self.data.get("health") or self.data.get("health_status") or "unknown")

    @property
    def updated_at(self) -> datetime | None:
        """When the site last reported."""
        return parse_time(self.data.get("updated_at"))

    @property
    def replicates_images(self) -> bool | None:
        """Whether a secondary replicates images; None on the primary's own entry."""
        value = self.data.get(f"{IMAGES}_replication_enabled")
        return value if isinstance(value, bool) else None

    @property
    def lag(self) -> int | None:
        """Lag of the main database's replication in seconds."""
        return self.number("db_replication_lag_seconds")

    def images(self, counter: str) -> int | None:
        """A counter of container repositories: count, synced_count, failed_count, registry_count, verified_count …"""
        return self.number(f"{IMAGES}_{counter}")

    def other_types(self) -> dict[str, dict[str, int | None]]:
        """Counters of every other data type that Geo replicates here, by its name: records, synced, failed."""
        names = [key.removesuffix("_registry_count") for key in self.data if key.endswith("_registry_count")]
        return {
            name: {
                "records": self.number(f"{name}_registry_count"),
                "synced": self.number(f"{name}_synced_count"),
                "failed": self.number(f"{name}_failed_count"),
            }
            for name in sorted(names)
            if name != IMAGES and self.number(f"{name}_registry_count") is not None
        }


@dataclass(frozen=True)
class SyncRecord:
    """Geo's record of one container repository on a secondary. `state`: PENDING, STARTED, SYNCED, FAILED."""

    id: str
    repository: str
    state: str
    last_synced_at: datetime | None
    failure: str
    verification: str


class GitLabAPI:
    """The API of one site. A secondary answers reads from its replica; what concerns records of Geo is asked through
    the primary, which proxies it to the site that is named (procedures 5.4).
    """

    def __init__(
        self, http: HttpSession, *, readonly: bool = False, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._http = http
        self._readonly = readonly
        self._pause = pause
        self._record_fields: dict[int, str] = {}  # Geo site → the fields that its schema has

    @classmethod
    def of(
        cls, parameters: GitLabParameters, *, site: str = "", readonly: bool = False, route: Route | None = None
    ) -> GitLabAPI:
        """The API of a site; its token is resolved now. Raises SecretUnavailable."""
        auth = HeaderAuth("PRIVATE-TOKEN", parameters.token.resolve())
        session = HttpSession(f"{parameters.url}/api/v4", ca=parameters.ca, auth=auth, site=site, route=route)
        return cls(session, readonly=readonly)

    @property
    def http(self) -> HttpSession:
        """Its HTTP session."""
        return self._http

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return _json(self._http.get(path, params=params))

    def version(self) -> Version:
        """`GET /metadata`."""
        data = self._get("/metadata")
        return Version(str(data.get("version") or ""), data.get("enterprise") is True)

    def license(self) -> License:
        """`GET /license`. None there: an empty plan. Raises HttpRefused 403 for who is no administrator."""
        data = self._get("/license")
        if not isinstance(data, Mapping):
            return License("", False)
        return License(str(data.get("plan") or ""), data.get("expired") is True)

    def geo_sites(self) -> list[GeoSite]:
        """`GET /geo_sites`. Raises HttpRefused 401 for a wrong token, 403 for who is no administrator."""
        return [
            GeoSite(
                int(item["id"]),
                str(item.get("name") or ""),
                str(item.get("url") or ""),
                item.get("primary") is True,
                item.get("enabled") is not False,
                item.get("current") is True,
                str(item.get("internal_url") or ""),
            )
            for item in self._pages("/geo_sites")
        ]

    def geo_status(self, site_id: int) -> GeoStatus | None:
        """`GET /geo_sites/:id/status`; None until the first report."""
        try:
            return GeoStatus(dict(self._get(f"/geo_sites/{site_id}/status")))
        except HttpRefused as error:
            if error.status == 404:
                return None
            raise

    def repository_id(self, path: str) -> int | None:
        """Rails' id of a container repository; its project is the longest part of the path that is one."""
        parts = path.split("/")
        for length in range(len(parts), 0, -1):
            project = quote("/".join(parts[:length]), safe="")
            try:
                items = list(self._pages(f"/projects/{project}/registry/repositories"))
            except HttpRefused as error:
                if error.status != 404:
                    raise
                continue
            return next((int(item["id"]) for item in items if item.get("path") == path), None)
        return None

    def sync_records(self, site: GeoSite, state: str = "") -> list[SyncRecord]:
        """Geo's records of container repositories on a secondary, asked through the primary. `state`: only these."""
        chosen = f", replicationState: {state}" if state else ""
        found: list[SyncRecord] = []
        after: str | None = None
        while True:
            query = RECORDS % (PAGE, chosen, self._fields(site))
            data = self._graphql(site.id, query, {"site": site.name, "after": after})
            node = data.get("geoNode") or {}
            page = node.get("containerRepositoryRegistries") or {}
            found.extend(_record(item) for item in page.get("nodes") or ())
            info = page.get("pageInfo") or {}
            if not info.get("hasNextPage"):
                return found
            after = info.get("endCursor")

    def _fields(self, site: GeoSite) -> str:
        """What of a record is asked for: older releases lack some fields, so their schema is asked (procedures 5.4)."""
        if site.id not in self._record_fields:
            kind = self._graphql(site.id, RECORD_TYPE, {}).get("__type") or {}
            there = {str(item.get("name")) for item in kind.get("fields") or ()}
            if missing := NEEDED_FIELDS - there:
                raise StepFailed(
                    f"Geo's records of images on {site.name} have no {' and no '.join(sorted(missing))}",
                    remedy="is the release supported? See the check 'the version of GitLab is supported'",
                )
            self._record_fields[site.id] = " ".join(name for name in RECORD_FIELDS if name in there)
        return self._record_fields[site.id]

    def resync_all(self, site: GeoSite) -> None:
        """Ask a secondary, through the primary, to sync every container repository again. Raises StepFailed."""
        if self._readonly:
            raise ReadOnlySite(f"a check or a plan tried to resync {site.name}")
        variables = {"class": REGISTRY_CLASS, "action": "RESYNC_ALL"}
        data = self._graphql(site.id, RESYNC_ALL, variables)
        errors = (data.get("geoRegistriesBulkUpdate") or {}).get("errors") or []
        if errors:
            raise StepFailed(f"Geo refuses to resync all container repositories: {'; '.join(map(str, errors))}")

    def wait_until_synced(
        self,
        site: GeoSite,
        since: datetime,
        *,
        limit: float,
        progress: Callable[[str, float | None], object] = lambda text, fraction: None,
    ) -> list[SyncRecord]:
        """Wait until every record was synced after `since`; return those that were not within `limit` seconds.

        A record that fails is Geo's to try again, so it is waited for like the others.
        """
        deadline = time.monotonic() + limit
        while True:
            records = self.sync_records(site)
            left = [record for record in records if not synced_since(record, since)]
            done = len(records) - len(left)
            progress(f"{done} of {len(records)} repositories synced again", done / len(records) if records else 1.0)
            if not left or time.monotonic() >= deadline:
                return left
            self._pause(2.0)

    def _graphql(self, site_id: int, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        body = {"query": query, "variables": dict(variables)}
        answer = _json(self._http.request("POST", f"/geo/node_proxy/{site_id}/graphql", json=body, ok=(200, 201)))
        # GraphQL answers 200 for most failures
        errors = answer.get("errors") if isinstance(answer, Mapping) else [{"message": "no JSON object"}]
        if errors:
            texts = [str(item.get("message", item)) if isinstance(item, Mapping) else str(item) for item in errors]
            raise StepFailed(
                f"GraphQL through the primary to site {site_id}: {'; '.join(texts)}",
                remedy="is the secondary reachable from the primary, and the token's scope `api`?",
            )
        return dict(answer.get("data") or {})

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        page = 1
        while True:
            items: Sequence[dict[str, Any]] = self._get(path, params={"page": page, "per_page": PAGE})
            yield from items
            if len(items) < PAGE:
                return
            page += 1


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        raise Unreachable(
            f"{without_query(response.url)} answered something that is no JSON",
            remedy="is `gitlab.url` in the sites file the site's own external_url?",
        ) from None


def synced_since(record: SyncRecord, since: datetime) -> bool:
    """Whether the record says that a sync ended after `since` (its times are whole seconds)."""
    moment = record.last_synced_at
    return record.state == "SYNCED" and moment is not None and moment >= since.replace(microsecond=0)


def parse_time(value: Any) -> datetime | None:
    """An ISO 8601 time in UTC; None for what is none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _record(item: Mapping[str, Any]) -> SyncRecord:
    return SyncRecord(
        str(item.get("id") or ""),
        str(item.get("containerRepositoryId") or item.get("modelRecordId") or ""),
        str(item.get("state") or "").upper(),
        parse_time(item.get("lastSyncedAt")),
        str(item.get("lastSyncFailure") or item.get("verificationFailure") or ""),
        str(item.get("verificationState") or "").upper(),
    )
