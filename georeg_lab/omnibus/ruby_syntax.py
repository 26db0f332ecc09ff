"""Parses Ruby with tree-sitter and words syntax errors roughly as Ruby does."""

from __future__ import annotations

import functools

from tree_sitter import Language, Node, Parser

_RESERVED = """
alias and begin break case class def do else elsif end ensure for if in module next not or redo rescue retry return
super then undef unless until when while yield
"""
RESERVED = frozenset(_RESERVED.split())


class RubySyntaxError(Exception):
    """The text is no Ruby: `line` and `message` (without the file's name)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"{line}: {message}")
        self.line = line
        self.message = message


@functools.cache
def _parser() -> Parser:
    import tree_sitter_ruby

    return Parser(Language(tree_sitter_ruby.language()))


def parse(source: bytes) -> Node:
    """The syntax tree's root. Raises RubySyntaxError: a tree with any error in it is never used (dependencies 4)."""
    root = _parser().parse(source).root_node
    if root.has_error:
        raise _describe(_first_error(root) or root, source)
    stray = _stray_keyword(root)
    if stray is not None:
        raise RubySyntaxError(line_of(stray), f"syntax error, unexpected `{_text(stray)}'")
    return root


def line_of(node: Node) -> int:
    """1-based line on which a node starts."""
    return node.start_point[0] + 1


def _first_error(node: Node) -> Node | None:
    if node.is_error or node.is_missing:
        return node
    for child in node.children:
        if child.has_error or child.is_error or child.is_missing:
            found = _first_error(child)
            if found is not None:
                return found
    return None


def _stray_keyword(node: Node) -> Node | None:
    """tree-sitter takes a lone `end` for a variable; Ruby does not."""
    if node.type == "identifier" and _text(node) in RESERVED:
        return node
    for child in node.named_children:
        found = _stray_keyword(child)
        if found is not None:
            return found
    return None


def _describe(node: Node, source: bytes) -> RubySyntaxError:
    rest = source[node.start_byte :].strip()
    if node.is_missing:
        wanted = f"`{node.type}'" if node.type == "end" else f"'{node.type}'"
        wanted = wanted if not node.is_named else "an expression"
        unexpected = "end-of-input" if not rest else f"'{chr(rest[0])}'"
        return RubySyntaxError(line_of(node), f"syntax error, unexpected {unexpected}, expecting {wanted}")
    if not rest or node.end_byte >= len(source.rstrip()):
        opened = _unclosed(source[node.start_byte :])
        last = source.rstrip().count(b"\n") + 1
        expecting = f", expecting '{opened}'" if opened else ""
        return RubySyntaxError(last, f"syntax error, unexpected end-of-input{expecting}")
    word = rest.split(None, 1)[0].decode(errors="replace")[:20]
    return RubySyntaxError(line_of(node), f"syntax error, unexpected '{word}'")


def _unclosed(text: bytes) -> str:
    closing = {ord("{"): "}", ord("["): "]", ord("("): ")"}
    stack: list[str] = []
    for byte in text:
        if byte in closing:
            stack.append(closing[byte])
        elif stack and chr(byte) == stack[-1]:
            stack.pop()
    return stack[-1] if stack else ""


def _text(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")
