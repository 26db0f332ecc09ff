"""GitLab's API: answers of every form that releases gave them, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from scripted_http import Answer, Request, ScriptedServer, json_answer, scripted

from georeg_nb.errors import HttpRefused, ReadOnlySite, StepFailed, Unreachable
from georeg_nb.gitlab_api import GeoSite, GeoStatus, GitLabAPI, License, SyncRecord, Version, parse_time, synced_since
from georeg_nb.http import HttpSession
from georeg_nb.parameters import GitLabParameters

SITE = GeoSite(2, "fr-site", "https://gitlab-b.example.net/", False, True, False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as running:
        yield running


@pytest.fixture
def api(server: ScriptedServer) -> GitLabAPI:
    return GitLabAPI(HttpSession(server.url, sleep=lambda seconds: None), pause=lambda seconds: None)


def test_the_token_is_sent_in_its_header(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "glpat-canary-token")
    parameters = GitLabParameters.model_validate({"url": server.url, "token": "env:API_TOKEN"})
    server.plan("GET", "/api/v4/metadata", json_answer({"version": "18.7.7-ee", "enterprise": True}))
    assert GitLabAPI.of(parameters).version() == Version("18.7.7-ee", True)
    assert server.requests[0].headers["Private-Token"] == "glpat-canary-token"


def test_version(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("GET", "/metadata", json_answer({"version": "17.5.1", "enterprise": False}))
    assert api.version() == Version("17.5.1", False)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json_answer({"plan": "ultimate", "expired": False}), License("ultimate", False)),
        (json_answer({"plan": "premium", "expired": True}), License("premium", True)),
        (json_answer(None), License("", False)),
        (json_answer({}), License("", False)),
    ],
)
def test_licence(server: ScriptedServer, api: GitLabAPI, answer: Answer, expected: License) -> None:
    server.plan("GET", "/license", answer)
    assert api.license() == expected


def test_sites_come_page_by_page(server: ScriptedServer, api: GitLabAPI) -> None:
    def item(number: int) -> dict[str, Any]:
        return {"id": number, "name": f"s{number}", "url": "https://x/", "primary": number == 1, "current": number == 1}

    server.plan("GET", "/geo_sites?page=1&per_page=100", json_answer([item(n) for n in range(1, 101)]))
    server.plan("GET", "/geo_sites?page=2&per_page=100", json_answer([item(101)]))
    found = api.geo_sites()
    assert len(found) == 101
    assert found[0] == GeoSite(1, "s1", "https://x/", True, True, True)
    assert not found[100].primary


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_no_administrator_is_told(server: ScriptedServer, api: GitLabAPI, status: int) -> None:
    server.plan("GET", "/geo_sites?page=1&per_page=100", json_answer({"message": "no"}, status))
    with pytest.raises(HttpRefused) as caught:
        api.geo_sites()
    assert caught.value.status == status and caught.value.remedy


def test_something_else_at_the_address_is_told(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("GET", "/metadata", Answer(200, b"<html>welcome</html>"))
    with pytest.raises(Unreachable, match="no JSON"):
        api.version()


FULL = {
    "geo_node_id": 2,
    "healthy": True,
    "health": "Healthy",
    "db_replication_lag_seconds": 0,
    "container_repositories_replication_enabled": True,
    "container_repositories_registry_count": 14,
    "container_repositories_synced_count": "13",
    "container_repositories_failed_count": None,
    "container_repositories_synced_in_percentage": "92.86%",
    "uploads_registry_count": 40,
    "uploads_synced_count": 40,
    "uploads_failed_count": 0,
    "lfs_objects_registry_count": None,
    "updated_at": "2026-08-22T09:20:00.000Z",
}


def test_a_status_whatever_its_numbers_look_like(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("GET", "/geo_sites/2/status", json_answer(FULL))
    status = api.geo_status(2)
    assert status is not None and status.healthy and status.lag == 0 and status.replicates_images is True
    assert (status.images("registry_count"), status.images("synced_count")) == (14, 13)
    assert status.images("failed_count") is None and status.images("verified_count") is None
    assert status.updated_at == datetime(2026, 8, 22, 9, 20, tzinfo=UTC)
    assert status.other_types() == {"uploads": {"records": 40, "synced": 40, "failed": 0}}


def test_a_status_with_nothing_in_it() -> None:
    status = GeoStatus({})
    assert not status.healthy and status.health == "unknown" and status.updated_at is None
    assert status.replicates_images is None and status.lag is None and status.other_types() == {}


def test_no_status_before_the_first_report(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("GET", "/geo_sites/2/status", json_answer({"message": "404"}, 404))
    assert api.geo_status(2) is None


@pytest.mark.parametrize("value", [None, "", "yesterday", 17])
def test_no_time(value: Any) -> None:
    assert parse_time(value) is None


def page(nodes: list[dict[str, Any]], after: str = "") -> Answer:
    info = {"hasNextPage": bool(after), "endCursor": after or None}
    return json_answer({"data": {"geoNode": {"containerRepositoryRegistries": {"pageInfo": info, "nodes": nodes}}}})


NODE = {
    "id": "gid://gitlab/Geo::ContainerRepositoryRegistry/7",
    "state": "SYNCED",
    "lastSyncedAt": "2026-08-22T09:20:00Z",
    "containerRepositoryId": "12",
    "verificationState": "SUCCEEDED",
}
GRAPHQL = "/geo/node_proxy/2/graphql"
FIELDS = ("id", "state", "lastSyncFailure", "lastSyncedAt", "verificationState", "containerRepositoryId", "retryAt")


def schema(*fields: str) -> Answer:
    return json_answer({"data": {"__type": {"fields": [{"name": name} for name in fields or FIELDS]}}})


def body(request: Request) -> dict[str, Any]:
    return dict(json.loads(request.body))


def test_records_come_cursor_by_cursor_through_the_primary(server: ScriptedServer, api: GitLabAPI) -> None:
    failed = {**NODE, "state": "FAILED", "lastSyncFailure": "why"}
    server.plan("POST", GRAPHQL, schema(), page([NODE], "cursor"), page([failed]))
    found = api.sync_records(SITE, "FAILED")
    assert [(record.repository, record.state, record.failure) for record in found] == [
        ("12", "SYNCED", ""),
        ("12", "FAILED", "why"),
    ]
    asked = [body(request) for request in server.requests][1:]
    assert [request["variables"]["after"] for request in asked] == [None, "cursor"]
    assert all(request["variables"]["site"] == "fr-site" for request in asked)
    assert "replicationState: FAILED" in asked[0]["query"]


def test_a_site_that_graphql_does_not_know_has_no_records(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("POST", GRAPHQL, schema(), json_answer({"data": {"geoNode": None}}))
    assert api.sync_records(SITE) == []


def test_only_fields_that_the_schema_has_are_asked_for(server: ScriptedServer, api: GitLabAPI) -> None:
    node = {"id": "7", "state": "synced", "lastSyncedAt": "2026-08-22T09:20:00Z", "modelRecordId": "12"}
    server.plan("POST", GRAPHQL, schema(*node), page([node]), page([node]))
    assert [(record.repository, record.verification) for record in api.sync_records(SITE)] == [("12", "")]
    api.sync_records(SITE)
    queries = [body(request)["query"] for request in server.requests]
    assert len(queries) == 3  # the schema is asked once
    assert "nodes { id state lastSyncedAt modelRecordId }" in queries[1]


def test_records_without_what_is_needed_are_refused(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("POST", GRAPHQL, schema("id", "state"))
    with pytest.raises(StepFailed, match="no lastSyncedAt"):
        api.sync_records(SITE)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"errors": [{"message": "Field 'x' doesn't exist"}]}, "Field 'x'"),
        ({"data": {"geoRegistriesBulkUpdate": {"errors": ["not allowed"]}}}, "not allowed"),
        (["nonsense"], "no JSON object"),
    ],
)
def test_graphql_errors_come_with_status_200(server: ScriptedServer, api: GitLabAPI, answer: Any, says: str) -> None:
    server.plan("POST", GRAPHQL, json_answer(answer))
    with pytest.raises(StepFailed, match=says):
        api.resync_all(SITE)


def test_resync_of_everything(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("POST", GRAPHQL, json_answer({"data": {"geoRegistriesBulkUpdate": {"errors": []}}}, 201))
    api.resync_all(SITE)
    sent = body(server.requests[0])
    assert sent["variables"] == {"class": "CONTAINER_REPOSITORY_REGISTRY", "action": "RESYNC_ALL"}


def test_a_view_that_reads_does_not_resync(server: ScriptedServer) -> None:
    with pytest.raises(ReadOnlySite):
        GitLabAPI(HttpSession(server.url), readonly=True).resync_all(SITE)
    assert server.requests == []


SINCE = datetime(2026, 8, 22, 9, 19, 30, 999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("state", "moment", "expected"),
    [
        ("SYNCED", "2026-08-22T09:19:30Z", True),
        ("SYNCED", "2026-08-22T09:19:29Z", False),
        ("SYNCED", None, False),
        ("STARTED", "2026-08-22T09:20:00Z", False),
        ("FAILED", "2026-08-22T09:20:00Z", False),
    ],
)
def test_synced_since(state: str, moment: str | None, expected: bool) -> None:
    record = SyncRecord("7", "12", state, parse_time(moment), "", "")
    assert synced_since(record, SINCE) is expected


def test_waiting_until_everything_was_synced(server: ScriptedServer, api: GitLabAPI) -> None:
    old = {**NODE, "lastSyncedAt": "2026-08-22T09:00:00Z"}
    server.plan("POST", GRAPHQL, schema(), page([old, NODE]), page([NODE, NODE]))
    told: list[tuple[str, float | None]] = []
    left = api.wait_until_synced(SITE, SINCE, limit=60, progress=lambda text, share: told.append((text, share)))
    assert left == []
    assert told[-1] == ("2 of 2 repositories synced again", 1.0)


def test_waiting_ends_with_what_is_left(server: ScriptedServer, api: GitLabAPI) -> None:
    server.plan("POST", GRAPHQL, schema(), page([{**NODE, "state": "FAILED", "lastSyncFailure": "no connection"}]))
    assert [record.failure for record in api.wait_until_synced(SITE, SINCE, limit=0)] == ["no connection"]


def test_the_id_of_a_repository_below_the_longest_project(server: ScriptedServer, api: GitLabAPI) -> None:
    tail = "/registry/repositories?page=1&per_page=100"
    server.plan("GET", f"/projects/a%2Fb%2Fc{tail}", json_answer({}, 404))
    server.plan("GET", f"/projects/a%2Fb{tail}", json_answer([{"id": 3, "path": "a/b"}, {"id": 4, "path": "a/b/c"}]))
    assert api.repository_id("a/b/c") == 4
    server.plan("GET", f"/projects/x{tail}", json_answer({}, 404))
    assert api.repository_id("x") is None
