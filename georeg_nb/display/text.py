"""Documents as text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text as Rich

from georeg_nb.display.blocks import Block, Code, Details, Diff, Facts, Heading, Headline, Table, Text, shorten
from georeg_nb.display.marks import TERMINAL, mark, tone
from georeg_nb.redaction import redact


def render(blocks: Sequence[Block], width: int) -> str:
    """Plain text, `width` columns at most where words allow it; the same on every machine."""
    target = io.StringIO()
    console = Console(
        file=target,
        width=width,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,  # in a kernel rich would display by itself, beside our own output
        legacy_windows=False,
        _environ={},
        emoji=False,
    )
    console.print(renderable(blocks))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()).strip("\n")


def renderable(blocks: Sequence[Block]) -> RenderableType:
    """For a terminal that has colours."""
    return Group(*[part for block in blocks for part in _block(block)])


def _block(block: Block) -> Iterator[RenderableType]:
    match block:
        case Heading(text):
            yield Rich()
            yield Rich(text, style="bold")
        case Headline(word, text):
            yield Rich.assemble((mark(word), TERMINAL[tone(word)]), "  ", (redact(text), "bold"))
        case Text(text, colour):
            yield Rich(redact(text), style="" if colour == "quiet" else TERMINAL[colour])
        case Facts(facts):
            grid = Grid.grid(padding=(0, 2, 0, 0))
            for label, value in facts:
                grid.add_row(Rich(label, style="dim"), Rich(redact(value)))
            yield Padding(grid, (0, 0, 0, 2))
        case Table():
            yield from _table(block)
        case Code(text, caption):
            if caption:
                yield Rich(redact(caption), style="dim")
            yield from (Rich("    " + line) for line in shorten(redact(text).splitlines()))
        case Diff():
            if block.caption:
                yield Rich(redact(block.caption), style="dim")
            for line in shorten(list(block.lines())):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                yield Rich("    " + line, style=style)
        case Details(page_only=True):
            return
        case Details(summary, blocks):
            yield Rich(redact(summary), style="bold")
            yield Padding(renderable(blocks), (0, 0, 0, 2))


_UNBROKEN = ("step", "run", "file", "scenario")  # what people copy into a command


def _table(table: Table) -> Iterator[RenderableType]:
    columns = [column for column in table.columns if column != table.below]
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in columns:
        longest = max((len(str(row.get(column, ""))) for row in table.rows), default=0)
        grid.add_column(
            column,
            overflow="fold",
            no_wrap=column in table.words or column in _UNBROKEN,
            min_width=min(longest, 40) if column == "repository" else None,
        )
    for row in table.rows:
        grid.add_row(*(_cell(row.get(column, ""), column in table.words) for column in columns))
    yield grid
    notes = [row for row in table.rows if table.below and row.get(table.below)]
    if notes:
        yield Rich()
        yield Rich(f"{table.below.capitalize()}:", style="bold")
    for row in notes:
        place = " · ".join(str(row[key]) for key in ("check", "site", "step") if row.get(key))
        yield Padding(Rich.assemble("- ", (place, "bold"), ": ", redact(str(row[table.below]))), (0, 0, 0, 2))


def _cell(value: Any, is_word: bool) -> Rich:
    text = redact(str(value))
    return Rich(mark(text), style=TERMINAL[tone(text)]) if is_word else Rich(text)
