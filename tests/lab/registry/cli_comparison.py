"""What a recorded command and a run of it have in common: output without times, ports, names and process ids."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

BUILD_FIELDS = ("time", "version", "go_version", "instance_id")
VARYING = {
    "duration_ms": "{n}",
    "duration_s": "{duration}",
    "last_preimport_date": "{time}",
    "skip_cutoff_date": "{time}",
    "pid": "{pid}",
    "sql": "{sql}",
    "args": "{args}",
    "port": "{port}",
    "database": "{db}",
}
SHORTENED = "…{shortened}…"
LOG_NAME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)-registry-import\.log"
SPINNER = re.compile(r"[|/\\-]  \[\d+s\] (.*)")
BAR = re.compile(r"\d+% \[=*>? *\] \((\d+/\d+), \d+ (\w+)/s\) \[\d+s\] (.*)")
COUNTER = re.compile(r"[|/\\-] \((\d+)/-, \d+ (\w+)/s\) \[\d+s\] (.*)")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_MASKS = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})? \+0000 UTC", "{time}"),
    (rf"time={_QUOTED}", 'time="{time}"'),
    (rf"\bargs=(?:{_QUOTED}|\S+)", 'args="{args}"'),
    (rf"\bsql=(?:{_QUOTED}|\S+)", 'sql="{sql}"'),
    (r"duration_ms=\S+", "duration_ms={n}"),
    (r"duration_s=\S+", "duration_s={duration}"),
    (r"instance_id=\S+", "instance_id={uuid}"),
    (r"go_version=\S+", "go_version={go}"),
    (r"\bpid=\S+", "pid={pid}"),
    (r" in [\d.]+m?s$", " in {duration}"),
    (r"\bdatabase=\w+", "database={db}"),
    (r"127\.0\.0\.1:(?:\d+|\{pgport\})|\{addr\}", "{addr}"),
    (r"port=(?:\d+|\{pgport\})", "port={pgport}"),
    (r"lookup (\S+) on \S+:53", r"lookup \1 on {resolver}:53"),
    (r'database \\?"\w+\\?" does not exist', 'database "{db}" does not exist'),
    (r"dbname=\w+", "dbname={db}"),
    (r"user=\w+", "user={user}"),
    (r'for user (\\?)"\w+\\?"', r"for user \1{user}"),
    (LOG_NAME, "{time}-registry-import.log"),
    (r"Provided: \[inmemory filesystem\]", "Provided: [filesystem inmemory]"),  # in any order
)


def plain(text: str) -> str:
    """Text with what differs from run to run replaced. Cells with a time are ragged, so blanks and borders shrink."""
    for pattern, replacement in _MASKS:
        text = re.sub(pattern, replacement, text, flags=re.M)
    if "│" in text and "{time}" in text:
        text = re.sub(r" +│", " │", re.sub(r"─+", "─", re.sub(r"│ +(MIGRATION|APPLIED)", r"│ \1", text)))
    return text


def line_of(text: str) -> Any:
    """One line of a log: JSON without what differs from run to run, or text."""
    if not text.startswith('{"'):
        return plain(text)
    found = json.loads(text.replace("{pgport}", "0"))
    fields = {key: value for key, value in found.items() if key not in BUILD_FIELDS}
    fields |= {key: placeholder for key, placeholder in VARYING.items() if key in fields}
    return {key: plain(value) if isinstance(value, str) else value for key, value in fields.items()}


def story(text: str) -> list[str]:
    """What redrawn progress tells, in order: each count and each description once."""
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


def shown(recorded: str, found: str) -> tuple[Any, Any]:
    """Both outputs, comparable. What a shortened recording left out is left out of the found one too."""
    if "\r" in recorded:
        return (story(recorded), recorded[-1] == "\n"), (story(found), found[-1:] == "\n")
    if '"msg":"marking blob"' in recorded:  # children of a list come in any order
        return sorted(map(str, map(line_of, recorded.splitlines()))), sorted(map(str, map(line_of, found.splitlines())))
    if SHORTENED not in recorded:
        return [line_of(line) for line in recorded.splitlines()], [line_of(line) for line in found.splitlines()]
    head, _, rest = recorded.partition(SHORTENED)
    first, last = head.splitlines()[:-1], rest.rpartition(SHORTENED)[2].splitlines()[1:]
    lines = found.splitlines()
    pairs = [*zip(first, lines, strict=False), *zip(reversed(last), reversed(lines), strict=False)]
    assert len(lines) > len(first) + len(last)
    return [line_of(a) for a, _ in pairs], [line_of(b) for _, b in pairs]
