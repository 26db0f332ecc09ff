"""Parameters: the sites file, and one small file per scenario. Everything wrong with them is told at once, before any
site is contacted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from georeg_nb.errors import ParametersError, Problem
from georeg_nb.parameters.checks import problems_of_sites
from georeg_nb.parameters.files import Document, Place, find_file, project_root, read_yaml, suggest
from georeg_nb.parameters.models import (
    SCENARIOS,
    AddRegistryParameters,
    AssessSitesParameters,
    DatabaseParameters,
    DiagnoseParameters,
    GitLabParameters,
    MigrateLegacyParameters,
    NodeParameters,
    RegistryParameters,
    RevertToLegacyParameters,
    ScenarioParameters,
    SecretReference,
    SiteParameters,
    SitesFile,
    VerifyReplicationParameters,
)

__all__ = [
    "SCENARIOS",
    "AddRegistryParameters",
    "AssessSitesParameters",
    "DatabaseParameters",
    "DiagnoseParameters",
    "GitLabParameters",
    "MigrateLegacyParameters",
    "NodeParameters",
    "RegistryParameters",
    "RevertToLegacyParameters",
    "ScenarioParameters",
    "SecretReference",
    "SiteParameters",
    "SitesFile",
    "VerifyReplicationParameters",
    "find_file",
    "load_all",
    "load_scenario",
    "load_sites",
    "project_root",
    "validate_values",
]

ModelT = TypeVar("ModelT", bound=BaseModel)
Extra = Callable[[Document], Iterator[Problem]]


def load_sites(path: str | Path) -> SitesFile:
    """Read and check a sites file. Raises ParametersError with everything that is wrong."""
    return _finish(*_judge(SitesFile, read_yaml(find_file(path)), problems_of_sites))


def load_scenario(scenario: str, path: str | Path) -> ScenarioParameters:
    """Read and check a scenario's parameters file; the sites file that it names is not read. Raises ParametersError."""
    return _finish(*_judge(_scenario(scenario), read_yaml(find_file(path))))


def load_all(
    scenario: str, path: str | Path, overrides: dict[str, Any] | None = None
) -> tuple[ScenarioParameters, SitesFile]:
    """A scenario's parameters file (`overrides` win) and the sites file that it names: problems of both at once."""
    document = read_yaml(find_file(path))
    document.override(overrides or {})
    return _with_sites(scenario, document)


def validate_values(scenario: str, values: dict[str, Any]) -> ScenarioParameters:
    """Check parameters that came as values (a notebook's, or papermill's). Raises ParametersError."""
    return _finish(*_judge(_scenario(scenario), Document("", dict(values))))


def _with_sites(scenario: str, document: Document) -> tuple[ScenarioParameters, SitesFile]:
    options, problems = _judge(_scenario(scenario), document)
    sites: SitesFile | None = None
    if isinstance(document.data.get("sites"), str):
        try:
            sites = load_sites(document.data["sites"])
        except ParametersError as error:
            problems = [*problems, *error.problems]
    if problems or options is None or sites is None:
        raise ParametersError(problems)
    return options, sites


def _scenario(scenario: str) -> type[ScenarioParameters]:
    if scenario not in SCENARIOS:
        hint = suggest(scenario, list(SCENARIOS)) or f"there are: {', '.join(SCENARIOS)}"
        raise ParametersError([Problem(f"there is no scenario {scenario}", suggestion=hint)])
    return SCENARIOS[scenario]


def _judge(model: type[ModelT], document: Document, extra: Extra | None = None) -> tuple[ModelT | None, list[Problem]]:
    problems, result = list(document.problems), None
    if document.data or not problems:
        try:
            result = model.model_validate(document.data)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            problems += [_problem(model, document, detail) for detail in details]
        if extra:
            told = {(problem.key, problem.line) for problem in problems}
            problems += [problem for problem in extra(document) if (problem.key, problem.line) not in told]
    return result, sorted(problems, key=lambda problem: problem.line)


def _finish(result: ModelT | None, problems: list[Problem]) -> ModelT:
    if problems or result is None:
        raise ParametersError(problems)
    return result


_MESSAGES = {
    "missing": "is missing",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
}
_HINTS = {
    "string_type": 'YAML reads yes, no, on, off, numbers and 16.10 as something else: put the value in "quotes"',
    "list_type": "write [a, b], or one `- a` per line",
}


def _problem(model: type[BaseModel], document: Document, detail: Any) -> Problem:
    kind, place = detail["type"], tuple(detail["loc"])
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(_fields(model, place[:-1]))
        hint = suggest(str(place[-1]), known) or f"known here: {', '.join(known)}"
        return document.problem(place, "is unknown", hint)
    if kind == "literal_error":
        allowed = str(context.get("expected", ""))
        return document.problem(place, f"must be {allowed}", _near(document, place, allowed))
    if kind == "value_error":
        return document.problem(place, str(context.get("error", detail["msg"])))
    if kind == "too_short":
        return document.problem(place, f"needs at least {context.get('min_length', 1)}")
    if kind == "string_pattern_mismatch":
        return document.problem(place, f"must match {context.get('pattern')}")
    message = _MESSAGES.get(kind, str(detail["msg"])[:1].lower() + str(detail["msg"])[1:])
    return document.problem(place, message, _HINTS.get(kind, ""))


def _near(document: Document, place: Place, allowed: str) -> str:
    value: Any = document.data
    for part in place:
        value = value[part]
    return (
        suggest(value, [word.strip("' ") for word in allowed.replace(" or ", ", ").split(",")])
        if isinstance(value, str)
        else ""
    )


def _fields(model: type[BaseModel], place: Place) -> dict[str, Any]:
    """The known names at a place below a model."""
    for part in place:
        if isinstance(part, int):
            continue
        found = model.model_fields.get(part)
        inner = (
            [item for item in (found.annotation, *get_args(found.annotation)) if isinstance(item, type)]
            if found
            else []
        )
        models = [item for item in inner if issubclass(item, BaseModel)]
        if not models:
            return {}
        model = models[0]
    return dict(model.model_fields)
