"""The few Ruby values that gitlab.rb can hold, and Ruby's own words when they are misused.

Strings, numbers, booleans, nil and arrays are Python's. Hashes come in two kinds, as in the package: a plain hash
literal (`dict`) and a `Mash`, the auto-vivifying hash of settings that copies what is assigned to it.
Source: procedures 4.1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Symbol:
    """`:name`; equal to no string, as in Ruby, until it becomes a key of a Mash."""

    name: str


class RubyError(Exception):
    """What Ruby or the package itself would stop reconfigure with: class and first line."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


class Refused(Exception):
    """A construct beyond the literal subset: named with its line, never guessed."""

    def __init__(self, construct: str, line: int = 0, path: str = "gitlab.rb") -> None:
        where = f"{path}:{line}" if line else path
        super().__init__(f"{where}: not evaluated here: {construct}")
        self.construct = construct
        self.line = line
        self.path = path


class Mash(dict[str, Any]):
    """Settings hash: string keys, values copied in, and an unset key that is read becomes an empty Mash."""

    def read(self, key: str) -> Any:
        """`mash[key]` while gitlab.rb is evaluated: creates what is missing."""
        if key not in self:
            super().__setitem__(key, Mash())
        return super().__getitem__(key)

    def write(self, key: str, value: Any) -> None:
        """`mash[key] = value`: hashes and arrays are copied, a Mash is taken as it is."""
        super().__setitem__(key, to_mash(value))

    def default(self, key: str, value: Any) -> Any:
        """`mash[key] ||= value` after gitlab.rb was evaluated (nothing is created by reading)."""
        if not truthy(self.get(key)):
            self.write(key, value)
        return self.get(key)


def to_mash(value: Any) -> Any:
    """What a Mash stores for a value: copies of plain hashes and arrays, symbols as keys turned into strings."""
    if isinstance(value, Mash):
        return value
    if isinstance(value, dict):
        mash = Mash()
        for key, item in value.items():
            mash.write(key_text(key), item)
        return mash
    if isinstance(value, list):
        return [to_mash(item) for item in value]
    return value


def key_text(key: Any) -> str:
    """A hash key as a Mash or JSON holds it."""
    if isinstance(key, Symbol):
        return key.name
    return key if isinstance(key, str) else to_text(key)


def truthy(value: Any) -> bool:
    """Ruby's truth: only nil and false are not."""
    return value is not None and value is not False


def to_text(value: Any) -> str:
    """`value.to_s`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, dict | list):
        return inspect(value)
    return str(value)


def inspect(value: Any) -> str:
    """`value.inspect`, Ruby 3.1."""
    if value is None:
        return "nil"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Symbol):
        return f":{value.name}"
    if isinstance(value, list):
        return "[" + ", ".join(inspect(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{inspect(key)}=>{inspect(item)}" for key, item in value.items()) + "}"
    return to_text(value)


def class_name(value: Any) -> str:
    """`value.class`."""
    if value is None:
        return "NilClass"
    if isinstance(value, bool):
        return "TrueClass" if value else "FalseClass"
    names = ((Mash, "Gitlab::ConfigMash"), (dict, "Hash"), (list, "Array"), (Symbol, "Symbol"))
    for kind, name in (*names, (str, "String"), (int, "Integer"), (float, "Float")):
        if isinstance(value, kind):
            return name
    raise TypeError(type(value).__name__)


def no_method(name: str, receiver: Any) -> RubyError:
    """NoMethodError in the words of Ruby 3.1."""
    return RubyError("NoMethodError", f"undefined method `{name}' for {inspect(receiver)}:{class_name(receiver)}")


def no_conversion(value: Any, wanted: str) -> RubyError:
    """TypeError of an implicit conversion that Ruby does not do."""
    given = inspect(value) if value is None or isinstance(value, bool) else class_name(value)
    return RubyError("TypeError", f"no implicit conversion of {given} into {wanted}")


def plain(value: Any) -> Any:
    """The value as JSON would hold it: symbols as strings, hashes with string keys."""
    if isinstance(value, dict):
        return {key_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.name if isinstance(value, Symbol) else value


def to_json(value: Any) -> str:
    """`value.to_json`: compact, as the package's templates write it."""
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
