"""What the commands of `georeg` do. Apart from the command line, so that its --help needs nothing of this."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml
from rich.console import Console

from georeg_nb import parameters, runner, sealing, site
from georeg_nb import scenarios as known
from georeg_nb import status as state_of_sites
from georeg_nb.display import Block, Code, Document, Facts, Headline, Table, Text
from georeg_nb.display.text import renderable
from georeg_nb.errors import ParametersError, Problem, RecordError
from georeg_nb.ledger import EXIT_CODES, broken_links, read, verdict
from georeg_nb.parameters import ScenarioParameters, SitesFile, find_file, project_root
from georeg_nb.parameters.files import read_yaml
from georeg_nb.procedures import comparing, diagnosis
from georeg_nb.progress import ProgressDisplay
from georeg_nb.records import Record, base_folder, hostname, stamp
from georeg_nb.redaction import redact
from georeg_nb.runbook.break_glass import NAME
from georeg_nb.runbook.locks import is_dead
from georeg_nb.runbook.model import Scenario
from georeg_nb.runbook.outputs import next_command
from georeg_nb.runbook.refs import declare, require_names
from georeg_nb.runbook.reporter import Reporter
from georeg_nb.runbook.run import Run
from georeg_nb.runbook.views import Summary, TableView

_current: list[Record] = []  # where an unforeseen error of this process is written down


def show(document: Document) -> None:
    """On a terminal with colours, elsewhere as plain text."""
    if sys.stdout.isatty():
        Console().print(renderable(document.blocks))
    else:
        click.echo(document.text())


def keep_traceback(text: str) -> Path:
    """Write a traceback where it is found: into the record of this run, else beside the records."""
    if _current:
        folder = _current[-1].path
    else:
        folder = base_folder()
        folder.mkdir(parents=True, exist_ok=True)
    log = folder / "errors.log"
    with log.open("a") as file:
        file.write(redact(f"{stamp()} georeg\n{text}\n"))
    return log


# parameters


def _values(scenario: str, file: str, given: Iterable[str], approve: Iterable[str]) -> tuple[dict[str, Any], Any, Any]:
    """(values for the notebook, the options, the sites): all that can be wrong is found here, contacting nothing."""
    overrides = dict(_assignment(scenario, text) for text in given)
    raw = read_yaml(find_file(file))
    if approve:
        listed = overrides.get("approve", raw.data.get("approve")) or []
        overrides["approve"] = [*listed, *approve] if isinstance(listed, list) else listed
    options, sites_file = parameters.load_all(scenario, file, overrides)
    sites = _open(options, sites_file, scenario, None)
    require_names(declare(known.find(scenario), sites), options.approve, options.attest)
    values = options.model_dump(mode="json", exclude_unset=True)
    values["sites"] = _from_root(options.sites)
    return values, options, sites


def _open(options: ScenarioParameters, sites_file: SitesFile, scenario: str, reporter: Reporter | None) -> Any:
    return site.open_sites(sites_file, options, reporter or _Nobody(), scenario)


class _Nobody:
    """An observer for sites that are only declared or looked at."""

    def __call__(self, record: Any) -> None: ...

    def kept(self, site: str, name: str, data: Any) -> None: ...

    def progress(self, site: str, text: str, fraction: float | None = None) -> None: ...


def _assignment(scenario: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ParametersError([Problem("must be NAME=VALUE", text)])
    field = parameters.SCENARIOS[scenario].model_fields.get(name)
    if field is not None and field.annotation is str:
        return name, value
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ParametersError([Problem(f"is no YAML: {error}", name)]) from None


def _from_root(path: str) -> str:
    """A file as a kernel finds it, which starts in the project's root."""
    found, root = find_file(path).resolve(), project_root().resolve()
    return str(found.relative_to(root)) if found.is_relative_to(root) else str(found)


def _scenario_of(scenario: str | None, file: str) -> str:
    """The scenario that was named, or whose name the file has, or the only one that changes anything."""
    if scenario:
        return scenario
    stem = Path(file).stem
    if stem in parameters.SCENARIOS:
        return stem
    changing = [name for name in parameters.SCENARIOS if any(section.procedure.steps for section in known.find(name))]
    if len(changing) == 1:
        return changing[0]
    raise click.UsageError(f"name the scenario: {', '.join(parameters.SCENARIOS)}")


# runs


def run(
    scenario: str, file: str, given: Sequence[str], approve: Sequence[str], resume: str = "", take_over: str = ""
) -> int:
    """Run the notebook, keep and seal the record, show the verdict. Returns the exit status."""
    values, _, _ = _values(scenario, file, given, approve)
    notebook = runner.find_notebook(scenario)
    record = Record.open(resume) if resume else Record.create(scenario)
    if record.scenario != scenario:
        raise ParametersError([Problem(f"is a run of {record.scenario}, not of {scenario}", "--resume")])
    sealing.reopen(record)
    _current.append(record)
    os.environ |= {"GEOREG_PARAMETERS_FILE": file, "GEOREG_TAKE_OVER": take_over}
    console = Console(stderr=True)
    console.print(f"Run {record.run}; its record is {_near(record.path)}", highlight=False, soft_wrap=True)
    with ProgressDisplay(record.path, console):
        result = runner.run_notebook(notebook, record, values)
    digest = runner.finish(record, result)
    way_back = f"georeg run {scenario} -f {file} --resume {record.run}"
    show(Summary(result, next_command(result, way_back), record.run).document)
    click.echo(f"Page: {_near(record.html)}\nSealed: {digest}")
    return result.exit_code


def open_notebook(scenario: str, file: str, given: Sequence[str], jupyter: Sequence[str]) -> NoReturn:
    """Prepare the notebook in a new record, and become JupyterLab there."""
    import papermill

    values, _, _ = _values(scenario, file, given, ())
    record = Record.create(scenario)
    _current.append(record)
    papermill.execute_notebook(
        runner.find_notebook(scenario),
        record.notebook,
        values,
        prepare_only=True,
        progress_bar=False,
        language="python",
    )
    click.echo(f"Run {record.run}; its record is {_near(record.path)}", err=True)
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in jupyter else []
    environment = {**os.environ, "GEOREG_PROJECT": str(project_root()), "GEOREG_PARAMETERS_FILE": file}
    argv = [sys.executable, "-m", "jupyterlab", record.notebook.name, *root, *jupyter]
    click.echo(f"It is not sealed until you say so: georeg records seal {record.run}", err=True)
    sys.stderr.flush()
    os.chdir(record.path)
    os.execve(argv[0], argv, environment)  # noqa: S606 - JupyterLab takes our place: signals are its own


def check(scenario: str | None, file: str, given: Sequence[str]) -> int:
    """Parameters and the first section's checks. Returns 0, or 3 when a check failed."""
    name = _scenario_of(scenario, file)
    _, options, _ = _values(name, file, given, ())
    declared: Scenario = known.find(name)
    quiet = options.model_copy(update={"approve": [], "attest": {}})
    with tempfile.TemporaryDirectory(prefix="georeg-") as folder:
        record = Record.create(name, Path(folder))
        reporter = Reporter(record)
        sites = _open(quiet, parameters.load_sites(options.sites), name, reporter)
        with ProgressDisplay(record.path, Console(stderr=True)):
            table = Run(declared, sites, quiet, record, reporter).check(declared.sections[0].name)
    show(table.document)
    return 3 if table.failed else 0


def compare(scenario: str | None, file: str, given: Sequence[str], as_json: bool) -> int:
    """Compare every secondary with the primary. Returns 0, 6 when they differ, or 3 when that cannot be told."""
    name = _scenario_of(scenario, file)
    _, options, _ = _values(name, file, given, ())
    blocks: list[Block] = []
    data: list[dict[str, Any]] = []
    statuses = {"different": 6, "not compared": 3}
    with tempfile.TemporaryDirectory(prefix="georeg-") as folder:
        record = Record.create(name, Path(folder))
        sites = _open(options, parameters.load_sites(options.sites), name, Reporter(record)).read_only_view()
        with ProgressDisplay(record.path, Console(stderr=True)):
            compared = [(title, one) for site in sites.secondaries for title, one in comparing.every_level(site)]
    for title, one in compared:
        finding = comparing.judged(one)
        blocks.append(Headline(finding.verdict, f"{title}: {finding.found}"))
        blocks += [Text(finding.remedy)] if finding.remedy else []
        for rows in ([row for row in one.rows() if row["verdict"] != "equal"], one.difference_rows()):
            blocks += TableView(title, rows).document.blocks if rows else []
        tables = {"repositories": one.rows(), "differences": one.difference_rows()}
        data.append({"comparison": title, "verdict": one.verdict, "reason": one.reason, **tables})
    document = Document("compare", blocks, {"comparisons": data})
    if as_json:
        click.echo(json.dumps(document.json(), indent=2, ensure_ascii=False, default=str))
    else:
        show(document)
    return max((statuses.get(one.verdict, 0) for _, one in compared), default=0)


def status(scenario: str | None, file: str, as_json: bool) -> int:
    """How the sites stand. Returns 0, or 3 when a site could not be read."""
    name = _scenario_of(scenario, file)
    sites = _looked_at(file, parameters.SCENARIOS[name], name)
    found = [state_of_sites.look(one) for one in sites.all]
    document = state_of_sites.report(found, name, file)
    if as_json:
        click.echo(json.dumps(document.json(), indent=2, ensure_ascii=False, default=str))
    else:
        show(document)
    return 3 if any(one.problem for one in found) else 0


def _looked_at(file: str, model: type[ScenarioParameters], scenario: str) -> Any:
    """The sites of a parameters file or a sites file, for commands that only look and need no run."""
    sites_path = str(read_yaml(find_file(file)).data.get("sites") or file)
    return _open(model(sites=sites_path), parameters.load_sites(sites_path), scenario, None)


def diagnose(file: str, as_json: bool) -> int:
    """What is known to go wrong, looked for on all sites. Returns 0, or 3 when a site shows something."""
    sites = _looked_at(file, ScenarioParameters, "diagnose").read_only_view()
    found, unread = diagnosis.diagnose(sites)
    sites.close()
    document = diagnosis.report(found, unread)
    if as_json:
        click.echo(json.dumps(document.json(), indent=2, ensure_ascii=False, default=str))
    else:
        show(document)
    return 3 if found else 0


def capture(file: str, folder: Path) -> None:
    """Write what diagnosis reads of all sites as a bundle without secrets."""
    from georeg_nb.procedures.diagnosis.capture import capture as captured

    sites = _looked_at(file, ScenarioParameters, "diagnose")
    place = captured(sites, folder)
    sites.close()
    click.echo(f"Captured: {_near(place)}. Look through it before you pass it on: it names hosts, projects and users.")


def list_scenarios() -> None:
    rows = []
    for name in parameters.SCENARIOS:
        scenario = known.find(name)
        start = scenario.starts_from
        begins = "; ".join(
            f"{label}: {text}"
            for label, text in (("Geo", start.geo), ("primary", start.primary), ("secondary", start.secondary))
            if text
        )
        notebook = _near(runner.find_notebook(name))
        rows.append({"scenario": name, "what it does": scenario.title, "starts from": begins, "notebook": notebook})
    show(
        Document(
            "scenarios", [Table(["scenario", "what it does", "starts from", "notebook"], rows)], {"scenarios": rows}
        )
    )


# records


def list_records() -> None:
    rows = []
    for one in sealing.list_records():
        record = Record(base_folder() / one.run)
        result = verdict(read(record.ledger))
        state = "sealed" if record.sealed else "not sealed"
        rows.append({"run": one.run, "exit": str(result.exit_code), "verdict": result.headline, "record": state})
    if not rows:
        click.echo(f"There is no record in {_near(base_folder())} yet.")
        return
    show(Document("records", [Table(["run", "exit", "verdict", "record"], rows, ("record",))], {"records": rows}))


def show_record(run_id: str) -> None:
    record = Record.open(run_id)
    entries = read(record.ledger)
    result = verdict(entries)
    summary = Summary(result, next_command(result, f"georeg run {record.scenario} -f FILE --resume {record.run}"))
    files = sorted(str(path.relative_to(record.path)) for path in record.path.rglob("*") if path.is_file())
    broken = broken_links(entries)
    facts = [
        ("run", record.run),
        ("exit status", f"{result.exit_code} ({EXIT_CODES.get(result.exit_code, '')})"),
        ("attempts", str(result.attempts)),
        ("ledger", f"BROKEN at line {broken[0]}" if broken else f"{len(entries)} lines, unbroken"),
        ("sealed", sealing.summarize(record).sealed),
        ("folder", _near(record.path)),
        ("files", ", ".join(files)),
    ]
    show(Document("record", [*summary.document.blocks, Facts(facts)], {"run": record.run}))


def show_table(run_id: str, name: str) -> None:
    """One table of the record. Raises RecordError for a name that is none."""
    show(TableView(name, Record.open(run_id).read_table(name)).document)


def show_break_glass(run_id: str) -> None:
    """The run's break-glass sheet, as it is. Raises RecordError for a record without one."""
    sheet = Record.open(run_id).path / NAME
    if not sheet.exists():
        raise RecordError(f"{run_id} has no {NAME}", remedy="it is written with the first plan")
    click.echo(sheet.read_text())


def verify_record(run_id: str) -> int:
    """0: as it was sealed; 6: it differs; 3: it is not sealed."""
    record = Record.open(run_id)
    if not record.sealed:
        show(Document("verify", [Headline("not sealed", record.run), Code(f"georeg records seal {record.run}")]))
        return 3
    differences = sealing.verify(record)
    if not differences:
        show(Document("verify", [Headline("unchanged", f"{record.run} is as it was sealed.")]))
        return 0
    rows = [{"file": difference.file, "is": difference.kind} for difference in differences]
    blocks: list[Block] = [
        Headline("changed", f"{record.run} is not as it was sealed."),
        Table(["is", "file"], rows, ("is",)),
    ]
    show(Document("verify", blocks, {"differences": rows}))
    return 6


def seal_record(run_id: str, notebook: Path | None) -> None:
    """Take the executed notebook in, make the page, seal. Raises RecordError when there is no notebook."""
    record = Record.open(run_id)
    if record.sealed:
        raise RecordError(f"{record.run} is sealed", remedy=f"`georeg records verify {record.run}` compares it")
    if notebook is not None:
        sealing.take_notebook(record, notebook)
    if not record.notebook.exists():
        raise RecordError(
            f"the executed notebook of {record.run} is not in its record", remedy="give it with --notebook FILE"
        )
    entries = read(record.ledger)
    result = verdict(entries)
    opened = [entry for entry in entries if entry["event"] == "run.opened"]
    if opened and not result.finished and opened[-1].get("host") == hostname() and not is_dead(opened[-1]):
        raise RecordError(f"{record.run} is still running", remedy="wait for its summary")
    digest = runner.finish(record, result)
    click.echo(f"Page: {_near(record.html)}\nSealed: {digest}")


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
