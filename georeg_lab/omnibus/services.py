"""The supervisor: service definitions, start, stop and status, with the texts and exit codes of runit's `sv`.

A definition is `<root>/opt/gitlab/sv/<name>/run.json`:
{"argv", "env", "cwd", "stop_signal", "ready": {"tcp": port, "postgresql": data folder}}. A service is enabled while
`<root>/opt/gitlab/service/<name>` exists. There is no daemon: a service that ends by itself stays down (runit would
start it again every second) and is shown as `down: ..., normally up, want up`. Source: procedures 4.5.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from georeg_lab.layout import inside
from georeg_lab.omnibus import files
from georeg_lab.omnibus.processes import Process, alive, end, find, send

SV, SERVICE, LOG = "/opt/gitlab/sv", "/opt/gitlab/service", "/var/log/gitlab"
WAIT = 30.0  # seconds: SVWAIT of gitlab-ctl
DOWN = 3  # exit status of `sv status` for a service that is down, called as an init script
DATABASES = ("postgresql", "geo-postgresql")  # started before, stopped after everything else
# what a service inherits; nothing else, so that no password of the caller's environment gets into a service
INHERITED = ("PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "PYTHONPATH", "GEOREG_LAB_PG_BIN", "COVERAGE_PROCESS_START")


@dataclass(frozen=True)
class Status:
    """One service: `pid` None when down; `since`: wall clock time of the last change; `wanted`: up by gitlab-ctl."""

    name: str
    pid: int | None
    since: float
    wanted: bool

    @property
    def text(self) -> str:
        """As `sv status` prints it."""
        seconds = max(0, int(time.time() - self.since))
        if self.pid is not None:
            return f"run: {self.name}: (pid {self.pid}) {seconds}s"
        return f"down: {self.name}: {seconds}s, normally up" + (", want up" if self.wanted else "")


def names(root: Path) -> list[str]:
    """All services that are defined, enabled or not."""
    folder = inside(root, SV)
    return sorted(path.parent.name for path in folder.glob("*/run.json"))


def enabled(root: Path, name: str) -> bool:
    """The service is enabled (a link in /opt/gitlab/service)."""
    return os.path.lexists(inside(root, f"{SERVICE}/{name}"))


def enable(root: Path, name: str) -> None:
    """Make the link."""
    link = inside(root, f"{SERVICE}/{name}")
    link.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(link):
        link.symlink_to(Path("..") / "sv" / name)


def disable(root: Path, name: str) -> None:
    """Stop the service and take the link away."""
    stop(root, [name])
    inside(root, f"{SERVICE}/{name}").unlink(missing_ok=True)


def status(root: Path, name: str) -> Status:
    """Look, without changing anything."""
    state = _state(root, name)
    process = _process(state)
    if process is not None and alive(process):
        return Status(name, process.pid, state["since"], True)
    since = state.get("since", time.time())
    if process is not None:  # ended by itself: the log's last line is the best guess of when
        with contextlib.suppress(OSError):
            since = max(since, _log_file(root, name).stat().st_mtime)
    return Status(name, None, since, bool(state.get("wanted")))


def start(root: Path, chosen: Sequence[str]) -> list[Status]:
    """Start what is down and wait until it is ready (or has ended). Databases first, then the rest side by side."""
    for group in _groups(chosen):
        launched = [(name, _launch(root, name)) for name in group]
        for name, process in launched:
            if process is not None:
                _wait_ready(root, name, process)
    return [status(root, name) for name in chosen]


def stop(root: Path, chosen: Sequence[str], timeout: float = WAIT) -> list[Status]:
    """Stop with the definition's signal, after `timeout` seconds with SIGKILL; nothing below the process survives."""
    known = [name for name in chosen if inside(root, f"{SV}/{name}").is_dir()]
    for group in reversed(_groups(known)):
        running: list[tuple[str, Process, int]] = []
        for name in group:
            process = _process(_state(root, name))
            if process is not None and alive(process):
                number = _signal(_definition(root, name).get("stop_signal", "TERM"))
                running.append((name, process, number))
        if len(running) > 1:
            for _, process, number in running:
                send(process, number)
        for _, process, number in running:
            end(process, number, timeout)
        for name in group:
            with _locked(root, name):
                state = _state(root, name)
                if state.get("pid") is not None or state.get("wanted"):
                    _save(root, name, {"pid": None, "since": time.time(), "wanted": False})
    return [status(root, name) for name in chosen]


def restart(root: Path, chosen: Sequence[str]) -> list[Status]:
    """Stop, then start."""
    stop(root, chosen)
    return start(root, chosen)


def hup(root: Path, name: str, number: int = signal.SIGHUP) -> Status:
    """Send a signal to the service if it runs. Returns how it stood then: what the signal does comes afterwards."""
    process, before = _process(_state(root, name)), status(root, name)
    if process is not None:
        send(process, number)
    return before


def define(root: Path, name: str, definition: dict[str, Any]) -> bool:
    """Write run.json (0600: the environment may hold secrets); whether it changed."""
    return files.write(inside(root, f"{SV}/{name}/run.json"), json.dumps(definition, indent=1) + "\n", 0o600)


def _groups(chosen: Sequence[str]) -> list[list[str]]:
    groups = [[n for n in chosen if n in DATABASES], [n for n in chosen if n not in DATABASES]]
    return [group for group in groups if group]


def _launch(root: Path, name: str) -> Process | None:
    """Start the process unless it runs; what was started."""
    with _locked(root, name):
        state = _state(root, name)
        process = _process(state)
        if process is not None and alive(process):
            return None
        definition = _definition(root, name)
        environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environment |= {"GEOREG_NODE_ROOT": str(root), **definition.get("env", {})}
        log = _log_file(root, name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                child = subprocess.Popen(
                    definition["argv"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=definition.get("cwd") or root,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"cannot start: {error}\n".encode())
                _save(root, name, {"pid": None, "since": time.time(), "wanted": True})
                return None
        child.returncode = 0  # not ours to wait for: `find` reaps it
        found = find(child.pid) or Process(child.pid, 0)
        _save(root, name, {"pid": found.pid, "ticks": found.ticks, "since": time.time(), "wanted": True})
        return found


def _wait_ready(root: Path, name: str, process: Process) -> None:
    ready = _definition(root, name).get("ready") or {}
    limit = time.monotonic() + WAIT
    pause = 0.02
    while time.monotonic() < limit and alive(process):
        if _is_ready(ready):
            return
        time.sleep(pause)
        pause = min(pause * 1.3, 0.25)


def _is_ready(ready: dict[str, Any]) -> bool:
    if "postgresql" in ready:
        from georeg_lab.postgres import server_state

        return server_state(Path(ready["postgresql"])) == "ready"
    if "tcp" not in ready:
        return True
    try:
        with socket.create_connection(("127.0.0.1", int(ready["tcp"])), timeout=1):
            return True
    except OSError:
        return False


def _definition(root: Path, name: str) -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(inside(root, f"{SV}/{name}/run.json").read_text())
    return definition


def _log_file(root: Path, name: str) -> Path:
    return inside(root, f"{LOG}/{name}/current")


def _signal(name: str) -> int:
    return int(getattr(signal, f"SIG{name.removeprefix('SIG')}"))


def _state_file(root: Path, name: str) -> Path:
    return inside(root, f"{SV}/{name}/pid")


def _state(root: Path, name: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(_state_file(root, name).read_text())
    except (OSError, ValueError):
        return {}
    return state


def _process(state: dict[str, Any]) -> Process | None:
    return Process(state["pid"], state["ticks"]) if state.get("pid") is not None else None


def _save(root: Path, name: str, state: dict[str, Any]) -> None:
    file = _state_file(root, name)
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(state) + "\n")
    scratch.replace(file)


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Two gitlab-ctl at once must not start a service twice."""
    with inside(root, f"{SV}/{name}/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
