"""Run a notebook headless through papermill, and tell the truth about it.

papermill's cell states are no evidence: after a time-out, a dead kernel or an interrupt it marks cells that never ran
as completed. The ledger decides, whatever ended the run; the notebook's states are put right before it is published.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from georeg_nb.errors import GeoregError
from georeg_nb.ledger import Ledger, RunVerdict, read, verdict
from georeg_nb.parameters import project_root
from georeg_nb.records import Record, operator
from georeg_nb.redaction import redact
from georeg_nb.runbook.locks import process_identity
from georeg_nb.sealing import seal, write_html

AUTOSAVE_SECONDS = 2
GRACE_SECONDS = 20.0
"""How long an interrupted cell may take to put things in order before the kernel is ended."""

_FOLDER = "georeg-run-"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """The run is to end now: told by a signal. Not an Exception, so that nothing on the way swallows it."""


@dataclass
class Stopping:
    """What a signal does: the kernel is interrupted, no further cell is started, and after a while it is ended."""

    ledger: Ledger
    kernels: list[Any] = field(default_factory=list)
    signal: int = 0

    def handler(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise Stopped(f"signal {number}, again")
        self.signal = number
        self.ledger.append("signal", signal=int(number))
        self._signal_kernels(signal.SIGINT)
        timer = threading.Timer(GRACE_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()

    def before_cell(self, **_: Any) -> None:
        """papermill is about to run a cell."""
        if self.signal:
            raise Stopped(f"signal {self.signal}")

    def kernel_is_gone(self) -> None:
        """Make sure of it, whatever papermill did."""
        self._signal_kernels(signal.SIGKILL)

    def _give_up(self) -> None:
        # The main thread waits for a reply of the kernel: without one it gets none.
        self._signal_kernels(signal.SIGKILL)

    def _signal_kernels(self, number: int) -> None:
        for manager in self.kernels:
            process = getattr(manager.provisioner, "process", None)
            if process is not None and process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(number)


@contextmanager
def _signals_to(stopping: Stopping) -> Iterator[None]:
    previous = {number: signal.signal(number, stopping.handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _private_folder() -> Iterator[Path]:
    """For the kernel's connection file and sockets; short, because a socket's path has at most 107 characters."""
    base = tempfile.gettempdir()
    base = base if len(base) < 60 else "/tmp"  # noqa: S108 - the folder's mode is 0700
    _sweep(Path(base))
    folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove what runners left that were killed before they could."""
    for folder in base.glob(f"{_FOLDER}*"):
        owner = folder.name.removeprefix(_FOLDER).partition("-")[0]
        with suppress(OSError):
            if owner.isdigit() and folder.stat().st_uid == os.getuid() and not process_identity(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)


def run_notebook(notebook: Path, record: Record, values: Mapping[str, Any]) -> RunVerdict:
    """Run `notebook` with `values` as its parameters, and return what its ledger says.

    The executed notebook is in the record afterwards, whatever happened; earlier attempts' are kept. Must be called
    from the main thread: SIGINT, SIGTERM and SIGHUP interrupt the kernel and end the run as 'interrupted'.
    """
    ledger = Ledger(record.ledger)
    stopping = Stopping(ledger)
    part = record.path / f"{record.scenario}.part.ipynb"
    error = ""
    ledger.append("runner.started", who=operator(), notebook=notebook.name)
    with (
        _private_folder() as folder,
        _environment({"GEOREG_RUN": str(record.path), "PYTHONUNBUFFERED": "1"}),
        _signals_to(stopping),
    ):
        try:
            _execute(notebook, part, values, folder, stopping)
        except Stopped as stopped:
            error = str(stopped)
        except Exception as problem:
            error = _in_words(problem)
        finally:
            stopping.kernel_is_gone()
        result = _close(record, ledger, error)
        _publish(part, record, result)
    return result


def finish(record: Record, result: RunVerdict) -> str:
    """Make the page of the record and seal it. Returns the seal's digest."""
    write_html(record)
    return seal(record, {"exit_code": result.exit_code, "headline": result.headline})


def _execute(notebook: Path, part: Path, values: Mapping[str, Any], folder: Path, stopping: Stopping) -> None:
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    class KernelManager(AsyncKernelManager):
        """Over sockets in a private folder: no port, and nobody else of this host can connect."""

        def __init__(self, **options: Any) -> None:
            options.update(transport="ipc", connection_file=str(folder / "kernel.json"))
            super().__init__(**options)
            stopping.kernels.append(self)

    papermill.execute_notebook(
        notebook,
        part,
        dict(values),
        cwd=project_root(),
        progress_bar=False,
        log_output=False,
        autosave_cell_every=AUTOSAVE_SECONDS,
        kernel_manager_class=KernelManager,
        shutdown_kernel="immediate",  # a graceful one stalls for seconds now and then
        on_cell_start=stopping.before_cell,
    )


def _in_words(error: Exception) -> str:
    """papermill's and nbclient's errors as one sentence; the whole is in the notebook."""
    name, value = getattr(error, "ename", ""), getattr(error, "evalue", "")
    if name:
        return redact(f"{name}: {value}".strip())
    if type(error).__name__ == "DeadKernelError":
        return "the kernel died"
    return redact(f"{type(error).__name__}: {error}")


def _close(record: Record, ledger: Ledger, error: str) -> RunVerdict:
    ledger.append("runner.ended", error=error, exit_code=1 if error else 0)
    return verdict(read(record.ledger))


def _publish(part: Path, record: Record, result: RunVerdict) -> None:
    """Put the states right, say at the top how a run ended that did not reach its end, and give the file its name."""
    if not part.exists():
        return
    import nbformat

    notebook = nbformat.read(part, as_version=4)
    for cell in notebook.cells:
        cell.metadata.setdefault("papermill", {})["status"] = _state(cell)
    if not result.finished:
        problems = "".join(f"\n- {problem}" for problem in result.problems)
        text = redact(
            f"**This run did not reach its summary: exit status {result.exit_code}.** {result.headline}\n{problems}"
        )
        banner = nbformat.v4.new_markdown_cell(text, metadata={"tags": ["verdict"]})
        banner.id = "verdict"
        notebook.cells.insert(0, banner)
    nbformat.write(notebook, part)
    if record.notebook.exists():
        number = 1 + len(list(record.path.glob(f"{record.scenario}.attempt-*.ipynb")))
        record.notebook.rename(record.path / f"{record.scenario}.attempt-{number}.ipynb")
    part.replace(record.notebook)


def _state(cell: Any) -> str:
    """A cell has run only if it has a number, and it has run well only if nothing of its output is an error."""
    if cell.cell_type != "code":
        return "completed"
    if any(output.output_type == "error" for output in cell.outputs):
        return "failed"
    return "completed" if cell.execution_count else "pending"


def find_notebook(scenario: str, root: Path | None = None) -> Path:
    """The notebook of a scenario: the one below notebooks/ whose metadata names it. Raises GeoregError."""
    import json

    folder = (root or project_root()) / "notebooks"
    for path in sorted(folder.glob("*.ipynb")):
        with suppress(ValueError, OSError, AttributeError):
            if json.loads(path.read_text()).get("metadata", {}).get("georeg", {}).get("scenario") == scenario:
                return path
    raise GeoregError(
        f"no notebook in {folder} is for the scenario {scenario}", remedy="run georeg in the project's folder"
    )
