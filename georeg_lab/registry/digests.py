"""Digests: their text (`sha256:<hex>`), their check, and the bytes that the metadata database stores.

Source: registry 4 (encoding), 1.6 (which broken digests are told apart)."""

from __future__ import annotations

import hashlib
import re

HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_ALGORITHM_BYTES = {"sha256": b"\x01", "sha512": b"\x02"}
_ALGORITHM_NAMES = {byte: name for name, byte in _ALGORITHM_BYTES.items()}
_SHAPE = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")


class DigestError(ValueError):
    """The text is no digest that the registry accepts."""


class DigestFormatError(DigestError):
    """Not of the shape `<algorithm>:<characters>`: empty, garbage."""

    def __init__(self) -> None:
        super().__init__("invalid checksum digest format")


class DigestUnsupportedError(DigestError):
    """The algorithm is not sha256, sha384 or sha512."""

    def __init__(self) -> None:
        super().__init__("unsupported digest algorithm")


class DigestLengthError(DigestError):
    """The hash has the wrong number of characters, e.g. because of a newline at the end."""

    def __init__(self) -> None:
        super().__init__("invalid checksum digest length")


class UnknownAlgorithmError(DigestError):
    """A valid digest whose algorithm the metadata database cannot store."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(f'unknown algorithm "{algorithm}"')


def validate(text: str) -> str:
    """Return `text` if it is a digest. Raises DigestFormatError, DigestUnsupportedError or DigestLengthError, in the
    order in which the registry tells them apart: the number of characters is compared before the characters are."""
    algorithm, colon, encoded = text.partition(":")
    if not colon or not algorithm or not encoded:
        raise DigestFormatError
    length = HEX_LENGTHS.get(algorithm)
    if length is None:
        raise DigestUnsupportedError if _SHAPE.fullmatch(text) else DigestFormatError
    if len(encoded) != length:
        raise DigestLengthError
    if not re.fullmatch(r"[a-f0-9]+", encoded):
        raise DigestFormatError
    return text


def is_valid(text: str) -> bool:
    """Whether `text` is a digest."""
    try:
        validate(text)
    except DigestError:
        return False
    return True


def to_bytes(text: str) -> bytes:
    """The `bytea` of a digest: one algorithm byte, then the hash. Raises DigestError."""
    algorithm, _, encoded = text.partition(":")
    byte = _ALGORITHM_BYTES.get(algorithm)
    if byte is None:
        raise UnknownAlgorithmError(algorithm)
    return byte + bytes.fromhex(encoded)


def from_bytes(stored: bytes | memoryview) -> str:
    """The text of a digest read from the database. Raises DigestError."""
    raw = bytes(stored)
    name = _ALGORITHM_NAMES.get(raw[:1])
    if name is None:
        raise UnknownAlgorithmError(raw[:1].hex())
    return f"{name}:{raw[1:].hex()}"


def of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of these bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
