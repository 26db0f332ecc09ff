"""Recorded sequences: several imports with pushes, SQL, planted files and kills in between."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import recorded_images as images
import registry_program
from import_bench import (  # noqa: F401 (fixtures)
    Bench,
    bench_fixture,
    check_command,
    check_database,
    metadata_fixture,
    parameters,
    workshops_fixture,
)

TRUNCATE = "TRUNCATE tags"
STATEMENTS = {
    "full-import-on-filled-tags-table": [TRUNCATE],
    "registry-long-on-the-database-then-step-two": [TRUNCATE],
    "kill-9-in-step-two": [TRUNCATE],
    "kill-9-in-full-import": [TRUNCATE],
    "fatal-in-step-two-only": [TRUNCATE],
    "online-gc-after-import": [
        "UPDATE gc_blob_review_queue SET review_after = now() - interval '1 hour'",
        "UPDATE gc_manifest_review_queue SET review_after = now() - interval '1 hour'",
    ],
}
PIPE_BYTES = 4096
KILLED = re.compile(r"kill -9 after (\d+) lines '([^']+)' of (\S+)")


def kill_command(bench: Bench, step: dict[str, Any]) -> None:
    """Run the command as a process of its own and kill it after so many lines; the pipe keeps it from running ahead."""
    found = KILLED.fullmatch(step["killed"])
    assert found
    lines, message, repository = int(found[1]), found[2], found[3]
    words = [str(bench.config) if word == "{config}" else word for word in step["argv"][1:]]
    command = [*registry_program.COMMAND, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        for text in process.stdout:
            line = json.loads(text)
            lines -= line["msg"] == message and line.get("repository") == repository
            if not lines:
                process.kill()
                break
    assert process.returncode == step["exit"]
    bench.metadata.wait_alone()
    counts = bench.metadata.dump()["counts"]
    assert (counts["tags"], counts["manifests"]) == (step["tags_after"], step["manifests_after"])
    assert counts["import_statistics"] == step["import_statistics_rows"]
    assert bench.lockfiles() == step["lockfiles_after"]


def legacy_push_between(root: Path) -> None:
    images.push_legacy(root, "acme/app", images.PUSHED_BETWEEN, ["new"])
    images.push_legacy(root, "zeta/new", images.PUSHED_BETWEEN_2, ["v1"])
    images.push_legacy(root, "acme/app", images.PUSHED_BETWEEN_2, ["z-last"])


def legacy_delete(root: Path) -> None:
    repositories = root / images.V2 / "repositories"
    shutil.rmtree(repositories / "acme/app/_manifests/tags/z-last")
    shutil.rmtree(repositories / "zeta/last/_manifests/tags/latest")
    gone = (repositories / "acme/app/_manifests/tags/m-broken/current/link").read_text().split(":")[1]
    (repositories / "acme/app/_manifests/revisions/sha256" / gone / "link").unlink()
    shutil.rmtree(repositories / "acme/app/_manifests/tags/m-broken")


LEGACY = {  # what the pushes and deletes of a legacy registry do to its storage
    "push-between-step-one-and-two": legacy_push_between,
    "legacy-delete-between-step-one-and-two": legacy_delete,
}
NEEDS_SERVER = (  # in test_import_serving
    "registry-long-on-the-database-then-step-two",
    "full-import-tags-of-other-repository-present",
    "enforcement-then-import-then-start",
    "online-gc-after-import",
    "unknown-config-type-imported-then-pushed",
)


@parameters(lambda case: case["method"] == "sequence" and case["name"] not in NEEDS_SERVER)
def test_recorded_sequence(bench: Bench, request: pytest.FixtureRequest) -> None:
    case = request.node.callspec.params["bench"]
    statements = iter(STATEMENTS.get(case["name"], []))
    for step in case["steps"]:
        if "killed" in step:
            kill_command(bench, step)
        elif "argv" in step:
            check_command(bench, step)
            assert bench.metadata.dump()["counts"]["tags"] == step["tags_after"]
        elif "sql" in step:
            bench.metadata.connection.execute(next(statements))
        elif "storage" in step:
            bench.plant(step["storage"])
        else:
            assert list(step) == ["legacy_registry"]
            LEGACY[case["name"]](bench.root)
    check_database(bench, case)
    recorded = [
        [bench.redact(cell) if isinstance(cell, str) else cell for cell in row] for row in bench.metadata.statistics()
    ]
    assert recorded == case["import_statistics"]
