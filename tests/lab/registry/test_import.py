"""The import against every recorded import of the real program: one storage, one to three commands."""

from __future__ import annotations

import pytest
from import_bench import (  # noqa: F401 (fixtures)
    CASES,
    Bench,
    bench_fixture,
    check_command,
    check_database,
    metadata_fixture,
    name_of,
    workshops_fixture,
)

PLANTED = [case for case in CASES if case["method"] != "sequence"]


@pytest.mark.parametrize("bench", [pytest.param(case, id=name_of(case)) for case in PLANTED], indirect=True)
def test_recorded_import(bench: Bench, request: pytest.FixtureRequest) -> None:
    case = request.node.callspec.params["bench"]
    bench.plant(case["storage"])
    assert bench.lockfiles() == case["lockfiles_before"]
    for step in case["steps"]:
        check_command(bench, step)
    check_database(bench, case)
