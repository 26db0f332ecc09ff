"""Tables with box-drawing borders, as the registry prints migrations. Source: registry 1.4."""

from __future__ import annotations

from collections.abc import Sequence


def render(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with centred headings and left-aligned cells, as wide as its longest cells, with a final newline."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = ["─" * (width + 2) for width in widths]
    top, middle, bottom = (a + b.join(lines) + c for a, b, c in ("┌┬┐", "├┼┤", "└┴┘"))
    head = "│" + "│".join(f" {_centred(text, width)} " for text, width in zip(headings, widths, strict=True)) + "│"
    body = ["│" + "│".join(f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True)) + "│" for row in rows]
    return "\n".join([top, head, middle, *body, bottom]) + "\n"


def _centred(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)
