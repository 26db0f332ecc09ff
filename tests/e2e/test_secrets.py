"""Canary secrets appear in no record, output, log, job or process argument, in none of their forms.

One migration in three parts on one lab: a step that fails and whose command prints every secret there is, by our
runner; then half of the work by plain papermill; then the rest by our runner.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from workplace import NOTEBOOK, PARAMETERS, Workplace, changes

from georeg_lab.layout import inside
from georeg_nb.omnibus.control import BACKUPS

pytestmark = [pytest.mark.lab]


def canaries(workplace: Workplace) -> dict[str, str]:
    """Every secret of the lab, and one planted in gitlab.rb with characters that get escaped."""
    found = {path.name: path.read_text().strip() for path in workplace.lab.lab.secrets.iterdir() if path.is_file()}
    for site in ("primary", "secondary"):
        root = workplace.lab.lab.node_root(site)
        secrets = json.loads(inside(root, "/etc/gitlab/gitlab-secrets.json").read_text())
        found[f"{site} http_secret"] = secrets["registry"]["http_secret"]
        found[f"{site} internal_key"] = secrets["registry"]["internal_key"].splitlines()[1]
        found[f"{site} secret_token"] = secrets["gitlab_shell"]["secret_token"]
        found |= {f"{site} {name}": value for name, value in secrets["gitlab_rails"].items() if isinstance(value, str)}
    found["planted"] = PLANTED
    return {name: value for name, value in found.items() if len(value) >= 8}


PLANTED = 'cañary"/+&=\\ %s€ 4711'


def forms(value: str) -> set[bytes]:
    """How a value can show up: raw, JSON-escaped, URL-quoted, base64 at each alignment."""
    raw = value.encode()
    shapes = {raw, json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode()}
    shapes |= {quote(value).encode(), quote(value, safe="").encode(), quote_plus(value).encode()}
    shapes |= {value.replace("\\", "\\\\").replace("'", "\\'").encode()}  # as it stands in gitlab.rb
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        start, stop = (0, 2, 3)[shift], -4 if (len(raw) + shift) % 3 else None
        shapes.add(encoded[start:stop])
    return {shape for shape in shapes if len(shape) >= 8}


class ArgumentWatch:
    """Reads the arguments of all processes until stopped: of each one several times, because a fork changes them."""

    TIMES = 5

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ArgumentWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        looked: dict[str, int] = {}
        while not self._stop.is_set():
            now = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
            looked = {name: looked.get(name, 0) + 1 for name in now}
            for name, times in looked.items():
                if times <= self.TIMES:
                    try:
                        self.seen.add(Path("/proc", name, "cmdline").read_bytes())
                    except OSError:
                        continue
            time.sleep(0.02)


def plant(workplace: Workplace) -> None:
    """A secret with odd characters in each gitlab.rb."""
    for site in ("primary", "secondary"):
        rb = inside(workplace.lab.lab.node_root(site), "/etc/gitlab/gitlab.rb")
        quoted = PLANTED.replace("\\", "\\\\").replace("'", "\\'")
        rb.write_text(rb.read_text() + f"gitlab_rails['smtp_password'] = '{quoted}'\n")


@contextmanager
def reconfigure_fails_telling_all(workplace: Workplace, site: str) -> Iterator[None]:
    """`gitlab-ctl reconfigure` dies on this site; its last words are lines with secrets."""
    program = inside(workplace.lab.lab.node_root(site), "/usr/bin/gitlab-ctl")
    right = program.read_text()
    places = "etc/gitlab/gitlab-secrets.json var/opt/gitlab/registry/config.yml etc/gitlab/gitlab.rb"
    telling = f"""root=$(cd "$(dirname "$0")/../.." && pwd -P)
    if [ "$1" = reconfigure ]; then
        (cd "$root" && grep -hE "internal_key|http_secret|^ *secret:|password|notification_secret" {places}) >&2
        exit 1
    fi
    """
    program.write_text(right.replace("#!/bin/sh\n", f"#!/bin/sh\n{telling}"))
    try:
        yield
    finally:
        program.write_text(right)


def places(workplace: Workplace) -> dict[str, bytes]:
    """What could hold a secret, on this machine and on the nodes: name → content."""
    found = {
        str(path.relative_to(workplace.folder)): path.read_bytes()
        for path in workplace.records.rglob("*")
        if path.is_file()
    }
    for site in ("primary", "secondary"):
        kept = inside(workplace.lab.lab.node_root(site), "/var/lib/georeg")
        found |= {f"{site}:{path.relative_to(kept)}": path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    found["commands on the nodes"] = (workplace.lab.lab.dir / "commands.jsonl").read_bytes()
    return found


def leaks(workplace: Workplace, found: dict[str, bytes]) -> list[str]:
    """Which secret is where."""
    shapes = {name: forms(value) for name, value in canaries(workplace).items()}
    return [
        f"{name} in {place}"
        for place, content in found.items()
        for name, its_shapes in shapes.items()
        if any(shape in content for shape in its_shapes)
    ]


def papermill(workplace: Workplace, *steps: str) -> subprocess.CompletedProcess[bytes]:
    """Plain papermill with these steps approved, everything that it can print printed."""
    program = str(Path(sys.executable).with_name("papermill"))
    command = [program, "-f", PARAMETERS, "-y", json.dumps({"approve": steps}), "--log-output", "--log-level", "DEBUG"]
    return subprocess.run(
        [*command, f"notebooks/{NOTEBOOK}", str(workplace.records / "out.ipynb")],
        cwd=workplace.folder,
        env=workplace.environment(),
        capture_output=True,
        timeout=400,
    )


def test_no_secret_leaves_its_place(fresh_workplace: Workplace) -> None:
    workplace = fresh_workplace
    plant(workplace)
    assert len(canaries(workplace)) >= 15
    with ArgumentWatch() as watch:
        with reconfigure_fails_telling_all(workplace, "secondary"):
            failed = workplace.run("--approve", "hold")
        assert failed.status == 4, failed.output
        assert failed.output.count("[secret: ") >= 5, failed.output
        assert "[secret: smtp_password]" in failed.output
        assert (failed.record / "errors.log").exists()
        assert leaks(workplace, places(workplace) | {"output": failed.output.encode()}) == []
        backups = [inside(workplace.lab.lab.node_root(site), BACKUPS) for site in ("primary", "secondary")]
        assert [path for folder in backups if folder.exists() for path in folder.iterdir()] == []

        by_papermill = papermill(workplace, "hold", "secondary.import")
        assert by_papermill.returncode == 0, by_papermill.stderr[-3000:]
        found = places(workplace) | {"output": by_papermill.stdout + by_papermill.stderr}
        assert leaks(workplace, found) == []

        rest = workplace.run("--approve", "all")
        assert rest.status == 0, rest.output
    assert {step.partition("/")[0] for step in changes(rest.ledger)} >= {"primary.import", "release"}
    found = places(workplace) | {"output": rest.output.encode(), "arguments": b"\n".join(watch.seen)}
    assert any(b"registry-database" in arguments for arguments in watch.seen)
    assert len(found) > 40
    assert leaks(workplace, found) == []


def test_the_search_finds_what_it_looks_for() -> None:
    """Each form of the planted secret is found in text of the kind that it occurs in."""
    texts = [
        PLANTED.encode(),
        json.dumps({"a": PLANTED}).encode(),
        f"https://user:{quote(PLANTED, safe='')}@host".encode(),
        *(base64.b64encode(b"x" * shift + PLANTED.encode() + b"tail") for shift in range(3)),
    ]
    shapes = forms(PLANTED)
    assert [text for text in texts if not any(shape in text for shape in shapes)] == []
