"""What people see: one object, shown as text for logs, as HTML for people, and as JSON for machines.

Nothing here depends on the time, the machine or the order of a set, so that the committed outputs of a notebook can be
compared. A verdict is always a mark and a word; colour only helps.
"""

from georeg_nb.display.blocks import Block, Code, Details, Diff, Document, Facts, Heading, Headline, Table, Text
from georeg_nb.display.marks import MARKS, mark

__all__ = [
    "MARKS",
    "Block",
    "Code",
    "Details",
    "Diff",
    "Document",
    "Facts",
    "Heading",
    "Headline",
    "Table",
    "Text",
    "mark",
]
