"""Faults switched on and taken away again, by whichever process: what the way back needs lies in the lab's folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from georeg_lab.faults.actions import Action
from georeg_lab.layout import FAULTS
from georeg_lab.sites import LabError, LabSites

SIZES = "logs.json"


@dataclass(frozen=True)
class Fault:
    """A failure symptom that can be switched on. `name` is the symptom's, `row` its row in procedures 6."""

    name: str
    row: int
    what: str
    actions: tuple[Action, ...]


def active(sites: LabSites) -> list[str]:
    """Names of the faults that are switched on, oldest first."""
    folder = sites.lab.dir / FAULTS
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_ctime_ns)]


def switch_on(sites: LabSites, fault: Fault) -> None:
    """Bring the fault about. What fails halfway is taken back. Raises LabError."""
    folder = sites.lab.dir / FAULTS / fault.name
    if folder.exists():
        raise LabError(f"{fault.name} is switched on already; `georeg lab fault --clear` takes it away")
    folder.mkdir(parents=True, mode=0o700)
    (folder / SIZES).write_text(json.dumps({str(path): path.stat().st_size for path in _logs(sites)}))
    try:
        for number, action in enumerate(fault.actions):
            action.on(sites, folder / str(number))
    except BaseException:
        take_away(sites, fault)
        raise


def take_away(sites: LabSites, fault: Fault) -> None:
    """Undo a fault, with what it wrote into the logs. Nothing to do where it is not switched on."""
    folder = sites.lab.dir / FAULTS / fault.name
    if not folder.exists():
        return
    for number, action in reversed(list(enumerate(fault.actions))):
        action.off(sites, folder / str(number))
    sizes = json.loads((folder / SIZES).read_text())
    for path in _logs(sites):
        size = sizes.get(str(path))
        if size is None:
            path.unlink()
        elif size < path.stat().st_size:
            os.truncate(path, size)
    shutil.rmtree(folder)


def clear(sites: LabSites, faults: dict[str, Fault]) -> list[str]:
    """Undo all that are switched on, the newest first; their names."""
    names = active(sites)[::-1]
    for name in names:
        take_away(sites, faults[name])
    return names


def _logs(sites: LabSites) -> list[Path]:
    roots = (sites.lab.node_root(node) / "var/log/gitlab" for node in sites.lab.nodes)
    return [path for root in roots for path in root.rglob("*") if path.is_file()]
