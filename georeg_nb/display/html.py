"""Documents as HTML, with inline styles that are readable on light and dark backgrounds and in an exported page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from georeg_nb.display.blocks import Block, Code, Details, Diff, Facts, Heading, Headline, Table, Text, shorten
from georeg_nb.display.marks import COLOURS, mark, tone
from georeg_nb.redaction import redact

_LINE = "border-bottom:1px solid rgba(128,128,128,.35)"
_ROW = f"background:none;{_LINE}"
_CELL = "padding:4px 14px 4px 0;text-align:left;vertical-align:top"  # once per cell: a page has hundreds
_HEAD = "padding:4px 14px 4px 0;text-align:left;font-weight:600;border-bottom:2px solid rgba(128,128,128,.7)"
_LABEL = "padding:1px 14px 1px 0;text-align:left;vertical-align:top;white-space:nowrap;opacity:.75"
_VALUE = "padding:1px 0;text-align:left;white-space:pre-wrap"
_MONO = (
    "margin:2px 0 8px 0;padding:6px 10px;overflow-x:auto;font-family:ui-monospace,Menlo,Consolas,monospace;"
    "font-size:12px;line-height:1.45;background:rgba(128,128,128,.09);border-radius:4px"
)
_CAPTION = "margin:8px 0 2px 0;font-size:12px;opacity:.8"
_ADDED = "background:rgba(26,127,55,.20)"
_REMOVED = "background:rgba(180,35,24,.18)"


def render(blocks: Sequence[Block]) -> str:
    return f'<div style="max-width:110em;line-height:1.4">{"".join(_block(block) for block in blocks)}</div>'


def _text(value: Any) -> str:
    return escape(redact(str(value)))


def _pill(word: str) -> str:
    colour = COLOURS[tone(word)]
    style = f"display:inline-block;padding:1px 9px;border-radius:10px;background:{colour};color:#fff;font-weight:600"
    return f'<span style="{style};white-space:nowrap">{_text(mark(word))}</span>'


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f'<p style="margin:14px 0 4px 0;font-weight:700;font-size:1.05em">{_text(text)}</p>'
        case Headline(word, text):
            edge = f"border-left:6px solid {COLOURS[tone(word)]}"
            sentence = f'<span style="font-weight:600">{_text(text)}</span>'
            return f'<p style="margin:4px 0 8px 0;padding:6px 10px;{edge}">{_pill(word)}&ensp;{sentence}</p>'
        case Text(text, colour):
            edge = "" if colour == "quiet" else f"border-left:3px solid {COLOURS[colour]};padding-left:8px;"
            return f'<p style="margin:4px 0;{edge}white-space:pre-wrap">{_text(text)}</p>'
        case Facts(facts):
            rows = "".join(
                f'<tr style="background:none"><td style="{_LABEL}">{_text(label)}</td>'
                f'<td style="{_VALUE}">{_text(value)}</td></tr>'
                for label, value in facts
            )
            return f'<table style="margin:2px 0 6px 0;border-collapse:collapse;table-layout:auto">{rows}</table>'
        case Table():
            return _table(block)
        case Code(text, caption):
            return _pre(caption, [_text(line) for line in shorten(redact(text).splitlines())], "pre-wrap")
        case Diff():
            return _pre(block.caption, [_diff_line(line) for line in shorten(list(block.lines()))])
        case Details(summary, blocks, _):
            inner = "".join(_block(inner_block) for inner_block in blocks)
            title = f'<summary style="cursor:pointer;font-weight:600">{_text(summary)}</summary>'
            return f'<details style="margin:6px 0">{title}<div style="padding-left:14px">{inner}</div></details>'


def _table(table: Table) -> str:
    head = "".join(f'<th style="{_HEAD}">{_text(column)}</th>' for column in table.columns)
    rows = []
    for row in table.rows:
        cells = "".join(_cell(row.get(column, ""), column in table.words) for column in table.columns)
        rows.append(f'<tr style="{_ROW}">{cells}</tr>')
    style = "border-collapse:collapse;table-layout:auto;margin:4px 0 8px 0;font-size:13px;overflow-wrap:break-word"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(value: Any, is_word: bool) -> str:
    text = _pill(str(value)) if is_word and value else _text(value).replace("\n", "<br/>")
    return f'<td style="{_CELL}">{text}</td>'


def _diff_line(line: str) -> str:
    style = {"+": _ADDED, "-": _REMOVED}.get(line[:1], "opacity:.7" if line.startswith("@") else "")
    return f'<span style="display:block;{style}">{_text(line) or " "}</span>' if style else f"{_text(line)}\n"


def _pre(caption: str, lines: Sequence[str], space: str = "pre") -> str:
    head = f'<p style="{_CAPTION}">{_text(caption)}</p>' if caption else ""
    joined = "".join(line if line.startswith("<span") or line.endswith("\n") else line + "\n" for line in lines)
    return f'{head}<pre style="{_MONO};white-space:{space}">{joined.rstrip(chr(10))}</pre>'
