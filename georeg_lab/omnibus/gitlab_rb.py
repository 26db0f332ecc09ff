"""Evaluates gitlab.rb: its literal subset exactly as Ruby would, and everything else refused by name.

What is done: assignments to nested keys and local variables, literals (hashes, arrays, strings, symbols, numbers,
booleans, nil, %w), settings called as methods (`roles([...])`, `external_url '...'`), `from_file`, `||=`, `&&=`, `+=`,
`<<`, `+`, comparisons, `if`/`unless` with conditions made of these, `ENV[…]`, `Time.now.year`.
Source: procedures 4.1 to 4.3.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tree_sitter import Node

from georeg_lab.omnibus import ruby_literals
from georeg_lab.omnibus.ruby_literals import operator
from georeg_lab.omnibus.ruby_syntax import RubySyntaxError, line_of, parse
from georeg_lab.omnibus.ruby_values import (
    Mash,
    Refused,
    RubyError,
    inspect,
    key_text,
    no_conversion,
    no_method,
    truthy,
)

_ROLES = """
application sidekiq postgres patroni redis_sentinel redis_master redis_replica geo_primary geo_secondary monitoring
pgbouncer consul pages spamcheck gitaly
"""
_PLAIN_SETTINGS = """
roles edition external_url registry_external_url mattermost_external_url pages_external_url gitlab_kas_external_url
runtime_dir git_data_dir
"""
_SECTIONS = """
package registry redis postgresql gitlab_kas gitlab_pages pgbouncer repmgr repmgrd consul spamcheck patroni gitaly
praefect mattermost letsencrypt crond logrotate prometheus alertmanager node_exporter redis_exporter
postgres_exporter pgbouncer_exporter gitlab_exporter geo_postgresql geo_secondary geo_logcursor sentinel
suggested_reviewers gitlab_sshd gitlab_shell gitlab_rails gitlab_workhorse logging unicorn puma mailroom
storage_check nginx git_data_dirs actioncable bootstrap manage_accounts manage_storage_directories user gitlab_ci
sidekiq mattermost_nginx pages_nginx registry_nginx gitlab_kas_nginx remote_syslog high_availability web_server
prometheus_monitoring gitlab_backup_cli
"""
ROLES = tuple(_ROLES.split())
PLAIN_SETTINGS = frozenset(_PLAIN_SETTINGS.split())
SECTIONS = frozenset(_SECTIONS.split()) | {f"{role}_role" for role in ROLES}
KERNEL_METHODS = frozenset(("puts", "p", "print", "require", "require_relative", "raise", "system", "sleep"))

REFUSED_STATEMENTS = {
    "method": "method definition",
    "class": "class definition",
    "module": "module definition",
    "while": "loop",
    "until": "loop",
    "for": "loop",
    "case": "case",
    "begin": "begin block",
    "heredoc_beginning": "heredoc",
    "heredoc_body": "heredoc",
    "lambda": "lambda",
    "regex": "regular expression",
    "subshell": "shell command",
    "rescue_modifier": "rescue",
    "range": "range",
    "instance_variable": "instance variable",
    "global_variable": "global variable",
    "class_variable": "class variable",
}


@dataclass
class Settings:
    """What gitlab.rb left behind: `top` maps every top-level name to its value (sections are Mashes)."""

    top: dict[str, Any] = field(default_factory=lambda: {name: Mash() for name in SECTIONS})
    lines: dict[str, int] = field(default_factory=dict)  # last line on which a top-level setting was called

    def section(self, name: str) -> Mash:
        """A section such as `registry`."""
        section = self.top[name]
        assert isinstance(section, Mash)
        return section


def evaluate(
    source: bytes,
    path: str = "/etc/gitlab/gitlab.rb",
    read: Callable[[str], bytes] | None = None,
) -> Settings:
    """Evaluate the file's text. `read` gives the bytes of a file that `from_file` names.

    Raises RubyError (what stops the real reconfigure) or Refused (what is beyond the subset).
    """
    evaluation = _Evaluation(Settings(), path, read)
    evaluation.run(source)
    return evaluation.settings


class _Evaluation:
    def __init__(self, settings: Settings, path: str, read: Callable[[str], bytes] | None) -> None:
        self.settings = settings
        self.path = path
        self.read = read
        self.variables: dict[str, Any] = {}

    def run(self, source: bytes) -> None:
        try:
            root = parse(source)
        except RubySyntaxError as error:
            raise RubyError("SyntaxError", f"{self.path}:{error.line}: {error.message}") from None
        self.body(root)

    def refuse(self, construct: str, node: Node) -> Refused:
        return Refused(construct, line_of(node), self.path)

    def body(self, node: Node | None) -> Any:
        value = None
        for child in node.named_children if node is not None else []:
            if child.type not in ("comment", "uninterpreted", "empty_statement"):
                value = self.value(child)
        return value

    # -- statements and expressions: `_<node type>` ------------------------------------------------------------------

    def value(self, node: Node) -> Any:
        handler = getattr(self, f"_{node.type}", None)
        if handler is not None:
            return handler(node)
        if node.type in REFUSED_STATEMENTS:
            raise self.refuse(REFUSED_STATEMENTS[node.type], node)
        if node.type in ruby_literals.TYPES:
            return ruby_literals.literal(node, self.value, self.path)
        raise self.refuse(f"`{_snippet(node)}` ({node.type.replace('_', ' ')})", node)

    def _comment(self, node: Node) -> None:
        return None

    def _parenthesized_statements(self, node: Node) -> Any:
        return self.body(node)

    _then = _else = _parenthesized_statements

    def _identifier(self, node: Node) -> Any:
        name = _text(node)
        if name in self.variables:
            return self.variables[name]
        return self.call(name, [], node)

    def _constant(self, node: Node) -> Any:
        if _text(node) == "ENV":
            return dict(os.environ)
        raise self.refuse(f"constant `{_text(node)}`", node)

    def _call(self, node: Node) -> Any:
        receiver = node.child_by_field_name("receiver")
        method = _text(node.child_by_field_name("method"))
        if node.child_by_field_name("block") is not None:
            raise self.refuse(f"block of `{method}`", node)
        if receiver is not None and "".join(_text(node).split()) == "Time.now.year":
            return datetime.now().year
        if receiver is not None:
            raise self.refuse(f"method call `{_snippet(node)}`", node)
        arguments = node.child_by_field_name("arguments")
        values = [self.argument(child) for child in arguments.named_children] if arguments is not None else []
        return self.call(method, values, node)

    def argument(self, node: Node) -> Any:
        if node.type in ("pair", "splat_argument", "block_argument", "hash_splat_argument"):
            raise self.refuse(f"argument `{_snippet(node)}`", node)
        return self.value(node)

    def call(self, name: str, arguments: list[Any], node: Node) -> Any:
        """A name without receiver: a setting read (no argument) or set, or `from_file`."""
        if name == "from_file" and len(arguments) == 1 and isinstance(arguments[0], str):
            return self.from_file(arguments[0], node)
        if name not in PLAIN_SETTINGS and name not in SECTIONS:
            if (
                arguments
                and node.type == "call"
                and name in ("puts", "p", "print", "require", "require_relative", "raise")
            ):
                raise self.refuse(f"method call `{name}`", node)
            what = "Cannot set" if arguments else "Reading"
            error = f"{what} unsupported config value {name}."
            raise RubyError("Mixlib::Config::UnknownConfigOptionError", error)
        if not arguments:
            return self.settings.top.get(name)
        if name in SECTIONS:
            raise self.refuse(f"whole section `{name}` set by a call", node)
        self.settings.top[name] = arguments[0] if len(arguments) == 1 else arguments
        self.settings.lines[name] = line_of(node)
        return self.settings.top[name]

    def from_file(self, path: str, node: Node) -> None:
        if self.read is None:
            raise self.refuse(f"from_file '{path}'", node)
        try:
            source = self.read(path)
        except OSError:
            raise RubyError("IOError", f"Cannot open or read {path}!") from None
        _Evaluation(self.settings, path, self.read).run(source)

    def _element_reference(self, node: Node) -> Any:
        target, key = self.element(node)
        return self.fetch(target, key, node)

    def element(self, node: Node) -> tuple[Any, Any]:
        """Receiver and key of `a[b]`."""
        parts = [child for child in node.named_children if child.type != "comment"]
        if len(parts) != 2:
            raise self.refuse(f"`{_snippet(node)}`", node)
        return self.value(parts[0]), self.argument(parts[1])

    def fetch(self, target: Any, key: Any, node: Node) -> Any:
        if isinstance(target, Mash):
            return target.read(key_text(key))
        if isinstance(target, dict):
            return target.get(key)
        if isinstance(target, list):
            if not isinstance(key, int):
                raise no_conversion(key, "Integer")
            return target[key] if _is_index(target, key) else None
        if target is None or isinstance(target, bool):
            raise no_method("[]", target)
        raise self.refuse(f"`{_snippet(node)}` on {inspect(target)[:30]}", node)

    def store(self, target: Any, key: Any, value: Any, node: Node) -> None:
        if isinstance(target, Mash):
            target.write(key_text(key), value)
        elif isinstance(target, dict) or (isinstance(target, list) and _is_index(target, key)):
            target[key] = value
        elif target is None or isinstance(target, bool):
            raise no_method("[]=", target)
        else:
            raise self.refuse(f"assignment to `{_snippet(node)}`", node)

    def _assignment(self, node: Node) -> Any:
        left, right = _field(node, "left"), _field(node, "right")
        if left.type == "identifier":
            value = self.variables[_text(left)] = self.value(right)
            return value
        if left.type != "element_reference":
            raise self.refuse(f"assignment to `{_snippet(left)}`", node)
        target, key = self.element(left)
        value = self.value(right)
        self.store(target, key, value, left)
        return value

    def _operator_assignment(self, node: Node) -> Any:
        left, right = _field(node, "left"), _field(node, "right")
        sign = _text(node.child_by_field_name("operator"))
        if sign not in ("||=", "&&=", "+="):
            raise self.refuse(f"operator `{sign}`", node)
        if left.type == "identifier":
            old = self.variables.get(_text(left))
        elif left.type == "element_reference":
            target, key = self.element(left)
            old = self.fetch(target, key, left)
        else:
            raise self.refuse(f"assignment to `{_snippet(left)}`", node)
        if sign != "+=" and truthy(old) == (sign == "||="):
            return old
        value = self.value(right)
        if sign == "+=":
            value = self.operate("+", old, value, node)
        if left.type == "identifier":
            self.variables[_text(left)] = value
        else:
            self.store(target, key, value, left)
        return value

    def _binary(self, node: Node) -> Any:
        left, right = _field(node, "left"), _field(node, "right")
        sign = _text(node.child_by_field_name("operator"))
        first = self.value(left)
        if sign in ("&&", "and"):
            return self.value(right) if truthy(first) else first
        if sign in ("||", "or"):
            return first if truthy(first) else self.value(right)
        return self.operate(sign, first, self.value(right), node)

    def operate(self, sign: str, left: Any, right: Any, node: Node) -> Any:
        try:
            return operator(sign, left, right)
        except Refused as refused:
            raise self.refuse(refused.construct, node) from None

    def _unary(self, node: Node) -> Any:
        sign = _text(node.child_by_field_name("operator"))
        value = self.value(_field(node, "operand"))
        if sign in ("!", "not"):
            return not truthy(value)
        if sign in ("-", "+") and isinstance(value, int | float) and not isinstance(value, bool):
            return -value if sign == "-" else value
        raise self.refuse(f"`{_snippet(node)}`", node)

    def condition(self, node: Node) -> bool:
        return truthy(self.value(_field(node, "condition")))

    def _if(self, node: Node) -> Any:
        wanted = node.type not in ("unless", "unless_modifier")
        chosen = "consequence" if self.condition(node) is wanted else "alternative"
        branch = node.child_by_field_name(chosen)
        return self.value(branch) if branch is not None else None

    _unless = _elsif = _conditional = _if

    def _if_modifier(self, node: Node) -> Any:
        return self.value(_field(node, "body")) if self.condition(node) is (node.type == "if_modifier") else None

    _unless_modifier = _if_modifier


def _is_index(values: list[Any], key: Any) -> bool:
    return isinstance(key, int) and -len(values) <= key < len(values)


def _field(node: Node, name: str) -> Node:
    child = node.child_by_field_name(name)
    assert child is not None
    return child


def _text(node: Node | None) -> str:
    return (node.text or b"").decode(errors="replace") if node is not None else ""


def _snippet(node: Node) -> str:
    """What is refused, short, and without a string's text: that may be a secret."""
    pieces = []
    for child in node.children:
        if child.type in ("identifier", "constant", "integer", ".", "[", "]", "&."):
            pieces.append(_text(child))
        elif child.type in ("call", "element_reference"):
            pieces.append(_snippet(child))
    return "".join(pieces)[:60] or node.type.replace("_", " ")
