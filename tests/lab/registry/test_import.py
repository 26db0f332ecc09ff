"""The import against every recorded import of the real program: one storage, one to three commands."""

from __future__ import annotations

import pytest
from import_bench import (  # noqa: F401 (fixtures)
    Bench,
    bench_fixture,
    check_command,
    check_database,
    metadata_fixture,
    parameters,
    workshops_fixture,
)


@parameters(lambda case: case["method"] != "sequence")
def test_recorded_import(bench: Bench, request: pytest.FixtureRequest) -> None:
    case = request.node.callspec.params["bench"]
    bench.plant(case["storage"])
    assert bench.lockfiles() == case["lockfiles_before"]
    for step in case["steps"]:
        check_command(bench, step)
    check_database(bench, case)
