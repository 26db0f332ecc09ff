"""The sync of one container repository from the primary's registry into the secondary's own (rails 2).

It does what GitLab's does, the wrong included: lists of one page, tag errors that are only logged, removal by digest
that takes other tags along, indexes told apart by the body's `mediaType` alone. Nothing here may be made better: the
cases are listed in rails 2, "Where this goes wrong", and the tests hold each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from georeg_lab.rails import jobs, records, repositories
from georeg_lab.rails.config import Databases, Row
from georeg_lab.rails.geolog import log
from georeg_lab.rails.registry_client import (
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    RegistryClient,
    own_client,
    primary_client,
)

SERVICE = "Geo::ContainerRepositorySyncService"
SYNC = "Geo::ContainerRepositorySync"
FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
BUILDKIT_CACHE = "application/vnd.buildkit.cacheconfig"
RESCHEDULED = "Reschedule container sync because an update event was processed during the sync"

Tag = dict[str, str | None]


class Shutdown(BaseException):
    """Sidekiq is told to stop: the job is given up in the middle, its lease given back, and the job queued again."""


def sync_repository(databases: Databases, repository: Row, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Bring one repository over, with its record, lease and log lines. Raises Shutdown when `stopping` says so."""
    number = repository["id"]
    records.pending(databases, number)
    with jobs.lease(databases, f"{jobs.LEASE_PREFIX}{number}") as obtained:
        if obtained:
            _sync_and_record(databases, repository, stopping)


def sync_now(databases: Databases, registry_id: int) -> None:
    """What `replicator.sync` does in a console. Raises LookupError for an unknown record."""
    query = f"SELECT container_repository_id FROM {records.TABLE} WHERE id = %s"
    repository = databases.value(query, [registry_id], database="geo")
    if repository is None:
        raise LookupError(
            f"Couldn't find Geo::ContainerRepositoryRegistry with 'id'={registry_id} (ActiveRecord::RecordNotFound)"
        )
    row = repositories.by_id(databases, repository)
    if row is not None:
        sync_repository(databases, row)


def _sync_and_record(databases: Databases, repository: Row, stopping: Callable[[], bool]) -> None:
    number, config = repository["id"], databases.config
    facts = {"container_repository_id": number, "project_path": repository["project_path"], "name": repository["name"]}
    log(config, "INFO", SERVICE, "Marking sync as started", **facts)
    try:
        records.start(databases, number)
        own, primary = own_client(databases, repository["path"]), primary_client(databases, repository["path"])

        def log_error(message: str) -> None:
            log(config, "ERROR", SYNC, message, **facts)

        sync = RepositorySync(repository["path"], primary, own, log_error, stopping, config.release.older_sync)
        sync.execute()
        if not records.synced(databases, number):
            log(config, "INFO", SERVICE, RESCHEDULED, **facts)
            jobs.enqueue(databases, jobs.RESCHEDULED_WORKER, number)
        log(config, "INFO", SERVICE, "Finished sync", **facts)
    except Exception as problem:
        message = "Container repository sync failed"
        log(config, "ERROR", SERVICE, message, error=str(problem), **facts)
        records.failed(databases, number, f"{message}: {problem}")


class RepositorySync:
    """The tags of one repository: what is missing or differs is pushed, what is surplus is removed."""

    def __init__(
        self,
        path: str,
        primary: RegistryClient,
        own: RegistryClient,
        log_error: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
        older: bool = False,
    ) -> None:
        self.path, self.primary, self.own, self.older = path, primary, own, older
        self.log_error, self.stopping = log_error, stopping

    def execute(self) -> None:
        """Both lists are read once, before any push. A tag's error is logged and the next tag follows."""
        if not self.primary.connected():
            raise ConnectionError("No valid connection to primary registry")
        theirs, ours = self.primary.tags(self.path), self.own.tags(self.path)
        for tag in _minus(theirs, ours):
            self._rescued("syncing", tag, self._sync_tag)
        for tag in _minus(ours, theirs):
            self._rescued("removing", tag, self._remove_tag)

    def _rescued(self, doing: str, tag: Tag, action: Callable[[Tag], None]) -> None:
        if self.stopping():
            raise Shutdown
        try:
            action(tag)
        except Exception as problem:
            self.log_error(f"Error while {doing} tag {tag['name']}: {problem}")

    def _sync_tag(self, tag: Tag) -> None:
        name = str(tag["name"])
        raw = self.primary.raw_manifest(self.path, name)
        manifest = json.loads(raw)
        children = manifest.get("manifests") or []
        # Only the body's own `mediaType` makes it a list: an index without it is taken for an image without layers.
        if manifest.get("mediaType") in (DOCKER_LIST, OCI_INDEX) and children and not _is_buildkit_cache(children):
            for child in children:
                self._sync_child(child)
        else:
            self._sync_blobs(manifest)
        self.own.push_manifest(self.path, name, raw, manifest.get("mediaType") or OCI_MANIFEST)

    def _sync_child(self, descriptor: dict[str, Any]) -> None:
        raw = self.primary.raw_manifest(self.path, descriptor["digest"])
        manifest = json.loads(raw)
        # A child that is itself an index has no layers: its own children are asked for as blobs, which fails.
        self._sync_blobs(manifest)
        media_type = manifest.get("mediaType")
        if not self.older:
            media_type = media_type or descriptor.get("mediaType") or OCI_MANIFEST
        self.own.push_manifest(self.path, descriptor["digest"], raw, media_type)

    def _sync_blobs(self, manifest: dict[str, Any]) -> None:
        lists = (manifest.get(key) for key in ("layers", "manifests", "blobs"))
        if self.older and all(key not in manifest for key in ("layers", "manifests", "blobs")):
            raise LookupError("undefined method `reject' for nil:NilClass")
        listed: list[dict[str, Any]] = next(
            (found for found in lists if found is not None), []
        )  # an empty list of layers counts
        digests = [blob["digest"] for blob in listed if blob.get("mediaType") != FOREIGN_LAYER]
        config = (manifest.get("config") or {}).get("digest")
        for digest in [*digests, *([config] if config else [])]:
            if not self.own.has_blob(self.path, digest):
                content, size = self.primary.pull_blob(self.path, digest)
                self.own.push_blob(self.path, digest, content, size)

    def _remove_tag(self, tag: Tag) -> None:
        # By digest where it is known: the registry then removes every tag of that manifest.
        if self.older and not tag["digest"]:
            return
        self.own.delete(self.path, str(tag["digest"] or tag["name"]))


def _minus(tags: list[Tag], others: list[Tag]) -> list[Tag]:
    """Tags whose pair of name and digest is not among the others, in their order."""
    known = {(tag["name"], tag["digest"]) for tag in others}
    return [tag for tag in tags if (tag["name"], tag["digest"]) not in known]


def _is_buildkit_cache(children: list[dict[str, Any]]) -> bool:
    return any(BUILDKIT_CACHE in child.get("mediaType", "") for child in children)
