"""The registry's command line: `serve`, `garbage-collect`, `database …`, `background-migrate …`.

Source: registry 1. Every command is imported when it runs: most starts need one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from georeg_lab.registry import PACKAGE, VERSION, release
from georeg_lab.registry.cli_flags import Command, CommandError, Flag, Parsed, UsageError, parse, usage


def _released(*flags: Flag) -> tuple[Flag, ...]:
    """Those that this release has."""
    return tuple(flag for flag in flags if release.since(*release.FLAGS.get(flag.name, (0,))))


_DRY_RUN = Flag("dry-run", "d", "bool", "do not commit changes to the database")
_LIMITS = _released(
    Flag("limit", "n", "int", "limit the number of migrations (all by default)"),
    Flag("post-deploy-limit", "p", "int", "limit the number of post-deploy migrations (all by default)"),
)
_DEBUG_SERVER = Flag("debug-server", "s", "string", "run a pprof debug server at <address:port>")

MIGRATE = Command(
    "migrate",
    "Manage migrations",
    commands=(
        Command(
            "down",
            "Apply down migrations",
            flags=(_DRY_RUN, Flag("force", "f", "bool", "no confirmation message"), *_LIMITS),
        ),
        Command(
            "status",
            "Show migration status",
            flags=(
                Flag("skip-post-deployment", "s", "bool", "ignore post deployment migrations"),
                Flag("up-to-date", "u", "bool", "check if all known migrations are applied"),
            ),
        ),
        Command(
            "up",
            "Apply up migrations",
            flags=(
                _DRY_RUN,
                *_LIMITS,
                Flag("skip-post-deployment", "s", "bool", "do not apply post deployment migrations"),
            ),
        ),
        Command("version", "Show current migration version"),
    ),
)

IMPORT = Command(
    "import",
    "Import filesystem metadata into the database",
    long=(
        "Import filesystem metadata into the database.\nUntagged manifests are not imported.\n"
        " This tool can not be used with the parallelwalk storage configuration enabled."
    ),
    flags=_released(
        Flag("all-repositories", "r", "bool", "import all repository-scoped data"),
        Flag("common-blobs", "B", "bool", "import all blob metadata from common storage"),
        _DEBUG_SERVER,
        _DRY_RUN,
        Flag("dynamic-media-types", "m", "bool", "record unknown media types during import", True),
        Flag("import-statistics", "i", "bool", "record import statistics for service ping", True),
        Flag(
            "log-directory",
            "",
            "string",
            "directory that detail log files will be written to, ignored when --log-to-stdout is used",
        ),
        Flag("log-to-stdout", "l", "bool", "write detailed log to std instead of showing progress bars"),
        Flag("pre-import", "p", "bool", "import immutable repository-scoped data to speed up a following import"),
        Flag(
            "pre-import-skip-recent",
            "",
            "duration",
            "skip pre importing repositories pre imported more recently than the provided time offset from now, "
            "defaults to 72h (three days ago), use 0 to disable skiping",
            72 * 3600.0,
        ),
        Flag(
            "row-count",
            "c",
            "bool",
            "count and log number of rows across relevant database tables on (pre)import completion",
        ),
        Flag("step-one", "1", "bool", "perform step one of a multi-step import: alias for `pre-import`"),
        Flag("step-three", "3", "bool", "perform step three of a multi-step import: alias for `common-blobs`"),
        Flag("step-two", "2", "bool", "perform step two of a multi-step import: alias for `all-repositories`"),
        Flag(
            "tag-concurrency",
            "t",
            "int",
            "limit the number of tags to retrieve concurrently, only applicable on gcs backed storage",
        ),
    ),
)

ROOT = Command(
    "registry",
    "`registry`",
    long="`registry`",
    flags=(Flag("version", "v", "bool", "show the version and exit"),),
    commands=(
        Command(
            "background-migrate",
            "Manage batched background migrations",
            "<config> {status|pause|run} [flags]",
            commands=(
                Command("pause", "Pause all running or active batched background migrations", "<config> [flags]"),
                Command("resume", "Resume all paused batched background migrations", "<config> [flags]"),
                Command(
                    "run",
                    "Run all unfinished batched background migrations",
                    "<config> [--max-job-retry <n>] [flags]",
                    flags=(
                        Flag(
                            "max-job-retry",
                            "r",
                            "int",
                            "Set the maximum number of job retry attempts (default 2, must be between 1 and 10)",
                        ),
                    ),
                ),
                Command("status", "Show the current status of all batched background migrations", "<config> [flags]"),
            ),
        ),
        Command("completion", "Generate the autocompletion script for the specified shell"),
        Command("database", "Manages the registry metadata database", commands=(IMPORT, MIGRATE)),
        Command(
            "garbage-collect",
            "`garbage-collect` deletes layers not referenced by any manifests",
            "<config> [flags]",
            flags=(
                _DEBUG_SERVER,
                Flag("delete-untagged", "m", "bool", "delete manifests that are not currently referenced via tag"),
                Flag("dry-run", "d", "bool", "do everything except remove the blobs"),
            ),
        ),
        Command("help", "Help about any command"),
        Command(
            "serve",
            "`serve` stores and distributes Docker images",
            "<config> [flags]",
            long="`serve` stores and distributes Docker images.",
        ),
    ),
)


def _serve(parsed: Parsed, argv0: str) -> int:
    from georeg_lab.registry.config import load

    config, path = load(parsed.arguments)
    from georeg_lab.registry.server import serve

    return int(serve(config, path, argv0))


def _garbage_collect(parsed: Parsed, argv0: str) -> int:
    from georeg_lab.registry.offline_gc import run

    return run(parsed)


def _import(parsed: Parsed, argv0: str) -> int:
    from georeg_lab.registry.importer_command import run

    return run(parsed)


def _migrate(action: str) -> Callable[[Parsed, str], int]:
    def command(parsed: Parsed, argv0: str) -> int:
        from georeg_lab.registry.migrations_command import run

        return run(action, parsed)

    return command


def _background(action: str) -> Callable[[Parsed, str], int]:
    def command(parsed: Parsed, argv0: str) -> int:
        from georeg_lab.registry.migrations_background import run

        return run(action, parsed)

    return command


COMMANDS: dict[str, Callable[[Parsed, str], int]] = {
    "serve": _serve,
    "garbage-collect": _garbage_collect,
    "database import": _import,
    **{f"database migrate {action}": _migrate(action) for action in ("up", "down", "status", "version")},
    **{f"background-migrate {action}": _background(action) for action in ("status", "pause", "resume", "run")},
}


def _find(argv: Sequence[str]) -> tuple[list[Command], list[str]]:
    """The command that an argument list names, and its arguments: flags may stand between the words."""
    path, rest = [ROOT], list(argv)
    position = 0
    while position < len(rest):
        word = rest[position]
        if word.startswith("-"):
            position += 1
            continue
        child = path[-1].child(word)
        if child is None:
            break
        path.append(child)
        del rest[position]
    return path, rest


def main(argv: Sequence[str], argv0: str = "registry") -> int:
    """Run one command line (without the program's name). Returns the exit code."""
    path, rest = _find(argv)
    if path[-1].name == "help":
        path, rest = _find([word for word in rest if not word.startswith("-")])
        print((path[-1].long or path[-1].short) + "\n\n" + usage(path), end="")
        return 0
    command = path[-1]
    try:
        parsed = parse(command.flags, rest)
    except UsageError as error:
        print(f"{error}\n\n{usage(path)}", file=sys.stderr)
        return 1
    if parsed.help:
        print((command.long or command.short) + "\n\n" + usage(path), end="")
        return 0
    if command is ROOT and parsed.values["version"]:
        print(f"{argv0} {PACKAGE} {VERSION}")
        return 0
    if command is ROOT and parsed.arguments:
        print(f'unknown command "{parsed.arguments[0]}" for "registry"', file=sys.stderr)
        return 1
    run = COMMANDS.get(" ".join(node.name for node in path[1:]))
    if run is None:
        print(usage(path), end="", file=sys.stderr)
        return 0
    from georeg_lab.registry.config import ConfigError

    try:
        return run(parsed, argv0)
    except ConfigError as error:
        print(f"configuration error: {error}", file=sys.stderr)
    except CommandError as error:
        print(error, file=sys.stderr)
    return 1
