"""Every recorded command of the real program but `serve` (test_serve): exit status, output, lockfiles, log files."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import contract_cases
import pytest
from cli_comparison import plain, shown
from cli_scenes import CASES, Stage
from metadata_pool import Pool

from georeg_lab.postgres import Cluster

FILE = "registry/cli.jsonl"
COMMANDS = [
    pytest.param(number, id=f"{number} {case['name']}"[:90], marks=contract_cases.marks(FILE, number + 1))
    for number, case in enumerate(CASES)
    if "started" not in case
]
# lockfiles after commands that failed (registry 0.2, 3.1); elsewhere there are none
LOCKED = {126: ["filesystem-in-use"], 178: ["filesystem-in-use"], 153: ["database-in-use"], 154: ["database-in-use"]}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: Cluster,
    metadata_pool: Pool,
    standby: Callable[[], tuple[int, str]],
) -> Stage:
    def empty_database() -> str:
        name = f"stage_{next(_numbers)}"
        postgres_server.create_database(name, postgres_server.superuser)
        return name

    folder = tmp_path_factory.mktemp("stage")
    return Stage(folder, postgres_server, empty_database, metadata_pool.lent, standby)


@pytest.mark.parametrize("number", COMMANDS)
def test_recorded_command(number: int, stage: Stage) -> None:
    case, outcome = CASES[number], stage.outcome(number)
    found = outcome.finished
    assert found.status == case["exit"]
    assert plain(found.err) == plain(case["stderr"])
    recorded_output, output = shown(case["stdout"], found.out)
    assert output == recorded_output
    if "files" in case:
        assert outcome.logs == [(mode, lines) for _, mode, lines in case["files"]]
    if case["exit"]:
        assert outcome.lockfiles == LOCKED.get(number, [])


def test_down_takes_everything_away(stage: Stage) -> None:
    stage.outcome(63)
    assert stage.left_by_down == (["post_deploy_schema_migrations", "schema_migrations"], 0)
