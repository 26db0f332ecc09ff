"""`registry garbage-collect`: offline garbage collection of a legacy registry's storage.

Source: registry 1.7 and the recorded dry run. The sweep was not recorded: its log lines are this stand-in's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from georeg_lab.registry import digests, import_log, storage
from georeg_lab.registry.cli_flags import CommandError, Parsed
from georeg_lab.registry.config import load
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.importer_manifests import (
    BlobUnknownError,
    Descriptor,
    ManifestEmptyError,
    ManifestMalformedError,
    ManifestSchema1Error,
    ManifestUnknownError,
    RepositoryFiles,
    StoredManifest,
)
from georeg_lab.registry.lockfiles import Lockfiles
from georeg_lab.registry.storage import PathNotFoundError, Storage, StorageError

NOT_WITH_DATABASE = (
    "the garbage-collect command is not compatible with database metadata, please use online garbage collection instead"
)
MANAGED = (
    "this filesystem is managed by the metadata database, and offline garbage collection is no longer possible, if you "
    "are not using the database anymore, remove the file at the lock_path in this log message"
)
ADVERTISEMENT = (
    "zero-downtime continuous garbage collection is now available. See the administration documentation for more "
    "information: https://docs.gitlab.com/ee/administration/packages/container_registry_metadata_database.html"
)
UNREADABLE = (
    BlobUnknownError,
    ManifestEmptyError,
    ManifestMalformedError,
    ManifestSchema1Error,
    ManifestUnknownError,
    digests.DigestError,
)


def run(parsed: Parsed) -> int:
    """Run one collection. Returns the exit code. Raises ConfigError, CommandError."""
    config, _ = load(parsed.arguments)
    if config.database.mode != "false":
        raise CommandError(NOT_WITH_DATABASE)
    stream = sys.stderr if config.log.output == "stderr" else sys.stdout
    fields = {**import_log.BUILD, "instance_id": import_log.instance_id()}
    log = Logger(stream, config.log.level, config.log.formatter, fields)
    log = log.bind(driver=config.storage.driver, dry_run=parsed.values["dry-run"], stage="mark")
    files = Storage(config.storage.root)
    try:
        lock = Lockfiles(files).database
        if lock.is_locked(log):
            log.error(MANAGED, lock_path=lock.path)
            raise CommandError("failed to garbage collect: database managed filesystem, cannot continue")
        Collector(files, log, parsed.values["delete-untagged"]).run(dry_run=parsed.values["dry-run"])
    except StorageError as error:
        raise CommandError(f"failed to garbage collect: {error}") from None
    finally:
        log.info(ADVERTISEMENT)
    return 0


class Collector:
    """Marks what is in use, then removes the rest."""

    def __init__(self, files: Storage, log: Logger, delete_untagged: bool) -> None:
        self.files = files
        self.log = log
        self.delete_untagged = delete_untagged
        self.marked: set[str] = set()
        self.doomed: list[tuple[str, str]] = []

    def run(self, *, dry_run: bool) -> None:
        """Mark and, unless this is a dry run, sweep. Raises StorageError."""
        started = time.monotonic()
        self.log.info("starting mark stage")
        try:
            for repository in self.files.repositories():
                self._mark_repository(repository)
        except PathNotFoundError as error:
            self.log.warning("skipping garbage collection", error=str(error))
            return
        self.log.info("finding blobs eligible for deletion. This may take some time...")
        garbage = []
        for path, size in self.files.blob_sizes():
            digest = storage.digest_of_blob_path(path)
            if digest not in self.marked:
                self.log.info("blob eligible for deletion", digest=digest, size_bytes=size)
                garbage.append((digest, size))
        self.log.info(
            "mark stage complete",
            blobs_marked=len(self.marked),
            blobs_to_delete=len(garbage),
            manifests_to_delete=len(self.doomed),
            storage_use_estimate_bytes=sum(size for _, size in garbage),
            duration_s=time.monotonic() - started,
        )
        if not dry_run:
            self._sweep([digest for digest, _ in garbage])

    def _sweep(self, garbage: list[str]) -> None:
        log = self.log.bind(stage="sweep")
        log.info("starting sweep stage")
        for repository, digest in self.doomed:
            self.files.delete(storage.revision_link_path(repository, digest).removesuffix("/link"))
        for digest in garbage:
            self.files.delete(storage.blob_folder(digest))
        log.info("sweep stage complete")

    def _mark_repository(self, repository: str) -> None:
        log = self.log.bind(repository=repository)
        log.info("marking repository")
        log.info("priming tags cache")
        started = time.monotonic()
        tags: dict[str, int] = {}
        for digest in self._tagged(repository):
            tags[digest] = tags.get(digest, 0) + 1
        log.info("tags cache primed", tags_primed=sum(tags.values()), duration_s=time.monotonic() - started)
        revisions = list(self._revisions(repository))
        kept = [digest for digest in revisions if digest in tags] if self.delete_untagged else revisions
        for digest in kept:
            count = tags.get(digest, 0)
            log.info(
                "marking manifest metadata for repository",
                digest=digest,
                referenced_by="tag" if count else "repository",
                tag_count=count,
            )
        files = RepositoryFiles(self.files, repository, log)
        children = self._mark_manifests(files, kept, log)
        for digest in revisions:
            if digest not in kept and digest not in children:
                log.info("manifest metadata will be deleted from repository", digest=digest)
                self.doomed.append((repository, digest))

    def _tagged(self, repository: str) -> Iterator[str]:
        try:
            for tag in self.files.tags(repository):
                try:
                    yield self.files.tag_digest(repository, tag)
                except (PathNotFoundError, digests.DigestError):
                    continue
        except PathNotFoundError:
            return

    def _revisions(self, repository: str) -> Iterator[str]:
        folder = f"{storage.REPOSITORIES}/{repository}/_manifests/revisions"
        try:
            for algorithm in self.files.names(folder):
                for encoded in self.files.names(f"{folder}/{algorithm}"):
                    if digests.is_valid(f"{algorithm}:{encoded}"):
                        yield f"{algorithm}:{encoded}"
        except PathNotFoundError:
            return

    def _read(self, files: RepositoryFiles, digest: str) -> StoredManifest | None:
        try:
            return files.read_manifest(digest)
        except UNREADABLE:
            return None

    def _mark_manifests(self, files: RepositoryFiles, kept: list[str], log: Logger) -> list[str]:
        """Mark the blobs of manifests and of the children of lists. Returns the children, each once."""
        children: list[str] = []
        for digest in kept:
            self._mark(log, digest, digest_type="manifest", referenced_by="tag")
            manifest = self._read(files, digest)
            if manifest is None:
                continue
            parent = {"parent_digest": digest}
            for blob in _blobs(manifest):
                self._mark(
                    log, blob.digest, digest_type="layer", referenced_by="manifest", mediatype=blob.media_type, **parent
                )
            for child in manifest.children if manifest.is_list else ():
                log.info(
                    "marking manifest",
                    digest=child.digest,
                    digest_type="manifest",
                    referenced_by="manifest_list",
                    mediatype=child.media_type,
                    **parent,
                )
                if child.digest not in children:
                    children.append(child.digest)
        for digest in children:
            self._mark(log, digest, digest_type="manifest", referenced_by="manifest_list")
            manifest = self._read(files, digest)
            for blob in _blobs(manifest) if manifest else ():
                self._mark(log, blob.digest, digest_type="layer", referenced_by="manifest_list")
        return children

    def _mark(self, log: Logger, digest: str, **fields: str) -> None:
        log.info("marking blob", digest=digest, **fields)
        self.marked.add(digest)


def _blobs(manifest: StoredManifest) -> list[Descriptor]:
    return [manifest.config, *manifest.layers] if manifest.config else []
