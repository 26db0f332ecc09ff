"""Reading config.yml the way the registry does: typed by the target's fields, unknown keys ignored, overridden by
`REGISTRY_*` variables. Knows no key by itself; `config` has the keys.

Source: registry 2 (head), and the recorded error texts."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

import yaml

from georeg_lab.registry import durations

Duration = Annotated[float, "duration"]
"""Seconds, written as a Go duration; a bare number is nanoseconds."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHORT_TAG = {
    "tag:yaml.org,2002:" + name: "!!" + name for name in ("str", "int", "float", "bool", "map", "seq", "null")
}
PREFIX = "REGISTRY_"
FEATURE_FLAGS = "REGISTRY_FF_"


class DecodeError(ValueError):
    """The text of a configuration does not fit; the message is the registry's."""


def compose(text: str) -> yaml.Node | None:
    """Parse YAML into nodes. Raises DecodeError."""
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DecodeError(f"yaml: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise DecodeError(f"yaml: {error}") from None


def plain(node: yaml.Node) -> Any:
    """The value of a node without a type: what YAML says."""
    return _Plain().construct_document(node)


class _Plain(yaml.constructor.SafeConstructor):
    """Constructs values from nodes that were already composed."""


@cache
def fields_of(kind: type) -> dict[str, tuple[str, Any]]:
    """YAML key -> (attribute, type) of a dataclass. The key is the attribute without underscores, unless the field's
    metadata names another one."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        f.metadata.get("key", f.name.replace("_", "")): (f.name, hints[f.name])
        for f in dataclasses.fields(kind)
        if f.init and not f.metadata.get("derived")
    }


class Decoder:
    """Turns nodes into nested dictionaries of typed values, and collects what does not fit."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def check(self) -> None:
        """Raise DecodeError if anything did not fit."""
        if self.problems:
            raise DecodeError("yaml: unmarshal errors:\n" + "\n".join(f"  {problem}" for problem in self.problems))

    def misfit(self, node: yaml.Node, target: str) -> None:
        """Note that a node cannot become a `target` (Go's name of the type)."""
        value = ""
        if isinstance(node, yaml.ScalarNode):
            value = node.value if len(node.value) <= 10 else node.value[:7] + "..."
            value = f" `{value}`"
        tag = _SHORT_TAG.get(node.tag, node.tag)
        self.problems.append(f"line {node.start_mark.line + 1}: cannot unmarshal {tag}{value} into {target}")

    def plain_bool(self, node: yaml.Node, *keys: str) -> None:
        """Note where what stands under these keys is given and is no boolean: a quoted "true" is none."""
        found: yaml.Node | None = node
        for key in keys:
            pairs = found.value if isinstance(found, yaml.MappingNode) else []
            found = next((value for name, value in pairs if name.value == key), None)
        if found is not None and found.tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"):
            self.misfit(found, "bool")

    def value(self, node: yaml.Node, kind: Any) -> Any:
        """The node's value as `kind`; None where YAML has null or the value does not fit."""
        if node.tag == "tag:yaml.org,2002:null":
            return None
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            kind = next(option for option in typing.get_args(kind) if option is not type(None))
            origin = typing.get_origin(kind)
        if dataclasses.is_dataclass(kind):
            return self.struct(node, typing.cast(type, kind))
        if kind is Any or kind is object:
            return plain(node)
        if origin is dict:
            return self._mapping(node, typing.get_args(kind)[1])
        if origin in (list, tuple):
            if not isinstance(node, yaml.SequenceNode):
                return self.misfit(node, f"[]{_go_name(typing.get_args(kind)[0])}")
            return [self.value(item, typing.get_args(kind)[0]) for item in node.value]
        return self._scalar(node, kind)

    def struct(self, node: yaml.Node, kind: type) -> dict[str, Any] | None:
        """A mapping typed by the fields of the dataclass `kind`, keyed by YAML keys; unknown keys are left out."""
        if not isinstance(node, yaml.MappingNode):
            self.misfit(node, f"configuration.{kind.__name__}")
            return None
        known = fields_of(kind)
        return {key.value: self.value(item, known[key.value][1]) for key, item in node.value if key.value in known}

    def _mapping(self, node: yaml.Node, item_kind: Any) -> dict[str, Any] | None:
        if not isinstance(node, yaml.MappingNode):
            self.misfit(node, "map[string]interface {}")
            return None
        return {key.value: self.value(item, item_kind) for key, item in node.value}

    def _scalar(self, node: yaml.Node, kind: Any) -> Any:
        target = _go_name(kind)
        if not isinstance(node, yaml.ScalarNode):
            return self.misfit(node, target)
        if kind is str:
            return node.value
        value = plain(node)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind is Duration:
            if isinstance(value, int) and not isinstance(value, bool):
                return value * 1e-9
            try:
                return durations.parse(node.value)
            except ValueError:
                return self.misfit(node, target)
        return self.misfit(node, target)


def _go_name(kind: Any) -> str:
    if kind is Duration:
        return "time.Duration"
    return {str: "string", bool: "bool", int: "int", float: "float64"}.get(kind, "interface {}")


def build(kind: type, values: Mapping[str, Any] | None) -> Any:
    """An instance of the dataclass `kind` from typed values; missing and null ones take the field's default."""
    known = fields_of(kind)
    arguments: dict[str, Any] = {}
    for key, value in (values or {}).items():
        if key not in known or value is None:
            continue
        name, hint = known[key]
        arguments[name] = _build_value(hint, value)
    return kind(**arguments)


def _build_value(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
        origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value)
    if origin in (list, tuple):
        built = [_build_value(typing.get_args(hint)[0], item) for item in value or []]
        return tuple(built) if origin is tuple else built
    return value


def override(values: dict[str, Any], kind: type, environment: Mapping[str, str]) -> list[str]:
    """Apply `REGISTRY_<PATH>` variables to typed values, the shorter names first. Returns the names that no key
    matches. Raises DecodeError where a value does not fit its key."""
    ignored = []
    decoder = Decoder()
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name.startswith(FEATURE_FLAGS):
            continue
        path = [part.lower() for part in name[len(PREFIX) :].split("_")]
        if not _override_struct(values, kind, path, environment[name], decoder):
            ignored.append(name)
    decoder.check()
    return ignored


def _override_struct(values: dict[str, Any], kind: type, path: list[str], text: str, decoder: Decoder) -> bool:
    known = fields_of(kind)
    if path[0] not in known:
        return False
    hint = known[path[0]][1]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
        origin = typing.get_origin(hint)
    node = compose(text) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
    if node.start_mark is None:
        node.start_mark = yaml.Mark("", 0, 0, 0, None, 0)  # an empty variable sets null
    if len(path) == 1:
        values[path[0]] = decoder.value(node, hint)
        return True
    if dataclasses.is_dataclass(hint):
        inner = values.get(path[0])
        inner = inner if isinstance(inner, dict) else {}
        values[path[0]] = inner
        return _override_struct(inner, typing.cast(type, hint), path[1:], text, decoder)
    if origin is dict or hint is Any:
        inner = values.get(path[0])
        inner = inner if isinstance(inner, dict) else {}
        values[path[0]] = inner
        for part in path[1:-1]:
            deeper = inner.get(part)
            inner[part] = deeper if isinstance(deeper, dict) else {}
            inner = inner[part]
        inner[path[-1]] = plain(node)
    return True  # a list is known but cannot be addressed
