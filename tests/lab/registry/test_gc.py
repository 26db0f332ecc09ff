"""Online garbage collection: what goes, what stays, and what happens when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import recorded_images as images
import yaml
from registry_server import configuration, database_section

from georeg_lab.registry import cli, db
from georeg_lab.registry.config import GC, Database, GCBlobs, GCManifests
from georeg_lab.registry.database_backend import DatabaseBackend
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.gc import BlobWorker, ManifestWorker, OnlineGC, Run, pause_after
from georeg_lab.registry.http_payloads import read
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.storage import Storage, blob_path

IMAGE = images.image("gc", "docker", (90,))
OTHER = images.image("gc-other", "oci", (91,))
LIST = images.index("docker", (IMAGE,))


class Site:
    """A storage with its database, and the two workers."""

    def __init__(self, settings: Database, root: Path, log: Logger) -> None:
        self.settings = settings
        self.files = Storage(root)
        self.pool = Pool(settings, log)
        self.backend = DatabaseBackend(self.pool, self.files)
        self.blobs = BlobWorker(self.pool, self.files, log, 10)
        self.manifests = ManifestWorker(self.pool, self.files, log, 10)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with db.connect(self.settings) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def push(self, repository: str, image: images.Image, tag: str = "") -> None:
        for data in image.blobs:
            images.put_blob(Path(self.files.root), data)
            self.backend.link_blob(repository, images.digest(data), len(data), "")
        self.backend.put_manifest(repository, read(image.media_type, image.payload), tag)

    def make_due(self) -> None:
        for table in ("gc_blob_review_queue", "gc_manifest_review_queue"):
            self.sql(f"UPDATE {table} SET review_after = now() - interval '1 s'")

    def drain(self) -> list[Run]:
        """Run both workers until neither finds a task."""
        runs: list[Run] = []
        for worker in (self.manifests, self.blobs):
            while (run := worker.run()).found:
                assert not run.failed
                runs.append(run)
        return runs

    def has_file(self, data: bytes) -> bool:
        return self.files.exists(blob_path(images.digest(data)))

    def queued(self, kind: str) -> int:
        return int(self.sql(f"SELECT count(*) FROM gc_{kind}_review_queue")[0][0])


@pytest.fixture
def site(fresh_metadata: Database, tmp_path: Path) -> Any:
    with (tmp_path / "log").open("w") as stream:
        found = Site(fresh_metadata, tmp_path / "storage", Logger(stream))
        yield found
        found.pool.close()


def test_what_is_tagged_stays(site: Site) -> None:
    site.push("g/p", IMAGE, "v1")
    site.make_due()
    assert not any(run.removed for run in site.drain())
    assert (site.queued("blob"), site.queued("manifest")) == (0, 0)
    assert all(site.has_file(data) for data in IMAGE.blobs)


def test_nothing_is_touched_before_it_is_due(site: Site) -> None:
    site.push("g/p", IMAGE)
    assert site.drain() == []
    assert site.queued("manifest") == 1


def test_a_deleted_tag_takes_manifest_and_blobs_along(site: Site) -> None:
    site.push("g/p", IMAGE, "v1")
    site.push("g/p", OTHER, "v2")
    site.backend.delete_tag("g/p", "v1")
    site.make_due()
    site.manifests.run()
    while site.manifests.run().found:
        pass
    site.make_due()  # the deletion queued config and layers again
    site.drain()
    assert not site.backend.has_manifest("g/p", IMAGE.digest)
    assert not any(site.has_file(data) for data in IMAGE.blobs)
    assert all(site.has_file(data) for data in OTHER.blobs)
    assert not site.backend.has_blob("g/p", images.digest(IMAGE.blobs[0]))


def test_children_of_a_list_and_subjects_stay(site: Site) -> None:
    site.push("g/p", IMAGE)
    site.push("g/p", LIST, "list")
    site.push("g/p", OTHER)
    manifest = json.loads(OTHER.payload)
    manifest["subject"] = {"mediaType": OTHER.media_type, "size": len(OTHER.payload), "digest": OTHER.digest}
    signature = images.Image(OTHER.media_type, images.compact(manifest), blobs=OTHER.blobs)
    site.push("g/p", signature, "sig")
    site.make_due()
    assert not any(run.removed for run in site.drain())
    assert all(site.backend.has_manifest("g/p", found.digest) for found in (IMAGE, LIST, OTHER))


def test_payload_files_go_after_an_import(fresh_metadata: Database, tmp_path: Path) -> None:
    """From step three on the manifests' files are dangling: database pulls go on, legacy pulls are over."""
    metadata, root = fresh_metadata, tmp_path / "storage"
    images.base_main(root)
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(configuration(root, 1, database_section(metadata))))
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["database", "import", "-l", str(config)], "registry") == 0
    with (tmp_path / "log").open("w") as stream:
        site = Site(metadata, root, Logger(stream))
        site.make_due()
        site.drain()
        payload = images.image("app-m", "docker")
        assert site.backend.tag_digest("acme/app", "m-broken") == payload.digest
        assert site.backend.manifest("acme/app", payload.digest).payload == payload.payload
        assert not site.has_file(payload.payload)
        assert all(site.has_file(data) for data in payload.blobs)
        untagged = images.image("untagged", "oci", (200,))  # not imported: all of it goes
        assert not any(site.has_file(data) for data in (*untagged.blobs, untagged.payload))
        site.pool.close()


def test_a_task_that_fails_is_postponed_twice_as_long_each_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(f"remove {path}")

    monkeypatch.setattr(site.files, "delete", refuse)
    data = IMAGE.blobs[0]
    images.put_blob(Path(site.files.root), data)
    site.backend.link_blob("g/p", images.digest(data), len(data), "")
    waits = []
    for count in (1, 2):
        site.make_due()
        assert site.blobs.run() == Run(found=True, failed=True)
        wait, counted = site.sql("SELECT review_after - now(), review_count FROM gc_blob_review_queue")[0]
        assert counted == count
        waits.append(wait.total_seconds())
    assert waits[1] > 1.9 * waits[0]
    assert site.backend.has_blob("g/p", images.digest(data))
    monkeypatch.undo()
    site.make_due()
    assert site.blobs.run() == Run(found=True, removed=True)


def test_a_lost_database_is_a_failure_without_task(site: Site) -> None:
    site.pool.settings = Database(host="127.0.0.1", port=1)
    assert site.blobs.run() == Run(failed=True)


def test_pauses() -> None:
    settings = GC(max_backoff=20.0)
    assert pause_after(Run(found=True), 12.0, 5.0, settings) == 5.0
    assert pause_after(Run(), 5.0, 5.0, settings) == 7.5
    assert pause_after(Run(), 18.0, 5.0, settings) == 20.0
    assert pause_after(Run(failed=True), 5.0, 5.0, settings) == 7.5
    assert pause_after(Run(), 5.0, 5.0, GC(no_idle_backoff=True)) == 5.0
    assert pause_after(Run(failed=True), 5.0, 5.0, GC(error_cooldown_period=60.0)) == 60.0


@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        (GC(), ["blob", "manifest"]),
        (GC(disabled=True), []),
        (GC(blobs=GCBlobs(disabled=True)), ["manifest"]),
        (GC(manifests=GCManifests(disabled=True)), ["blob"]),
    ],
)
def test_switches(site: Site, settings: GC, workers: list[str], tmp_path: Path) -> None:
    with (tmp_path / "agent.log").open("w") as stream:
        collector = OnlineGC(settings, site.pool, site.files, Logger(stream))

        async def run() -> None:
            collector.start(ThreadPoolExecutor(1))
            await asyncio.sleep(0)
            collector.close()

        asyncio.run(run())
    started = [json.loads(line)["worker"] for line in (tmp_path / "agent.log").read_text().splitlines()]
    assert sorted(started) == workers


@pytest.mark.parametrize(("review_after", "seconds"), [(3600.0, 3600), (-1e-9, 0)])
def test_review_after_is_written_for_all_events(site: Site, review_after: float, seconds: int) -> None:
    OnlineGC(GC(review_after=review_after), site.pool, site.files, site.blobs.log).apply_review_after()
    found = site.sql(
        "SELECT DISTINCT extract(epoch FROM value)::int, count(*) FROM gc_review_after_defaults GROUP BY 1"
    )
    assert found == [(seconds, 7)]


def test_the_pool_replaces_a_dead_connection(site: Site) -> None:
    (pid,) = site.pool.run(lambda queries: queries.one("SELECT pg_backend_pid()")) or (0,)
    site.sql("SELECT pg_terminate_backend(%s)", pid)
    (other,) = site.pool.run(lambda queries: queries.one("SELECT pg_backend_pid()")) or (0,)
    assert other != pid


def test_the_pool_keeps_a_connection_after_an_error_of_a_statement(site: Site) -> None:
    with pytest.raises(db.DatabaseError, match="42P01"):
        site.pool.transaction(lambda queries: queries.one("SELECT 1 FROM nowhere"))
    assert site.pool.transaction(lambda queries: queries.one("SELECT 1")) == (1,)
    assert site.pool.run(lambda q: q.connection.info.transaction_status) == psycopg.pq.TransactionStatus.IDLE
