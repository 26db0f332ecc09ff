"""Secrets never leave: every text that is shown or written passes through here.

A secret is registered once, where it is resolved or read, and from then on masked in every form that it takes on its
way into logs, JSON, URLs, shell commands and base64. `install_in_kernel` puts the same mask over everything that a
notebook's kernel sends, so that outputs are clean by hand, under papermill and under the runner alike, before they
reach a disk or a browser.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import threading
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import yaml

SHORTEST = 4
"""Shorter values are not masked: they occur by chance in any text."""

MASKED = ("[secret", "masked-secret-")
"""How masks begin: those of outputs, and those of captured files, which stay valid YAML, Ruby and URLs."""

_SHORTEST_FRAGMENT = 6
_SHORTEST_LINE = 16

# Weak secrets that are the product's own vocabulary. They stand in every output anyhow: masking them would hide nothing
# and make the output unreadable.
_EVERYDAY_WORDS = frozenset(
    """
    default disable disabled enable enabled false geo git gitlab gitlab_geo gitlabhq_production host json localhost
    metadata name none null port postgres postgresql prefer primary registry require root secondary true user username
    verify-ca verify-full
    """.split()  # noqa: SIM905 - a text is easier to read and to extend
)

_SECRET_KEY = re.compile(r"(?i)(pass(word|wd|phrase)?|secret|token|authorization|credential|salt|key_?base)s?$")
_KEY_KEY = re.compile(
    r"(?i)((^|_|-)|secret|access|account|api|private)keys?$"
)  # the value may be a file's name instead
_PUBLIC_KEY = re.compile(r"(?i)public_?key$")

_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@'\"]*:([^/\s@'\"]+)@", re.IGNORECASE)
_CONNINFO_PASSWORD = re.compile(r"(?:^|[\s'\"])password\s*=\s*(?:'((?:\\.|[^'\\])+)'|([^\s'\";]+))")

_lock = threading.RLock()
_labels: dict[str, str] = {}
_forms: list[tuple[str, str]] = []  # (form, label), longest first


def register(value: str, label: str) -> bool:
    """Mask `value` from now on; `label` is shown in its place. False when it is too short or an everyday word."""
    value = value.strip("\n")
    if len(value) < SHORTEST or value.lower() in _EVERYDAY_WORDS or value.startswith(MASKED):
        return False  # the last: a text that is masked already
    with _lock:
        if value in _labels:
            return True
        _labels[value] = label
        known = {form for form, _ in _forms}
        _forms.extend((form, label) for form in _all_forms(value) if form not in known)
        _forms.sort(key=lambda pair: (-len(pair[0]), pair[0]))
    return True


def forget_all() -> None:
    """Drop every registered secret. For tests: what one registers must not mask what another expects."""
    with _lock:
        _labels.clear()
        _forms.clear()


def redact(text: str) -> str:
    """`text` with every registered secret, in any of its forms, replaced by `[secret: label]`."""
    with _lock:
        forms = list(_forms)
    masks: list[str] = []
    for form, label in forms:
        if form in text:
            # A private character holds the place until all are found, so that a mask is never searched itself.
            text = text.replace(form, chr(0xF0000 + len(masks)))
            masks.append(f"[secret: {label}]")
    for number, mask in enumerate(masks):
        text = text.replace(chr(0xF0000 + number), mask)
    return text


def redact_object(value: Any) -> Any:
    """The same for anything JSON-like: strings, keys, lists, tuples, mappings, bytes. Other values pass unchanged."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_object(key): redact_object(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_object(item) for item in value]
    if isinstance(value, tuple):
        return tuple(redact_object(item) for item in value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _redact_bytes(bytes(value)) if any(True for _ in _found(bytes(value).decode("latin-1"))) else value
    return value


def dump_json(data: Any, *, indent: int | None = None) -> str:
    """`data` as JSON text without secrets. Large data are searched once as text, which is far quicker."""
    text = json.dumps(data, ensure_ascii=False, default=str, indent=indent)
    if not find_secrets(text):
        return text
    # Masked in the data first: there a secret with quotes in it is whole.
    return redact(json.dumps(redact_object(data), ensure_ascii=False, default=str, indent=indent))


def find_secrets(text: str) -> list[str]:
    """The labels of the registered secrets that occur in `text` in any form, sorted."""
    return sorted(set(_found(text)))


def register_from_gitlab_rb(text: str) -> None:
    """Register what stands in a gitlab.rb under keys that name secrets, in URLs, and in Authorization headers."""
    for key, value in _ruby_pairs(text):
        if _is_secret(key, value):
            register(value, key)
    _register_embedded(text)


def register_from_yaml(text: str) -> None:
    """Register every string under a key that names a secret, and passwords in URLs. JSON is YAML too.

    Text that is no YAML is searched for passwords in URLs only.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        document = None
    register_from_object(document)
    _register_embedded(text)


def register_from_object(value: Any) -> None:
    """The same for an object that is already parsed."""
    for key, item in _walk("", value):
        if _is_secret(key, item):
            register(item, key)
        _register_embedded(item)


def install_in_kernel() -> bool:
    """Mask everything that this process's kernel sends: streams, results, displays, errors, widget messages.

    Safe to call again. False when this is no kernel (plain Python, IPython in a terminal).
    """
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    session = getattr(getattr(shell, "kernel", None), "session", None)
    if session is None:
        return False
    if getattr(session, "georeg_redacts", False):
        return True
    send = session.send

    def redacting_send(stream: Any, msg_or_type: Any, *args: Any, **kwargs: Any) -> Any:
        # Positional order of jupyter_client's Session.send: content, parent, ident, buffers, track, header, metadata.
        arguments = list(args)
        for position in (0, 3, 6):
            if position < len(arguments):
                arguments[position] = redact_object(arguments[position])
        for name in ("content", "buffers", "metadata"):
            if name in kwargs:
                kwargs[name] = redact_object(kwargs[name])
        if isinstance(msg_or_type, dict):
            parts = {"content", "metadata", "buffers"}
            msg_or_type = {key: redact_object(part) if key in parts else part for key, part in msg_or_type.items()}
        return send(stream, msg_or_type, *arguments, **kwargs)

    session.send = redacting_send
    session.georeg_redacts = True
    return True


def _is_secret(key: str, value: str) -> bool:
    if _SECRET_KEY.search(key):
        return True
    return bool(_KEY_KEY.search(key)) and not _PUBLIC_KEY.search(key) and not value.startswith("/")


def _register_embedded(text: str) -> None:
    for match in _URL_PASSWORD.finditer(text):
        register(match[1], "password in a URL")
    for match in _CONNINFO_PASSWORD.finditer(text):
        register(match[1] or match[2], "password in a connection string")


def _walk(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(str(name), item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(key, item)
    elif isinstance(value, str):
        yield key, value
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, str(value)


_RUBY_STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_RUBY_PAIR = re.compile(
    # ['key'] = …   'key' => …   :key => …   key: …     followed by one string or an array of strings
    rf"(?:\[\s*['\":](?P<index>[\w.-]+)['\"]?\s*\]\s*(?:\|\|)?=(?![=~])"
    rf"|['\":](?P<rocket>[\w.-]+)['\"]?\s*=>"
    rf"|(?P<colon>\b\w+):(?!:))"
    rf"\s*(?P<value>{_RUBY_STRING}|\[(?:\s*(?:{_RUBY_STRING})\s*,?)*\s*\]|%w\[[^\]]*\])"
)


def _ruby_pairs(text: str) -> Iterator[tuple[str, str]]:
    for match in _RUBY_PAIR.finditer(text):
        key = match["index"] or match["rocket"] or match["colon"]
        value = match["value"]
        if value.startswith("%w"):
            yield from ((key, word) for word in value[3:-1].split())
            continue
        for literal in re.findall(_RUBY_STRING, value):
            inner = literal[1:-1]
            yield key, inner  # as written in the file
            yield key, re.sub(r"\\(.)", r"\1", inner)  # as GitLab reads it


def _all_forms(value: str) -> Iterable[str]:
    forms = set(_text_forms(value))
    forms.update(_base64_forms(value.encode()))
    lines = value.splitlines()
    if len(lines) > 1:  # a key in PEM is often indented or quoted line by line
        for line in lines:
            if len(line.strip()) >= _SHORTEST_LINE and not line.startswith("-----"):
                forms.update(_text_forms(line.strip()))
    return {form for form in forms if len(form) >= SHORTEST}


def _text_forms(value: str) -> Iterator[str]:
    yield value
    for quoted in (quote(value, safe=""), quote(value), quote_plus(value), quote(value, safe="!$&'()*+,;=:~")):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    escaped = json.dumps(value)[1:-1]
    plain = json.dumps(value, ensure_ascii=False)[1:-1]
    for form in (escaped, plain, escaped.replace("/", "\\/"), _go_json(escaped), _go_json(plain)):
        yield form
        yield json.dumps(form)[1:-1]  # JSON inside JSON: log lines, kernel messages
    yield repr(value)[1:-1]
    yield ascii(value)[1:-1]
    yield repr(value.encode())[2:-1]
    yield value.replace("'", "'\"'\"'")  # inside a shell's quotes
    yield shlex.quote(value).strip("'")
    yield value.replace("'", "\\'")  # inside Ruby's and SQL's quotes
    yield value.replace("'", "''")
    yield value.replace("\\", "\\\\").replace('"', '\\"').replace("#{", "\\#{")
    yield html.escape(value)
    yield html.escape(value, quote=False)
    yield html.escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def _go_json(text: str) -> str:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64_forms(data: bytes) -> Iterator[str]:
    """Base64 of the value alone, and the part of it that is the same at each of the three alignments in longer data."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        yield whole
        yield whole.rstrip("=")
        for shift in range(3):
            text = encode(b"\0" * shift + data).decode().rstrip("=")
            start = -(-shift * 8 // 6)  # characters that hold bits of what stands before
            end = (shift + len(data)) * 8 // 6  # characters that hold only bits of the value
            fragment = text[start:end]
            if len(fragment) >= _SHORTEST_FRAGMENT:
                yield fragment


def _found(text: str) -> Iterator[str]:
    with _lock:
        forms = list(_forms)
    return (label for form, label in forms if form in text)


def _redact_bytes(data: bytes) -> bytes:
    return redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
