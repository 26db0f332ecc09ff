"""Notebook and scenario are held together, and the notebooks keep the house's conventions."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from georeg_nb.scenarios import SCENARIOS, Entry

FOLDER = Path(__file__).parents[2] / "notebooks"
TAGS = {"parameters", "setup", "check", "apply", "summary"}
NBVAL = {"nbval-ignore-output", "nbval-check-output", "nbval-skip"}
TITLE_FIELDS = [
    "What it changes",
    "Why",
    "When not to use it",
    "Sites touched",
    "Expected duration",
    "Read-only window",
    "Point of no return",
    "Tested with",
    "Who to call",
]
ENTRIES = list(SCENARIOS.values())
pytestmark = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.notebook)


def load(entry: Entry) -> Any:
    return nbformat.read(FOLDER / entry.notebook, as_version=4)


def code_cells(entry: Entry, tag: str = "") -> list[Any]:
    return [
        cell
        for cell in load(entry).cells
        if cell.cell_type == "code" and (not tag or tag in cell.metadata.get("tags", []))
    ]


def call(source: str) -> tuple[str, str]:
    """(method, argument) of a cell that is one call `run.method("argument")`."""
    (statement,) = ast.parse(source).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call), source
    function = statement.value.func
    assert isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name), source
    assert function.value.id == "run" and not statement.value.keywords
    arguments = [ast.literal_eval(argument) for argument in statement.value.args]
    return function.attr, arguments[0] if arguments else ""


def test_it_is_valid_and_bare(entry: Entry) -> None:
    notebook = load(entry)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "georeg"}
    assert notebook.metadata.georeg["scenario"] == entry.scenario.id
    schema = FOLDER.parent / notebook.metadata.georeg["parameters"]
    assert json.loads(schema.read_text())["properties"].keys() == entry.parameters.model_fields.keys()


def test_every_section_once_and_in_order_in_both_calls(entry: Entry) -> None:
    calls = [call(cell.source) for cell in code_cells(entry) if {"check", "apply"} & set(cell.metadata.tags)]
    sections = [section.name for section in entry.scenario]
    assert [name for method, name in calls if method == "check"] == sections
    assert [name for method, name in calls if method == "apply"] == sections
    for name in sections:
        assert calls.index(("check", name)) + 1 == calls.index(("apply", name))


def test_tags_say_what_cells_are(entry: Entry) -> None:
    cells = code_cells(entry)
    for cell in cells:
        assert len(TAGS & set(cell.metadata.tags)) == 1 and set(cell.metadata.tags) <= TAGS | NBVAL, cell.source
    order = [next(iter(TAGS & set(cell.metadata.tags))) for cell in cells]
    assert order[:2] == ["parameters", "setup"] and order[-1] == "summary"
    for cell in cells[2:]:
        tag = next(iter(TAGS & set(cell.metadata.tags)))
        method = call(cell.source)[0]
        assert method in {"check": ("check", "table"), "apply": ("apply",), "summary": ("summary",)}[tag]


def test_parameters_are_literals_with_help_and_those_of_the_model(entry: Entry) -> None:
    (cell,) = code_cells(entry, "parameters")
    values = {}
    for line in cell.source.splitlines():
        assert re.match(r"^\w+ = .+  +# \S", line) or re.match(r"^\w+ = .+ # \S", line), line
        (assignment,) = ast.parse(line).body
        assert isinstance(assignment, ast.Assign) and isinstance(assignment.targets[0], ast.Name)
        values[assignment.targets[0].id] = ast.literal_eval(assignment.value)
    assert list(values) == [name for name in values if name in entry.parameters.model_fields]
    assert set(values) == set(entry.parameters.model_fields)
    entry.parameters.model_validate(values)
    assert values["approve"] == [] and values["sites"].startswith("parameters/lab/")


def test_setup_passes_every_parameter_and_imports_one_name(entry: Entry) -> None:
    (cell,) = code_cells(entry, "setup")
    tree = ast.parse(cell.source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["from georeg_nb import open_run"]
    (opening,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert ast.literal_eval(opening.args[0]) == entry.scenario.id
    passed = {keyword.arg: ast.unparse(keyword.value) for keyword in opening.keywords}
    assert passed == {name: name for name in entry.parameters.model_fields}


def test_cells_are_few_short_and_hold_no_logic(entry: Entry) -> None:
    notebook = load(entry)
    assert len(notebook.cells) <= 40
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    forbidden = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.If, ast.Lambda)
    for cell in code_cells(entry):
        assert len(cell.source.splitlines()) <= 8
        assert not any(isinstance(node, forbidden) for node in ast.walk(ast.parse(cell.source)))
        assert not cell.source.startswith(("!", "%"))


def test_the_title_block_has_the_same_fields_in_the_same_order(entry: Entry) -> None:
    first = load(entry).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", first.source, re.MULTILINE) == TITLE_FIELDS


def test_every_section_says_why_before_and_how_to_undo(entry: Entry) -> None:
    cells = load(entry).cells
    for number, cell in enumerate(cells):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or not {"check", "apply"} & set(tags) or call(cell.source)[0] == "table":
            continue
        before = cells[number - 1]
        assert before.cell_type == "markdown", cell.source
        if "check" in tags:
            assert re.match(r"## \d+\. [A-Z]", before.source) and "**Why.**" in before.source
        else:
            assert "**Apply.**" in before.source and "**Undo.**" in before.source


def test_what_the_prose_names_exists(entry: Entry) -> None:
    """Steps and sections that the text tells to approve, attest or undo."""
    sections = {section.name: {step.name for step in section.procedure.steps} for section in entry.scenario}
    steps = set().union(*sections.values())
    text = "\n".join(cell.source for cell in load(entry).cells if cell.cell_type == "markdown")
    named = re.findall(r'run\.(?:undo|approve|attest)\("([^"]+)"', text)
    assert named or not steps
    for name in named:
        section, _, step = name.rpartition("/")
        assert step in (sections[section] if section else steps), name
    undone = {name.rpartition("/")[2] for name in re.findall(r'run\.undo\("([^"]+)"', text)}
    all_steps = [step for section in entry.scenario for step in section.procedure.steps]
    assert undone <= {step.name for step in all_steps if step.has_undo}
