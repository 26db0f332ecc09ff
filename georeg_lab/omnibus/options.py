"""Ruby's OptionParser as far as gitlab-ctl uses it: its abbreviations, its errors, its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class OptionError(Exception):
    """What OptionParser raises; the text is Ruby's."""


class Exit(Exception):
    """The command ends here (`--help`): `text` goes to stdout, `status` is its exit status."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(status)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Option:
    """`short` without the dash; `act` gets the value (None for a switch) and may raise OptionError or Exit."""

    short: str
    long: str
    act: Callable[[str | None], None]
    takes_value: bool = False


def parse(options: Sequence[Option], words: list[str], *, in_order: bool = False) -> list[str]:
    """Run the options' actions; the words that are none. `in_order` stops at the first such word.

    A later option of the same name replaces an earlier one, as in Ruby.
    """
    rest: list[str] = []
    pending = list(words)
    while pending:
        word = pending.pop(0)
        if word == "--":
            return rest + pending
        if word.startswith("--"):
            _long(options, word, pending)
        elif word.startswith("-") and word != "-":
            _short(options, word, pending)
        elif in_order:
            return [word, *pending]
        else:
            rest.append(word)
    return rest


def _long(options: Sequence[Option], word: str, pending: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    long = {option.long: option for option in options}
    matches = [name] if name in long else sorted(full for full in long if full.startswith(name))
    if not matches:
        raise OptionError(f"invalid option: {word}")
    if len(matches) > 1:
        raise OptionError(f"ambiguous option: {word}")
    option = long[matches[0]]
    if equals and not option.takes_value:
        raise OptionError(f"needless argument: {word}")
    _act(option, f"--{name}", value if equals else None, pending)


def _short(options: Sequence[Option], word: str, pending: list[str]) -> None:
    short = {option.short: option for option in options}
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in short:
            raise OptionError(f"invalid option: -{letter}")
        option = short[letter]
        value = letters or None if option.takes_value else None
        _act(option, f"-{letter}", value, pending)
        if option.takes_value:
            return


def _act(option: Option, given: str, value: str | None, pending: list[str]) -> None:
    if option.takes_value and value is None:
        if not pending:
            raise OptionError(f"missing argument: {given}")
        value = pending.pop(0)
    try:
        option.act(value)
    except OptionError as error:
        kind, _, text = str(error).partition(": ")
        raise OptionError(f"{kind}: {given} {text}") from None
