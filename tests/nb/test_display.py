"""What people see: three forms of one object, the same every time, clean of secrets."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from georeg_nb import redaction
from georeg_nb.display import MARKS, Code, Details, Diff, Document, Facts, Heading, Headline, Table, Text, mark
from georeg_nb.display.blocks import MIME, shorten
from georeg_nb.display.marks import COLOURS, TERMINAL

ROWS = [
    {"verdict": "passed", "check": "the schema is current", "found": "[bold]194[/bold] migrations", "what to do": ""},
    {"verdict": "failed", "check": "no tag yet", "found": "7 <tags>", "what to do": "first line\nsecond line"},
]


def document() -> Document:
    return Document(
        "sample",
        [
            Headline("failed", "1 of 2 checks failed."),
            Table(["verdict", "check", "found", "what to do"], ROWS, ("verdict",), "what to do"),
            Heading("Plan"),
            Facts([("interrupts", "pushes"), ("takes", "2 min")]),
            Diff("a\nb\nc\n", "a\nB\nc\nd\n", "changes gitlab.rb"),
            Code("gitlab-ctl reconfigure", "runs on primary-1"),
            Text("Cannot be undone.", "bad"),
            Details("more", [Text("hidden")]),
        ],
        {"checks": ROWS},
    )


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order, and collects what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.seen += data


def test_three_forms_of_one_object() -> None:
    bundle = document()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", MIME}
    assert json.loads(json.dumps(bundle[MIME])) == {"kind": "sample", "checks": ROWS}


def test_is_the_same_every_time() -> None:
    assert document()._repr_mimebundle_() == document()._repr_mimebundle_()


def test_text_has_verdicts_remedies_and_diffs() -> None:
    text = document().text()
    for line in (
        "✘ failed  1 of 2 checks failed.",
        "    -b",
        "    +B",
        "    +d",
        "    gitlab-ctl reconfigure",
        "  hidden",
    ):
        assert line in text.splitlines()
    assert "[bold]194[/bold] migrations" in text  # what sites answer is no markup of ours
    assert "- no tag yet: first line\n  second line" in text
    assert max(map(len, text.splitlines())) <= 118
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert "\x1b" not in text


def test_html_is_well_formed_escaped_and_needs_nothing_from_elsewhere() -> None:
    page = document().html()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "✘ failed" in parser.seen
    assert "7 <tags>" in parser.seen
    for line in ("-b", "+B", "+d"):
        assert line in parser.seen
    for forbidden in ("<script", "<style", "http", "class=", "id="):
        assert forbidden not in page


def test_colour_never_says_it_alone() -> None:
    for word, (sign, tone) in MARKS.items():
        assert mark(word) == f"{sign} {word}"
        assert tone in COLOURS
        assert tone in TERMINAL
    assert mark("anything else") == "anything else"


def test_secrets_are_masked_in_all_three() -> None:
    secret = "c4nary<'\"&value"
    redaction.register(secret, "canary")
    shown = Document(
        "x",
        [
            Headline("failed", secret),
            Text(secret),
            Code(secret, secret),
            Diff("", secret, secret),
            Facts([("a", secret)]),
            Table(["a", "b"], [{"a": secret, "b": secret}], (), "b"),
            Details(secret, [Text(secret)]),
        ],
        {"a": secret},
    )
    for form in shown._repr_mimebundle_().values():
        assert "c4nary" not in str(form)
        assert "secret: canary" in str(form)


@pytest.mark.parametrize(("number", "shown"), [(5, 5), (80, 80), (81, 81), (5000, 81)])
def test_long_blocks_are_shortened_in_the_middle(number: int, shown: int) -> None:
    lines = shorten([str(n) for n in range(number)])
    assert len(lines) == shown
    assert lines[0] == "0"
    assert lines[-1] == str(number - 1)


def test_a_large_plan_stays_small_on_the_page() -> None:
    long = "\n".join(f"line {number} of a very long file" for number in range(100_000))
    assert len(Document("x", [Diff("", long), Code(long)]).html()) < 50_000


def test_an_empty_document_shows_nothing() -> None:
    assert Document("x", []).text() == ""
