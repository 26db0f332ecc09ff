"""A node's root with a small program in the registry's place: it listens, obeys SIGTERM, and notes its arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from georeg_lab.layout import inside

BINARY = f"""#!{sys.executable}
import json, os, socket, sys
import yaml
words = sys.argv[1:]
with open(os.path.join(os.environ["GEOREG_NODE_ROOT"], "registry-calls.jsonl"), "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words == ["--version"]:
    print("registry github.com/docker/distribution v4.32.0-gitlab")
elif words[0] == "serve":
    config = yaml.safe_load(open(words[1]))
    if config["database"]["enabled"] is True and config["database"].get("dbname") == "broken":
        sys.exit("configuring application: no such database")
    host, port = config["http"]["addr"].split(":")
    server = socket.create_server((host, int(port)))
    print("listening", flush=True)
    while True:
        server.accept()[0].close()
elif words[:2] == ["database", "migrate"]:
    print("OK: applied 3 migrations")
    sys.exit(1 if os.path.exists(os.path.join(os.environ["GEOREG_NODE_ROOT"], "migrations-fail")) else 0)
else:
    print("done")
"""
GITLAB_RB = """\
external_url 'https://127.0.0.1:{gitlab}'
registry_external_url 'https://127.0.0.1:{registry}'
registry['registry_http_addr'] = '127.0.0.1:{http}'
nginx['enable'] = false
puma['enable'] = false
sidekiq['enable'] = false
postgresql['enable'] = false
"""
SCRIPT = '#!/bin/sh\nexec {python} -m {module} --root {root} "$@"\n'


@dataclass
class Node:
    """A node of the tests."""

    root: Path
    port: int

    def ctl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run gitlab-ctl."""
        command = [sys.executable, "-m", "georeg_lab.omnibus.ctl", "--root", str(self.root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, timeout=60)

    def file(self, path: str) -> Path:
        """A file of the node."""
        return inside(self.root, path)

    def append(self, text: str) -> None:
        """Add lines to gitlab.rb."""
        file = self.file("/etc/gitlab/gitlab.rb")
        file.write_text(file.read_text() + text)

    def calls(self) -> list[list[str]]:
        """What the registry's program was called with."""
        file = self.root / "registry-calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
