"""The import's log and progress beyond the recordings: level debug, other forms of a line, a bar that ends early."""

from __future__ import annotations

import json

import pytest
import registry_program
from import_bench import CASES, Bench, bench_fixture, metadata_fixture, workshops_fixture  # noqa: F401 (fixtures)


@pytest.mark.parametrize("bench", [CASES[0]], indirect=True, ids=[""])
def test_statements_are_logged_at_debug(bench: Bench) -> None:
    document = json.loads(bench.config.read_text())
    bench.config.write_text(json.dumps({**document, "log": {"level": "debug"}}))
    status, out, _ = registry_program.run(["database", "import", "-l", "-1", str(bench.config)])
    assert status == 0
    queries = [line for line in map(json.loads, out.splitlines()) if line["msg"] == "Query"]
    assert queries
    assert all(
        {"args", "commandTag", "database", "duration_ms", "level", "pid", "sql"} <= set(line) for line in queries
    )
    assert "version" not in queries[0]
