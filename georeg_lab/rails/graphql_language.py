"""The part of the GraphQL language that queries about Geo records use: operations, fields, arguments, variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(
    r'(?:[\s,\ufeff]|#[^\n]*)*(?:(?P<string>"(?:\\.|[^"\\])*")|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[_A-Za-z]\w*)'
    r"|(?P<spread>\.\.\.)|(?P<mark>[{}()\[\]:=$!@])|(?P<end>$))"
)


class SyntaxProblem(Exception):
    """The text is no GraphQL, or uses what is left out here (fragments, directives)."""


@dataclass
class Field:
    """A field of a selection: its arguments with variables filled in, its own selection."""

    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    selection: list[Field] = field(default_factory=list)


@dataclass
class Operation:
    """A query or mutation."""

    kind: str
    selection: list[Field]


def parse(text: str, variables: dict[str, Any] | None = None) -> Operation:
    """The first operation of a document, with these variables. Raises SyntaxProblem."""
    return _Parser(text, variables or {}).operation()


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while True:
        match = TOKEN.match(text, at)
        if match is None:
            raise SyntaxProblem(f"Parse error on {text[at : at + 10].strip()!r}")
        kind = str(match.lastgroup)
        yield kind, match.group(kind)
        if kind == "end":
            return
        at = match.end()


class _Parser:
    def __init__(self, text: str, variables: dict[str, Any]) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._variables = dict(variables)

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _accept(self, mark: str) -> bool:
        if self._tokens[self._at][1] == mark and self._tokens[self._at][0] == "mark":
            self._at += 1
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            raise SyntaxProblem(f"Parse error on {self._tokens[self._at][1]!r}, expected {mark!r}")

    def _name(self) -> str:
        kind, text = self._next()
        if kind != "name":
            raise SyntaxProblem(f"Parse error on {text!r}, expected a name")
        return text

    def operation(self) -> Operation:
        kind = "query"
        if self._tokens[self._at][0] == "name":
            kind = self._name()
            if kind not in ("query", "mutation"):
                raise SyntaxProblem(f"Parse error on {kind!r}: only query and mutation are known here")
            if self._tokens[self._at][0] == "name":
                self._name()
            if self._accept("("):
                self._variable_definitions()
        return Operation(kind, self._selection())

    def _variable_definitions(self) -> None:
        while not self._accept(")"):
            self._expect("$")
            name = self._name()
            self._expect(":")
            required = self._type()
            default = self._value() if self._accept("=") else None
            if self._variables.get(name) is None and required and default is None:
                raise SyntaxProblem(f"Variable ${name} was provided invalid value")
            self._variables.setdefault(name, default)

    def _type(self) -> bool:
        if self._accept("["):
            self._type()
            self._expect("]")
        else:
            self._name()
        return self._accept("!")

    def _selection(self) -> list[Field]:
        self._expect("{")
        fields = []
        while not self._accept("}"):
            name = alias = self._name()
            if self._accept(":"):
                name = self._name()
            found = Field(name, alias)
            if self._accept("("):
                while not self._accept(")"):
                    argument = self._name()
                    self._expect(":")
                    found.arguments[argument] = self._value()
            if self._tokens[self._at] == ("mark", "{"):
                found.selection = self._selection()
            fields.append(found)
        return fields

    def _value(self) -> Any:
        if self._accept("$"):
            name = self._name()
            if name not in self._variables:
                raise SyntaxProblem(f"Variable ${name} is used but not declared")
            return self._variables[name]
        if self._accept("["):
            items = []
            while not self._accept("]"):
                items.append(self._value())
            return items
        if self._accept("{"):
            members = {}
            while not self._accept("}"):
                name = self._name()
                self._expect(":")
                members[name] = self._value()
            return members
        kind, text = self._next()
        if kind in ("string", "number"):
            return json.loads(text)
        if kind == "name":
            return {"true": True, "false": False, "null": None}.get(text, text)
        raise SyntaxProblem(f"Parse error on {text!r}, expected a value")
