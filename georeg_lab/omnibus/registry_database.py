"""`gitlab-ctl registry-database`: what the wrapper checks, prints, runs and starts. Source: procedures 4.5; run.

Traps kept: not enabled is exit 0; a bare `import` never looks at read-only mode; with the registry stopped not even
step two does; after any success the registry is started, after a failure it is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from georeg_lab.omnibus import registry_usage as usage
from georeg_lab.omnibus.options import Exit, Option, OptionError, parse
from georeg_lab.omnibus.profiles import Profile

BINARY = "/opt/gitlab/embedded/bin/registry"
CHPST = "/opt/gitlab/embedded/bin/chpst"
FOLDER = "/var/opt/gitlab/registry"
USER, GROUP = "registry", "registry"
BAD_OPTIONS = 128

SWITCHES = {
    "B": "common-blobs",
    "c": "row-count",
    "d": "dry-run",
    "e": "require-empty-database",
    "p": "pre-import",
    "r": "all-repositories",
    "1": "step-one",
    "2": "step-two",
    "3": "step-three",
    "l": "log-to-stdout",
}
NEED_READ_ONLY = ("all-repositories", "step-two")


class Node(Protocol):
    """What the wrapper asks of the node and does to it."""

    def out(self, text: str) -> None: ...
    def err(self, text: str) -> None: ...
    def enabled(self) -> bool: ...
    def running(self) -> bool: ...
    def read_only(self, config: str) -> bool: ...  # exactly true, no other truth
    def exists(self, path: str) -> bool: ...
    def folder(self) -> str: ...
    def enter(self, folder: str) -> None: ...
    def user(self) -> str: ...
    def answer(self) -> str | None: ...  # a line of standard input, None at its end
    def system(self, argv: list[str]) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass
class _Request:
    command: str = ""
    subcommand: str = ""
    limit: str = ""
    flags: dict[str, list[str]] = field(default_factory=dict)
    needs_stop: bool = False
    needs_read_only: bool = False

    def flag(self, name: str, *words: str) -> None:
        self.flags.setdefault(name, list(words))


def run(argv: list[str], profile: Profile, node: Node) -> int:
    """Carry out `gitlab-ctl registry-database <argv…>`; its exit status."""
    try:
        request = _parse(argv, profile)
    except Exit as done:
        node.out(done.text)
        return done.status
    except OptionError as error:
        text, _, shown = str(error).partition("\0")
        node.err(f"{text}\n\n{shown or _global_usage(profile)}")
        return BAD_OPTIONS
    node.out(f"Running {request.command} {request.subcommand}\n")
    return _execute(request, profile, node)


def _global_usage(profile: Profile) -> str:
    return usage.GLOBAL + (usage.GC_STATS_COMMAND if profile.gc_stats else "")


def _help(text: str) -> Option:
    def act(_: str | None) -> None:
        raise Exit(0, text)

    return Option("h", "help", act)


def _parse(argv: list[str], profile: Profile) -> _Request:
    words = parse([_help(_global_usage(profile))], argv, in_order=True)
    if not words:
        raise OptionError("parse error: registry-database command is not specified.")
    command, *rest = words
    parsers: dict[str, tuple[Callable[[list[str], _Request, Profile], None], str]] = {
        "migrate": (_parse_migrate, usage.MIGRATE),
        "import": (_parse_import, usage.IMPORT),
    }
    if profile.gc_stats:
        parsers["gc-stats"] = (_parse_gc_stats, usage.GC_STATS)
    if command not in parsers:
        raise OptionError(f"parse error: Unknown registry-database command: {command}")
    request = _Request(command)
    parser, text = parsers[command]
    try:
        parser(rest, request, profile)
    except OptionError as error:
        raise OptionError(f"{error}\0{text}") from None
    return request


def _parse_migrate(argv: list[str], request: _Request, profile: Profile) -> None:
    words = parse([_help(usage.MIGRATE)], argv, in_order=True)
    if not words:
        raise OptionError("parse error: migrate subcommand is not specified.")
    name, *rest = words

    def limit(value: str | None) -> None:
        if not re.match(r"\s*\+?0*[1-9]", value or ""):
            raise OptionError("parse error: --limit option must be a positive number")
        request.limit = value or ""

    def switch(short: str, long: str) -> Option:
        return Option(short, long, lambda _: request.flag(long, f"-{short}"))

    options = {
        "up": [switch("d", "dry-run"), Option("l", "limit", limit, True), switch("s", "skip-post-deployment")],
        "down": [switch("d", "dry-run"), Option("l", "limit", limit, True), switch("f", "force")],
        "status": [switch("u", "up-to-date"), switch("s", "skip-post-deployment")],
        "version": [],
    }
    texts = {"up": usage.UP, "down": usage.DOWN, "status": usage.STATUS, "version": usage.MIGRATE}
    if name not in options:
        raise OptionError(f"parse error: Unknown migrate subcommand: {name}")
    parse([_help(texts[name]), *options[name]], rest)
    request.subcommand = name
    stopping = ("up", "down") if profile.wrapper_stops_for_up else ("down",)
    request.needs_stop = name in stopping and "dry-run" not in request.flags


def _parse_import(argv: list[str], request: _Request, profile: Profile) -> None:
    def switch(short: str, long: str) -> Option:
        def act(_: str | None) -> None:
            request.flag(long, f"--{long}")
            request.needs_read_only |= long in NEED_READ_ONLY

        return Option(short, long, act)

    parse([_help(usage.IMPORT), *(switch(short, long) for short, long in SWITCHES.items())], argv)


def _parse_gc_stats(argv: list[str], request: _Request, profile: Profile) -> None:
    def output(value: str | None) -> None:
        if value not in ("text", "json"):
            raise OptionError(f"invalid argument: Invalid format '{value}'. Must be 'text' or 'json'")
        request.flag("format", "--format", str(value))

    limit = Option("l", "limit", lambda value: request.flag("limit", "--limit", str(value)), True)
    parse([_help(usage.GC_STATS), Option("f", "format", output, True), limit], argv)


def _execute(request: _Request, profile: Profile, node: Node) -> int:
    folder = node.folder()
    config = f"{folder if profile.wrapper_config_in_folder else FOLDER}/config.yml"
    if profile.wrapper_changes_folder:
        try:
            node.enter(folder)
        except OSError:
            node.err(f"No such file or directory @ dir_chdir0 - {folder} (Errno::ENOENT)\n")
            return 1
    if not node.enabled():
        node.out("Container registry is not enabled, exiting...\n")
        return 0
    for path in (BINARY, config):
        if not node.exists(path):
            node.err(f"Could not find '{path}' file. Is this command being run on a Container Registry node?\n")
            return 1
    if request.needs_stop and node.running():
        node.out(
            "WARNING: Command cannot run while the container registry is running. Stop the registry before "
            "proceeding? (y/n)\n"
        )
        answer = node.answer()
        if answer is None:
            node.err("(Ruby error, uncaught) undefined method `chomp' for nil:NilClass\n")
            return 1
        if answer.rstrip("\r\n").lower() != "y":
            node.out("Exiting...\n")
            return 1
        node.out("Stopping service registry\n")
        node.stop()
    if request.needs_read_only and node.running() and not node.read_only(config):
        node.out("Command requires the container registry to be in read-only mode. Exiting...\n")
        return 1
    command = _command(request, profile, node, config)
    node.out(f"Executing command:\n{' '.join(command)}\n")
    if not node.system(command):
        return 1
    if not node.running():
        node.out("Starting service registry\n")
        node.start()
    return 0


def _command(request: _Request, profile: Profile, node: Node, config: str) -> list[str]:
    command = [BINARY, "database", request.command]
    command += [request.subcommand] if request.subcommand else []
    command += ["-n", request.limit] if request.limit else []
    command += [word for words in request.flags.values() for word in words] + [config]
    if profile.wrapper_drops_rights and node.user() != USER:
        return [CHPST, "-u", f"{USER}:{GROUP}", *command]
    return command
