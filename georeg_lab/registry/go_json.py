"""What Go's JSON decoder says about bytes that are not JSON, so that error texts are those of the real program."""

from __future__ import annotations

import json
from typing import Any, NoReturn

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}
_SPACE = " \t\r\n"
_DIGITS = "0123456789"


class GoJSONError(ValueError):
    """The text that `encoding/json` returns as its error."""


def loads(data: bytes) -> Any:
    """Parse JSON. Raises GoJSONError."""
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        _Scanner(text).document()
        raise GoJSONError("unexpected end of JSON input") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


class _Scanner:
    """Walks through the text like Go's scanner and stops at the first character it does not expect."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def document(self) -> None:
        self.value("looking for beginning of value")
        if self.peek():
            self.fail("after top-level value")

    def peek(self, skip_space: bool = True) -> str:
        while skip_space and self.at < len(self.text) and self.text[self.at] in _SPACE:
            self.at += 1
        return self.text[self.at] if self.at < len(self.text) else ""

    def need(self, skip_space: bool = True) -> str:
        found = self.peek(skip_space)
        if not found:
            raise GoJSONError("unexpected end of JSON input")
        return found

    def fail(self, context: str) -> NoReturn:
        character = chr(self.text[self.at].encode("utf-8", "replace")[0])  # Go shows the byte
        if character in "'\"":
            shown = "'\\''" if character == "'" else "'\"'"
        else:
            plain = character if character.isprintable() else f"\\x{ord(character):02x}"
            shown = f"'{_ESCAPES.get(character, plain)}'"
        raise GoJSONError(f"invalid character {shown} {context}")

    def value(self, context: str) -> None:
        first = self.need()
        if first == "{":
            self.members()
        elif first == "[":
            self.elements()
        elif first == '"':
            self.string()
        elif first in "-" + _DIGITS:
            self.number()
        elif first in "tfn":
            self.literal({"t": "true", "f": "false", "n": "null"}[first])
        else:
            self.fail(context)

    def members(self) -> None:
        self.at += 1
        if self.need() == "}":
            self.at += 1
            return
        while True:
            if self.need() != '"':
                self.fail("looking for beginning of object key string")
            self.string()
            if self.need() != ":":
                self.fail("after object key")
            self.at += 1
            self.value("looking for beginning of value")
            after = self.need()
            if after not in ",}":
                self.fail("after object key:value pair")
            self.at += 1
            if after == "}":
                return

    def elements(self) -> None:
        self.at += 1
        if self.need() == "]":
            self.at += 1
            return
        while True:
            self.value("looking for beginning of value")
            after = self.need()
            if after not in ",]":
                self.fail("after array element")
            self.at += 1
            if after == "]":
                return

    def string(self) -> None:
        self.at += 1
        while (character := self.need(skip_space=False)) != '"':
            if character < " ":
                self.fail("in string literal")
            self.at += 1
            if character == "\\":
                escaped = self.need(skip_space=False)
                if escaped not in '"\\/bfnrtu':
                    self.fail("in string escape code")
                self.at += 1
                for _ in range(4 if escaped == "u" else 0):
                    if self.need(skip_space=False) not in "0123456789abcdefABCDEF":
                        self.fail("in \\u hexadecimal character escape")
                    self.at += 1
        self.at += 1

    def literal(self, word: str) -> None:
        for expected in word:
            if self.need(skip_space=False) != expected:
                self.fail(f"in literal {word} (expecting '{expected}')")
            self.at += 1

    def number(self) -> None:
        if self.text[self.at] == "-":
            self.at += 1
            self.digit("in numeric literal")
            self.at -= 1
        leading_zero = self.text[self.at] == "0"
        self.at += 1
        while not leading_zero and self.peek(skip_space=False) in tuple(_DIGITS):
            self.at += 1
        if self.peek(skip_space=False) == ".":
            self.at += 1
            self.digit("after decimal point in numeric literal")
        if self.peek(skip_space=False) in ("e", "E"):
            self.at += 1
            if self.need(skip_space=False) in "+-":
                self.at += 1
            self.digit("in exponent of numeric literal")

    def digit(self, context: str) -> None:
        if self.need(skip_space=False) not in _DIGITS:
            self.fail(context)
        while self.peek(skip_space=False) in tuple(_DIGITS):
            self.at += 1
