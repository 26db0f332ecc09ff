"""Recorded sequences in which a registry serves before or after the import."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recorded_images as images
import registry_program
import requests
from import_bench import (  # noqa: F401 (fixtures)
    CASES,
    Bench,
    bench_fixture,
    check_command,
    check_database,
    metadata_fixture,
    parameters,
    workshops_fixture,
)

from georeg_lab.postgres import free_port

BY_NAME = {case["name"]: case for case in CASES if case["method"] == "sequence"}
ACCEPT = ", ".join(kind for kinds in images.TYPES.values() for kind in (kinds[0], kinds[3]))
# the first run of the collector comes up to a minute after the start: not waited for here
AT_ONCE = "import sys; from georeg_lab.registry import cli, gc; gc.FIRST_RUN = 0.1; sys.exit(cli.main(sys.argv[1:]))"
FAST_GC = {"disabled": False, "noidlebackoff": True, "blobs": {"interval": "10ms"}, "manifests": {"interval": "10ms"}}


class Registry:
    """A registry process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.url = f"http://{address}"

    def push_blob(self, repository: str, data: bytes) -> None:
        started = requests.post(f"{self.url}/v2/{repository}/blobs/uploads/", timeout=30)
        assert started.status_code == 202
        location = started.headers["Location"]
        done = requests.put(f"{location}&digest={images.digest(data)}", data=data, timeout=30)
        assert done.status_code == 201

    def push(self, repository: str, tag: str, content: images.Image) -> requests.Response:
        for data in content.blobs:
            self.push_blob(repository, data)
        headers = {"Content-Type": content.media_type}
        url = f"{self.url}/v2/{repository}/manifests/{tag}"
        return requests.put(url, data=content.payload, headers=headers, timeout=30)

    def status(self, repository: str, reference: str) -> int:
        url = f"{self.url}/v2/{repository}/manifests/{reference}"
        return requests.get(url, headers={"Accept": ACCEPT}, timeout=30).status_code


def configure(bench: Bench, *, database: bool, gc: dict[str, Any] | None = None) -> tuple[Path, str]:
    """A configuration for serving the bench's storage, and its address."""
    document = json.loads(bench.config.read_text())
    address = f"127.0.0.1:{free_port()}"
    document["http"] = {"addr": address, "secret": "s"}
    document["database"]["enabled"] = database
    document["gc"] = gc or {"disabled": True}
    path = bench.config.with_name("serve.yml")
    path.write_text(json.dumps(document))
    return path, address


@contextlib.contextmanager
def serving(
    bench: Bench, *, database: bool, enforce: bool = False, gc: dict[str, Any] | None = None
) -> Iterator[Registry]:
    path, address = configure(bench, database=database, gc=gc)
    environment = {**os.environ, "REGISTRY_FF_ENFORCE_LOCKFILES": str(enforce).lower()}
    program = [sys.executable, "-c", AT_ONCE] if gc and not registry_program.BINARY else registry_program.COMMAND
    command = [*program, "serve", str(path)]
    log = bench.config.with_name("serve.log").open("w+")
    with log, subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment) as process:
        try:
            registry = Registry(process, address)
            until = time.monotonic() + 60
            while True:
                assert process.poll() is None, Path(log.name).read_text()
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(registry.url + "/v2/", timeout=30).status_code == 200:
                        break
                assert time.monotonic() < until, Path(log.name).read_text()
                time.sleep(0.05)
            yield registry
        finally:
            process.terminate()
            process.wait(30)


def refused(bench: Bench, *, database: bool, enforce: bool) -> str:
    """The text on stderr of a start that must fail."""
    path, _ = configure(bench, database=database)
    environment = {**os.environ, "REGISTRY_FF_ENFORCE_LOCKFILES": str(enforce).lower()}
    command = [*registry_program.COMMAND, "serve", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr


def steps_of(case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from case["steps"]


def finish(bench: Bench, case: dict[str, Any]) -> None:
    check_database(bench, case)
    assert bench.metadata.statistics() == case["import_statistics"]


def on(name: str) -> Any:
    return parameters(lambda case: case["name"] == name and case["method"] == "sequence")


@on("registry-long-on-the-database-then-step-two")
def test_step_two_loses_what_was_pushed_since(bench: Bench) -> None:
    case = BY_NAME["registry-long-on-the-database-then-step-two"]
    first, push, second, with_enforcement, without, sql, third = steps_of(case)
    check_command(bench, first)
    with serving(bench, database=True) as registry:
        pushed = registry.push("acme/app", "after-import", images.PUSHED_BETWEEN)
    assert pushed.headers["Docker-Content-Digest"] == push["result"]
    check_command(bench, second)
    assert refused(bench, database=True, enforce=True) == with_enforcement["refused"]
    with serving(bench, database=True):
        assert without["result"] == "started"
    assert "sql" in sql
    bench.metadata.connection.execute("TRUNCATE tags")
    check_command(bench, third)
    finish(bench, case)


@on("full-import-tags-of-other-repository-present")
def test_tags_of_another_repository_stop_a_full_import(bench: Bench) -> None:
    case = BY_NAME["full-import-tags-of-other-repository-present"]
    push, command = steps_of(case)
    with serving(bench, database=True) as registry:
        pushed = registry.push("other/repo", "v1", images.PUSHED_BETWEEN)
    assert pushed.headers["Docker-Content-Digest"] == push["result"]
    check_command(bench, command)
    finish(bench, case)


@on("enforcement-then-import-then-start")
def test_everything_tagged_can_be_pulled_afterwards(bench: Bench) -> None:
    case = BY_NAME["enforcement-then-import-then-start"]
    _, command, pulls = steps_of(case)
    with serving(bench, database=False):
        pass
    check_command(bench, command)
    with serving(bench, database=True) as registry:
        found = [[name, reference, registry.status(name, reference)] for name, reference, _ in pulls["result"]]
    assert found == pulls["result"]
    finish(bench, case)


@on("online-gc-after-import")
def test_online_collection_removes_the_way_back(bench: Bench) -> None:
    case = BY_NAME["online-gc-after-import"]
    command, _, _, collected, legacy = steps_of(case)
    check_command(bench, command)
    metadata = bench.metadata
    for table in ("gc_blob_review_queue", "gc_manifest_review_queue"):
        metadata.connection.execute(f"UPDATE {table} SET review_after = now() - interval '1 hour'")
    with serving(bench, database=True, gc=FAST_GC) as registry:
        until = time.monotonic() + 150
        while any(
            metadata.rows(f"SELECT FROM {table}") for table in ("gc_blob_review_queue", "gc_manifest_review_queue")
        ):
            assert time.monotonic() < until
            time.sleep(0.2)
        pulls = collected["result"]["pulls_on_the_database"]
        assert [[name, tag, registry.status(name, tag)] for name, tag, _ in pulls] == pulls
    payloads = [item["digest"].split(":")[1] for item in CASES[0]["manifests"]]
    store = bench.root / images.V2 / "blobs/sha256"
    assert [payload for payload in payloads if (store / payload[:2] / payload / "data").exists()] == []
    with serving(bench, database=False) as registry:
        assert [[name, tag, registry.status(name, tag)] for name, tag, _ in legacy["result"]] == legacy["result"]
    finish(bench, case)


@on("unknown-config-type-imported-then-pushed")
def test_imported_types_are_known_to_pushes(bench: Bench) -> None:
    case = BY_NAME["unknown-config-type-imported-then-pushed"]
    planted, command, pushes = steps_of(case)
    bench.plant(planted["storage"])
    check_command(bench, command)
    imported = next(a["content"] for a in planted["storage"] if "manifest.v1+json" in a.get("content", ""))
    kind = json.loads(imported)["config"]["mediaType"]
    found = []
    with serving(bench, database=True) as registry:
        for tag, content in (
            ("new", images.with_config_type(images.image("uc2", "oci", (33,)), kind)),
            (
                "other",
                images.with_config_type(
                    images.image("uc3", "oci", (34,)), "application/vnd.example.other.config.v1+json"
                ),
            ),
            ("retag", images.Image(images.TYPES["oci"][0], imported.encode())),
        ):
            answer = registry.push("acme/app", tag, content)
            found.append([answer.status_code, answer.text])
    assert found == pushes["result"]
    finish(bench, case)
