"""Ruby literals and operators: from syntax nodes to values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tree_sitter import Node

from georeg_lab.omnibus.ruby_syntax import line_of
from georeg_lab.omnibus.ruby_values import Refused, Symbol, no_conversion, no_method, to_text

_TYPES = """
hash array string string_array symbol_array chained_string simple_symbol delimited_symbol integer float true false nil
"""
TYPES = frozenset(_TYPES.split())
ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "s": " ", "0": "\0", "e": "\x1b", "a": "\a", "b": "\b", "f": "\f", "v": "\v"
}  # fmt: skip
SELF_QUOTING = ("'", "%q")


def literal(node: Node, evaluate: Callable[[Node], Any], path: str) -> Any:
    """The value of a literal; `evaluate` gives the values inside it. Raises Refused."""
    kind = node.type
    text = (node.text or b"").decode()
    if kind in ("true", "false", "nil"):
        return {"true": True, "false": False, "nil": None}[kind]
    if kind == "integer":
        return _integer(text, node, path)
    if kind == "float":
        return float(text.replace("_", ""))
    if kind == "simple_symbol":
        return Symbol(text[1:])
    if kind == "delimited_symbol":
        return Symbol(_string(node, evaluate, path))
    if kind == "string":
        return _string(node, evaluate, path)
    if kind == "chained_string":
        return "".join(_string(child, evaluate, path) for child in node.named_children)
    if kind in ("string_array", "symbol_array"):
        words = [_string(child, evaluate, path, raw=not text[1].isupper()) for child in node.named_children]
        return words if kind == "string_array" else [Symbol(word) for word in words]
    if kind == "array":
        return [_element(child, evaluate, path) for child in node.named_children if child.type != "comment"]
    return _hash(node, evaluate, path)


def _element(node: Node, evaluate: Callable[[Node], Any], path: str) -> Any:
    if node.type in ("splat_argument", "pair"):
        raise Refused(f"{node.type.replace('_', ' ')} in an array", line_of(node), path)
    return evaluate(node)


def _integer(text: str, node: Node, path: str) -> int:
    try:
        digits = text.replace("_", "")
        octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
        return int(digits, 8) if octal else int(digits.lower().replace("0d", ""), 0)
    except ValueError:
        raise Refused(f"number `{text}`", line_of(node), path) from None


def _hash(node: Node, evaluate: Callable[[Node], Any], path: str) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in node.named_children:
        if pair.type == "comment":
            continue
        if pair.type != "pair":
            raise Refused(f"{pair.type.replace('_', ' ')} in a hash", line_of(pair), path)
        key, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
        if key is None or value is None:
            raise Refused("hash entry without a value", line_of(pair), path)
        if key.type == "hash_key_symbol":
            name: Any = Symbol((key.text or b"").decode())
        else:
            name = evaluate(key)
            if any(child.type == ":" for child in pair.children):  # "key": value
                name = Symbol(to_text(name))
        if isinstance(name, list | dict):
            raise Refused("hash key that is no string or symbol", line_of(pair), path)
        result[name] = evaluate(value)
    return result


def _string(node: Node, evaluate: Callable[[Node], Any], path: str, *, raw: bool | None = None) -> str:
    opening = (node.children[0].text or b"").decode() if node.children else ""
    if raw is None:
        raw = opening.startswith(SELF_QUOTING) or opening == ":'"
    parts: list[str] = []
    for child in node.named_children:
        text = (child.text or b"").decode()
        if raw:
            parts.append(text.replace("\\\\", "\0").replace("\\'", "'").replace("\0", "\\"))
        elif child.type == "escape_sequence":
            parts.append(_escape(text, child, path))
        elif child.type == "interpolation":
            parts.append("".join(to_text(evaluate(inner)) for inner in child.named_children))
        else:
            parts.append(text)
    return "".join(parts)


def _escape(text: str, node: Node, path: str) -> str:
    code = text[1:]
    if code in ESCAPES:
        return ESCAPES[code]
    try:
        if code[0] == "u":
            return "".join(chr(int(number, 16)) for number in code[1:].strip("{}").split())
        if code[0] == "x" and int(code[1:], 16) < 128:
            return chr(int(code[1:], 16))
    except ValueError:
        pass
    if len(code) == 1 and not code.isalnum():
        return "" if code == "\n" else code
    raise Refused("escape in a string", line_of(node), path)


def operator(sign: str, left: Any, right: Any) -> Any:
    """`left sign right` for the operators of the subset. Raises RubyError as Ruby would, or Refused."""
    if sign in ("==", "!="):
        same = left == right and isinstance(left, bool) == isinstance(right, bool)
        return same is (sign == "==")
    number = _is_number(left) and _is_number(right)
    if sign in ("<", ">", "<=", ">=") and number:
        return {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}[sign]
    if sign in ("+", "<<") and (left is None or isinstance(left, bool | dict)):
        raise no_method(sign, left)
    if sign == "<<" and isinstance(left, list):
        left.append(right)
        return left
    if sign == "+" and isinstance(left, list):
        if not isinstance(right, list):
            raise no_conversion(right, "Array")
        return left + right
    if sign == "+" and isinstance(left, str):
        if not isinstance(right, str):
            raise no_conversion(right, "String")
        return left + right
    if sign == "+" and number:
        return left + right
    raise Refused(f"operator `{sign}`")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
