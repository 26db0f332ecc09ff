"""Records: `records/<run id>/`, what a run leaves behind for those who were not there, and the one way to write there.

A record holds the executed notebook and its HTML, the ledger, the commands, the plans, the tables and, once it is
sealed, a manifest of hashes. Whatever is written here is redacted first.
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
import re
import secrets
import socket
import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from georeg_nb.errors import RecordError
from georeg_nb.parameters import project_root
from georeg_nb.redaction import dump_json, redact

RUN_ID = re.compile(r"\d{8}T\d{6}Z-[a-z0-9-]+-[0-9a-f]{4}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\]-]*")


class Observer(Protocol):
    """Who is told what happens on the sites while a run goes on. A `Record` is one."""

    def command(self, record: Mapping[str, Any]) -> None:
        """A command, job start or file change on a node, as `Node.on_command` describes it."""

    def progress(self, site: str, text: str, fraction: float | None = None) -> None:
        """How far something is. `fraction` is from 0 to 1, or None when that is not known."""

    def kept(self, site: str, name: str, data: Any) -> None:
        """A fact that was kept on a site for later runs; the record gets a copy."""


def now() -> datetime:
    """The time, in UTC. All of georeg's times come from here."""
    return datetime.now(UTC)


def stamp(moment: datetime | None = None) -> str:
    """A time as it is written everywhere: UTC, to the second."""
    return (moment or now()).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def operator() -> str:
    """Who is working, for approvals, attestations and locks: user@host."""
    try:
        user = os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (KeyError, OSError):  # no passwd entry and no variable, as in some containers
        user = str(os.getuid())
    return f"{user}@{hostname()}"


def hostname() -> str:
    return socket.gethostname()


def base_folder() -> Path:
    """Where records are: $GEOREG_RECORDS, else records/ below the project's root."""
    given = os.environ.get("GEOREG_RECORDS")
    return Path(given).resolve() if given else project_root() / "records"


@dataclass(frozen=True)
class Record:
    """The folder of one run. Every method that writes redacts first."""

    path: Path

    @classmethod
    def create(cls, scenario: str, base: Path | None = None) -> Record:
        """A new, empty record. Its name sorts by time. Raises RecordError when it cannot be made."""
        run = f"{now().strftime('%Y%m%dT%H%M%SZ')}-{scenario}-{secrets.token_hex(2)}"
        path = (base or base_folder()) / run
        try:
            path.mkdir(parents=True, mode=0o750)
        except OSError as error:
            raise RecordError(
                f"the record {path} cannot be made: {error.strerror}", remedy="set GEOREG_RECORDS to a folder of yours"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, run: str, base: Path | None = None) -> Record:
        """The record of an earlier run, by its id or by an unambiguous start of it. Raises RecordError."""
        folder = base or base_folder()
        found = sorted(path for path in folder.glob("*") if path.name.startswith(run) and RUN_ID.fullmatch(path.name))
        exact = [path for path in found if path.name == run]
        if not run or len(exact or found) != 1:
            known = f"{len(found)} records begin with {run!r}" if found else f"no record {run!r} in {folder}"
            raise RecordError(known, remedy="`georeg records list` shows what there is")
        return cls((exact or found)[0])

    @property
    def run(self) -> str:
        return self.path.name

    @property
    def scenario(self) -> str:
        return self.run.split("-", 1)[1].rsplit("-", 1)[0]

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def notebook(self) -> Path:
        return self.path / f"{self.scenario}.ipynb"

    @property
    def html(self) -> Path:
        return self.path / f"{self.scenario}.html"

    @property
    def sealed(self) -> bool:
        return (self.path / "SEAL.json").exists()

    def write(self, name: str, text: str) -> Path:
        """Write a file in one step."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.part")
        part.write_text(redact(text))
        part.replace(target)
        return target

    def write_json(self, name: str, data: Any) -> Path:
        return self.write(name, dump_json(data, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """The data of a file in the record; None when there is none."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add one JSON line to a file; whole lines only, from any thread."""
        data = dump_json(dict(line)) + "\n"
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(descriptor, data.encode())
        finally:
            os.close(descriptor)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file; a line that was cut off by a crash is left out."""
        path = self.path / name
        lines = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep a table as tables/<name>.json and .csv. Columns are in the order in which they first appear."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a table's name: {name!r}")
        clean = json.loads(dump_json([dict(row) for row in rows]))
        columns = list(dict.fromkeys(column for row in clean for column in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in clean)
        self.write_json(f"tables/{name}.json", clean)
        self.write(f"tables/{name}.csv", text.getvalue())

    def has_table(self, name: str) -> bool:
        """Whether the record holds a table of that name."""
        return (self.path / "tables" / f"{name}.json").exists()

    def read_table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table. Raises RecordError with the names there are."""
        rows = self.read_json(f"tables/{name}.json")
        if rows is None:
            names = sorted(path.stem for path in (self.path / "tables").glob("*.json"))
            raise RecordError(f"there is no table {name!r} yet", remedy=f"there are: {', '.join(names) or 'none'}")
        return list(rows)

    def command(self, record: Mapping[str, Any]) -> None:
        """What a node was told to do, into commands.jsonl."""
        self.append("commands.jsonl", record)

    def progress(self, site: str, text: str, fraction: float | None = None) -> None:
        """How far something is, into progress.jsonl, from where the terminal shows it."""
        self.append("progress.jsonl", {"time": stamp(), "site": site, "text": text, "fraction": fraction})

    def kept(self, site: str, name: str, data: Any) -> None:
        """A copy of a fact that is kept on a site."""
        self.write_json(f"kept/{site}/{name}.json", data)

    def write_junit(self, name: str, suites: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        """JUnit XML: suites of cases with `name`, `outcome` (passed, failed, skipped) and `message`."""
        root = ET.Element("testsuites")
        for title, cases in suites.items():
            count = [case["outcome"] for case in cases]
            suite = ET.SubElement(
                root,
                "testsuite",
                name=title,
                tests=str(len(cases)),
                failures=str(count.count("failed")),
                skipped=str(count.count("skipped")),
            )
            for case in cases:
                element = ET.SubElement(suite, "testcase", classname=title, name=case["name"])
                if case["outcome"] != "passed":
                    tag = "failure" if case["outcome"] == "failed" else "skipped"
                    ET.SubElement(element, tag, message=_xml(case.get("message", "")))
        ET.indent(root)
        self.write(name, '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def _xml(text: str) -> str:
    """Without the control characters that XML does not know."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
