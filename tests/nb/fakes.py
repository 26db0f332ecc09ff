"""A scenario over sites that exist in memory, or in a folder where several processes must see the same.

`FakeSite` keeps its state in files below a folder, so that a kernel which dies and the next one look at the same world.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from georeg_nb.errors import NodeFileMissing, ParametersError, Problem, ReadOnlySite
from georeg_nb.runbook import (
    Change,
    Done,
    Finding,
    Plan,
    Procedure,
    Scenario,
    Section,
    StartingPoint,
    Step,
    check,
    expect,
    failed,
    passed,
)
from georeg_nb.runbook.opening import Wiring


@dataclass
class FakeJob:
    name: str
    state: str = "running"


class FakeNode:
    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.readonly = False
        self.running: list[FakeJob] = []

    def _path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def read_file(self, path: str) -> bytes:
        try:
            return self._path(path).read_bytes()
        except FileNotFoundError:
            raise NodeFileMissing(path, node=self.name) from None

    def exists(self, path: str) -> bool:
        return self._path(path).exists()

    def write_file(self, path: str, data: bytes, **_: Any) -> None:
        self._writable(path)
        self._path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path(path).write_bytes(data)

    def create_file(self, path: str, data: bytes, **_: Any) -> bool:
        if self.exists(path):
            return False
        self.write_file(path, data)
        return True

    def remove_file(self, path: str) -> None:
        self._writable(path)
        self._path(path).unlink(missing_ok=True)

    def jobs(self) -> list[FakeJob]:
        return self.running

    def _writable(self, what: str) -> None:
        if self.readonly:
            raise ReadOnlySite(f"tried to write {what}", node=self.name)


class FakeKeep:
    def __init__(self, site: FakeSite) -> None:
        self.site = site

    def save(self, name: str, data: Any) -> None:
        self.site.rails_node.write_file(f"/keep/{name}", json.dumps(data).encode())

    def load(self, name: str) -> Any:
        try:
            return json.loads(self.site.rails_node.read_file(f"/keep/{name}"))
        except NodeFileMissing:
            return None


class FakeSite:
    """`facts` is what checks and steps read; `set` is the only way to change it."""

    def __init__(self, name: str, role: str, root: Path, observer: Any = None) -> None:
        self.name = name
        self.role = role
        self.observer = observer
        self.rails_node = FakeNode(f"{name}-1", root / name)
        self.nodes = [self.rails_node]
        self.keep = FakeKeep(self)
        self.contacts = 0

    @property
    def facts(self) -> dict[str, Any]:
        self.contacts += 1
        try:
            return json.loads(self.rails_node.read_file("/facts.json"))
        except NodeFileMissing:
            return {}

    def set(self, **facts: Any) -> None:
        self.rails_node.write_file("/facts.json", json.dumps({**self.facts, **facts}).encode())

    def leftovers(self) -> list[str]:
        return []

    def tidy(self) -> None: ...

    def progress(self, text: str, fraction: float | None = None) -> None:
        if self.observer:
            self.observer.progress(self.name, text, fraction)

    def read_only_view(self) -> FakeSite:
        view = FakeSite(self.name, self.role, self.rails_node.root.parent, self.observer)
        view.rails_node.readonly = True
        return view


class FakeSites:
    def __init__(self, root: Path, observer: Any = None) -> None:
        self.primary = FakeSite("primary", "primary", root, observer)
        self.secondary = FakeSite("secondary", "secondary", root, observer)

    @property
    def all(self) -> list[FakeSite]:
        return [self.primary, self.secondary]

    def rest(self) -> None: ...
    def close(self) -> None: ...

    def read_only_view(self) -> FakeSites:
        view = FakeSites(self.primary.rails_node.root.parent)
        view.primary, view.secondary = self.primary.read_only_view(), self.secondary.read_only_view()
        return view


@dataclass
class Options:
    sites: str = ""
    approve: list[str] = field(default_factory=list)
    attest: dict[str, str] = field(default_factory=dict)
    script: dict[str, str] = field(default_factory=dict)  # what goes wrong: step name -> how


@check("the site answers", source="fake", evidence="run")
def answers(site: FakeSite) -> Finding:
    return expect(site.facts.get("down", False), False, remedy="start it")


@check("no tag in the metadata database yet", evidence="run")
def no_tags(site: FakeSite) -> Finding:
    return expect(site.facts.get("tags", 0), 0, remedy="this would be a second import")


@check("both sites have the same images", scope="pair", verifies=True)
def same_images(sites: FakeSites) -> Finding:
    tags = {site.name: site.facts.get("tags", 0) for site in sites.all}
    rows = [{"site": name, "tags": number} for name, number in tags.items()]
    if not any(tags.values()):
        from georeg_nb.runbook import later

        return later("nothing is imported yet")
    if tags["primary"] == tags["secondary"]:
        return passed(f"{tags['primary']} tags on both", rows=rows)
    return failed(f"{tags}", "the same on both", remedy="resync", rows=rows)


class SetFact(Step):
    """Sets one fact. `SCRIPT` says what goes wrong with it, by the step's name."""

    title = "set a fact"
    fact = "fact"
    value: Any = True

    def is_done(self, site: FakeSite) -> bool | Done:
        return Done(f"{self.fact} is {self.value}") if site.facts.get(self.fact) == self.value else False

    def plan(self, site: FakeSite) -> Plan:
        before = json.dumps(site.facts.get(self.fact))
        extra = site.facts.get("plan-changes", "")
        return Plan(
            [Change("file", f"/facts.json of {site.name}", before, f"{self.value}{extra}")], duration="a moment"
        )

    def apply(self, site: FakeSite) -> None:
        how = SCRIPT.get(self.name) or site.facts.get(f"script-{self.name}", "")
        if callable(how):
            how(site)
        elif how == "fail":
            raise RuntimeError("the disk is full")
        elif how == "slow":
            Path(os.environ["FAKE_MARK"]).write_text("applying")
            for number in range(600):
                site.progress("copying", number / 600)
                time.sleep(0.05)
        elif how == "no effect":
            return
        site.set(**{self.fact: self.value})

    def verify(self, site: FakeSite) -> Finding:
        return expect(site.facts.get(self.fact), self.value)

    def state_after_failure(self, site: FakeSite) -> str:
        return f"read-only is {site.facts.get('read-only', False)}"


SCRIPT: dict[str, str | Callable[[FakeSite], None]] = {}


class Hold(SetFact):
    name, title, fact = "hold", "hold image sync", "held"

    def undo(self, site: FakeSite) -> None:
        site.set(held=False)


class Backup(SetFact):
    name, title = "backup", "back the site up"

    def manual(self, site: FakeSite) -> str | None:
        return f"Back up {site.name}."

    def is_done(self, site: FakeSite) -> bool | Done:
        kept = site.keep.load("attested-backup")
        return Done(f"attested by {kept['who']}") if kept else False

    def verify(self, site: FakeSite) -> Finding:
        return expect(bool(site.keep.load("attested-backup")), True)


class ReadOnly(SetFact):
    name, title, fact, interrupts = "read-only", "make the registry read-only", "read-only", "pushes"
    needs = (no_tags,)

    def is_done(self, site: FakeSite) -> bool | Done:
        return Done("imported already") if site.facts.get("tags") else super().is_done(site)


class Import(SetFact):
    name, title, fact, value = "import", "import the metadata", "tags", 7
    reversible = False
    needs = (no_tags,)


def secondary(sites: FakeSites) -> list[FakeSite]:
    return [sites.secondary]


def both(sites: FakeSites) -> list[FakeSite]:
    return sites.all


GUARD = Procedure("guard", checks=[answers])
HOLD = Procedure("hold", steps=[Hold()])
MIGRATE = Procedure("migrate", checks=[no_tags], steps=[Backup(), ReadOnly(), Import()])
VERIFY = Procedure("verify", pair_checks=[same_images])

SCENARIO = Scenario(
    "fake-move",
    "Move two fake sites",
    StartingPoint("set up", "legacy", "legacy"),
    [
        Section("guard", GUARD, both),
        Section("hold", HOLD, secondary),
        Section("migrate", MIGRATE, both, after=["hold"]),
        Section("verify", VERIFY, both),
    ],
)

ALL = [
    "all",
    "migrate[primary]/import",
    "migrate[secondary]/import",
]
ATTEST = {"backup": "backup 4711"}


def wiring(root: Path) -> Wiring:
    def validate(scenario: str, values: Mapping[str, Any]) -> Options:
        unknown = sorted(set(values) - set(Options.__dataclass_fields__))
        if unknown:
            raise ParametersError([Problem("unknown", key) for key in unknown])
        return Options(**values)

    return Wiring(validate, lambda options, observer, _: FakeSites(root, observer))


def open_run(**values: Any) -> Any:
    """What the fake notebook calls; the sites are below $FAKE_ROOT."""
    from georeg_nb.runbook import opening

    return opening.open_run(SCENARIO, values, wiring(Path(os.environ["FAKE_ROOT"])))
