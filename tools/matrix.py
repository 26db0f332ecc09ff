"""Scenario 5 on many kinds of sites: each combination in a lab of its own, by `georeg`'s own commands; one table.

    python tools/matrix.py                         every pair of two values once (about fifteen labs)
    python tools/matrix.py --all                   every combination
    python tools/matrix.py --only release=18.7 --only nodes=2/2

A combination is right when the first run ends with 0, every tag of the primary is on every secondary, and a second run
finds nothing to do. What is done stands in the JSON file, and is not done again: the same command goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from georeg_lab.postgres import port_is_free

ROOT = Path(__file__).resolve().parent.parent
GEOREG = Path(sys.executable).with_name("georeg")
SCENARIO, PARAMETERS = "migrate-legacy", "parameters/lab/migrate-legacy.yml"
BINARY = "GEOREG_REGISTRY_BINARY"
FITS = "18.7"  # the release whose registry a real binary stands for; it is built from that release's source
BASE_PORTS, PORTS_OF_A_LAB = range(25000, 32000, 200), 150
QUIET = {"no-op", "skipped by rule"}

Combination = dict[str, str]
LOCK = threading.Lock()
GIVEN: set[int] = set()


def dimensions() -> dict[str, list[str]]:
    """What is varied: only what this lab can be made as."""
    options = subprocess.run([str(GEOREG), "lab", "up", "--help"], capture_output=True, text=True, check=True).stdout
    values = {
        "release": ["18.7", "17.5", "18.2", "18.5", "19.1"],
        "method": ["one-step", "three-step"],
        "nodes": ["1/1", "2/2"],  # registry nodes of the primary / secondaries
        "connection": ["local", *(["ssh"] if "--ssh" in options else [])],
        "registry": ["drop-in", *(["binary"] if os.environ.get(BINARY) else [])],
    }
    return values if "--gitlab-version" in options else values | {"release": ["18.7"]}


def possible(one: Mapping[str, str]) -> bool:
    """A real binary is of one release."""
    return one["registry"] == "drop-in" or one["release"] == FITS


def every(values: Mapping[str, Sequence[str]]) -> list[Combination]:
    """All combinations that can be."""
    return [one for row in itertools.product(*values.values()) if possible(one := dict(zip(values, row, strict=True)))]


def pairwise(combinations: Sequence[Combination]) -> list[Combination]:
    """A few of them in which every two values that go together do so at least once (greedy, always the same)."""

    def pairs(one: Combination) -> set[frozenset[tuple[str, str]]]:
        return {frozenset(pair) for pair in itertools.combinations(one.items(), 2)}

    left = set().union(*(pairs(one) for one in combinations)) if combinations else set()
    chosen = []
    while left:
        best = max(combinations, key=lambda one: len(pairs(one) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def name_of(one: Mapping[str, str]) -> str:
    """The combination in one word."""
    return " ".join(one.values())


def free_base_port() -> int:
    """First port of a block in which nobody listens; never the same one again, for labs side by side."""
    with LOCK:
        for base in BASE_PORTS:
            if base not in GIVEN and all(port_is_free(base + offset) for offset in range(PORTS_OF_A_LAB)):
                GIVEN.add(base)
                return base
    raise SystemExit("no free block of ports for a lab")


def rehearse(one: Mapping[str, str], log: Path, tags: int) -> dict[str, Any]:
    """Make the lab, run the scenario twice, and take everything away again. What the programs say goes to `log`."""
    folder = Path(tempfile.mkdtemp(prefix="georeg-matrix-"))
    result: dict[str, Any] = {**one, "exit": None, "tags": "", "second": "", "seconds": 0}
    started = time.monotonic()
    with log.open("w") as out:

        def georeg(*words: str, limit: float = 1800) -> int:
            command = [str(GEOREG), *words]
            environment = {key: value for key, value in os.environ.items() if not key.startswith("GEOREG_")}
            out.write(f"\n$ georeg {' '.join(words)}\n")
            out.flush()
            return subprocess.run(
                command, cwd=folder, env=environment, stdout=out, stderr=out, timeout=limit, check=False
            ).returncode

        lab = ["--dir", str(folder / ".lab")]
        try:
            for part in ("notebooks", "parameters"):
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
            if georeg("lab", "up", *lab, "--base-port", str(free_base_port()), "--tags", str(tags), *_size(one)):
                return result | {"exit": "no lab", "seconds": round(time.monotonic() - started)}
            shutil.copy(folder / ".lab/sites.yml", folder / "parameters/lab/sites.yml")
            values = yaml.safe_load((folder / PARAMETERS).read_text()) | {"import_method": one["method"]}
            (folder / PARAMETERS).write_text(yaml.safe_dump(values, sort_keys=False))
            for number in ("first", "second"):
                status = georeg("run", SCENARIO, "-f", PARAMETERS, "--approve", "all")
                record = max((folder / "records").iterdir())
                if number == "first":
                    result |= {"exit": status, "tags": _tags(record)}
                    if status:
                        break
                else:
                    result["second"] = _second(record, status)
        except subprocess.TimeoutExpired as error:
            result["exit"] = f"over {error.timeout:.0f} s"
        finally:
            georeg("lab", "down", *lab, "--purge")
            shutil.rmtree(folder, ignore_errors=True)
    return result | {"seconds": round(time.monotonic() - started)}


def _size(one: Mapping[str, str]) -> list[str]:
    """The options of `georeg lab up` that make such a lab."""
    registries, secondaries = one["nodes"].split("/")
    words = ["--secondaries", secondaries, "--registry-nodes", f"primary={registries}"]
    if one["release"] != FITS:
        words += ["--gitlab-version", one["release"]]
    if one["connection"] == "ssh":
        words.append("--ssh")
    if one["registry"] == "binary":
        words += ["--registry-binary", os.environ[BINARY]]
    return words


def _tags(record: Path) -> str:
    """What the record says of the comparison of every secondary with the primary."""
    table = record / "tables/checks.json"  # written with the last cell: a run that stopped earlier has none
    checks = json.loads(table.read_text()) if table.exists() else []
    said = [check for check in checks if check["check"] == "same_images"]
    return f"{said[-1]['verdict']}: {said[-1]['found']}" if said else "not compared"


def _second(record: Path, status: int) -> str:
    """Whether nothing was left to do."""
    outcomes = {row["outcome"] for row in json.loads((record / "tables/outcomes.json").read_text())}
    return "all no-ops" if status == 0 and outcomes <= QUIET else f"exit {status}: {', '.join(sorted(outcomes))}"


def right(row: Mapping[str, Any]) -> bool:
    """Whether a row shows what must hold."""
    return row["exit"] == 0 and str(row["tags"]).startswith("passed") and row["second"] == "all no-ops"


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """The table."""
    table = Table(title="Scenario 5, from legacy to the sites' own databases")
    for column in ("release", "method", "registry nodes / secondaries", "connection", "registry"):
        table.add_column(column)
    for column in ("exit", "tags verified", "second run", "seconds"):
        table.add_column(column)
    for row in rows:
        style = "" if right(row) else "red"
        table.add_row(*(str(value) for value in row.values()), style=style)
    Console(width=200 if not sys.stdout.isatty() else None).print(table)


def main() -> int:
    """0 when every combination is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--all", action="store_true", help="every combination, not every pair")
    parser.add_argument("--only", action="append", default=[], metavar="NAME=VALUE", help="only with this value")
    parser.add_argument("--json", type=Path, default=ROOT / "matrix.json", help="where results stand, and are found")
    parser.add_argument("--again", action="store_true", help="also what stands there already")
    parser.add_argument("--jobs", type=int, default=1, help="labs side by side  [default: 1]")
    parser.add_argument("--tags", type=int, default=200, help="in each lab's largest repository  [default: 200]")
    parser.add_argument("--list", action="store_true", help="say what would be done")
    arguments = parser.parse_args()
    values = dimensions()
    for wish in arguments.only:
        name, _, value = wish.partition("=")
        if value not in values.get(name, ()):
            known = "; ".join(f"{key}={'|'.join(possible)}" for key, possible in values.items())
            parser.error(f"--only {wish}: there is {known}")
        values[name] = [value]
    chosen = every(values) if arguments.all else pairwise(every(values))
    if arguments.list:
        print("\n".join(map(name_of, chosen)))
        return 0
    path: Path = arguments.json
    kept = json.loads(path.read_text()) if path.exists() and not arguments.again else {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the lab down on its way out

    def one_row(one: Combination) -> None:
        name = name_of(one)
        if name in kept and right(kept[name]):
            return
        print(f"begun: {name}", flush=True)
        log = path.with_name(f"{path.stem}-{name.replace(' ', '-').replace('/', '-')}.log")
        row = rehearse(one, log, arguments.tags)
        with LOCK:
            kept[name] = row
            path.write_text(json.dumps(kept, indent=1) + "\n")
        if right(row):
            log.unlink()
        else:
            print(f"not right: {row}; see {log}", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one_row, chosen))
    rows = [kept[name_of(one)] for one in chosen]
    show(rows)
    return 0 if all(map(right, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
