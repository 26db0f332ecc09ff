"""Online collection beside a serving registry: what clients see of it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import recorded_images as images
from registry_server import Server, database_section

from georeg_lab.registry import storage
from georeg_lab.registry.config import GC, Database, GCBlobs, GCManifests
from georeg_lab.registry.database_pool import Pool
from georeg_lab.registry.gc import BlobWorker, ManifestWorker, OnlineGC, Worker
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.storage import Storage

ACCEPT = {"Accept": ", ".join(kind for kinds in images.TYPES.values() for kind in (kinds[0], kinds[3]))}


@dataclass
class Bench:
    """A registry on an empty storage and database, collection off; the workers are run by hand."""

    server: Server
    pool: Pool
    files: Storage
    log: io.StringIO

    def worker(self, kind: type[Worker]) -> Worker:
        return kind(self.pool, self.files, Logger(self.log), 10.0)

    def sql(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        def work(queries: Any) -> list[tuple[Any, ...]]:
            cursor = queries.execute(text, values)
            return list(cursor.fetchall()) if cursor.description else []

        return self.pool.run(work)

    def all_due(self) -> None:
        for queue in ("blob", "manifest"):
            self.sql(f"UPDATE gc_{queue}_review_queue SET review_after = now() - interval '1 s'")

    def drain(self, kind: type[Worker]) -> int:
        """Run until nothing is due; the number of removals."""
        removed, worker = 0, self.worker(kind)
        while (run := worker.run()).found:
            assert not run.failed, self.log.getvalue()
            removed += run.removed
        return removed

    def status(self, path: str) -> int:
        return self.server.request("GET", path, ACCEPT).status

    def has_file(self, data: bytes) -> bool:
        return self.files.exists(storage.blob_path(images.digest(data)))


@pytest.fixture
def bench(start_registry: Callable[..., Server], fresh_metadata: Database, tmp_path: Path) -> Any:
    database = fresh_metadata
    server = start_registry(tmp_path, options={"database": database_section(database)})
    log = io.StringIO()
    pool = Pool(database, Logger(log))
    yield Bench(server, pool, Storage(str(tmp_path)), log)
    pool.close()
    server.stop()


def test_removes_an_untagged_image_and_leaves_the_others(bench: Bench) -> None:
    kept, lost = images.image("gc-kept", "docker", (100,)), images.image("gc-lost", "oci", (101, 102))
    bench.server.push_image("a/b", "v1", kept)
    bench.server.push_image("a/b", lost.digest, lost)
    bench.all_due()
    assert bench.drain(ManifestWorker) == 1
    assert bench.status(f"/v2/a/b/manifests/{lost.digest}") == 404
    assert bench.drain(BlobWorker) == 0  # the manifest's blobs have just been queued anew
    bench.all_due()
    assert bench.drain(BlobWorker) == len(lost.blobs)
    assert [bench.has_file(data) for data in lost.blobs] == [False] * len(lost.blobs)
    assert bench.status(f"/v2/a/b/blobs/{images.digest(lost.blobs[0])}") == 404
    assert [bench.has_file(data) for data in kept.blobs] == [True] * len(kept.blobs)
    assert bench.status("/v2/a/b/manifests/v1") == 200
    assert bench.sql("SELECT count(*) FROM blobs") == [(len(kept.blobs),)]
    assert bench.sql("SELECT count(*) FROM gc_blob_review_queue") == [(0,)]
    lines = [json.loads(line) for line in bench.log.getvalue().splitlines()]
    assert {line["digest"] for line in lines if "digest" in line} == {images.digest(data) for data in lost.blobs}


def test_children_of_a_list_stay_until_the_list_goes(bench: Bench) -> None:
    children = (images.image("gc-c1", "docker", (103,)), images.image("gc-c2", "docker", (104,), "arm64"))
    whole = images.index("docker", children)
    for child in children:
        bench.server.push_image("a/b", child.digest, child)
    bench.server.push_image("a/b", "list", whole)
    bench.all_due()
    assert bench.drain(ManifestWorker) == 0
    assert bench.server.request("DELETE", "/v2/a/b/manifests/list").status == 202
    bench.all_due()
    assert bench.drain(ManifestWorker) == 1
    bench.all_due()  # the children were queued when their list went
    assert bench.drain(ManifestWorker) == 2
    assert bench.sql("SELECT count(*) FROM manifests") == [(0,)]
    assert bench.sql("SELECT path FROM repositories") == [("a/b",)]  # repositories are never removed


def test_a_blob_without_file_goes_too(bench: Bench) -> None:
    data = images.blob("gc-gone", 51)
    bench.server.push_blob("a/b", data, images.digest(data))
    bench.files.delete(storage.blob_folder(images.digest(data)))
    bench.all_due()
    assert bench.drain(BlobWorker) == 1
    assert bench.sql("SELECT count(*) FROM repository_blobs") == [(0,)]


def test_the_agents_run_by_themselves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("georeg_lab.registry.gc.FIRST_RUN", 0.01)
    image = images.image("gc-agent", "oci", (53,))
    bench.server.push_image("a/b", image.digest, image)
    bench.all_due()
    settings = GC(no_idle_backoff=True, blobs=GCBlobs(interval=0.01), manifests=GCManifests(interval=0.01))

    async def until_empty() -> None:
        with ThreadPoolExecutor(2) as executor:
            collector = OnlineGC(settings, bench.pool, bench.files, Logger(bench.log))
            collector.start(executor)
            while bench.sql("SELECT count(*) FROM blobs") != [(0,)]:
                await asyncio.sleep(0.05)
                bench.all_due()
            collector.close()

    asyncio.run(until_empty())
    assert bench.sql("SELECT count(*) FROM manifests") == [(0,)]
