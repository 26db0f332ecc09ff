"""The committed outputs of the notebooks are those of a plan on the lab: nbval runs them again and compares."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from refresh_notebooks import by_state, copy_project

from georeg_lab.layout import Ports
from georeg_lab.postgres import port_is_free
from georeg_lab.sites import LabSites

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = ROOT / "tests/nbval_sanitize.cfg"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.lab
@pytest.mark.parametrize("state", by_state(NOTEBOOKS))
def test_committed_outputs_are_those_of_a_plan(state: str | None, tmp_path: Path) -> None:
    taken = [port for port in Ports().all() if not port_is_free(port)]
    if taken:
        pytest.skip(f"the default lab's ports are in use ({taken[0]} …): its addresses are part of the outputs")
    copy_project(tmp_path)
    sites = LabSites.up(tmp_path / ".lab", state=state)
    try:
        for notebook in by_state(NOTEBOOKS)[state]:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-vv", "-x", "-p", "no:cacheprovider", "-W", "default"),
                    *("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "240"),
                    *("--nbval-sanitize-with", str(SANITIZE), str(tmp_path / "notebooks" / notebook.name)),
                ],
                cwd=tmp_path,
                env={name: value for name, value in os.environ.items() if not name.startswith(("GEOREG_", "PYTEST_"))},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-20000:]
    finally:
        sites.down(purge=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_every_cell_was_run_and_compared_cells_have_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert [cell.source for cell in code if not cell.outputs] == [code[0].source], "only the parameters cell is silent"
    size = max(len(nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))) for cell in code)
    assert size < 200_000
    assert "/tmp" not in path.read_text()


def test_the_sanitizer_replaces_what_it_says_and_nothing_else() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(SANITIZE)
    rules = [(section["regex"], section["replace"]) for name, section in config.items() if name != "DEFAULT"]

    def sanitize(text: str) -> str:
        for regex, replacement in rules:
            text = re.sub(regex, replacement, text)
        return text

    assert sanitize("record 20261124T122247Z-migrate-legacy-5199.") == "record RUN."
    assert sanitize("at 2026-11-24T12:22:47Z by") == "at MOMENT by"
    assert sanitize("1031 tags, sha256:20261124, 127.0.0.1:18702") == "1031 tags, sha256:20261124, 127.0.0.1:18702"
