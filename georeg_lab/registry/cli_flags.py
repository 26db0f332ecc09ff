"""Commands, flags, usage texts and flag errors as the registry's command-line library (cobra) makes them.

Source: registry 1 (head) and the recorded usage texts. Knows no command by itself; `cli` has the table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from georeg_lab.registry import durations

Kind = Literal["bool", "int", "string", "duration"]


class CommandError(Exception):
    """A command failed: the message goes to stderr, the exit code is 1."""


class UsageError(Exception):
    """A flag is wrong: the message is followed by the command's usage."""


@dataclass(frozen=True)
class Flag:
    """One flag. A word between backquotes in `usage` names its value."""

    name: str
    short: str
    kind: Kind
    usage: str
    default: Any = None

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises UsageError."""
        try:
            return _parse(self.kind, text)
        except ValueError as error:
            shown = f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"
            raise UsageError(f'invalid argument "{text}" for "{shown}" flag: {error}') from None

    @property
    def initial(self) -> Any:
        """The value without the flag."""
        empty: dict[str, Any] = {"bool": False, "int": 0, "string": "", "duration": 0.0}
        return empty[self.kind] if self.default is None else self.default


@dataclass(frozen=True)
class Command:
    """A node of the command tree; `usage_line` follows the path to it in the usage text."""

    name: str
    short: str
    usage_line: str = "[flags]"
    long: str = ""
    flags: tuple[Flag, ...] = ()
    commands: tuple[Command, ...] = ()
    runnable: bool = True

    def child(self, name: str) -> Command | None:
        """The direct subcommand of this name."""
        return next((command for command in self.commands if command.name == name), None)


@dataclass
class Parsed:
    """What a command line says: flag values, those given explicitly, and what is left over."""

    values: dict[str, Any]
    given: set[str] = field(default_factory=set)
    arguments: list[str] = field(default_factory=list)
    help: bool = False


def _parse(kind: Kind, text: str) -> Any:
    if kind == "string":
        return text
    if kind == "duration":
        return durations.parse(text)
    if kind == "bool":
        if text in ("1", "t", "T", "true", "TRUE", "True"):
            return True
        if text in ("0", "f", "F", "false", "FALSE", "False"):
            return False
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    if not re.fullmatch(r"[+-]?\d+", text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def parse(flags: Sequence[Flag], argv: Sequence[str]) -> Parsed:
    """Sort an argument list into flags and the rest; flags may stand anywhere before `--`. Raises UsageError."""
    every = (*flags, Flag("help", "h", "bool", ""))
    long = {flag.name: flag for flag in every}
    short = {flag.short: flag for flag in every if flag.short}
    parsed = Parsed({flag.name: flag.initial for flag in every})
    rest = list(argv)

    def put(flag: Flag, text: str) -> None:
        parsed.values[flag.name] = flag.parse(text)
        parsed.given.add(flag.name)

    while rest:
        argument = rest.pop(0)
        if argument == "--":
            parsed.arguments += rest
            break
        if argument.startswith("--"):
            name, equals, text = argument[2:].partition("=")
            flag = long.get(name)
            if flag is None:
                raise UsageError(f"unknown flag: --{name}")
            if not equals and flag.kind != "bool" and not rest:
                raise UsageError(f"flag needs an argument: --{name}")
            put(flag, text if equals else "true" if flag.kind == "bool" else rest.pop(0))
        elif argument.startswith("-") and len(argument) > 1:
            letters = argument[1:]
            while letters:
                letter, tail = letters[0], letters[1:]
                flag = short.get(letter)
                if flag is None:
                    raise UsageError(f"unknown shorthand flag: '{letter}' in -{letters}")
                if tail.startswith("="):
                    put(flag, tail[1:])
                    break
                if flag.kind == "bool":
                    put(flag, "true")
                    letters = tail
                    continue
                if not tail and not rest:
                    raise UsageError(f"flag needs an argument: '{letter}' in -{letters}")
                put(flag, tail or rest.pop(0))
                break
        else:
            parsed.arguments.append(argument)
    parsed.help = bool(parsed.values.pop("help"))
    parsed.given.discard("help")
    return parsed


def _flag_lines(flags: Sequence[Flag]) -> list[str]:
    rows = []
    for flag in sorted(flags, key=lambda f: f.name):
        named = re.search(r"`([^`]*)`", flag.usage)
        value = named[1] if named else "" if flag.kind == "bool" else flag.kind
        text = flag.usage.replace("`", "")
        if flag.default not in (None, False, 0, ""):
            shown = durations.text(flag.default) if flag.kind == "duration" else str(flag.default).lower()
            text += f" (default {shown})"
        head = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        rows.append((f"{head} {value}".rstrip() if value else head, text))
    width = max(len(head) for head, _ in rows) + 3
    return [f"{head:<{width}}{text}" for head, text in rows]


def usage(path: Sequence[Command]) -> str:
    """The usage text of the last command of `path` (from the root on), with a newline at its end."""
    command = path[-1]
    names = " ".join(node.name for node in path)
    lines = ["Usage:"]
    if command.runnable:
        lines.append(f"  {names} {command.usage_line}".rstrip())
    if command.commands:
        lines += [f"  {names} [command]", "", "Available Commands:"]
        width = max(11, *(len(child.name) for child in command.commands))
        lines += [f"  {child.name:<{width}} {child.short}" for child in sorted(command.commands, key=lambda c: c.name)]
    lines += ["", "Flags:", *_flag_lines((*command.flags, Flag("help", "h", "bool", f"help for {command.name}")))]
    if command.commands:
        lines += ["", f'Use "{names} [command] --help" for more information about a command.']
    return "\n".join(lines) + "\n"
