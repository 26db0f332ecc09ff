"""The command line, in this process and as a program: what it prints, what it contacts, how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import nbformat
import pytest
import yaml
from fakes import FakeSites
from pydantic import Field
from test_runner import fake_notebook

from georeg_nb import cli, operations, parameters, redaction
from georeg_nb.ledger import EXIT_CODES
from georeg_nb.parameters import ScenarioParameters
from georeg_nb.records import Record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SECRET = "c4nary-token"


class FakeParameters(ScenarioParameters):
    script: dict[str, str] = Field(default_factory=dict)
    limit: int = 1
    label: str = ""


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two fake sites with valid parameters, as a working directory."""
    root = tmp_path / "project"
    for folder in ("notebooks", "parameters/lab", "secrets", "node1", "node2"):
        (root / folder).mkdir(parents=True)
    fake_notebook(root / "notebooks" / "01-fake.ipynb")
    for name in ("token", "database"):
        (root / "secrets" / name).write_text(SECRET)
        (root / "secrets" / name).chmod(0o600)
    sites = {"primary": site("primary", 1), "secondaries": [site("secondary", 2)]}
    (root / "parameters/lab/sites.yml").write_text(yaml.safe_dump(sites))
    (root / "parameters/lab/fake-move.yml").write_text("sites: parameters/lab/sites.yml\napprove: []\n")
    monkeypatch.chdir(root)
    monkeypatch.setenv("FAKE_ROOT", str(tmp_path / "sites"))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("GEOREG_RECORDS", "GEOREG_RUN", "GEOREG_PARAMETERS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(parameters.SCENARIOS, "fake-move", FakeParameters)
    monkeypatch.setattr(operations, "known", types.SimpleNamespace(find=lambda name: fakes.SCENARIO))
    monkeypatch.setattr(
        operations.site, "open_sites", lambda file, options, observer, scenario: FakeSites(tmp_path / "sites", observer)
    )
    monkeypatch.setattr(operations, "_current", [])
    return root


def site(name: str, number: int) -> dict[str, Any]:
    return {
        "name": name,
        "gitlab": {"url": f"https://gitlab{number}.example.com", "token": "file:secrets/token"},
        "registry": {"url": f"https://registry{number}.example.com"},
        "database": {"host": f"db{number}.example.com", "password": "file:secrets/database", "sslmode": "require"},
        "nodes": [{"name": f"node{number}", "roles": ["rails", "sidekiq", "registry"], "root": f"node{number}"}],
    }


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["georeg", *arguments])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    os.environ.pop("GEOREG_PARAMETERS_FILE", None)


FILE = ("-f", "parameters/lab/fake-move.yml")


class TestHelp:
    def test_every_exit_status_is_told(self, invoke: Invoke) -> None:
        code, out, _ = invoke("--help")
        assert code == 0
        for number in EXIT_CODES:
            assert str(number) in out
        for command in ("run", "open", "check", "compare", "status", "scenarios", "records", "lab"):
            assert f"\n  {command}" in out

    def test_of_every_command(self, invoke: Invoke) -> None:
        for command in ("run", "open", "check", "compare", "status", "scenarios", "records"):
            code, out, _ = invoke(command, "--help")
            assert code == 0
            assert "Usage: " in out

    def test_mistyped(self, invoke: Invoke) -> None:
        assert invoke("runn")[0] == 2
        code, _, err = invoke("run", "migrate-legcy", *FILE)
        assert code == 2
        assert "migrate-legacy" in err

    def test_is_quick_because_it_loads_nothing(self) -> None:
        program = (
            "import georeg_nb.cli, sys; print([m for m in ('pandas', 'papermill', 'pydantic') if m in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"


@pytest.mark.usefixtures("project")
class TestRun:
    def test_a_plan(self, invoke: Invoke, project: Path) -> None:
        code, out, err = invoke("run", "fake-move", *FILE)
        assert code == 0
        assert "nothing was changed" in out
        assert "Sealed: " in out
        assert "guard: 2 checks passed." in err
        assert not (project.parent / "sites").exists()
        record = next((project / "records").iterdir())
        assert json.loads((record / "SEAL.json").read_text())["exit_code"] == 0

    def test_everything_and_again_and_its_record(self, invoke: Invoke, project: Path) -> None:
        all_of_it = [*FILE, "-p", "attest={backup: backup 4711}", "--approve", "all"]
        for site_name in ("primary", "secondary"):
            all_of_it += ["--approve", f"migrate[{site_name}]/import"]
        code, out, err = invoke("run", "fake-move", *all_of_it)
        assert code == 0, out + err
        assert "Done and verified: 7 steps done" in out
        assert "secondary: hold/hold: done" in err
        code, out, _ = invoke("run", "fake-move", *all_of_it)
        assert code == 0
        assert "every step already was as this runbook leaves it" in out

        runs = sorted(path.name for path in (project / "records").iterdir())
        code, out, _ = invoke("records", "list")
        assert code == 0
        assert all(run in out for run in runs)
        code, out, _ = invoke("records", "show", runs[0])
        assert "unbroken" in out
        assert "hold image sync" in out
        assert invoke("records", "verify", runs[0])[0] == 0
        (project / "records" / runs[0] / "plan.json").write_text("[]")
        (project / "records" / runs[0] / "extra").write_text("")
        (project / "records" / runs[0] / "junit.xml").unlink()
        code, out, _ = invoke("records", "verify", runs[0])
        assert code == 6
        for line in ("✘ changed   plan.json", "✘ added     extra", "✘ missing   junit.xml"):
            assert line in out
        code, _, err = invoke("run", "fake-move", *FILE, "--resume", runs[0])
        assert code == 1
        assert "is not as it was sealed" in err
        for path in (project / "records").rglob("*"):
            assert not path.is_file() or SECRET not in path.read_text()

    def test_a_failed_step_and_resume(self, invoke: Invoke, project: Path) -> None:
        FakeSites(project.parent / "sites").secondary.set(**{"script-hold": "fail"})
        code, out, _ = invoke("run", "fake-move", *FILE, "--approve", "hold")
        assert code == 4
        assert "disk is full" in out
        run = next((project / "records").iterdir()).name
        assert f"georeg run fake-move -f parameters/lab/fake-move.yml --resume {run}" in out
        FakeSites(project.parent / "sites").secondary.set(**{"script-hold": ""})
        code, out, _ = invoke("run", "fake-move", *FILE, "--approve", "hold", "--resume", run)
        assert code == 5  # the rest still needs approval
        assert "✔ done" in out
        assert [path.name for path in (project / "records").iterdir()] == [run]
        assert Record(project / "records" / run).sealed

    def test_a_prerequisite(self, invoke: Invoke, project: Path) -> None:
        FakeSites(project.parent / "sites").primary.set(down=True)
        code, out, _ = invoke("run", "fake-move", *FILE, "--approve", "all")
        assert code == 3
        assert "the site answers" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-f", "parameters/lab/none.yml"], "does not exist"),
            ([*FILE, "-p", "limt=3"], "did you mean limit?"),
            ([*FILE, "-p", "limit=many"], "limit: must be a whole number"),
            ([*FILE, "-p", "limit"], "must be NAME=VALUE"),
            ([*FILE, "-p", "limit=[1"], "is no YAML"),
            ([*FILE, "--approve", "hodl"], "did you mean hold"),
            ([*FILE, "-p", "attest={bakup: x}"], "there is no step 'bakup'"),
        ],
    )
    def test_wrong_parameters_contact_nobody_and_leave_no_record(
        self, invoke: Invoke, project: Path, arguments: list[str], message: str
    ) -> None:
        code, _, err = invoke("run", "fake-move", *arguments)
        assert code == 2
        assert message in err
        assert "Traceback" not in err
        assert not (project / "records").exists()
        assert not (project.parent / "sites").exists()

    def test_text_stays_text(self, invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, Any] = {}

        def stop(notebook: Path, record: Record, values: dict[str, Any]) -> Any:
            seen.update(values)
            raise ZeroDivisionError(f"oops {SECRET}")

        monkeypatch.setattr(operations.runner, "run_notebook", stop)
        redaction.register(SECRET, "canary")
        code, _, err = invoke("run", "fake-move", *FILE, "-p", "label=16.10", "-p", "limit=7")
        assert (seen["label"], seen["limit"], seen["sites"]) == ("16.10", 7, "parameters/lab/sites.yml")
        assert code == 1
        assert "oops [secret: canary]" in err
        assert "Traceback" not in err
        log = next((project / "records").iterdir()) / "errors.log"
        assert "ZeroDivisionError" in log.read_text()
        assert SECRET not in log.read_text()

    def test_from_a_folder_below(self, invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project / "notebooks")
        code, out, err = invoke("run", "fake-move", *FILE)
        assert code == 0, out + err
        assert (project / "records").is_dir()

    def test_resuming_what_is_not_there(self, invoke: Invoke) -> None:
        code, _, err = invoke("run", "fake-move", *FILE, "--resume", "2026")
        assert code == 1
        assert "records list" in err


@pytest.mark.usefixtures("project")
class TestOthers:
    def test_check(self, invoke: Invoke, project: Path) -> None:
        code, out, _ = invoke("check", *FILE)
        assert code == 0
        assert "✔ passed" in out
        FakeSites(project.parent / "sites").primary.set(down=True)
        code, out, _ = invoke("check", "fake-move", *FILE)
        assert code == 3
        assert "start it" in out
        assert not (project / "records").exists()
        assert invoke("check", *FILE, "-p", "x=1")[0] == 2

    def test_scenarios(self, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parameters, "SCENARIOS", {"fake-move": FakeParameters})
        code, out, _ = invoke("scenarios")
        assert code == 0
        assert "Move two fake sites" in out
        assert "01-fake.ipynb" in out

    def test_no_records_yet(self, invoke: Invoke) -> None:
        code, out, _ = invoke("records", "list")
        assert code == 0
        assert "no record" in out

    def test_sealing_a_run_made_by_hand(self, invoke: Invoke, project: Path) -> None:
        record = Record.create("fake-move", project / "records")
        record.write("ledger.jsonl", "")
        code, out, _ = invoke("records", "verify", record.run)
        assert code == 3
        assert "not sealed" in out
        code, _, err = invoke("records", "seal", record.run)
        assert code == 1
        assert "--notebook" in err
        nbformat.write(nbformat.v4.new_notebook(), project / "out.ipynb")
        code, out, _ = invoke("records", "seal", record.run, "--notebook", "out.ipynb")
        assert code == 0
        assert invoke("records", "verify", record.run)[0] == 0
        assert invoke("records", "seal", record.run)[0] == 1

    def test_open_prepares_the_notebook_in_its_record(
        self, invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[Any] = []
        monkeypatch.setattr(operations.os, "execve", lambda *call: started.append(call))
        code, _, err = invoke("open", "fake-move", *FILE, "-p", "limit=3", "--no-browser", "--port=1")
        assert code == 0
        record = Record(next((project / "records").iterdir()))
        source = "".join(cell.source for cell in nbformat.read(record.notebook, as_version=4).cells)
        assert "limit = 3" in source
        _, argv, environment = started[0]
        assert Path.cwd() == record.path
        assert argv[-2:] == ["--no-browser", "--port=1"]
        assert environment["GEOREG_PROJECT"] == str(project)
        assert f"georeg records seal {record.run}" in err
