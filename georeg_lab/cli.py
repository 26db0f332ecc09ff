"""`georeg lab …`: the rehearsal sites from the command line."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from georeg_lab.layout import DEFAULT_BASE_PORT, DEFAULT_DIR, GITLAB_VERSION, MANY_TAGS
from georeg_lab.postgres import PostgresError
from georeg_lab.releases import RELEASES
from georeg_lab.sshd import SshdError
from georeg_lab.states import DEFAULT, STATES, of

NOT_RUNNING = 3


def default_dir() -> Path:
    """`.lab` in the project that the working directory lies in, else in the working directory."""
    from georeg_lab.sites.parameters import project_root

    return (project_root() or Path.cwd()) / DEFAULT_DIR


def _directory(function: Any) -> Any:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_dir,
        show_default=".lab in the project",
        help="Folder of the lab.",
    )(function)


class _Clock:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        click.echo(f"[{time.monotonic() - self.start:5.1f} s] {text}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """A terminated command cleans up like an interrupted one; the caller's handlers come back afterwards."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _counts(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """`SITE=N` of each value."""
    counts = {}
    for value in values:
        site, _, number = value.partition("=")
        if not number.isdigit():
            raise click.BadParameter(f"{value!r} is not SITE=N, such as primary=2")
        counts[site] = int(number)
    return counts


@click.group()
def lab() -> None:
    """Complete rehearsal sites on this machine: GitLab Geo with registries on legacy metadata."""


@lab.command()
@_directory
@click.option(
    "--base-port",
    type=int,
    envvar="GEOREG_LAB_BASE_PORT",
    show_envvar=True,
    help=f"First of the ports on 127.0.0.1.  [default: {DEFAULT_BASE_PORT}]",
)
@click.option(
    "--registry-binary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A real GitLab registry to run in place of the stand-in.",
)
@click.option(
    "--pg-bin",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with PostgreSQL's server programs.",
)
@click.option(
    "--gitlab-version",
    type=click.Choice(list(RELEASES)),
    help=f"Release that both sites stand in for.  [default: {'.'.join(GITLAB_VERSION.split('.')[:2])}]",
)
@click.option(
    "--state",
    type=click.Choice(list(STATES)),
    help=f"What there is at the beginning; `georeg lab states` tells.  [default: {DEFAULT}]",
)
@click.option("--secondaries", type=int, help="How many secondaries there are.  [default: 1]")
@click.option(
    "--registry-nodes",
    metavar="SITE=N",
    multiple=True,
    callback=_counts,
    help="How many registry nodes a site has, behind its load balancer; may be given for each site.  [default: 1]",
)
@click.option(
    "--tags",
    type=click.IntRange(10),
    help=f"Tags in the largest repository of a new lab; fewer make a faster one.  [default: {MANY_TAGS}]",
)
@click.option("--ssh", is_flag=True, help="Put a real SSH server before each node, and a jump host before all.")
@click.option("--keep-on-failure", is_flag=True, help="Leave an unfinished lab as it is, to look at it.")
def up(
    directory: Path,
    base_port: int | None,
    registry_binary: Path | None,
    pg_bin: Path | None,
    gitlab_version: str | None,
    state: str | None,
    secondaries: int | None,
    registry_nodes: dict[str, int],
    tags: int | None,
    ssh: bool,
    keep_on_failure: bool,
) -> None:
    """Make the sites, or start the ones that are there."""
    from georeg_lab.sites import LabError, LabSites

    clock = _Clock()
    try:
        with _interruptible():
            sites = LabSites.up(
                directory,
                base_port,
                secondaries=secondaries,
                registry_nodes=registry_nodes,
                registry_binary=registry_binary,
                pg_bin=pg_bin,
                gitlab_version=gitlab_version,
                state=state,
                tags=tags,
                ssh=ssh,
                keep_on_failure=keep_on_failure,
                progress=clock,
            )
    except (LabError, PostgresError, SshdError) as problem:
        raise click.ClickException(str(problem)) from problem
    clock("the lab is up")
    ports = sites.lab.ports
    for site in sites.lab.sites:
        click.echo(f"  {site:<10} GitLab https://127.0.0.1:{ports.gitlab(site)}", nl=False)
        click.echo(f"   registry https://127.0.0.1:{ports.registry(site)}")
    click.echo(f"  inventory  {sites.sites_file}")


@lab.command()
@_directory
@click.option("--purge", is_flag=True, help="Remove the folder too.")
def down(directory: Path, purge: bool) -> None:
    """Stop everything that belongs to the lab, also after a start that was broken off."""
    from georeg_lab.sites import LabError, LabSites

    if not (directory / "lab.json").exists():
        click.echo(f"There is no lab in {directory}.")
        return
    try:
        LabSites.at(directory).down(purge=purge)
    except LabError as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo(f"The lab in {directory} is {'removed' if purge else 'stopped'}.")


@lab.command()
@_directory
def reset(directory: Path) -> None:
    """Bring back the state right after the first `up`."""
    from georeg_lab.sites import LabError, LabSites

    clock = _Clock()
    try:
        LabSites.at(directory).reset()
    except (LabError, PostgresError, SshdError) as problem:
        raise click.ClickException(str(problem)) from problem
    clock("the lab is as it was after the first `up`")


@lab.command()
@_directory
@click.pass_context
def status(context: click.Context, directory: Path) -> None:
    """Show every service. Exit status 0: all run; 3: some or all do not, or there is no lab."""
    from rich.console import Console
    from rich.table import Table

    from georeg_lab.sites import LabError, LabSites

    try:
        sites = LabSites.at(directory)
        rows = sites.status()
    except LabError as problem:
        click.echo(str(problem))
        context.exit(NOT_RUNNING)
    table = Table("site", "service", "state", "port")
    for row in rows:
        table.add_row(row.site, row.name, "running" if row.running else "down", str(row.port or ""))
    Console().print(table)
    click.echo(f"made in the state {of(sites.lab).name}: {of(sites.lab).title}")
    if not all(row.running for row in rows):
        context.exit(NOT_RUNNING)


@lab.command()
def states() -> None:
    """List the states that a lab can be made in (`up --state NAME`), each with the scenario that begins there."""
    for state in STATES.values():
        click.echo(f"{state.name:<24} {state.scenario:<4} {state.title}")


@lab.command()
@_directory
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="Show the faults that there are, and which are switched on.")
@click.option("--clear", "cleared", is_flag=True, help="Take away every fault that is switched on.")
def fault(directory: Path, name: str | None, listed: bool, cleared: bool) -> None:
    """Bring a failure symptom about, by its name."""
    from georeg_lab.faults import FAULTS, active, clear, switch_on
    from georeg_lab.sites import LabError, LabSites

    if listed:
        there = active(LabSites.at(directory)) if (directory / "lab.json").exists() else []
        for one in FAULTS.values():
            click.echo(f"{'*' if one.name in there else ' '} {one.name:<32} {one.what}")
        return
    if name is not None and name not in FAULTS:
        raise click.BadParameter(f"there is no fault {name!r}; `georeg lab fault --list` shows them", param_hint="NAME")
    if (name is None) == (not cleared):
        raise click.UsageError("name a fault, or say --list or --clear")
    try:
        sites = LabSites.at(directory)
        if name is None:
            click.echo(f"Taken away: {', '.join(clear(sites, FAULTS)) or 'none was switched on'}.")
        else:
            switch_on(sites, FAULTS[name])
            click.echo(f"{name}: {FAULTS[name].what}.")
    except (LabError, PostgresError) as problem:
        raise click.ClickException(str(problem)) from problem


@lab.command()
@_directory
def commands(directory: Path) -> None:
    """Print the command log: what was called on which node, oldest first."""
    log = directory / "commands.jsonl"
    for line in log.read_text().splitlines() if log.exists() else ():
        entry = json.loads(line)
        moment = time.strftime("%H:%M:%S", time.localtime(entry["time"]))
        click.echo(f"{moment} {entry['node']:9} {shlex.join(entry['argv'])}")


if __name__ == "__main__":
    lab()
