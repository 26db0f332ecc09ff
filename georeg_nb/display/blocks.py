"""The few kinds of block that everything shown is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from georeg_nb.display.marks import Tone
from georeg_nb.redaction import redact, redact_object

MIME = "application/vnd.georeg.v1+json"
LONGEST = 80
"""Lines of one diff or code block that are shown; the rest is in the record."""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Headline:
    """The one line that says how it is: a word of `marks.MARKS`, and a sentence."""

    word: str
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph. `tone` colours its edge."""

    text: str
    tone: Tone = "quiet"


@dataclass(frozen=True)
class Facts:
    """Short facts, one a line: label and value."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of text. `words` names the columns that hold verdicts; `below` the one that text output lists under it."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    words: Sequence[str] = ()
    below: str = ""


@dataclass(frozen=True)
class Code:
    """Text to be taken word for word: a command, a file's content."""

    text: str
    caption: str = ""


@dataclass(frozen=True)
class Diff:
    """What changes in a text: lines that go (-) and lines that come (+)."""

    before: str
    after: str
    caption: str = ""

    def lines(self) -> Iterator[str]:
        """Unified diff without its file header; a block of three lines of context around each change."""
        before, after = redact(self.before).splitlines(), redact(self.after).splitlines()
        lines = difflib.unified_diff(before, after, lineterm="", n=3)
        yield from (line for number, line in enumerate(lines) if number >= 2)


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away in HTML, and written out in text, unless they are for the page only."""

    summary: str
    blocks: Sequence[Block]
    page_only: bool = False


Block: TypeAlias = Heading | Headline | Text | Facts | Table | Code | Diff | Details


@dataclass(frozen=True)
class Document:
    """Something to show, in three forms from one object. `data` is the JSON form's content."""

    kind: str
    blocks: Sequence[Block]
    data: Mapping[str, Any] = field(default_factory=dict)

    def text(self, width: int = 118) -> str:
        """For logs and terminals without colour."""
        from georeg_nb.display.text import render

        return redact(render(self.blocks, width))

    def html(self) -> str:
        """For people: self-contained, with inline styles only, so that an untrusted notebook shows it too."""
        from georeg_nb.display.html import render

        return redact(render(self.blocks))

    def json(self) -> dict[str, Any]:
        return {"kind": self.kind, **redact_object(dict(self.data))}

    def __str__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": self.text(), "text/html": self.html(), MIME: self.json()}


def shorten(lines: Sequence[str], limit: int = LONGEST) -> list[str]:
    """The first and the last lines, and how many are left out between them."""
    if len(lines) <= limit:
        return list(lines)
    head = limit * 2 // 3
    tail = limit - head
    return [*lines[:head], f"… {len(lines) - limit} lines left out; all of them are in the record …", *lines[-tail:]]
