"""How an import fails: what ends it, and how the texts are put together.

Source: registry 1.5, 1.6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from georeg_lab.registry import digests
from georeg_lab.registry.db import DatabaseError
from georeg_lab.registry.importer_manifests import ManifestMalformedError
from georeg_lab.registry.storage import StorageError


class ImportFailedError(Exception):
    """The import ended; the message follows `failed to import metadata: `."""


class VanishedError(ImportFailedError):
    """The repository went away during the walk: it is skipped."""


FATAL: tuple[type[Exception], ...] = (StorageError, digests.DigestError, DatabaseError, ManifestMalformedError)
FAILED: tuple[type[Exception], ...] = (ImportFailedError, *FATAL)


@contextmanager
def failing(prefix: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors into ImportFailedError with `<prefix>: ` before their text."""
    caught = (*FAILED, *kinds)
    try:
        yield
    except VanishedError:
        raise
    except caught as error:
        raise ImportFailedError(f"{prefix}: {error}") from None
