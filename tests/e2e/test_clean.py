"""Nothing is left behind: of a demo that is interrupted, and of a lab all of whose processes were killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from observe import pids_of, processes_of
from workplace import GEOREG, PARAMETERS, ROOT, SCENARIO, Workplace, end

from georeg_lab.layout import DEFAULT_BASE_PORT, Ports
from georeg_lab.postgres import port_is_free

pytestmark = [pytest.mark.lab]
DEMO_PORT = 17000


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files, near the root: sockets lie in it, whose paths are short."""
    folder = Path(tempfile.mkdtemp(prefix="clean-"))
    yield folder
    shutil.rmtree(folder)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > limit:
            end(process)
            raise AssertionError(f"the point was not reached: {process.communicate()[0]}")
        time.sleep(0.1)


def work_began(records: Path) -> bool:
    """Whether a run has begun its first step: a reconfigure."""
    return any('"step.started"' in ledger.read_text() for ledger in records.glob("*/ledger.jsonl"))


def listening(ports: Ports) -> list[int]:
    return [port for port in ports.all() if not port_is_free(port)]


def interruptible() -> None:
    """A child that was started in the background by a shell ignores Ctrl-C; one at a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def copy_with_ports(folder: Path, base: int) -> None:
    """The project's notebooks and parameters, for a lab of its own on other ports."""
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    sites = folder / "parameters/lab/sites.yml"
    ports = {str(port): str(port - DEFAULT_BASE_PORT + base) for port in Ports().all()}
    sites.write_text(re.sub(r"\b\d{5}\b", lambda match: ports.get(match[0], match[0]), sites.read_text()))


def test_an_interrupted_demo_leaves_its_record_and_nothing_else(tmp_path: Path, temporary: Path) -> None:
    """Ctrl-C goes to all of the terminal's process group, in the middle of a reconfigure that runs by itself."""
    base = next(base for base in range(DEMO_PORT, DEMO_PORT + 1000, 100) if not listening(Ports(base)))
    copy_with_ports(tmp_path, base)
    lab = tmp_path / ".lab"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEOREG_")}
    settings = {"BIN": str(GEOREG.parent), "GEOREG_LAB_BASE_PORT": str(base), "TMPDIR": str(temporary)}
    demo = subprocess.Popen(
        ["sh", str(ROOT / "tools/demo.sh")],
        cwd=tmp_path,
        env=kept | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
    )
    try:
        records = tmp_path / "records"
        wait_for(lambda: work_began(records), demo)
        assert listening(Ports(base)) == Ports(base).all()
        assert any("ipykernel" in line for line in processes_of(tmp_path))
        os.killpg(demo.pid, signal.SIGINT)
        output, _ = demo.communicate(timeout=120)
    finally:
        end(demo)
        subprocess.run([str(GEOREG), "lab", "down", "--purge", "--dir", str(lab)], check=True, capture_output=True)

    assert demo.returncode == 130, output
    assert "is removed" in output
    assert "Traceback" not in output
    assert processes_of(tmp_path) == []
    assert processes_of(temporary) == []
    assert listening(Ports(base)) == []
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "parameters", "records"]
    assert len(list(records.glob("*/SEAL.json"))) == 1


def test_a_lab_whose_processes_were_all_killed_is_put_down(fresh_workplace: Workplace, temporary: Path) -> None:
    lab = fresh_workplace.lab
    run = fresh_workplace.start("--approve", "all", env={"TMPDIR": str(temporary)})
    try:
        wait_for(lambda: work_began(fresh_workplace.records), run)
        killed = 0
        while processes := {**pids_of(lab.lab.dir), **pids_of(fresh_workplace.folder)}:
            for pid in processes:
                killed += 1
                kill(pid)
            run.poll()
            time.sleep(0.1)
        assert killed >= 20
        down = fresh_workplace.georeg("lab", "down", "--dir", str(lab.lab.dir))
        assert down.status == 0, down.output
        assert processes_of(lab.lab.dir) == []
        assert listening(lab.lab.ports) == []
    finally:
        end(run)
        run.communicate()
        lab.reset()
    assert all(service.running for service in lab.status())
    # what the runner could not remove, the next one does
    again = fresh_workplace.georeg("run", SCENARIO, "-f", PARAMETERS, env={"TMPDIR": str(temporary)})
    assert again.status == 0, again.output
    assert list(temporary.iterdir()) == []


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
