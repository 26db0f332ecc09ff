"""The runner, with real kernels and papermill: whatever ends a run, ledger, exit status and notebook agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fakes import ALL, ATTEST, FakeSites

from georeg_nb import runner
from georeg_nb.ledger import RunVerdict, broken_links, read, verdict
from georeg_nb.records import Record
from georeg_nb.sealing import verify

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

PARAMETERS = "sites = ''\napprove = []\nattest = {}\nscript = {}\n"
SETUP = "from fakes import open_run\nrun = open_run(sites=sites, approve=approve, attest=attest, script=script)"


def fake_notebook(path: Path, *, extra: str = "") -> Path:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(SETUP)]
    for section in ("guard", "hold", "migrate", "verify"):
        cells.append(nbformat.v4.new_markdown_cell(f"## {section}"))
        cells.append(nbformat.v4.new_code_cell(f"run.check('{section}')"))
        cells.append(nbformat.v4.new_code_cell(f"run.apply('{section}')"))
    if extra:
        cells.insert(5, nbformat.v4.new_code_cell(extra))
    cells.append(nbformat.v4.new_code_cell("run.summary()"))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "georeg": {"scenario": "fake-move"},
    }
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with the fake notebook, and sites in files; also for kernels."""
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "parameters").mkdir()
    fake_notebook(project / "notebooks" / "01-fake.ipynb")
    monkeypatch.chdir(project)
    monkeypatch.setenv("FAKE_ROOT", str(tmp_path / "sites"))
    monkeypatch.setenv("FAKE_MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    monkeypatch.setenv("GEOREG_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("GEOREG_RUN", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    yield tmp_path


def start(record: Record | None = None, **values: Any) -> tuple[Record, RunVerdict]:
    record = record or Record.create("fake-move")
    return record, runner.run_notebook(runner.find_notebook("fake-move"), record, values)


def states(record: Record) -> list[str]:
    notebook = nbformat.read(record.notebook, as_version=4)
    return [cell.metadata.papermill.status for cell in notebook.cells if cell.cell_type == "code"]


def no_kernel_of(record: Record) -> bool:
    for entry in read(record.ledger):
        if entry["event"] == "run.opened" and Path(f"/proc/{entry['pid']}").exists():
            state = Path(f"/proc/{entry['pid']}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                return False
    return True


def test_a_plan_and_then_everything(world: Path) -> None:
    record, result = start()
    assert result.exit_code == 0
    assert result.planned
    assert set(states(record)) == {"completed"}
    outputs = [
        len(cell.outputs) for cell in nbformat.read(record.notebook, as_version=4).cells if cell.cell_type == "code"
    ]
    assert outputs == [0, 1, 1, 1, 1, 2, 1, 2, 1, 1, 1]  # one for each thing shown, and the plan before its result
    record, result = start(approve=ALL, attest=ATTEST)
    assert result.exit_code == 0, result.problems
    assert {outcome.outcome for outcome in result.outcomes} == {"done"}
    assert not list(record.path.glob("*.part.ipynb"))
    digest = runner.finish(record, result)
    assert len(digest) == 64
    assert verify(record) == []
    page = record.html.read_text()
    assert "✔ done" in page
    assert "https://cdnjs" not in page
    assert {path.name for path in record.path.iterdir()} >= {
        "ledger.jsonl",
        "junit.xml",
        "plan.json",
        "SEAL.json",
        "tables",
    }
    assert no_kernel_of(record)


def test_a_failed_step_stops_the_notebook_and_resume_ends_it(world: Path) -> None:
    FakeSites(world / "sites").primary.set(**{"script-read-only": "fail"})
    record, result = start(approve=ALL, attest=ATTEST)
    assert result.exit_code == 4
    assert "disk is full" in result.problems[0]
    notebook = nbformat.read(record.notebook, as_version=4)
    assert "exit status 4" in notebook.cells[0].source
    assert states(record)[-1] == "pending"
    error = next(o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error")
    assert len(error.traceback) == 1  # the message, not the stack
    assert f"--resume {record.run}" in error.traceback[0]
    FakeSites(world / "sites").primary.set(**{"script-read-only": ""})
    _, result = start(record, approve=ALL, attest=ATTEST)
    assert result.exit_code == 0, result.problems
    assert result.attempts == 2
    assert (record.path / "fake-move.attempt-1.ipynb").exists()
    assert not broken_links(read(record.ledger))


def test_a_kernel_that_dies_between_steps_is_unforeseen(world: Path) -> None:
    fake_notebook(world / "project/notebooks/01-fake.ipynb", extra="import os; os._exit(7)")
    record, result = start()
    assert result.exit_code == 1
    assert states(record)[-1] == "pending"
    assert "kernel died" in " ".join(result.problems)


@pytest.mark.parametrize(("point", "done"), [("before", False), ("during", False), ("after-apply", True)])
def test_a_kernel_that_is_killed_at_a_step(
    world: Path, monkeypatch: pytest.MonkeyPatch, point: str, done: bool
) -> None:
    if point == "during":
        FakeSites(world / "sites").secondary.set(**{"script-hold": "slow"})
    monkeypatch.setenv("GEOREG_CRASH_AT", f"hold/hold:{point}")
    record, result = start(approve=["hold"])
    assert result.exit_code == (1 if point == "before" else 4)
    assert result.outcomes[0].outcome == ("not reached" if point == "before" else "interrupted")
    assert FakeSites(world / "sites").secondary.facts.get("held", False) is done
    monkeypatch.delenv("GEOREG_CRASH_AT")
    FakeSites(world / "sites").secondary.set(**{"script-hold": ""})
    _, result = start(record, approve=["hold"])
    assert result.outcomes[0].outcome == ("no-op" if done else "done")
    taken = [entry for entry in read(record.ledger) if entry["event"] == "lock.taken"]
    assert not taken or "gone" in taken[-1]["sentence"] or len(taken) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_interrupts_the_step_and_ends_the_run(world: Path, number: signal.Signals, code: int) -> None:
    FakeSites(world / "sites").secondary.set(**{"script-hold": "slow"})
    mark = world / "mark"

    def shoot() -> None:
        while not mark.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=shoot)
    thread.start()
    record, result = start(approve=["hold"])
    thread.join()
    assert result.exit_code == code
    assert result.outcomes[0].outcome == "interrupted"
    assert states(record)[-1] == "pending"
    assert no_kernel_of(record)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_kill_9_of_the_runner_leaves_a_ledger_that_resumes(world: Path) -> None:
    FakeSites(world / "sites").secondary.set(**{"script-hold": "slow"})
    record = Record.create("fake-move")
    program = (
        "import sys; sys.modules.setdefault('rfc3987_syntax', None)\n"
        "from pathlib import Path; from georeg_nb import runner; from georeg_nb.records import Record\n"
        f"record = Record(Path({str(record.path)!r}))\n"
        "runner.run_notebook(runner.find_notebook('fake-move'), record, {'approve': ['hold']})"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (world / "mark").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    for _ in range(200):
        if no_kernel_of(record):
            break
        time.sleep(0.05)
    result = verdict(read(record.ledger))
    assert result.exit_code == 4
    assert result.outcomes[0].outcome == "interrupted"
    FakeSites(world / "sites").secondary.set(**{"script-hold": ""})
    _, result = start(record, approve=["hold"])
    assert result.outcomes[0].outcome == "done"
    assert not list(Path(tempfile.gettempdir()).glob(f"georeg-run-{process.pid}-*"))  # swept by the next run


def test_plain_papermill_gives_the_same_truth(world: Path) -> None:
    import papermill

    papermill.execute_notebook(
        runner.find_notebook("fake-move"),
        world / "out.ipynb",
        {"approve": ALL, "attest": ATTEST},
        progress_bar=False,
        kernel_manager_class=_over_ipc(world),
        shutdown_kernel="immediate",
    )
    record = Record(next((world / "records").iterdir()))
    result = verdict(read(record.ledger))
    assert result.exit_code == 0
    text = json.dumps(nbformat.read(world / "out.ipynb", as_version=4))
    assert "georeg records seal" in text  # by hand the summary says how to seal
    assert "secondary: hold/hold: done" in text  # and progress is in the notebook


def _over_ipc(folder: Path) -> Any:
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            options.update(transport="ipc", connection_file=f"/tmp/georeg-test-{os.getpid()}.json")
            super().__init__(**options)

    return Manager


def test_secrets_in_a_kernel_reach_no_file(world: Path) -> None:
    import base64
    from urllib.parse import quote

    secret = 'c4nary/"ünd\\more+='
    encoded = base64.b64encode(f"user:{secret}".encode()).decode()
    code = (
        "from georeg_nb import redaction\n"
        f"secret = open({str(world / 'secret')!r}).read()\n"
        "redaction.register(secret, 'canary')\n"
        "import base64, json, logging, sys, urllib.parse\n"
        "from IPython.display import HTML, display, update_display\n"
        "import ipywidgets\n"
        "print(secret, json.dumps(secret)); print(repr(secret), file=sys.stderr)\n"
        "print(base64.b64encode(('user:' + secret).encode()).decode(), urllib.parse.quote(secret, safe=''))\n"
        "display(HTML(secret)); display({'application/json': {'x': [secret]}}, raw=True)\n"
        "display(ipywidgets.HTML(value=secret))\n"
        "logging.warning(secret)\n"
        "run.ledger.append('note', text=secret)\n"
        "{'value': secret}"
    )
    (world / "secret").write_text(secret)
    path = fake_notebook(world / "project/notebooks/01-fake.ipynb", extra=code)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(-1, nbformat.v4.new_code_cell("raise RuntimeError('denied for ' + secret)"))
    nbformat.write(notebook, path)
    record, result = start()
    assert result.exit_code == 1
    runner.finish(record, result)
    forms = [
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        quote(secret, safe=""),
        encoded,
    ]
    for file in record.path.rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert not [form for form in forms if form in text], file
    assert "[secret: canary]" in record.notebook.read_text()
    outputs = [o for cell in nbformat.read(record.notebook, as_version=4).cells for o in cell.get("outputs", [])]
    assert {"stream", "display_data", "execute_result", "error"} <= {o.output_type for o in outputs}
