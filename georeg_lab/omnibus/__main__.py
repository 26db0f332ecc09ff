"""`python -m georeg_lab.omnibus render --version V [--role ROLE] [--secrets FILE] GITLAB_RB`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from georeg_lab.omnibus.profiles import profile
from georeg_lab.omnibus.ruby_values import Refused, RubyError

GEO_ROLES = {"geo_primary_role": "primary", "geo_secondary_role": "secondary"}


@click.group()
def main() -> None:
    """The Linux package's configuration, without the package."""


@main.command("render")
@click.option("--version", "version", required=True, help="Package version, e.g. 18.7.7.")
@click.option(
    "--role",
    default="",
    type=click.Choice(["", "none", "primary", "secondary", *GEO_ROLES]),
    help="The Geo role that this node is meant to have. gitlab.rb decides; a difference is reported on stderr.",
)
@click.option("--secrets", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="gitlab-secrets.json.")
@click.argument("gitlab_rb", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def render_command(version: str, role: str, secrets: Path | None, gitlab_rb: Path) -> None:
    """Print what `gitlab-ctl reconfigure` would render from GITLAB_RB, as JSON.

    Exit status: 0; 1 with {"error": ...} where reconfigure would stop; 3 with {"refused": ..., "line": ...} where the
    file goes beyond the literal subset of Ruby that is evaluated here.
    """
    from georeg_lab.omnibus.gitlab_rb import evaluate
    from georeg_lab.omnibus.render import render

    try:
        chosen = profile(version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--version") from None
    given: dict[str, Any] = json.loads(secrets.read_text()) if secrets else {}
    result: dict[str, Any]
    status = 0
    try:
        settings = evaluate(gitlab_rb.read_bytes(), gitlab_rb.name, lambda name: Path(name).read_bytes())
        rendered = render(settings, chosen, given)
        result = rendered.shown()
        meant = GEO_ROLES.get(role, role)
        if meant and meant != (rendered.geo_role or "none"):
            found = rendered.geo_role or "none"
            click.echo(f"Geo role: {found} by {gitlab_rb.name}, {meant} by --role", err=True)
    except RubyError as error:
        result, status = {"error": str(error)}, 1
    except Refused as refused:
        result, status = {"refused": refused.construct, "line": refused.line, "message": str(refused)}, 3
    click.echo(json.dumps(result, indent=1, ensure_ascii=False))
    sys.exit(status)


if __name__ == "__main__":
    main(prog_name="python -m georeg_lab.omnibus")
