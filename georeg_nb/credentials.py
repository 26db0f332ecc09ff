"""Secrets: named by references in the parameters, resolved late, never shown.

A reference is `env:NAME`, `file:PATH`, `command:PROGRAM ARGUMENT …` (its standard output) or `keyring:SERVICE/USER`.
Every value that is resolved is made known to the redaction before anything else sees it.
"""

from __future__ import annotations

import hmac
import importlib.util
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from georeg_nb import redaction
from georeg_nb.errors import Problem, SecretUnavailable

KINDS = ("env", "file", "command", "keyring")
HOW_TO = "write a reference: env:NAME, file:PATH, command:PROGRAM …, or keyring:SERVICE/USER"
COMMAND_SECONDS = 60

_asked: dict[str, Secret] = {}  # a command or keyring may ask the operator: once is enough


class Secret:
    """A value that shows itself to nobody; `reveal` hands it out where it is used. Cannot be pickled."""

    __slots__ = ("_label", "_value")

    def __init__(self, value: str, label: str, *, masked: bool = True) -> None:
        if masked:  # not for what lives minutes and comes in thousands: every one makes masking slower
            redaction.register(value, label)
        self._value = value
        self._label = label

    def reveal(self) -> str:
        """The value itself: for a password field, a header, a standard input."""
        return self._value

    def __repr__(self) -> str:
        return f"[secret: {self._label}]"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not written anywhere")


def is_reference(text: str) -> bool:
    """Has it the form of a reference?"""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS or not rest.strip() or rest != rest.strip():
        return False
    if kind == "env":
        return rest.isidentifier()
    if kind == "keyring":
        return all(rest.rpartition("/")[::2])
    return kind != "command" or _split(rest) is not None


def resolve(reference: str, base: Path) -> Secret:
    """The secret behind a reference. Relative paths: from the working directory, else from `base`.

    Raises SecretUnavailable, with a message that never holds the value.
    """
    if reference in _asked:
        return _asked[reference]
    if problem := unavailable(reference, base):
        raise _nowhere(reference, problem)
    kind, _, rest = reference.partition(":")
    if kind == "env":
        value = os.environ[rest]
    elif kind == "file":
        value = _find(rest, base).read_text(encoding="utf-8").rstrip("\r\n")
    elif kind == "command":
        value = _output_of(reference, rest, base)
    else:
        value = _from_keyring(reference, rest)
    if not value.strip():
        raise _nowhere(reference, "is empty")
    if "\n" in value or "\0" in value:
        raise _nowhere(reference, "holds more than one line")
    secret = Secret(value, label(reference))
    if kind in ("command", "keyring"):
        _asked[reference] = secret
    return secret


def unavailable(reference: str, base: Path) -> str:
    """Why a reference cannot be resolved, as far as can be seen without reading the value; "" if nothing is wrong."""
    kind, _, rest = reference.partition(":")
    if not is_reference(reference):
        return f"is no reference; {HOW_TO}"
    if kind == "env":
        return "" if os.environ.get(rest) else f"the environment variable {rest} is not set"
    if kind == "file":
        path = _find(rest, base)
        if not path.is_file():
            return f"there is no file {rest}, neither in the working directory nor in {base}"
        if path.stat().st_mode & 0o007:
            return f"{rest} can be read by everybody on this machine: chmod 600"
        return "" if os.access(path, os.R_OK) else f"{rest} cannot be read by this user"
    if kind == "command":
        program = (_split(rest) or [""])[0]
        return "" if shutil.which(program) or _find(program, base).is_file() else f"there is no program {program}"
    return "" if importlib.util.find_spec("keyring") else "keyring is not installed: pip install 'georeg[keyring]'"


def label(reference: str) -> str:
    """How the secret is called in its place: the reference, of a command only its program."""
    kind, _, rest = reference.partition(":")
    return f"command:{(_split(rest) or ['?'])[0]}" if kind == "command" else reference


def _split(command: str) -> list[str] | None:
    try:
        return shlex.split(command) or None
    except ValueError:
        return None


def _find(path: str, base: Path) -> Path:
    given = Path(path).expanduser()
    return given if given.is_absolute() or given.exists() else base / given


def _output_of(reference: str, command: str, base: Path) -> str:
    argv = _split(command) or []
    if not shutil.which(argv[0]):
        argv[0] = str(_find(argv[0], base).absolute())
    try:
        result = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=COMMAND_SECONDS, cwd=base)
    except subprocess.TimeoutExpired:
        raise _nowhere(reference, f"did not end within {COMMAND_SECONDS} s") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _nowhere(reference, f"could not be run: {type(error).__name__}") from None
    if result.returncode != 0:
        raise _nowhere(reference, f"ended with status {result.returncode}; its message is above")
    return result.stdout.rstrip("\r\n")


def _from_keyring(reference: str, entry: str) -> str:
    import keyring
    import keyring.errors

    service, _, user = entry.rpartition("/")
    try:
        value = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise _nowhere(reference, f"the keyring refuses: {type(error).__name__}") from None
    if value is None:
        raise _nowhere(reference, f"the keyring has no entry {entry}; add it with: keyring set {service} {user}")
    return str(value)


def _nowhere(reference: str, message: str) -> SecretUnavailable:
    return SecretUnavailable([Problem(message, key=label(reference))])
