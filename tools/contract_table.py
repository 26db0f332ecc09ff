"""Hold the stand-ins to every recording, and a real registry too where GEOREG_REGISTRY_BINARY names one: one table.

A case is one line of a recording below tests/data. It agrees when every test that stands for it passed; a case that was
skipped, or that no test stands for, does not agree. `--update` writes the table into docs/stand-ins.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from contract_differences import BINARY, DROP_IN  # noqa: E402 (the tests' folder is no package)

DATA = ROOT / "tests/data"
PAGE = ROOT / "docs/stand-ins.md"
BEGIN, END = "<!-- contract table: begin -->", "<!-- contract table: end -->"
FOLDERS = ("registry", "omnibus", "rails")
REAL = ("registry",)
"""Folders whose recordings a real registry can be held to; the others were made by running the package's own code, or
derived from source."""

Case = tuple[str, str]


@dataclass
class Results:
    """What the tests said of each case."""

    passed: dict[Case, bool] = field(default_factory=dict)
    reasons: dict[Case, str] = field(default_factory=dict)

    def agree(self, file: str) -> int:
        """How many cases of a file agree."""
        return sum(passed for (name, _), passed in self.passed.items() if name == file)


def cases_of(file: Path) -> list[str]:
    """The cases of a recording: its lines, or for a table the whole file."""
    if file.suffix != ".jsonl":
        return ["0"]
    return [str(number) for number, _ in enumerate(file.read_text().splitlines(), start=1)]


def recordings() -> dict[str, list[str]]:
    """Every recording below tests/data with its cases."""
    files = [file for folder in FOLDERS for file in sorted((DATA / folder).iterdir())]
    return {file.relative_to(DATA).as_posix(): cases_of(file) for file in files if file.suffix in (".jsonl", ".csv")}


def read(report: Path) -> Results:
    """The results in a JUnit report."""
    found = Results()
    said: dict[Case, list[str]] = defaultdict(list)
    for test in ElementTree.parse(report).iter("testcase"):  # noqa: S314 (pytest has just written it)
        wrong = [child for child in test if child.tag in ("failure", "error", "skipped")]
        for item in test.iter("property"):
            if item.get("name") == "contract":
                file, _, line = str(item.get("value")).rpartition(":")
                case = (file, line)
                found.passed[case] = found.passed.get(case, True) and not wrong
                said[case] += [f"{child.get('message') or child.tag}".splitlines()[0][:150] for child in wrong]
    found.reasons = {case: words[0] for case, words in said.items() if words}
    return found


def run(binary: str | None, arguments: list[str]) -> Results:
    """Run the contract's tests against the stand-ins, or against a real registry."""
    environment = {key: value for key, value in os.environ.items() if key != "GEOREG_REGISTRY_BINARY"}
    where = [f"tests/lab/{folder}" for folder in FOLDERS]
    if binary:
        environment["GEOREG_REGISTRY_BINARY"] = binary
        where = [f"tests/lab/{folder}" for folder in REAL]
    with tempfile.TemporaryDirectory(prefix="georeg-contract-") as folder:
        report = Path(folder) / "report.xml"
        options = [
            "-q",
            "-m",
            "contract",
            "-o",
            "junit_family=xunit2",
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
        ]
        command = [sys.executable, "-m", "pytest", *where, *options, f"--basetemp={folder}/t", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)
        return read(report)


def differing(results: Results, folders: tuple[str, ...] = FOLDERS) -> list[Case]:
    """The cases that do not agree, those that no test stands for included."""
    every = [(file, case) for file, cases in recordings().items() for case in cases if file.split("/")[0] in folders]
    return [case for case in every if not results.passed.get(case)]


def table(lab: Results, real: Results | None, version: str) -> str:
    """The table, as Markdown, and below it each case that does not agree."""
    head = ["Recording", "Cases", "Stand-in", f"Real registry {version}".strip()]
    rows = []
    for file, cases in recordings().items():
        can_be_real = file.split("/")[0] in REAL
        shown = [_share(results, file, len(cases)) for results in (lab, real if can_be_real else None)]
        rows.append([f"`{file}`", str(len(cases)), shown[0], shown[1] if can_be_real else "none"])
    lines = [head, ["---", "---:", "---:", "---:"], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    differ = [
        f"- `{file}` {line}, {program}: {results.reasons.get((file, line), 'no test ran')}"
        for program, results, folders in (("stand-in", lab, FOLDERS), ("real registry", real, REAL))
        if results
        for file, line in differing(results, folders)
    ]
    return text + "\n" + ("\nWhat differs (recording and line):\n\n" + "\n".join(differ) + "\n" if differ else "")


def _share(results: Results | None, file: str, whole: int) -> str:
    if results is None:
        return "not run"
    agreeing = results.agree(file)
    return f"{agreeing} ({int(1000 * agreeing / whole) / 10:g} %)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the table into docs/stand-ins.md")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest, after --")
    given = parser.parse_args()
    binary, version = os.environ.get("GEOREG_REGISTRY_BINARY"), ""
    lab, real = run(None, given.pytest), None
    if binary:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        version = said.split()[-1]
        real = run(binary, given.pytest)
    text = table(lab, real, version)
    print(f"\n{text}")
    if given.update:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}")
    return int(not explained(lab, DROP_IN, FOLDERS) or (real is not None and not explained(real, BINARY, REAL)))


def explained(results: Results, known: dict[tuple[str, int], str], folders: tuple[str, ...]) -> bool:
    """Whether every difference is one that tests/contract_differences.py gives a reason for."""
    return all((file, int(line)) in known for file, line in differing(results, folders))


if __name__ == "__main__":
    sys.exit(main())
