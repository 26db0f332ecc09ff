"""Rails' HTTP: who may ask, tokens, notifications, sites and statuses, GraphQL."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from rails_fakes import READ_TOKEN, ROOT_TOKEN, SECRET, USER_TOKEN, Pair

from georeg_lab.rails import records, status
from georeg_lab.rails.config import current_site
from georeg_lab.rails.tokens import geo_authorization


def call(pair: Pair, path: str, token: str = ROOT_TOKEN, site: str = "primary", **options: Any) -> requests.Response:
    headers = {"PRIVATE-TOKEN": token, **options.pop("headers", {})}
    return requests.request(
        options.pop("method", "GET"), pair.urls[site] + path, headers=headers, timeout=20, **options
    )


def auth(
    pair: Pair, *scopes: str, user: str = "root", token: str = ROOT_TOKEN, site: str = "primary"
) -> requests.Response:
    parameters = {"service": "container_registry", "scope": list(scopes)}
    return requests.get(pair.urls[site] + "/jwt/auth", params=parameters, auth=(user, token), timeout=20)


def access(response: requests.Response) -> list[dict[str, Any]]:
    found = jwt.decode(response.json()["token"], options={"verify_signature": False})["access"]
    return [{key: entry[key] for key in ("type", "name", "actions")} for entry in found]


def test_token_is_signed_as_the_registry_expects(pair: Pair, key: bytes) -> None:
    text = auth(pair, "repository:group/app:pull,push,delete").json()["token"]
    public = serialization.load_pem_private_key(key, None).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    fingerprint = hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).digest()[:30]
    kid = jwt.get_unverified_header(text)["kid"]
    assert base64.b32decode(kid.replace(":", "")) == fingerprint
    assert [len(group) for group in kid.split(":")] == [4] * 12
    claims = jwt.decode(
        text, public, algorithms=["RS256"], audience="container_registry", issuer="omnibus-gitlab-issuer"
    )
    assert (claims["sub"], claims["exp"] - claims["iat"], claims["iat"] - claims["nbf"]) == ("root", 300, 5)
    assert claims["access"][0]["actions"] == ["pull", "push", "delete"]
    assert claims["access"][0]["meta"]["project_path"] == "group/app"
    nested = jwt.decode(claims["user"], public, algorithms=["RS256"])
    assert nested["user_info"]["username"] == "root"


@pytest.mark.parametrize(
    ("scope", "user", "token", "granted"),
    [
        ("registry:catalog:*", "root", ROOT_TOKEN, ["*"]),
        ("registry:catalog:pull", "root", ROOT_TOKEN, None),
        ("registry:catalog:*", "user", USER_TOKEN, None),
        ("repository:group/app:pull,push", "user", USER_TOKEN, ["pull"]),
        ("repository:group/app/deeper/still:pull", "root", ROOT_TOKEN, ["pull"]),
        ("repository:group/other:pull", "root", ROOT_TOKEN, None),
        ("repository:group/app:push", "root", READ_TOKEN, None),
    ],
)
def test_granted_scopes(pair: Pair, scope: str, user: str, token: str, granted: list[str] | None) -> None:
    response = auth(pair, scope, user=user, token=token)
    assert response.status_code == 200
    assert [entry["actions"] for entry in access(response)] == ([] if granted is None else [granted])


def test_a_push_token_creates_the_record_and_its_event(pair: Pair) -> None:
    auth(pair, "repository:group/app/new:pull,push")
    assert pair.primary.value("SELECT count(*) FROM container_repositories") == 2
    assert pair.primary.value("SELECT event_name FROM geo_events") == "created"


def test_refused_logins(pair: Pair) -> None:
    for user, token in (("root", "wrong"), ("user", ROOT_TOKEN)):
        response = auth(pair, "repository:group/app:pull", user=user, token=token)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (403, "DENIED")
    assert (
        requests.get(pair.urls["primary"] + "/jwt/auth", timeout=20).json()["errors"][0]["message"]
        == "access forbidden"
    )


@pytest.mark.parametrize(
    ("token", "path", "expected"),
    [
        ("wrong", "/api/v4/version", (401, {"message": "401 Unauthorized"})),
        (USER_TOKEN, "/api/v4/geo_sites", (403, {"message": "403 Forbidden"})),
        (ROOT_TOKEN, "/api/v4/geo_sites/99", (404, {"message": "404 GeoSite Not Found"})),
        (ROOT_TOKEN, "/api/v4/geo_sites/1/status", (404, {"message": "404 Status for Geo site not found Not Found"})),
    ],
)
def test_errors(pair: Pair, token: str, path: str, expected: tuple[int, Any]) -> None:
    response = call(pair, path, token)
    assert (response.status_code, response.json()) == expected


def test_scope_that_is_missing(pair: Pair) -> None:
    response = call(pair, "/api/v4/license", READ_TOKEN)
    assert (response.status_code, response.json()["error"]) == (403, "insufficient_scope")
    assert call(pair, "/api/v4/geo_sites", READ_TOKEN).status_code == 200
    assert call(pair, "/api/v4/nothing").status_code == 404


def test_metadata_license_settings_sites(pair: Pair) -> None:
    metadata = call(pair, "/api/v4/metadata", USER_TOKEN).json()
    assert (metadata["version"], metadata["enterprise"]) == ("18.7.7-ee", True)
    assert set(call(pair, "/api/v4/version").json()) == {"version", "revision"}
    found = call(pair, "/api/v4/license").json()
    assert (found["plan"], found["expired"]) == ("ultimate", False)
    settings = call(pair, "/api/v4/application/settings").json()
    assert settings["container_registry_token_expire_delay"] == 5
    sites = call(pair, "/api/v4/geo_sites").json()
    assert [(s["name"], s["primary"], s["current"]) for s in sites] == [
        ("primary", True, True),
        ("secondary", False, False),
    ]
    assert call(pair, f"/api/v4/geo_sites/{sites[1]['id']}", site="secondary").json()["current"] is True


def notify(pair: Pair, *events: dict[str, Any], secret: str = SECRET, site: str = "primary") -> int:
    headers = {"Authorization": secret, "Content-Type": "application/vnd.docker.distribution.events.v1+json"}
    url = pair.urls[site] + "/api/v4/container_registry_event/events"
    return requests.post(url, data=json.dumps({"events": events}), headers=headers, timeout=20).status_code


def event(action: str, **target: str) -> dict[str, Any]:
    return {"action": action, "target": {"repository": "group/app", **target}}


MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize(
    ("given", "published"),
    [
        (event("push", mediaType=MANIFEST, digest="sha256:1"), 1),
        (event("push", mediaType=INDEX, tag="latest"), 1),
        (event("push", mediaType=INDEX, digest="sha256:1"), 0),
        (event("delete", tag="latest"), 1),
        (event("delete", digest="sha256:1"), 0),
        (event("push", mediaType="application/octet-stream", digest="sha256:1"), 0),
        (event("pull", mediaType=MANIFEST, tag="latest"), 0),
        ({"action": "push", "target": {"repository": "group/unknown", "tag": "latest"}}, 0),
    ],
)
def test_notifications(pair: Pair, given: dict[str, Any], published: int) -> None:
    assert notify(pair, given) == 200
    assert pair.primary.value("SELECT count(*) FROM geo_events WHERE event_name = 'updated'") == published
    assert pair.primary.value("SELECT count(*) FROM geo_event_log") == published


def test_a_mount_refuses_its_whole_batch(pair: Pair) -> None:
    assert notify(pair, event("push", mediaType=MANIFEST, tag="latest"), event("mount", digest="sha256:1")) == 400
    assert pair.primary.value("SELECT count(*) FROM geo_events") == 0


def test_the_whole_header_is_the_secret(pair: Pair) -> None:
    assert notify(pair) == 200
    assert notify(pair, secret=f"Bearer {SECRET}") == 401
    assert notify(pair, event("mount"), secret="") == 401
    assert notify(pair, secret=SECRET, site="secondary") == 401


def test_no_event_without_a_secondary(pair: Pair) -> None:
    pair.primary.run('DELETE FROM geo_nodes WHERE NOT "primary"')
    assert notify(pair, event("push", tag="latest")) == 200
    assert pair.primary.value("SELECT count(*) FROM geo_events") == 0


def report(pair: Pair) -> None:
    for databases in (pair.primary, pair.secondary):
        status.report(databases)


def test_status_of_both_sites(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.sync()
    report(pair)
    first, second = call(pair, "/api/v4/geo_sites/status").json()
    assert (first["container_repositories_count"], first["container_repositories_replication_enabled"]) == (1, None)
    assert (first["container_repositories_synced_count"], first["container_repositories_synced_in_percentage"]) == (
        None,
        "0.00%",
    )
    assert second["container_repositories_replication_enabled"] is True
    assert second["container_repositories_registry_count"] == second["container_repositories_synced_count"] == 1
    assert (second["container_repositories_synced_in_percentage"], second["storage_shards_match"]) == ("100.00%", True)
    assert (second["healthy"], second["health"]) == (False, status.WRITABLE)  # one server stands for both here
    assert (
        call(pair, f"/api/v4/geo_sites/{second['geo_node_id']}/status").json()["geo_node_id"] == second["geo_node_id"]
    )


def test_old_numbers_stay_while_replication_is_off(pair: Pair) -> None:
    pair.sync()
    off = pair.render("secondary", replication=False)
    status.report(off)
    entry = call(pair, "/api/v4/geo_sites/status").json()[-1]
    assert (entry["container_repositories_replication_enabled"], entry["container_repositories_synced_count"]) == (
        False,
        None,
    )
    status.report(pair.secondary)
    pair.secondary.run("DELETE FROM container_repository_registry", database="geo")
    status.report(off)
    entry = call(pair, "/api/v4/geo_sites/status").json()[-1]
    assert (entry["container_repositories_replication_enabled"], entry["container_repositories_synced_count"]) == (
        False,
        1,
    )
    off.close()


def test_a_status_gets_stale(pair: Pair) -> None:
    report(pair)
    pair.primary.run("UPDATE geo_node_statuses SET updated_at = now() - interval '2 hours', status_message = NULL")
    entry = call(pair, "/api/v4/geo_sites/status").json()[1]
    assert (entry["healthy"], entry["health"], entry["health_status"]) == (False, status.STALE, "Unhealthy")


def test_the_primary_count_may_be_old(pair: Pair) -> None:
    site = current_site(pair.primary)
    assert site is not None
    status.store(pair.primary, site["id"], status.compute_primary(pair.primary, site))
    pair.primary.run("DELETE FROM container_repositories")
    assert status.compute_primary(pair.primary, site, 3600)["status"]["container_repositories_count"] == 1
    assert status.compute_primary(pair.primary, site)["status"]["container_repositories_count"] == 0


def test_a_status_report_needs_the_sites_key(pair: Pair) -> None:
    site = dict(current_site(pair.secondary) or {})
    site["secret_access_key"] = "another" * 8
    headers = {"Authorization": geo_authorization(pair.secondary.config, site, status.REPORT_SCOPE)}
    response = requests.post(pair.urls["primary"] + status.REPORT_PATH, data="{}", headers=headers, timeout=20)
    assert response.status_code == 401


def test_registry_repositories_of_a_project(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0", "latest")
    found = call(pair, "/api/v4/projects/group%2Fapp/registry/repositories?tags=true&tags_count=true").json()
    assert [(row["path"], row["tags_count"]) for row in found] == [("group/app", 2)]
    assert [tag["path"] for tag in found[0]["tags"]] == ["group/app:1.0", "group/app:latest"]
    assert call(pair, "/api/v4/projects/99/registry/repositories").json() == {"message": "404 Project Not Found"}


QUERY = """
query ($site: String!, $after: String) {
  geoNode(name: $site) {
    containerRepositoryRegistries(first: 2, after: $after, replicationState: FAILED) {
      pageInfo { hasNextPage endCursor }
      nodes { id state retryCount lastSyncFailure verificationState containerRepositoryId missingOnPrimary }
    }
  }
}"""


def graphql(
    pair: Pair,
    text: str,
    path: str = "/api/v4/geo/graphql",
    answering: str = "secondary",
    variables: dict[str, Any] | None = None,
) -> Any:
    response = call(pair, path, site=answering, method="POST", json={"query": text, "variables": variables})
    assert response.status_code == 200, response.text
    return response.json()


def failed_records(pair: Pair, count: int) -> None:
    for number in range(1, count + 1):
        records.pending(pair.secondary, number)
        records.failed(pair.secondary, number, "Container repository sync failed: no reason")


def test_failed_records_page_by_page(pair: Pair) -> None:
    failed_records(pair, 3)
    proxy = f"/api/v4/geo/node_proxy/{(current_site(pair.secondary) or {})['id']}/graphql"
    registries = "containerRepositoryRegistries"
    first = graphql(pair, QUERY, proxy, "primary", {"site": "secondary"})["data"]["geoNode"][registries]
    assert [node["id"].rpartition("/")[2] for node in first["nodes"]] == ["1", "2"]
    assert first["nodes"][0]["state"] == "FAILED"
    assert first["nodes"][0]["lastSyncFailure"].startswith("Container repository sync failed")
    after = {"site": "secondary", "after": first["pageInfo"]["endCursor"]}
    second = graphql(pair, QUERY, variables=after)["data"]["geoNode"][registries]
    assert [node["id"].rpartition("/")[2] for node in second["nodes"]] == ["3"]
    assert second["pageInfo"]["hasNextPage"] is False


def test_another_site_has_no_records_here(pair: Pair) -> None:
    failed_records(pair, 1)
    text = '{ geoNode(name: "secondary") { containerRepositoryRegistries { nodes { id } } } }'
    primary = graphql(pair, text, "/api/graphql", "primary")
    assert primary["data"]["geoNode"]["containerRepositoryRegistries"]["nodes"] == []
    forwarded = graphql(pair, text, "/api/graphql", "secondary")
    assert forwarded == primary


def test_bulk_resync_makes_everything_pending(pair: Pair) -> None:
    failed_records(pair, 2)
    text = (
        "mutation { geoRegistriesBulkUpdate(input: {registryClass: CONTAINER_REPOSITORY_REGISTRY, action: RESYNC_ALL})"
        " { errors registryClass } }"
    )
    assert graphql(pair, text)["data"]["geoRegistriesBulkUpdate"]["errors"] == []
    states = pair.secondary.all("SELECT state, retry_count FROM container_repository_registry", database="geo")
    assert states == [{"state": "0", "retry_count": 0}] * 2
    text = text.replace("RESYNC_ALL", "REVERIFY_ALL")
    pair.secondary.run("UPDATE container_repository_registry SET verification_state = 2", database="geo")
    graphql(pair, text)
    assert (
        pair.secondary.value("SELECT max(verification_state) FROM container_repository_registry", database="geo") == 0
    )


def test_resync_of_one_record(pair: Pair) -> None:
    failed_records(pair, 1)
    text = (
        'mutation { geoRegistriesUpdate(input: {registryId: "gid://gitlab/Geo::ContainerRepositoryRegistry/1",'
        " action: RESYNC}) { registry { id state } errors } }"
    )
    found = graphql(pair, text)["data"]["geoRegistriesUpdate"]
    assert (found["registry"]["state"], found["errors"]) == ("PENDING", [])
    assert pair.secondary.value("SELECT count(*) FROM sidekiq_jobs", database="geo") == 1
    missing = graphql(pair, text.replace("Registry/1", "Registry/77"))
    assert missing["errors"][0]["message"].startswith("The resource that you are attempting to access does not exist")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{ geoNode(name: "secondary") { wrong } }', "Field 'wrong' doesn't exist on type 'GeoNode'"),
        ("{ wrong }", "Field 'wrong' doesn't exist on type 'Query'"),
        ("{ geoNode(name: $x) { id } }", "Variable $x is used but not declared"),
        ("{ ...all }", "Parse error on '...', expected a name"),
    ],
)
def test_graphql_errors_are_answered_with_200(pair: Pair, text: str, problem: str) -> None:
    assert graphql(pair, text)["errors"][0]["message"] == problem


def test_the_schema_can_be_asked(pair: Pair) -> None:
    found = graphql(pair, '{ __type(name: "ContainerRepositoryRegistry") { fields { name } } }')
    assert {"name": "lastSyncFailure"} in found["data"]["__type"]["fields"]
    assert graphql(pair, '{ __type(name: "Nothing") { fields { name } } }')["data"]["__type"] is None


def test_graphql_is_for_administrators(pair: Pair) -> None:
    for path in ("/api/v4/geo/graphql", "/api/v4/geo/node_proxy/2/graphql"):
        assert call(pair, path, USER_TOKEN, method="POST", json={"query": "{ __type }"}).status_code == 403
        assert call(pair, path, "wrong", method="POST", json={"query": "{ __type }"}).status_code == 401
    assert call(pair, "/api/v4/geo/node_proxy/99/graphql", method="POST", json={"query": ""}).status_code == 404
