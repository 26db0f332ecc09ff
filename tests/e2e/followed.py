"""A break-glass sheet followed to the letter: its lines are read from its Markdown and run by `sh` on the lab's nodes.

With SSH they go the way a person's do: `ssh` to the node, and sudo. On a real node the lines run as they are. A lab's
node is a folder, so the node's absolute paths are mapped below it, and its programs are found first. What the stand-ins
map themselves stays as it is: what goes into gitlab.rb (between `<<EOF` and `EOF`), and the file that `ruby -c` looks
at.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from georeg_lab.sites import LabSites
from georeg_nb.runbook.break_glass import ON_NODE

NODE_PATHS = re.compile(r"(?<![\w./])(?<!ruby -c )/(?=(etc|opt|var/opt|var/log)/gitlab\b|var/lib/georeg\b)")
HERE_DOCUMENT = re.compile(r"(<<'?EOF'?\n.*?^EOF$)", re.M | re.S)
PASTED = re.compile(r"^On (?P<nodes>[^:\n]+?)(?:: (?P<says>.*?))?\.\n\n```sh\n(?P<shell>.*?)\n```$", re.M | re.S)


def mapped(shell: str, root: Path) -> str:
    """Lines for a node whose absolute paths lie below `root`."""
    parts = HERE_DOCUMENT.split(shell)
    return "".join(part if number % 2 else NODE_PATHS.sub(f"{root}/", part) for number, part in enumerate(parts))


@dataclass
class Part:
    """A step of the sheet."""

    on: list[re.Match[str]] = field(default_factory=list)
    back: list[re.Match[str]] = field(default_factory=list)


class Sheet:
    """The sheet that georeg left on a site's node."""

    def __init__(self, lab: LabSites, site: str, secrets: dict[str, str]) -> None:
        self.lab = lab
        self.text = (lab.lab.node_root(site) / ON_NODE.lstrip("/")).read_text()
        self._secrets = secrets
        self.names: dict[str, str] = {}
        self.where: dict[str, list[re.Match[str]]] = {}
        self.steps: dict[str, Part] = {}
        for part in re.split(r"^## Site ", self.text, flags=re.M)[1:]:
            name = part.split(" ", 1)[0]
            for section in re.split(r"^### ", part, flags=re.M)[1:]:
                self._take(name, section)

    def _take(self, site: str, section: str) -> None:
        title = section.splitlines()[0]
        if title.startswith("Names"):
            self.names[site] = re.findall(r"```sh\n(.*?)\n```", section, re.S)[0]
        elif title.startswith("Where"):
            self.where[site] = list(PASTED.finditer(section))
        else:
            on, _, back = section.partition("**BACK**")
            self.steps[title.partition(": ")[0]] = Part(list(PASTED.finditer(on)), list(PASTED.finditer(back)))

    def stands(self, site: str) -> dict[str, bool]:
        """Step → whether the sheet's own question says that it is done."""
        said = "\n".join(output for paste in self.where[site] for output in self._paste(paste).values())
        return {name: word == "done" for word, name in re.findall(r"^(done|OPEN)  (\S+)$", said, re.M)}

    def on(self, *steps: str) -> None:
        """Follow the lines under ON of these steps."""
        for step in steps:
            for paste in self.steps[step].on:
                self._paste(paste)

    def back(self, *steps: str) -> None:
        """Follow the lines under BACK of these steps."""
        for step in steps:
            for paste in self.steps[step].back:
                self._paste(paste)

    def _paste(self, paste: re.Match[str]) -> dict[str, str]:
        answers = {}
        for node in paste["nodes"].split(", "):
            status, output = self.sh(node.removesuffix("-node"), paste["shell"])
            assert status == 0, f"on {node}: {paste['says']}\n{paste['shell']}\n→ {status}\n{output}"
            answers[node] = output
        return answers

    def sh(self, node: str, shell: str) -> tuple[int, str]:
        """Run lines in a shell of root on a node. What a person types is given in the environment."""
        root = self.lab.lab.node_root(node)
        site = next(site for site in self.lab.lab.sites if node in self.lab.lab.registry_nodes(site))
        typed = re.fullmatch(r"ask (\w+) .*", shell)
        environment = {"PATH": f"{root}/usr/bin:{os.defpath}", "HOME": str(root), **self._typed(site)}
        command = ["sh", "-c", mapped(f"{self.names[site]}\n{shell}", root)]
        if self.lab.lab.ssh:
            words = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
            words = ["sudo", "-n", *words] if self.lab.lab.ssh == "sudo" else words
            config = self.lab.lab.ssh_folder / "ssh_config"
            command = ["ssh", "-F", str(config), self.lab.lab.node_name(node), shlex.join(words)]
            environment = dict(os.environ)
        done = subprocess.run(
            command,
            input=self._typed(site)[typed[1]] + "\n" if typed else None,
            stdin=None if typed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
            cwd="/",
            env=environment,
        )
        return done.returncode, done.stdout

    def _typed(self, site: str) -> dict[str, str]:
        password = self._secrets[f"{site}-registry-database"]
        return {"token": self._secrets["token"], "password": password}


def secrets_of(lab: LabSites, sites: Sequence[str]) -> dict[str, str]:
    """What the person at the prompt knows: an access token, and the passwords of the sites' databases."""
    from georeg_lab.sites.node_files import Secrets

    kept = Secrets(lab.lab.secrets)
    return {"token": kept.gitlab_token, **{f"{site}-registry-database": kept.registry_database(site) for site in sites}}
