"""Opening a run: parameters first, then the record, then the sites; nothing is contacted here."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from georeg_nb.display import Block, Document, Facts, Headline
from georeg_nb.errors import GeoregError, ParametersError
from georeg_nb.ledger import Ledger
from georeg_nb.records import RUN_ID, Record
from georeg_nb.redaction import install_in_kernel
from georeg_nb.runbook.model import Scenario
from georeg_nb.runbook.reporter import Reporter
from georeg_nb.runbook.run import Run, show


@dataclass(frozen=True)
class Wiring:
    """How parameters become options, and options become sites. The real one is `real_wiring`; tests bring their own."""

    validate: Callable[[str, Mapping[str, Any]], Any]
    open_sites: Callable[[Any, Reporter, str], Any]


def real_wiring() -> Wiring:
    """Parameters are validated by their model, and the sites are those of the sites file."""
    from georeg_nb import parameters, site

    def open_sites(options: Any, reporter: Reporter, scenario: str) -> Any:
        return site.open_sites(parameters.load_sites(options.sites), options, reporter, scenario)

    return Wiring(lambda scenario, values: parameters.validate_values(scenario, dict(values)), open_sites)


_STARTED_IN = Path.cwd()  # JupyterLab starts a kernel in its notebook's folder
_current: list[Run] = []


@atexit.register
def _close_current() -> None:
    """A kernel that is shut down in peace gives the sites back; one that is killed leaves locks that say it is gone."""
    while _current:
        with suppress(GeoregError):
            _current.pop().close()


def open_run(scenario: Scenario, values: Mapping[str, Any], wiring: Wiring | None = None) -> Run:
    """Open a run of a scenario. From here on everything that this kernel sends is redacted.

    It continues the record that the runner, or the notebook's own folder names; else it starts a new one.
    Raises ParametersError before anything is contacted.
    """
    install_in_kernel()
    if project := os.environ.get("GEOREG_PROJECT"):
        os.chdir(project)  # records may lie elsewhere; relative paths are the project's
    wiring = wiring or real_wiring()
    _close_current()  # the setup cell was run again
    try:
        options = wiring.validate(scenario.id, values)
        record = choose_record(scenario.id)
        reporter = Reporter(record)
        sites = wiring.open_sites(options, reporter, scenario.id)
        run = Run(scenario, sites, options, record, reporter, take_over=os.environ.get("GEOREG_TAKE_OVER", ""))
    except ParametersError as error:
        if path := os.environ.get("GEOREG_RUN"):
            Ledger(Path(path) / "ledger.jsonl").append("parameters.wrong", exit_code=2, message=error.message)
        raise
    record.write_json("parameters.json", dict(values))
    _current.append(run)
    show(_opened(run))
    return run


def choose_record(scenario: str) -> Record:
    """Which record this run writes: the runner's (that of `--resume`, say), the folder's own, or a new one.

    A sealed record is finished: by hand, running its notebook again makes a new one.
    """
    if path := os.environ.get("GEOREG_RUN"):
        record = Record(Path(path))
        if record.scenario == scenario:
            return record
    here = _STARTED_IN
    if RUN_ID.fullmatch(here.name) and Record(here).scenario == scenario and not Record(here).sealed:
        return Record(here)
    return Record.create(scenario)


def _opened(run: Run) -> Document:
    entries = run.ledger.entries()
    attempt = sum(1 for entry in entries if entry["event"] == "run.opened")
    given = list(run.options.approve)
    word = "approved" if given else "waits for approval"
    sentence = f"Approved beforehand: {', '.join(given)}." if given else "Nothing is approved: this run makes a plan."
    facts = [
        ("scenario", run.scenario.title),
        ("sites", ", ".join(f"{site.name} ({site.role})" for site in run.sites.all)),
        ("run", run.record.run),
        ("attempt", str(attempt) if attempt > 1 else ""),
    ]
    blocks: list[Block] = [Headline(word, sentence), Facts([(label, value) for label, value in facts if value])]
    return Document("opened", blocks, {"run": run.record.run, "attempt": attempt, "approve": given})
