"""Finding and reading parameters files: YAML with line numbers, and its traps named instead of swallowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from georeg_nb.errors import ParametersError, Problem

Place = tuple[str | int, ...]
_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def project_root() -> Path:
    """The nearest folder, from the working directory upwards, with notebooks/ and parameters/; else where we are."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "parameters").is_dir():
            return folder
    return here


def below_project(path: str | Path) -> Path:
    """Where a relative path leads: below the working directory if it is there, else below the project's root."""
    given = Path(path).expanduser()
    if given.is_absolute():
        return given
    return Path.cwd() / given if given.exists() else project_root() / given


def find_file(path: str | Path) -> Path:
    """A parameters file: from the working directory, else from the project's root. Raises ParametersError."""
    found = below_project(path)
    if found.is_file():
        return found
    places = [Path(path)] if Path(path).is_absolute() else [Path.cwd() / path, project_root() / path]
    near = [str(p.name) for p in found.parent.glob("*.y*ml")] if found.parent.is_dir() else []
    looked = " nor ".join(dict.fromkeys(map(str, places)))
    what = "is a folder" if found.is_dir() else f"does not exist: there is no {looked}"
    raise ParametersError([Problem(what, file=str(path), suggestion=suggest(found.name, near))])


def shown(path: Path) -> str:
    """A path as the operator would write it: relative where it is below the working directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def suggest(word: str, known: list[str]) -> str:
    """'did you mean …?' for a misspelt word, or "" if nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


@dataclass
class Document:
    """A parameters file that was read. `problems` are what its YAML itself has wrong; `data` is what could be read."""

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    overridden: set[str] = field(default_factory=set)

    def override(self, values: dict[str, Any]) -> None:
        """Values given beside the file win over it."""
        self.data.update(values)
        self.overridden.update(values)

    def line(self, place: Place) -> int:
        """The line of a value, or of the nearest thing around it; 0 without a file."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 0)

    def problem(self, place: Place, message: str, suggestion: str = "") -> Problem:
        """A problem with the value at `place`."""
        if place and place[0] in self.overridden:
            return Problem(message, key=dotted(place), suggestion=suggestion)
        return Problem(message, key=dotted(place), file=self.file, line=self.line(place), suggestion=suggestion)


def dotted(place: Place) -> str:
    """`secondaries[0].database.host`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def read_yaml(path: Path) -> Document:
    """Read a parameters file. What is wrong with it stands in `problems`; nothing is raised."""
    document = Document(shown(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        document.problems.append(Problem(f"cannot be read: {_reason(error)}", file=document.file))
        return document
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            document.problems.append(Problem("is empty", file=document.file))
        elif not isinstance(node, yaml.MappingNode):
            document.lines[()] = node.start_mark.line + 1
            document.problems.append(document.problem((), "must be a mapping: `name: value` lines"))
        else:
            document.data = _Builder(loader, document).mapping(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 0
        document.problems.append(Problem(f"is no valid YAML: {message}", file=document.file, line=line))
    except yaml.YAMLError as error:
        document.problems.append(Problem(f"is no valid YAML: {error}", file=document.file))
    finally:
        loader.dispose()
    return document


class _Builder:
    """Builds plain data from YAML nodes and notes where each value stands."""

    def __init__(self, loader: yaml.SafeLoader, document: Document) -> None:
        self.loader = loader
        self.document = document

    def value(self, node: yaml.Node, place: Place, above: tuple[yaml.Node, ...]) -> Any:
        self.document.lines.setdefault(place, node.start_mark.line + 1)
        if node in above:
            self.document.problems.append(self.document.problem(place, "refers to itself"))
            return None
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN:
            self.document.problems.append(
                self.document.problem(place, f"has a tag that is not allowed here: {node.tag}")
            )
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, place, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, n), (*above, node)) for n, item in enumerate(node.value)]
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # papermill reads dates as text as well
        return self.loader.construct_object(node, deep=True)

    def mapping(self, node: yaml.MappingNode, place: Place, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        self.document.lines.setdefault(place, node.start_mark.line + 1)
        for problem in self._duplicates(node, place):
            self.document.problems.append(problem)
        self.loader.flatten_mapping(node)
        data: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if (name := self._name(key, place, line)) is not None:
                self.document.lines[(*place, name)] = line
                data[name] = self.value(item, (*place, name), above)
        return data

    def _name(self, key: yaml.Node, place: Place, line: int) -> str | None:
        if isinstance(key, yaml.ScalarNode) and key.tag == "tag:yaml.org,2002:str":
            return str(key.value)
        shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        kind = key.tag.rpartition(":")[2]
        why = {"bool": "YAML reads it as true or false", "null": "YAML reads it as nothing"}.get(
            kind, f"it is a {kind}"
        )
        problem = Problem(
            f"the name `{shown}` is no text: {why}",
            key=dotted(place),
            file=self.document.file,
            line=line,
            suggestion=f'write "{shown}" in quotes' if isinstance(key, yaml.ScalarNode) else "",
        )
        self.document.problems.append(problem)
        return None

    def _duplicates(self, node: yaml.MappingNode, place: Place) -> Iterator[Problem]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                yield Problem(
                    f"is given twice, first on line {seen[key.value]}",
                    key=dotted((*place, key.value)),
                    file=self.document.file,
                    line=line,
                    suggestion="YAML would silently take the last one",
                )
            seen.setdefault(key.value, line)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
