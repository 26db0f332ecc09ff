"""The sync of one repository: its records and log lines as derived, and each case in which it goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import contract_cases
import pytest
from rails_fakes import OCI_MANIFEST, Pair

from georeg_lab.rails import events_api, geo_verification, jobs, records
from georeg_lab.rails.sync import Shutdown, sync_repository

FILE = "rails/sync_states.jsonl"


def as_expected(expected: str, message: str) -> bool:
    """A recorded text with `<error>` or `{…}` in it stands for any text there."""
    pattern = re.escape(expected).replace("<error>", ".+").replace(re.escape("{…}"), r"\{.*")
    return re.fullmatch(pattern, message, re.DOTALL) is not None


def holds(case: dict[str, Any], pair: Pair) -> None:
    """Record and log are what the recorded case says."""
    record = pair.record
    assert records.word(record["state"]) == case["record_state"]
    assert records.number(record["state"]) == case["record_number"]
    failure = case["last_sync_failure"]
    if failure is None:
        assert record["last_sync_failure"] is None
    else:
        assert as_expected(failure, record["last_sync_failure"])
        assert len(record["last_sync_failure"]) <= 255
    log = pair.log()
    assert len(log) == len(case["log"]), log
    assert all(as_expected(expected, message) for expected, message in zip(case["log"], log, strict=True)), log


def ok(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.sync()


def one_tag_fails(pair: Pair) -> None:
    ok_digest = pair.registries["primary"].image("a", "1.0")
    pair.registries["primary"].image("b", "2.0")
    layers = json.loads(pair.registries["primary"].manifests[ok_digest][1])["layers"]
    del pair.registries["primary"].blobs[layers[0]["digest"]]
    pair.sync()
    assert set(pair.registries["secondary"].tags) == {"2.0"}


def remove_fails(pair: Pair) -> None:
    child = pair.registries["secondary"].image("a", "old")
    pair.registries["secondary"].index([child], "list")
    pair.registries["primary"].image("a")
    pair.registries["primary"].index([child], "list")
    pair.registries["secondary"].database = True
    pair.sync()
    assert "old" in pair.registries["secondary"].tags


def not_connected(pair: Pair) -> None:
    pair.registries["primary"].connected = False
    pair.sync()


def event_meanwhile(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")

    def event(method: str, uri: str) -> None:
        if method == "PUT" and "/manifests/" in uri:
            pair.secondary.run("UPDATE container_repository_registry SET state = '0'", database="geo")

    pair.registries["secondary"].on_request = event
    pair.sync()
    rows = pair.secondary.all("SELECT class, args FROM sidekiq_jobs", database="geo")
    assert rows == [{"class": "Geo::ContainerRepositorySyncWorker", "args": [pair.repository["id"]]}]


def lease_held(pair: Pair) -> None:
    with jobs.lease(pair.secondary, f"geo_container_sync:{pair.repository['id']}") as obtained:
        assert obtained
        pair.sync()
    assert pair.registries["secondary"].requests == []


def secondary_read_only(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    pair.registries["secondary"].read_only = True
    pair.sync()
    assert pair.registries["secondary"].tags == {}


def verify_mismatch(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    geo_verification.checksum_on_primary(pair.primary)
    pair.registries["secondary"].read_only = True
    pair.sync()
    (pair.roots["secondary"] / "var/log/gitlab/gitlab-rails/geo.log").unlink()
    geo_verification.verify_on_secondary(pair.secondary)
    assert pair.record["checksum_mismatch"] is True
    assert pair.record["retry_count"] == 1


CASES = {
    "sync-ok": ok,
    "sync-one-tag-fails": one_tag_fails,
    "sync-remove-fails": remove_fails,
    "sync-not-connected": not_connected,
    "sync-event-meanwhile": event_meanwhile,
    "sync-lease-held": lease_held,
    "sync-secondary-read-only": secondary_read_only,
    "verify-mismatch": verify_mismatch,
}


@pytest.mark.parametrize("case", contract_cases.parameters(FILE, lambda case: str(case["name"])))
def test_derived_state(pair: Pair, case: dict[str, Any]) -> None:
    CASES[case["name"]](pair)
    holds(case, pair)


def same_tags(pair: Pair) -> bool:
    return pair.registries["primary"].tags == pair.registries["secondary"].tags


def test_images_come_over_whole(pair: Pair) -> None:
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    children = [primary.image("amd64"), primary.image("arm64")]
    primary.index(children, "multi")
    primary.image("a", "1.0", "latest")
    pair.sync()
    assert same_tags(pair)
    assert secondary.manifests == primary.manifests
    assert secondary.blobs == primary.blobs
    assert pair.log() == ["Marking sync as started", "Finished sync"]


def test_tag_moved_takes_another_tag_along(pair: Pair) -> None:
    """Table row 1: the old pair is removed by deleting its manifest, and every tag on it goes."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    for registry in (primary, secondary):
        registry.image("a", "moving", "staying")
    primary.image("b", "moving")
    pair.sync()
    assert secondary.tags == {"moving": primary.tags["moving"]}
    assert records.word(pair.record["state"]) == "synced"
    assert pair.log() == ["Marking sync as started", "Finished sync"]
    pair.sync()
    assert same_tags(pair)


def test_index_without_media_type_loses_its_children(pair: Pair) -> None:
    """Table row 2: taken for an image, its children are asked for as blobs: the tag does not come over."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    primary.index([primary.image("amd64")], "multi", media_type=None)
    pair.sync()
    assert (secondary.tags, secondary.manifests) == ({}, {})
    assert records.word(pair.record["state"]) == "synced"
    assert len([line for line in pair.log() if line.startswith("Error while syncing tag multi: Pull error")]) == 1


def test_index_without_media_type_whose_children_count_as_blobs_is_pushed_under_the_wrong_type(pair: Pair) -> None:
    """Table row 2, second half: where the children can be read as blobs, the index is pushed as an image manifest."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    child = primary.image("amd64")
    primary.index([child], "multi", media_type=None)
    secondary.blobs[child] = primary.manifests[child][1]
    pushed: list[str] = []
    real = secondary.put
    secondary.put = lambda ref, kind, body: (pushed.append(kind), real(ref, kind, body))[1]  # type: ignore[method-assign]
    pair.sync()
    assert pushed == [OCI_MANIFEST]
    assert secondary.tags == {}


def test_index_inside_an_index_does_not_come_over(pair: Pair) -> None:
    """Table row 3."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    inner = primary.index([primary.image("amd64")])
    primary.index([inner], "nested")
    pair.sync()
    assert secondary.tags == {}
    assert records.word(pair.record["state"]) == "synced"
    assert any(line.startswith("Error while syncing tag nested: Pull error for blob") for line in pair.log())


def test_more_tags_than_a_page_removes_right_ones(pair: Pair) -> None:
    """Table row 4: with pages that differ, tags are removed that are right."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    for number in range(6):
        for registry in (primary, secondary):
            registry.image(str(number), f"tag-{number}")
    primary.page = 4
    pair.sync()
    assert sorted(secondary.tags) == ["tag-0", "tag-1", "tag-2", "tag-3"]
    assert records.word(pair.record["state"]) == "synced"


@pytest.mark.parametrize("answer", [b'{"name":"x","tags":null}', b'{"name":"x"}', b"no JSON"])
def test_an_empty_or_unreadable_list_removes_everything(pair: Pair, answer: bytes) -> None:
    """Table row 5."""
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    for registry in (primary, secondary):
        registry.image("a", "1.0")
        registry.image("b", "2.0")
    primary.tag_list = answer
    pair.sync()
    assert secondary.tags == {}
    assert records.word(pair.record["state"]) == "synced"


def test_read_only_secondary_fails_later_by_verification(pair: Pair) -> None:
    """Table row 6: one log line per tag, synced; failed once the primary's checksum is compared."""
    for number in range(3):
        pair.registries["primary"].image(str(number), f"tag-{number}")
    pair.registries["secondary"].read_only = True
    geo_verification.checksum_on_primary(pair.primary)
    pair.sync()
    assert records.word(pair.record["state"]) == "synced"
    assert len([line for line in pair.log() if line.startswith("Error while syncing tag")]) == 3
    geo_verification.verify_on_secondary(pair.secondary)
    assert records.word(pair.record["state"]) == "failed"


def test_manifest_deleted_by_digest_tells_nobody(pair: Pair) -> None:
    """Table row 7: no event; the surplus stays until something else touches the repository."""
    target = {"digest": "sha256:" + "0" * 64, "repository": pair.path}
    body = json.dumps({"events": [{"action": "delete", "target": target}]}).encode()
    events_api.take(pair.primary, "notification-secret", body)
    assert pair.primary.value("SELECT count(*) FROM geo_events") == 0


def test_without_a_checksum_of_the_primary_verification_is_disabled(pair: Pair) -> None:
    ok(pair)
    assert records.VERIFICATION_STATES[pair.record["verification_state"]] == "disabled"


def test_verification_proves_the_list_alone(pair: Pair) -> None:
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    primary.image("a", "1.0")
    geo_verification.checksum_on_primary(pair.primary)
    pair.sync()
    secondary.blobs.clear()
    geo_verification.verify_on_secondary(pair.secondary)
    assert records.VERIFICATION_STATES[pair.record["verification_state"]] == "succeeded"


def test_checksum_of_names_and_digests() -> None:
    tags: list[dict[str, str | None]] = [{"name": "b", "digest": None}, {"name": "B", "digest": "sha256:1"}]
    assert geo_verification.checksum_of(tags) == hashlib.sha256(b"Bsha256:1b").hexdigest()


def test_a_stopped_sync_gives_its_lease_back(pair: Pair) -> None:
    pair.registries["primary"].image("a", "1.0")
    with pytest.raises(Shutdown):
        sync_repository(pair.secondary, pair.repository, stopping=lambda: True)
    assert jobs.leases(pair.secondary) == []
    assert records.word(pair.record["state"]) == "started"


def test_buildkit_cache_is_a_plain_manifest_of_blobs(pair: Pair) -> None:
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    kinds = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.buildkit.cacheconfig.v0")
    listed = [{"mediaType": kind, "digest": primary.blob(kind.encode()), "size": 1} for kind in kinds]
    media_type = "application/vnd.oci.image.index.v1+json"
    primary.manifest({"schemaVersion": 2, "mediaType": media_type, "manifests": listed}, media_type, "cache")
    secondary.put = lambda *_: (201, b"")  # type: ignore[method-assign,assignment]
    pair.sync()
    assert secondary.blobs == primary.blobs
    assert pair.log() == ["Marking sync as started", "Finished sync"]


def test_foreign_layers_stay_where_they_are(pair: Pair) -> None:
    primary, secondary = pair.registries["primary"], pair.registries["secondary"]
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
    document["layers"] = [{"mediaType": foreign, "digest": "sha256:" + "1" * 64, "size": 1}]
    primary.manifest(document, OCI_MANIFEST, "windows")
    secondary.put = lambda *_: (201, b"")  # type: ignore[method-assign,assignment]
    pair.sync()
    assert pair.log() == ["Marking sync as started", "Finished sync"]


@pytest.mark.parametrize("state", ["2", "synced"])
def test_states_are_numbers_or_words(pair: Pair, state: str) -> None:
    ok(pair)
    pair.secondary.run("UPDATE container_repository_registry SET state = %s", [state], database="geo")
    assert records.due(pair.secondary, 10) == []
    records.pending(pair.secondary, pair.repository["id"])
    assert records.due(pair.secondary, 10) == [pair.repository["id"]]


def test_a_started_record_cannot_start_again_and_times_out(pair: Pair) -> None:
    number = pair.repository["id"]
    records.pending(pair.secondary, number)
    records.start(pair.secondary, number)
    with pytest.raises(records.InvalidTransition):
        records.start(pair.secondary, number)
    statement = "UPDATE container_repository_registry SET last_synced_at = now() - interval '9 hours'"
    pair.secondary.run(statement, database="geo")
    records.fail_timed_out(pair.secondary)
    assert pair.record["last_sync_failure"] == "Sync timed out after 8 hours"
