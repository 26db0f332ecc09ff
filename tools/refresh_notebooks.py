"""Run every notebook as a plan on a fresh lab with the default ports, and keep its outputs in the repository.

Each runs in the lab's state that its metadata name (`lab_state`); with names of notebooks as arguments, only those.

The kept outputs are what `tests/test_notebook_outputs.py` compares with. Nothing of a run's own (widget state, timings,
papermill's notes) is kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from georeg_lab.sites import LabSites

ROOT = Path(__file__).resolve().parents[1]
KEPT_METADATA = ("kernelspec", "language_info", "georeg")


def copy_project(folder: Path) -> None:
    """Notebooks and parameters into a folder of their own."""
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))


def refresh(path: Path, folder: Path) -> None:
    """Execute one notebook in the copy, and write its outputs into the original."""
    original = nbformat.read(path, as_version=4)
    executed = nbformat.read(folder / "notebooks" / path.name, as_version=4)
    NotebookClient(
        executed, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(folder / "notebooks")}}
    ).execute()
    for kept, ran in zip(original.cells, executed.cells, strict=True):
        if kept.cell_type == "code":
            kept.outputs, kept.execution_count = ran.outputs, ran.execution_count
    original.metadata = {name: original.metadata[name] for name in KEPT_METADATA if name in original.metadata}
    path.write_text(nbformat.writes(original) + "\n")
    print(f"{path.relative_to(ROOT)}: {sum(len(cell.get('outputs', ())) for cell in original.cells)} outputs kept")


def by_state(paths: Iterable[Path]) -> dict[str | None, list[Path]]:
    """The notebooks by the state of the lab that they begin from; None: the lab's default."""
    states: dict[str | None, list[Path]] = {}
    for path in paths:
        state = nbformat.read(path, as_version=4).metadata.georeg.get("lab_state")
        states.setdefault(state, []).append(path)
    return states


def main(names: Sequence[str]) -> None:
    """Make a lab for each state, run its notebooks, take the lab away again."""
    paths = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if not names or path.name in names]
    for state, group in by_state(paths).items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_project(folder)
            os.chdir(folder)
            os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            sites = LabSites.up(folder / ".lab", state=state, progress=print)
            try:
                for path in group:
                    refresh(path, folder)
            finally:
                sites.down(purge=True)
                os.chdir(ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
