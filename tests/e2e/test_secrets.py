"""Canary secrets appear in no record, log or process argument, in none of their forms."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from workplace import NOTEBOOK, PARAMETERS, Workplace

from georeg_lab.layout import inside

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("migration")]


def canaries(workplace: Workplace) -> dict[str, str]:
    """Every secret of the lab, and one planted in gitlab.rb with characters that get escaped."""
    found = {path.name: path.read_text().strip() for path in workplace.lab.lab.secrets.iterdir() if path.is_file()}
    for site in ("primary", "secondary"):
        root = workplace.lab.lab.node_root(site)
        secrets = json.loads(inside(root, "/etc/gitlab/gitlab-secrets.json").read_text())
        found[f"{site} http_secret"] = secrets["registry"]["http_secret"]
        found[f"{site} internal_key"] = secrets["registry"]["internal_key"].splitlines()[1]
    found["planted"] = PLANTED
    return {name: value for name, value in found.items() if len(value) >= 8}


PLANTED = 'cañary"/+&=\\ %s€ 4711'


def forms(value: str) -> set[bytes]:
    """How a value can show up: raw, JSON-escaped, URL-quoted, base64 at each alignment."""
    raw = value.encode()
    shapes = {raw, json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode()}
    shapes |= {quote(value).encode(), quote(value, safe="").encode()}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        start, stop = (0, 2, 3)[shift], -4 if (len(raw) + shift) % 3 else None
        shapes.add(encoded[start:stop])
    return {shape for shape in shapes if len(shape) >= 8}


class ArgumentWatch:
    """Reads the arguments of all processes until stopped."""

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
        while not self._stop.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(entry.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)


@pytest.mark.parametrize("way", ["runner", "papermill"])
def test_no_secret_leaves_its_place(fresh_workplace: Workplace, way: str) -> None:
    workplace = fresh_workplace
    for site in ("primary", "secondary"):
        rb = inside(workplace.lab.lab.node_root(site), "/etc/gitlab/gitlab.rb")
        quoted = PLANTED.replace("\\", "\\\\").replace("'", "\\'")
        rb.write_text(rb.read_text() + f"gitlab_rails['smtp_password'] = '{quoted}'\n")
    with ArgumentWatch() as watch:
        if way == "runner":
            done = workplace.run("--approve", "all")
            assert done.status == 0, done.output
            streams = done.output.encode()
        else:
            command = [str(Path(sys.executable).with_name("papermill")), "-f", PARAMETERS, "-y", "approve: [all]"]
            command += ["--log-output", f"notebooks/{NOTEBOOK}", str(workplace.records / "out.ipynb")]
            workplace.records.mkdir()
            plain = subprocess.run(command, cwd=workplace.folder, env=workplace.environment(), capture_output=True)
            assert plain.returncode == 0, plain.stderr[-3000:]
            streams = plain.stdout + plain.stderr
    places = {
        str(path.relative_to(workplace.folder)): path.read_bytes()
        for path in workplace.records.rglob("*")
        if path.is_file()
    }
    places["output"] = streams
    places["arguments"] = b"\n".join(watch.seen)
    for name, root in (("jobs primary", "primary"), ("jobs secondary", "secondary")):
        jobs = inside(workplace.lab.lab.node_root(root), "/var/lib/georeg")
        places[name] = b"\n".join(path.read_bytes() for path in jobs.rglob("*") if path.is_file())
    assert len(places) > 8
    leaks = [
        f"{name} in {place}"
        for name, value in canaries(workplace).items()
        for place, content in places.items()
        if any(form in content for form in forms(value))
    ]
    assert leaks == []
