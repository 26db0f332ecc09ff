"""`georeg …`: the command line. What it says about a run comes from the run's ledger, not from how a process ended."""

import sys

# jsonschema imports this module if it is there: more than a second, for the grammar of a format that nobody uses here
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import os  # noqa: E402
import traceback  # noqa: E402
from importlib.metadata import entry_points  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
from click.shell_completion import CompletionItem  # noqa: E402

from georeg_nb.errors import GeoregError, ParametersError  # noqa: E402
from georeg_nb.redaction import redact  # noqa: E402

EXIT_STATUSES = """\b
Exit status:
    0  done and verified, or a plan was made
    2  the parameters are wrong; nothing was contacted
    3  a prerequisite failed; what earlier sections changed is listed
    4  a step failed
    5  something still needs approval or attestation
    6  verification found differences
  130  interrupted (Ctrl-C); 143 by SIGTERM or SIGHUP
    1  only for the unforeseen
"""


class Commands(click.Group):
    """The commands, and those that other packages add (entry points of the group georeg.commands), loaded when used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *_plugins()})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if own := super().get_command(context, name):
            return own
        if (plugin := _plugins().get(name)) is None:
            return None
        try:
            return plugin.load()
        except ImportError as error:
            # An extra that is not installed must not take the other commands, or --help, with it.
            message = f"not available: {error}; install georeg[{name}]"
            return click.Command(
                name, callback=lambda: _fail(message), short_help=f"({message})", add_help_option=False
            )


def _plugins() -> dict[str, Any]:
    return {point.name: point for point in entry_points(group="georeg.commands")}


def _fail(message: str) -> None:
    raise click.ClickException(message)


class ScenarioName(click.ParamType):
    """A scenario's id."""

    name = "scenario"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        from georeg_nb.parameters import SCENARIOS

        if value not in SCENARIOS:
            self.fail(f"there is no scenario {value!r}; there are: {', '.join(SCENARIOS)}", param, context)
        return value

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from georeg_nb.parameters import SCENARIOS

        return [CompletionItem(name) for name in SCENARIOS if name.startswith(incomplete)]


FILE = click.option("-f", "--file", "file", required=True, metavar="FILE", help="The scenario's parameters file.")
PARAMETER = click.option(
    "-p",
    "--parameter",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter that wins over the file's; YAML.",
)


@click.group(cls=Commands, epilog=EXIT_STATUSES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="georeg")
def georeg() -> None:
    """Runbooks that give GitLab Geo sites independent container registry metadata databases.

    Without an approval nothing is changed: a run makes a plan.
    """


@georeg.command(epilog=EXIT_STATUSES)
@click.argument("scenario", type=ScenarioName())
@FILE
@PARAMETER
@click.option("--approve", multiple=True, metavar="all|STEP", help="Approve a section, a step or all reversible steps.")
@click.option("--resume", default="", metavar="RUN", help="Continue an earlier run: same record, next attempt.")
@click.option(
    "--take-over", default="", metavar="RUN", help="Take the sites' locks from a run that nobody is at any more."
)
def run(
    scenario: str, file: str, given: tuple[str, ...], approve: tuple[str, ...], resume: str, take_over: str
) -> None:
    """Run a scenario's notebook without anyone at it, and keep the record.

    Nothing approved is a plan: every check is made, every change is shown, nothing is changed.
    """
    from georeg_nb import operations

    sys.exit(operations.run(scenario, file, given, approve, resume, take_over))


@georeg.command("open", context_settings={"ignore_unknown_options": True})
@click.argument("scenario", type=ScenarioName())
@FILE
@PARAMETER
@click.argument("jupyter", nargs=-1, type=click.UNPROCESSED)
def open_(scenario: str, file: str, given: tuple[str, ...], jupyter: tuple[str, ...]) -> None:
    """Prepare a scenario's notebook in a new record and open it in JupyterLab.

    What follows (--no-browser, --port …) is passed on to JupyterLab.
    """
    from georeg_nb import operations

    operations.open_notebook(scenario, file, given, jupyter)


@georeg.command(epilog=EXIT_STATUSES)
@click.argument("scenario", type=ScenarioName(), required=False)
@FILE
@PARAMETER
def check(scenario: str | None, file: str, given: tuple[str, ...]) -> None:
    """Check the parameters, and ask the scenario's first checks of the sites. Changes nothing, keeps no record."""
    from georeg_nb import operations

    sys.exit(operations.check(scenario, file, given))


@georeg.command(epilog=EXIT_STATUSES)
@click.argument("scenario", type=ScenarioName(), required=False)
@FILE
@PARAMETER
@click.option("--json", "as_json", is_flag=True, help="For machines: every repository and every single difference.")
def compare(scenario: str | None, file: str, given: tuple[str, ...], as_json: bool) -> None:
    """Do the sites hold the same images now? In any metadata mode, before, during and after a migration.

    In the databases where all can be asked, else over HTTP; -p 'verify_with=[api]' or [content] compares over HTTP what
    the databases say to be equal. Changes nothing, keeps no record.
    """
    from georeg_nb import operations

    sys.exit(operations.compare(scenario, file, given, as_json))


@georeg.command()
@click.argument("scenario", type=ScenarioName(), required=False)
@FILE
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(scenario: str | None, file: str, as_json: bool) -> None:
    """How the sites stand: read-only registries, running jobs, locks, held sync, the next safe command.

    FILE may also be a sites file. Works from any machine, and needs no run.
    """
    from georeg_nb import operations

    sys.exit(operations.status(scenario, file, as_json))


@georeg.command()
@FILE
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def diagnose(file: str, as_json: bool) -> None:
    """Read logs and states of all sites once, and name every known failure symptom that they show.

    FILE may also be a sites file. Changes nothing, keeps no record. Exit status 0: none is shown; 3: some are.
    """
    from georeg_nb import operations

    sys.exit(operations.diagnose(file, as_json))


@georeg.command()
@FILE
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Where to.")
def capture(file: str, folder: Path) -> None:
    """Write what is read of all sites as a bundle without secrets, in the form of the lab's recordings.

    FILE may also be a sites file. Changes nothing. It is how real sites can help the rehearsal sites to become true.
    """
    from georeg_nb import operations

    operations.capture(file, folder)


@georeg.command()
def scenarios() -> None:
    """The scenarios, what each starts from, and its notebook."""
    from georeg_nb import operations

    operations.list_scenarios()


@georeg.group()
def records() -> None:
    """Records of runs: what was done, and whether it is still as it was sealed."""


@records.command("list")
def list_() -> None:
    """All records, oldest first."""
    from georeg_nb import operations

    operations.list_records()


@records.command()
@click.argument("run_id", metavar="RUN")
@click.option("--table", metavar="NAME", help="Show this table of the record instead, such as same_images.")
@click.option("--break-glass", is_flag=True, help="Show its sheet instead: how to finish or undo it without georeg.")
def show(run_id: str, table: str | None, break_glass: bool) -> None:
    """The verdict of a run, every step's outcome, and where its files are."""
    from georeg_nb import operations

    if break_glass:
        operations.show_break_glass(run_id)
    elif table:
        operations.show_table(run_id, table)
    else:
        operations.show_record(run_id)


@records.command()
@click.argument("run_id", metavar="RUN")
def verify(run_id: str) -> None:
    """Compare a sealed record with its seal: names every changed, added and missing file.

    Exit status 0: as it was sealed; 6: it differs; 3: it is not sealed.
    """
    from georeg_nb import operations

    sys.exit(operations.verify_record(run_id))


@records.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--notebook", type=click.Path(path_type=Path), help="The executed notebook, where it is not in the record."
)
def seal(run_id: str, notebook: Path | None) -> None:
    """Make the page of a record and seal it: from then on a change shows."""
    from georeg_nb import operations

    operations.seal_record(run_id, notebook)


def main() -> None:
    """The console script: messages for what is foreseen, a traceback into a log for what is not."""
    try:
        status = georeg(standalone_mode=False)  # the status of `context.exit`, which click catches itself
        sys.exit(status if isinstance(status, int) else 0)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (GeoregError, ParametersError) as error:
        click.echo(redact(str(error)), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(0)  # the reader has seen enough, as with `| head`
    except Exception as error:
        from georeg_nb.operations import keep_traceback

        log = keep_traceback(traceback.format_exc())
        click.echo(redact(f"Unforeseen: {type(error).__name__}: {error}\nThe traceback is in {log}"), err=True)
        sys.exit(1)
