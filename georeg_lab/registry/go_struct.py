"""What Go says about JSON of another type than the struct's field, so that error texts are the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from georeg_lab.registry.go_json import GoJSONError

_KINDS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_SCALARS = {"string": str, "digest.Digest": str, "int": int, "int64": int}


@dataclass(frozen=True)
class Struct:
    """A struct type: its full name (`package.Name`), and its fields by JSON key.

    A field is a scalar's name, a Struct, a list with the items' type, or `{}` for a map of strings. A key of the form
    `Embedded.key` is the field `key` of an embedded struct."""

    name: str
    fields: dict[str, Any]


def check(value: Any, kind: Struct) -> None:
    """Raise GoJSONError for the first value, in the document's order, that does not fit. null fits everywhere."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise GoJSONError(f"json: cannot unmarshal {_KINDS[type(value)]} into Go value of type {kind.name}")
    _check_fields(value, kind, "")


def _check_fields(value: dict[str, Any], kind: Struct, path: str) -> None:
    paths = {name.rpartition(".")[2]: name for name in kind.fields}
    for key, item in value.items():
        if key in paths:
            name = paths[key]
            _check_value(item, kind.fields[name], kind.name.rpartition(".")[2], f"{path}{name}")


def _check_value(value: Any, kind: Any, owner: str, path: str) -> None:
    if value is None:
        return
    if isinstance(kind, Struct) and isinstance(value, dict):
        _check_fields(value, kind, f"{path}.")
    elif isinstance(kind, list) and isinstance(value, list):
        for item in value:
            _check_value(item, kind[0], owner, path)
    elif kind == {} and isinstance(value, dict):
        for item in value.values():
            _check_value(item, "string", owner, path)
    elif not (isinstance(kind, str) and type(value) is _SCALARS[kind]):
        found = f"number {value}" if isinstance(value, float) and kind != "string" else _KINDS[type(value)]
        raise GoJSONError(f"json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {_type(kind)}")


def _type(kind: Any) -> str:
    if isinstance(kind, Struct):
        return kind.name
    if isinstance(kind, list):
        return f"[]{_type(kind[0])}"
    return "map[string]string" if kind == {} else str(kind)
