"""The whole thing from outside: a project folder of its own, the lab's inventory in it, and `georeg` as a command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from georeg_lab.sites import LabSites
from georeg_nb.ledger import verdict

ROOT = Path(__file__).resolve().parents[2]
GEOREG = Path(sys.executable).with_name("georeg")
SCENARIO = "migrate-legacy"
NOTEBOOK = "05-migrate-legacy-metadata.ipynb"
PARAMETERS = f"parameters/lab/{SCENARIO}.yml"


@dataclass
class Workplace:
    """A copy of the project's notebooks and parameters, whose lab inventory is the running lab's."""

    folder: Path
    lab: LabSites

    @property
    def records(self) -> Path:
        return self.folder / "records"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        # compiled modules are kept, or each of dozens of starts compiles them anew
        left_out = "PYTHONDONTWRITEBYTECODE"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GEOREG_") and k != left_out}
        return kept | {"COLUMNS": "200"} | dict(extra or {})

    def georeg(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 400) -> Outcome:
        """Run `georeg` to its end."""
        done = subprocess.run(
            [str(GEOREG), *arguments],
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr, self.records)

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Outcome:
        """`georeg run` of the scenario with the lab's parameters."""
        return self.georeg("run", SCENARIO, "-f", PARAMETERS, *arguments, env=env)

    def cells(self, record: Path | None = None, *, env: Mapping[str, str], **values: Any) -> Outcome:
        """Run the notebook's cells in a plain process: a new run, or once more the one of a record."""
        given = yaml.safe_load((self.folder / PARAMETERS).read_text()) | values
        again = {"GEOREG_RUN": str(record)} if record else {}
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests/e2e/cells.py"), f"notebooks/{NOTEBOOK}", json.dumps(given)],
            cwd=self.folder,
            env=self.environment({**env, **again}),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr, self.records)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `georeg run` in a process group of its own, to be interrupted or killed."""
        return subprocess.Popen(
            [str(GEOREG), "run", SCENARIO, "-f", PARAMETERS, *arguments],
            cwd=self.folder,
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def set_parameters(self, **values: Any) -> None:
        """Change values of the scenario's parameters file."""
        path = self.folder / PARAMETERS
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values, sort_keys=False))

    def change_sites(self, change: Any) -> None:
        """Let `change` alter the inventory (a plain dictionary) in place."""
        path = self.folder / "parameters/lab/sites.yml"
        sites = yaml.safe_load(path.read_text())
        change(sites)
        path.write_text(yaml.safe_dump(sites, sort_keys=False))

    def tags(self, site: str) -> dict[tuple[str, str], str | None]:
        """(repository, tag) → digest as the site's registry answers, None where it serves no manifest."""
        client = self.lab.registry_client(site)
        return client.all_tags()


@dataclass
class Outcome:
    """How a command ended, and the newest record."""

    status: int
    stdout: str
    stderr: str
    records: Path

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    @property
    def record(self) -> Path:
        """The newest record's folder."""
        return max((path for path in self.records.iterdir() if (path / "ledger.jsonl").exists()), key=_age)

    @property
    def ledger(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.record / "ledger.jsonl").read_text().splitlines()]


def _age(path: Path) -> float:
    return (path / "ledger.jsonl").stat().st_mtime


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """End a process group, whatever is left of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    process.wait(timeout=60)


def copy_project(folder: Path, lab: LabSites) -> Path:
    """Notebooks and parameters, as a person would have them, with the inventory of this lab."""
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(lab.sites_file, folder / "parameters/lab/sites.yml")
    return folder


def outcomes(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Step id → how it ended, as the ledger's own verdict has it."""
    return {outcome.step: outcome.outcome for outcome in verdict(entries).outcomes}


def changes(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Steps that were really started, whatever came of them."""
    return [entry["step"] for entry in entries if entry["event"] == "step.started"]
