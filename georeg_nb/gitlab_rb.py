"""gitlab.rb: the fenced blocks that georeg owns at the end of the file, and nothing else of it.

gitlab.rb is Ruby and the last assignment of a key wins. Text search cannot tell what is effective, so georeg never
edits what it did not write: it appends one block per concern, replaces or removes exactly that block, and reads
effective values from what GitLab rendered. All functions here are pure: text in, text out. Source: procedures 4.1,
4.2, 4.3.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from georeg_nb import redaction
from georeg_nb.errors import PrerequisiteError

PATH = "/etc/gitlab/gitlab.rb"
_CONCERN = r"[a-z][a-z0-9-]*"
_OPEN = re.compile(rf"# >>> georeg: ({_CONCERN})\b.*")
_CLOSE = re.compile(rf"# <<< georeg: ({_CONCERN})\s*")
_ANY_FENCE = re.compile(r"# (>>>|<<<) georeg:")
_NOTE = "(written by georeg; change it through its runbook)"

RubyValue = None | bool | int | float | str | Sequence["RubyValue"] | Mapping[str, "RubyValue"]


class FencesBroken(PrerequisiteError):
    """georeg's fences in gitlab.rb were edited by hand: what belongs to georeg can no longer be told."""

    def __init__(self, problem: str, line: int) -> None:
        self.line = line
        super().__init__(
            f"{PATH}, line {line}: {problem}",
            remedy="restore the lines '# >>> georeg: …' and '# <<< georeg: …' around each block, or remove the block",
        )


@dataclass(frozen=True)
class _Block:
    concern: str
    body: str
    start: int  # index of the opening fence's line
    end: int  # index of the closing fence's line


def _scan(text: str) -> list[_Block]:
    found: list[_Block] = []
    concern, start = "", -1
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if not _ANY_FENCE.match(line):
            continue
        opening, closing = _OPEN.fullmatch(line), _CLOSE.fullmatch(line)
        if opening and concern:
            raise FencesBroken(f"block '{opening[1]}' begins inside block '{concern}'", index + 1)
        if opening and any(block.concern == opening[1] for block in found):
            raise FencesBroken(f"block '{opening[1]}' is there twice", index + 1)
        if opening:
            concern, start = opening[1], index
        elif closing and closing[1] == concern:
            found.append(_Block(concern, "\n".join(lines[start + 1 : index]), start, index))
            concern = ""
        else:
            raise FencesBroken("a fence of georeg's that closes no block", index + 1)
    if concern:
        raise FencesBroken(f"block '{concern}' has no end", start + 1)
    return found


def blocks(text: str) -> dict[str, str]:
    """Concern → settings of each block of georeg's, in file order. Raises FencesBroken when fences were edited."""
    return {block.concern: block.body for block in _scan(text)}


def put(text: str, concern: str, body: str) -> str:
    """The file with this concern's block holding `body`, at the end, where its assignments win.

    A block that is there with the same body and has nothing but blocks of georeg's after it is left as it is.
    """
    if not re.fullmatch(_CONCERN, concern):
        raise ValueError(f"{concern!r} is no name for a block")
    if _ANY_FENCE.search(body):
        raise ValueError("a block cannot hold a fence")
    body = body.strip("\n")
    if blocks(text).get(concern) == body and _is_effective(text, concern):
        return text
    rest = remove(text, concern)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    return f"{rest}\n# >>> georeg: {concern} {_NOTE}\n{body}\n# <<< georeg: {concern}\n"


def remove(text: str, concern: str) -> str:
    """The file without this concern's block (and without the blank line that `put` set before it)."""
    for block in _scan(text):
        if block.concern == concern:
            lines = text.splitlines(keepends=True)
            start = block.start
            if start and not lines[start - 1].strip():
                start -= 1
            return "".join(lines[:start] + lines[block.end + 1 :])
    return text


def _is_effective(text: str, concern: str) -> bool:
    """Whether nothing but georeg's blocks, comments and blank lines follow the block."""
    found = _scan(text)
    last = next(block.end for block in found if block.concern == concern)
    inside = {line for block in found for line in range(block.start, block.end + 1)}
    after = list(enumerate(text.splitlines()))[last + 1 :]
    return all(index in inside or not line.strip() or line.lstrip().startswith("#") for index, line in after)


def edit(text: str, changes: Mapping[str, str | None]) -> str:
    """The file with several blocks put (a body) or removed (None)."""
    for concern, body in changes.items():
        text = remove(text, concern) if body is None else put(text, concern, body)
    return text


def diff(before: str, after: str, *, where: str = PATH, context: int = 1) -> str:
    """Unified diff of two versions of the file, with secrets masked. Empty when they are equal."""
    redaction.register_from_gitlab_rb(before)
    redaction.register_from_gitlab_rb(after)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{where} (now)", f"{where} (then)", n=context, lineterm=""
    )
    return redaction.redact("\n".join(lines))


def ruby(value: RubyValue, *, indent: int = 0) -> str:
    """A Ruby literal. Strings are single-quoted wherever that can express them, so that nothing in them is
    interpolated.

    Raises ValueError for what has no unambiguous literal (NaN, infinity, keys that are no strings, NUL).
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{value} has no Ruby literal")
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        return _hash(value, indent)
    return "[" + ", ".join(ruby(item, indent=indent) for item in value) + "]"


def _string(value: str) -> str:
    if "\0" in value:
        raise ValueError("a string with NUL cannot be a setting")
    if all(character.isprintable() for character in value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    escaped = "".join(_ESCAPES.get(c) or (c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in value)
    return f'"{escaped}"'


# Inside double quotes Ruby interpolates #{…}, #$… and #@…, so '#' is always escaped.
_ESCAPES = {"\\": "\\\\", '"': '\\"', "#": "\\#", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _hash(value: Mapping[str, RubyValue], indent: int) -> str:
    if not all(isinstance(key, str) for key in value):
        raise ValueError("the keys of a setting are strings")
    if not value:
        return "{}"
    pad = " " * (indent + 2)
    items = [f"{pad}{_string(key)} => {ruby(item, indent=indent + 2)}" for key, item in value.items()]
    return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"


def assignment(group: str, keys: Sequence[str], value: RubyValue) -> str:
    """`group['key']['key'] = literal`. One key assigns the whole value; a deeper one keeps what is beside it. Source:
    procedures 4.2.
    """
    if not re.fullmatch(r"[a-z_]+", group) or not keys:
        raise ValueError(f"{group!r} and {keys!r} name no setting")
    return group + "".join(f"[{_string(key)}]" for key in keys) + f" = {ruby(value)}"


def external_database(
    *, enabled: bool, host: str, port: int, user: str, password: str, dbname: str, sslmode: str, sslrootcert: str | None
) -> str:
    """The complete hash of an external metadata database.

    Always the whole hash: `registry['database'] = { 'enabled' => true }` would lose host, user and password, and
    `enabled` is a real boolean, because releases 18.3 to 18.6 take the string "false" for true. Source: procedures
    4.2, 3.2.
    """
    value: dict[str, RubyValue] = {
        "enabled": enabled,
        "host": host,
        "port": port,
        "user": user,
        "password": password,
        "dbname": dbname,
        "sslmode": sslmode,
    }
    if sslrootcert:
        value["sslrootcert"] = sslrootcert
    return assignment("registry", ["database"], value)


# keys of config.yml's `storage` that are no storage driver
NOT_DRIVERS = frozenset({"cache", "delete", "maintenance", "redirect"})


def read_only(storage: Mapping[str, RubyValue]) -> str:
    """The settings that make a registry refuse pushes, given the `storage` section of its rendered config.yml.

    With `registry['storage']` unset the package adds its default driver, the filesystem, only as long as that hash does
    not exist: assigning `maintenance` alone would leave a registry without any driver. So a filesystem driver is
    written again exactly as it was rendered, which changes nothing where it was set; any other driver can only have
    been set. Both as deep keys, so that what is beside them (upload purging, cache, delete) stays. Source: procedures
    4.3.
    """
    drivers = {name: value for name, value in storage.items() if name not in NOT_DRIVERS}
    if len(drivers) != 1:
        raise ValueError(f"expected one storage driver, found {', '.join(sorted(drivers)) or 'none'}")
    lines = [assignment("registry", ["storage", name], drivers[name]) for name in drivers if name == "filesystem"]
    return "\n".join([*lines, assignment("registry", ["storage", "maintenance", "readonly"], {"enabled": True})])
