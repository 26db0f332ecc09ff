"""What an import shows without `--log-to-stdout`, where its log goes, and the other forms of the log."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from import_bench import CASES as IMPORTS
from import_bench import Bench, bench_fixture, metadata_fixture, workshops_fixture  # noqa: F401 (fixtures)

from georeg_lab.registry import cli

DATA = Path(__file__).resolve().parents[2] / "data/registry/cli.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text().splitlines()]
BASE = IMPORTS[0]
BROKEN = "docker/registry/v2/blobs/sha256/9c/9c99f67020e8bf5b2d282c78b6cbf300a8c4c096a1155f4060664bd0c0e17d84/data"
SPINNER = re.compile(r"[|/\\-]  \[\d+s\] (.*)")
BAR = re.compile(r"\d+% \[=*>? *\] \((\d+/\d+), \d+ (\w+)/s\) \[\d+s\] (.*)")
COUNTER = re.compile(r"[|/\\-] \((\d+)/-, \d+ (\w+)/s\) \[\d+s\] (.*)")
LOG_NAME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)-registry-import\.log"


def run(bench: Bench, argv: list[str], folders: dict[str, str]) -> tuple[int, str, str]:
    """A command in this process; `folders` replaces placeholders in its arguments."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(bench.config) if "/cfg/" in word else word for word in argv]
    for placeholder, folder in folders.items():
        words = [word.replace(placeholder, folder) for word in words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words)
    return status, out.getvalue(), err.getvalue()


def story(text: str) -> list[str]:
    """What the redrawn output tells, in order: each description and each count once."""
    told = []
    for piece in re.split(r"[\r\n]+", text):
        shown = piece.strip()
        for kind in (SPINNER, BAR, COUNTER):
            found = kind.fullmatch(shown)
            if found:
                told.append(" ".join(found.groups()))
                break
        else:
            assert not shown or re.fullmatch(r"[|/\\-]  \[\d+s\]", shown), shown
    told = [re.sub(r"completed in (\d+s|\{duration\})", "completed in {duration}", item) for item in told]
    told = [
        re.sub(rf"written to: .*/(\{{time\}}-registry-import\.log|{LOG_NAME})", "written to: {log}", t) for t in told
    ]
    counted = [item for item in told if re.match(r"\d", item)]
    described = [item for item in told if not re.match(r"\d", item)]
    return [item for items in (counted, described) for item, _ in itertools.groupby(items)]


WITH_BARS = (164, 165, 166, 167, 168, 169, 170, 177, 178)


@pytest.mark.parametrize("bench", [BASE], indirect=True, ids=[""])
@pytest.mark.parametrize("number", WITH_BARS, ids=[CASES[n]["name"] for n in WITH_BARS])
def test_progress(number: int, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[number]
    work = tmp_path / "cwd"
    work.mkdir()
    (tmp_path / "logdir").mkdir()
    monkeypatch.chdir(work)
    if case["state"] == "base-main, already imported":
        assert run(bench, ["database", "import", "-l", "/cfg/"], {})[0] == 0
    if number == 177:
        (bench.root / BROKEN).write_text("nope")
    status, out, err = run(bench, case["argv"][1:], {"{work}/st": str(tmp_path)})
    assert status == case["exit"]
    text = re.sub(LOG_NAME, "{time}-registry-import.log", err).replace(str(tmp_path), "{work}/st")
    assert text == case["stderr"]
    assert story(out) == story(case["stdout"])
    assert out.endswith("\n") == case["stdout"].endswith("\n")
    files = [file for folder in (work, tmp_path / "logdir") for file in folder.iterdir()]
    assert [(oct(file.stat().st_mode & 0o777), len(file.read_text().splitlines())) for file in files] == [
        (mode, lines) for _, mode, lines in case["files"]
    ]
    assert all(re.fullmatch(LOG_NAME, file.name) for file in files)


@pytest.mark.parametrize("bench", [BASE], indirect=True, ids=[""])
@pytest.mark.parametrize("level", ["warn", "error"])
def test_a_higher_level_leaves_nothing(level: str, bench: Bench) -> None:
    document = json.loads(bench.config.read_text())
    bench.config.write_text(json.dumps({**document, "log": {"level": level}}))
    assert run(bench, ["database", "import", "-l", "/cfg/"], {}) == (0, "", "")


@pytest.mark.parametrize("bench", [BASE], indirect=True, ids=[""])
def test_text_form(bench: Bench) -> None:
    document = json.loads(bench.config.read_text())
    bench.config.write_text(json.dumps({**document, "log": {"formatter": "text"}}))
    status, out, err = run(bench, ["database", "import", "-l", "/cfg/"], {})
    assert (status, err) == (0, "")
    recorded = CASES[172]["stdout"].splitlines()[:5]
    found = []
    for line in out.splitlines()[: len(recorded)]:
        line = re.sub(r'^time="[^"]*"', 'time="{time}"', line)
        found.append(re.sub(r"instance_id=\S+", "instance_id={uuid}", line))
    assert [a for a, b in zip(found, recorded, strict=True) if not b.endswith("…")] == [
        line for line in recorded if not line.endswith("…")
    ]


@pytest.mark.parametrize("bench", [BASE], indirect=True, ids=[""])
def test_surplus_arguments_and_unknown_migrations_do_not_matter(bench: Bench) -> None:
    connection = bench.metadata.connection
    connection.execute("INSERT INTO schema_migrations VALUES ('20990101000000_from_the_future', now())")
    try:
        status, out, err = run(bench, ["database", "import", "-l", "/cfg/", "extra"], {})
    finally:
        connection.execute("DELETE FROM schema_migrations WHERE id LIKE '2099%'")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 115


@pytest.mark.parametrize("bench", [BASE], indirect=True, ids=[""])
def test_statements_are_logged_at_debug(bench: Bench) -> None:
    document = json.loads(bench.config.read_text())
    bench.config.write_text(json.dumps({**document, "log": {"level": "debug"}}))
    status, out, _ = run(bench, ["database", "import", "-l", "-1", "/cfg/"], {})
    assert status == 0
    queries = [line for line in map(json.loads, out.splitlines()) if line["msg"] == "Query"]
    assert queries
    assert all(
        {"args", "commandTag", "database", "duration_ms", "level", "pid", "sql"} <= set(line) for line in queries
    )
    assert "version" not in queries[0]
