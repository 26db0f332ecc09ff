"""How an import fails: what ends it, and how the texts are put together.

Source: registry 1.5, 1.6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from georeg_lab.registry import digests, release
from georeg_lab.registry.db import DatabaseError
from georeg_lab.registry.importer_manifests import ManifestMalformedError
from georeg_lab.registry.storage import StorageError

TAGS_PRESENT = "tags table is not empty"
if release.since(4, 29):
    TAGS_PRESENT = (
        "halting import to protect data: tags already present in database - this may be an imported registry! If you "
        "are retrying an import, you must manually truncate the tags table before retrying: see "
        "https://docs.gitlab.com/ee/administration/packages/container_registry_metadata_database.html#troubleshooting"
    )


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
