"""A site as it was read, as files that others can replay: what diagnosis asked, and what was answered, without secrets.

The files have the form of the recordings that the rehearsal sites are held to: one JSON object a line. Whoever runs
real sites can so help the stand-ins to become true. Source: procedures 7.1, 7.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from georeg_nb import redaction
from georeg_nb.errors import GeoregError, NodeFileMissing, RecordError
from georeg_nb.nodes import Node
from georeg_nb.nodes.transport import Result
from georeg_nb.omnibus import GITLAB_RB, SECRETS, Omnibus
from georeg_nb.procedures.diagnosis.reading import read_all
from georeg_nb.records import stamp
from georeg_nb.site import Site, Sites

SECTIONS = ("storage", "database", "notifications", "gc", "auth", "http", "health", "validation")
HTTP_SECRET = "S"  # what recordings have in place of `http.secret`  # noqa: S105
PUBLIC = re.compile(r"certificate|^gitlab_id$", re.IGNORECASE)
KEPT_HEADERS = re.compile(r"content-type|www-authenticate|location|link|docker-|gitlab-|x-total|x-next", re.IGNORECASE)
LOOKS_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|gl[a-z]{1,5}-[\w-]{20,}|\beyJ[\w-]{20,}\.[\w.-]{20,}"
    r"|(?i:authorization\W+(?:basic|bearer) )(?!masked-secret-|\[secret)[^\s\"\\]{8,}"
)
_MASK = re.compile(r"\[secret: ([^\[\]]*)\]")
README = """# Captured {when}

What georeg asked of {sites}, and what was answered; nothing was changed. Secrets are masked:
`masked-secret-what-it-is`.

| File | One line is |
|---|---|
| `cli.jsonl` | a command: `argv`, `state` (site and node), `exit`, `stdout`, `stderr` |
| `files.jsonl` | a file or folder that was looked at: `text`, or `list`, or `exists` |
| `http.jsonl` | an exchange: `setup` (the address), `request`, `response` |
| `gitlab-rb.jsonl` | a gitlab.rb, and the registry's configuration that the package made of it |
| `facts.json` | what diagnosis took from all this |
"""


@dataclass
class Capture:
    """What was asked and answered so far."""

    commands: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    answers: list[requests.Response] = field(default_factory=list)


class NotingNode(Node):
    """A node that notes what is read of it."""

    def __init__(self, inner: Node, site: str, capture: Capture) -> None:
        self.__dict__.update(inner.__dict__)
        self._capture = capture
        self._state = f"{site} {inner.name}"

    def run(self, argv: Sequence[str], *, check: bool = True, **options: Any) -> Result:
        """Run it, note it, and fail as it would have."""
        result = super().run(argv, check=False, **options)
        noted = {"name": " ".join(argv), "argv": list(argv), "env": {}, "state": self._state, "exit": result.status}
        self._capture.commands.append({**noted, "stdout": result.stdout, "stderr": result.stderr})
        return result if result.status == 0 or not check else super().run(argv, check=True, **options)

    def read_file(self, path: str) -> bytes:
        """Read it and note it."""
        try:
            data = super().read_file(path)
        except NodeFileMissing:
            self._note(path, text=None)
            raise
        self._note(path, text=data.decode(errors="replace"))
        return data

    def exists(self, path: str) -> bool:
        """Look and note."""
        there = super().exists(path)
        self._note(path, exists=there)
        return there

    def list_dir(self, path: str) -> list[str]:
        """List it and note it."""
        names = super().list_dir(path)
        self._note(path, list=names)
        return names

    def _note(self, path: str, **what: Any) -> None:
        entry = {"name": path, "state": self._state, **what}
        if entry not in self._capture.files:
            self._capture.files.append(entry)


def capture(sites: Sites, folder: Path) -> Path:
    """Read all sites as diagnosis does and write the bundle into a new folder below `folder`; where it is.

    Raises RecordError, and writes nothing, when a secret would be in it.
    """
    noted, view = Capture(), sites.read_only_view()
    for site in view.all:
        _register_secrets(site)
        site.nodes = [NotingNode(node, site.name, noted) for node in site.nodes]
        for api in (site.gitlab.http, site.registry.http):
            api.note(noted.answers.append)
    facts = read_all(view)
    for site in view.all:
        _ask_besides(site)
    rendered = [case for site in view.all for package in site.packages() for case in _gitlab_rb(package)]
    exchanges = [_exchange(number, answer) for number, answer in enumerate(noted.answers, 1)]
    when = stamp()
    texts = {
        "README.md": README.format(when=when, sites=" and ".join(site.name for site in view.all)),
        "cli.jsonl": _lines(noted.commands),
        "files.jsonl": _lines(noted.files),
        "http.jsonl": _lines(exchanges),
        "gitlab-rb.jsonl": _lines(rendered),
        "facts.json": redaction.dump_json(facts, indent=1) + "\n",
    }
    texts = {name: _MASK.sub(_in_a_file, text) for name, text in texts.items()}
    for name, text in texts.items():
        if found := [*redaction.find_secrets(text), *(match[0][:12] for match in LOOKS_SECRET.finditer(text))]:
            raise RecordError(f"{name} would hold secrets: {', '.join(found)}", remedy="nothing was written; report it")
    place = folder / f"capture-{re.sub(r'[-:]', '', when)}"
    place.mkdir(mode=0o700, parents=True)
    for name, text in texts.items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def _in_a_file(mask: re.Match[str]) -> str:
    return "masked-secret-" + re.sub(r"\W+", "-", mask[1])


def _register_secrets(site: Site) -> None:
    """Every value of gitlab-secrets.json, and what gitlab.rb names a secret, before anything else is read."""
    for package in site.packages():
        try:
            package.gitlab_rb()
            document = json.loads(package.node.read_file(SECRETS))
        except (NodeFileMissing, ValueError):
            continue
        for name, value in _leaves(document):
            if not PUBLIC.search(name):
                redaction.register(value, f"{site.name} {name}")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    elif isinstance(value, str):
        yield name, value


def _ask_besides(site: Site) -> None:
    """What diagnosis does not need and a stand-in does: versions and edition, as the programs and the API say them."""
    questions = (
        lambda: site.gitlab.version(),
        lambda: site.gitlab.license(),
        lambda: site.registry.identity(),
        lambda: [package.registry_version() for package in site.packages("registry")],
        lambda: [package.gitlab_rb() for package in site.packages()],
    )
    for ask in questions:
        try:
            ask()
        except GeoregError:
            continue  # what it answered is noted all the same


def _gitlab_rb(package: Omnibus) -> Iterator[dict[str, Any]]:
    try:
        text, config, version = package.gitlab_rb(), package.registry_config(), package.version()
    except NodeFileMissing:
        return
    if config is None:
        return
    sections = {name: config.data[name] for name in SECTIONS if name in config.data}
    if "secret" in (sections.get("http") or {}):
        sections["http"] = {**sections["http"], "secret": HTTP_SECRET}
    number = version.split()[-1].partition("-")[0]
    result = {"versions": [number], "result": {"config_yml": sections}}
    yield {"name": f"captured {package.node.name} {GITLAB_RB}", "gitlab_rb": text, "results": [result]}


def _exchange(number: int, response: requests.Response) -> dict[str, Any]:
    request = response.request
    origin, path = re.match(r"(\w+://[^/]*)(.*)", str(request.url)).groups()  # type: ignore[union-attr]
    headers = {name: value for name, value in response.headers.items() if KEPT_HEADERS.match(name)}
    body = response.text
    if "json" in response.headers.get("Content-Type", ""):
        redaction.register_from_yaml(body)
    sent: dict[str, Any] = {"method": request.method, "path": path, "headers": {}}
    if request.body:
        sent["body"] = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
    answer = {"status": response.status_code, "headers": headers, "body": body}
    return {"name": f"{request.method} {path}", "line": number, "setup": origin, "request": sent, "response": answer}


def _lines(entries: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines. What looks like a secret and was not known as one is masked too."""
    for entry in entries:
        redaction.register_from_object(dict(entry))
        for _, text in _leaves(entry):
            for match in LOOKS_SECRET.finditer(text):
                redaction.register(match[0].rpartition(" ")[2], "looks like one")
    return "".join(redaction.dump_json(entry) + "\n" for entry in entries)
