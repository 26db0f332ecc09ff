"""The state right after the first `up`, or another, kept as one archive, and brought back by what differs from it.

A lab has tens of thousands of small files, of which a rehearsal changes some hundred: only those are removed and
unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from georeg_lab.layout import FAULTS

PRISTINE = "pristine"
# sub-second times, so that a changed file is told from an unchanged one of the same size
FORMAT = ("--format=posix", "--pax-option=delete=atime,delete=ctime")
Facts = list[object]


def exists(folder: Path) -> bool:
    """A complete copy is kept in this folder."""
    return _contents(folder, PRISTINE).exists()


def keep(folder: Path, names: Sequence[str], copy: str = PRISTINE) -> None:
    """Keep a copy of the named sub-folders of `folder`, whose processes are stopped."""
    archive, kept = _archive(folder, copy), _contents(folder, copy)
    kept.unlink(missing_ok=True)
    archive.touch(mode=0o600)
    subprocess.run(["tar", "--create", "--file", str(archive), *FORMAT, "-C", str(folder), *names], check=True)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(contents(folder, names)))
    part.rename(kept)  # written last: without it there is no copy


def restore(folder: Path, names: Sequence[str], copy: str = PRISTINE) -> int:
    """Make the sub-folders what they were. Returns how many files and folders had changed."""
    shutil.rmtree(folder / FAULTS, ignore_errors=True)  # there is nothing to take back any more
    wanted: dict[str, Facts] = json.loads(_contents(folder, copy).read_text())
    found = contents(folder, names)
    surplus = [path for path in found if path not in wanted or found[path][0] != wanted[path][0]]
    for path in sorted(surplus, reverse=True):  # what lies in a folder before the folder
        place = folder / path
        place.rmdir() if found[path][0] == "folder" else place.unlink()
    missing = sorted(path for path, facts in wanted.items() if found.get(path) != facts)
    options = ["--extract", "--file", str(_archive(folder, copy)), "--preserve-permissions", "--no-recursion", "--null"]
    command = ["tar", *options, "-C", str(folder), "--verbatim-files-from", "--files-from", "-"]
    subprocess.run(command, input=b"".join(os.fsencode(path) + b"\0" for path in missing), check=True)
    return len(set(surplus) | set(missing))


def _archive(folder: Path, copy: str) -> Path:
    return folder / f"{copy}.tar"


def _contents(folder: Path, copy: str) -> Path:
    return folder / f"{copy}.json"


def contents(folder: Path, names: Sequence[str]) -> dict[str, Facts]:
    """Path → what it is: ["folder", mode], ["file", mode, size, time of change in ns] or ["link", target]."""
    return {path: _facts(place) for name in names for path, place in _walk(folder, name)}


def _walk(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    yield name, folder / name
    if (folder / name).is_dir() and not (folder / name).is_symlink():
        with os.scandir(folder / name) as entries:
            for entry in entries:
                yield from _walk(folder, f"{name}/{entry.name}")


def _facts(path: Path) -> Facts:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return ["link", str(path.readlink())]
    mode = stat.S_IMODE(facts.st_mode)
    if stat.S_ISDIR(facts.st_mode):
        return ["folder", mode]
    return ["file", mode, facts.st_size, facts.st_mtime_ns]
