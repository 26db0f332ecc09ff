"""`registry database import`: what the three steps do to database and lockfiles.

Source: registry 1.5, 1.6, 3.1, 6. Each step refuses, skips and fails where the real program was seen to do so, with its
texts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from georeg_lab.registry import digests, durations, release, storage
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.held import hold
from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.importer_errors import FAILED, FATAL, TAGS_PRESENT, ImportFailedError, VanishedError, failing
from georeg_lab.registry.importer_images import ImageImport, ManifestSkipError
from georeg_lab.registry.importer_manifests import (
    DIGEST_SKIPPED,
    ManifestEmptyError,
    ManifestSchema1Error,
    ManifestUnknownError,
    RepositoryFiles,
    StoredManifest,
    parse_name,
)
from georeg_lab.registry.importer_progress import Bar, Progress, Silent
from georeg_lab.registry.importer_store import Repository, Statistics, Store
from georeg_lab.registry.lockfiles import Lockfiles
from georeg_lab.registry.storage import PathNotFoundError, Storage, StorageError

BLOB_BATCH = 500


@dataclass(frozen=True)
class Options:
    """What the flags of the command say."""

    step_one: bool = True
    step_two: bool = True
    step_three: bool = True
    dry_run: bool = False
    row_count: bool = False
    dynamic_media_types: bool = True
    statistics: bool = True
    skip_recent: float = 72 * 3600.0


class Importer:
    """One import run. `log` writes the import's lines (with the step fields bound by `run`)."""

    def __init__(
        self, files: Storage, queries: Queries, options: Options, log: Logger, progress: Progress | None = None
    ) -> None:
        self.files = files
        self.queries = queries
        self.options = options
        self.plain_log = log
        self.log = log.bind(
            pre_import=options.step_one,
            repository_import=options.step_two,
            common_blobs=options.step_three,
            dry_run=options.dry_run,
        )
        self.progress = progress or Silent()
        self.lockfiles = Lockfiles(files)
        self.store = Store(queries, options.dynamic_media_types)
        self.statistics = Statistics()

    # --- the run

    def run(self) -> None:
        """Do the chosen steps. Raises ImportFailedError."""
        self.statistics.started_at = _now()
        self.log.info("starting metadata import")
        started = time.monotonic()
        try:
            if self.options.dry_run:
                self.queries.execute("BEGIN")
            try:
                if self.options.step_one:
                    self._step("pre_import", "one: import manifests", "pre importing all repositories", self._step_one)
                if self.options.step_two:
                    self._step("tag_import", "two: import tags", "importing all repositories", self._step_two)
                if self.options.step_three:
                    started = time.monotonic()  # the last line then tells step three's time only, as the real one does
                    self._step("blob_import", "three: import blobs", "importing blobs", self._step_three)
                counts = self.store.row_counts() if self.options.row_count else {}
            finally:
                if self.options.dry_run:
                    self.queries.execute("ROLLBACK")
                    self.store.forget()
        finally:
            self._save_statistics()
        self.log.info("metadata import complete", duration_s=time.monotonic() - started, **counts)
        self.progress.finish("registry import complete")

    def _step(self, name: str, title: str, prefix: str, step: Callable[[], None]) -> None:
        setattr(self.statistics, name, True)
        setattr(self.statistics, f"{name}_started_at", _now())
        self.progress.describe(f"step {title}")
        started = time.monotonic()
        try:
            step()
        except FAILED as error:
            setattr(self.statistics, f"{name}_error", str(error))
            self.progress.finish(f"step {title}")
            raise ImportFailedError(f"{prefix}: {error}") from None
        finally:
            setattr(self.statistics, f"{name}_finished_at", _now())
        number = title.split(":", 1)[0]
        self.progress.describe(f"step {number} completed in {durations.text(time.monotonic() - started, 1.0)}")

    def _save_statistics(self) -> None:
        if not self.options.statistics:
            return
        self.statistics.finished_at = _now()
        try:
            self.store.save_statistics(self.statistics)
        except DatabaseError as error:
            self.plain_log.error(
                "failed to commit import statistics to the database", error=f"creating import statistics: {error}"
            )

    # --- step one

    def _step_one(self) -> None:
        cutoff = _now() - timedelta(seconds=self.options.skip_recent)
        tagged: set[tuple[str, str]] = set()
        for number, path in enumerate(self.files.repositories(), start=1):
            hold("one", number - 1)
            started = time.monotonic()
            with failing("parsing repository name", ValueError):
                parse_name(path)
            log = self.log.bind(repository=path)
            counted = log.bind(count=number)
            counted.info("pre importing repository")
            with failing("creating or finding repository in database"):
                repository = self.store.repository(path)
            last = repository.last_published_at
            if self.options.skip_recent and last is not None and last > cutoff:
                log.info(
                    "skipping repository pre import: last pre imported after skip cutoff date",
                    skip_cutoff_date=_text(cutoff),
                    last_preimport_date=_text(last),
                )
                continue
            self.statistics.repositories_count += 1
            try:
                self._pre_import_tags(repository, log, tagged)
            except FAILED as error:
                counted.error("pre importing tagged manifests", error=str(error))
                if isinstance(error, VanishedError):
                    continue
                raise ImportFailedError(f"pre importing tagged manifests: {error}") from None
            self.store.mark_published(repository)
            counted.info("repository pre import complete", duration_s=time.monotonic() - started)

    def _tags(self, path: str) -> list[str] | None:
        """Names of a repository's tags; None where it has no folder for them."""
        try:
            return self.files.tags(path)
        except PathNotFoundError as error:
            if not self.files.has_repository(path):
                raise VanishedError(f"reading tags: {error}") from None
            return None

    def _pre_import_tags(self, repository: Repository, log: Logger, tagged: set[tuple[str, str]]) -> None:
        tags = self._tags(repository.path)
        if tags is None:
            return
        log.info("processing tags", total=len(tags))
        files = RepositoryFiles(self.files, repository.path, self.plain_log)
        images = ImageImport(self.store, repository, files, log)
        with self.progress.bar(f"pre importing manifests in {repository.path}", "manifests", len(tags)) as bar:
            self._pre_import_each(images, tags, bar, tagged)

    def _pre_import_each(self, images: ImageImport, tags: list[str], bar: Bar, tagged: set[tuple[str, str]]) -> None:
        repository, files, log = images.repository, images.files, images.log
        done: set[str] = set()
        for number, tag in enumerate(tags, start=1):
            tag_log = log.bind(tag_name=tag, count=number, total=len(tags))
            tag_log.info("processing tag")
            bar.advance()
            try:
                digest = self.files.tag_digest(repository.path, tag)
            except PathNotFoundError:
                tag_log.warning("missing tag link, skipping", error=f"unknown tag={tag}")
                continue
            except DIGEST_SKIPPED as error:
                tag_log.warning("broken tag link, skipping", error=str(error))
                continue
            except FATAL as error:
                raise ImportFailedError(f'reading tag "{tag}" from filesystem: {error}') from None
            if digest in done:
                continue
            with failing("pre importing manifest"):
                if self._pre_import_manifest(images, files, digest, log.bind(digest=digest)):
                    done.add(digest)
                    if (repository.path, digest) not in tagged:
                        tagged.add((repository.path, digest))
                        self.statistics.tags_count += 1
                        self.statistics.manifests_count += 1

    def _pre_import_manifest(self, images: ImageImport, files: RepositoryFiles, digest: str, log: Logger) -> bool:
        """Bring over one tagged manifest. Returns whether it is in the database afterwards."""
        manifest = self._read(files, digest, log)
        if manifest is None:
            return False
        if manifest.children or manifest.is_list:
            log.info("pre-importing manifest list")
            with failing("pre importing manifest list"):
                try:
                    images.add(manifest)
                except ManifestSkipError:
                    return False
            return True
        log.info("pre-importing manifest")
        try:
            images.add(manifest)
        except ManifestSkipError as error:
            log.warning("skipping manifest import", error=str(error))
            return False
        return True

    def _read(self, files: RepositoryFiles, digest: str, log: Logger) -> StoredManifest | None:
        """A tagged manifest from the storage; None where it is one of those that are left behind."""
        try:
            return files.read_manifest(digest)
        except ManifestUnknownError as error:
            log.warning("unknown manifest revision, skipping", error=str(error))
        except ManifestEmptyError as error:
            log.warning("empty manifest payload, skipping", error=str(error))
        except ManifestSchema1Error as error:
            log.warning("skipping v1 manifest import", error=str(error))
        except DIGEST_SKIPPED as error:
            log.warning("broken manifest link, skipping", error=str(error))
        except FATAL as error:
            raise ImportFailedError(f'retrieving manifest "{digest}" from filesystem: {error}') from None
        return None

    # --- step two

    def _step_two(self) -> None:
        try:
            self._import_repositories()
        except FAILED as error:
            if not release.IMPORT_LOCKS:
                raise
            try:
                self.lockfiles.restore(self.plain_log, dry_run=self.options.dry_run)
            except StorageError as second:
                raise ImportFailedError(f"{error}: {second}") from None
            raise
        if not release.IMPORT_LOCKS:
            return
        if self.options.dry_run:
            self.lockfiles.restore(self.plain_log, dry_run=True)
        else:
            self.lockfiles.hand_over(self.plain_log)

    def _import_repositories(self) -> None:
        self.statistics.repositories_count = self.statistics.tags_count = self.statistics.manifests_count = 0
        with failing("checking if tags table is empty: counting tags"):
            has_tags = self.store.has_tags()
        if has_tags:
            self.log.error("unable to continue import", error=TAGS_PRESENT)
            raise ImportFailedError(TAGS_PRESENT)
        tagged: set[tuple[str, str]] = set()
        for number, path in enumerate(self.files.repositories(), start=1):
            hold("two", number - 1)
            started = time.monotonic()
            log = self.log.bind(repository=path, count=number)
            log.info("importing repository")
            if not self.options.dry_run:
                self.queries.execute("BEGIN")
            try:
                self._import_repository(path, tagged)
                if not self.options.dry_run:
                    self.queries.execute("COMMIT")
            except FAILED as error:
                if not self.options.dry_run:
                    self.queries.execute("ROLLBACK")
                    self.store.forget()
                log.error("error importing repository", error=str(error))
                if isinstance(error, VanishedError):
                    continue
                raise
            log.info("repository import complete", duration_s=time.monotonic() - started)

    def _import_repository(self, path: str, tagged: set[tuple[str, str]]) -> None:
        with failing("parsing repository name", ValueError):
            parse_name(path)
        with failing("creating or finding repository in database"):
            repository = self.store.repository(path)
        self.statistics.repositories_count += 1
        with failing("importing tags"):
            self._import_tags(repository, self.log.bind(repository=path), tagged)

    def _import_tags(self, repository: Repository, log: Logger, tagged: set[tuple[str, str]]) -> None:
        tags = self._tags(repository.path)
        if tags is None:
            return
        log.info("importing tags", total=len(tags))
        files = RepositoryFiles(self.files, repository.path, self.plain_log)
        images = ImageImport(self.store, repository, files, log)
        with self.progress.bar(f"importing tags in {repository.path}", "tags", len(tags)) as bar:
            self._import_each(images, tags, bar, tagged)

    def _import_each(self, images: ImageImport, tags: list[str], bar: Bar, tagged: set[tuple[str, str]]) -> None:
        repository, files, log = images.repository, images.files, images.log
        for number, tag in enumerate(tags, start=1):
            tag_log = log.bind(tag_name=tag, count=number, total=len(tags))
            digest, problem = "", None
            with failing("reading tag details"):
                try:
                    digest = self.files.tag_digest(repository.path, tag)
                except PathNotFoundError:
                    problem = ("missing tag link, skipping", f"unknown tag={tag}")
                except DIGEST_SKIPPED as error:
                    problem = ("broken tag link, skipping", str(error))
            tag_log = tag_log.bind(digest=digest)
            tag_log.info("importing tag")
            bar.advance()
            if problem:
                tag_log.warning(problem[0], error=problem[1])
                continue
            manifest = self._tagged_manifest(images, files, digest, tag_log)
            if manifest is None:
                continue
            self.statistics.tags_count += 1
            if (repository.path, digest) not in tagged:
                tagged.add((repository.path, digest))
                self.statistics.manifests_count += 1
            try:
                self.store.create_tag(repository, tag, manifest)
            except DatabaseError as error:
                tag_log.error("creating tag", error=str(error))

    def _tagged_manifest(self, images: ImageImport, files: RepositoryFiles, digest: str, log: Logger) -> int | None:
        """The id of a tag's manifest, brought over if step one did not; None where it is left behind."""
        with failing("finding tagged manifest in database"):
            found = self.store.find_manifest(images.repository, digest)
        if found is not None:
            return found
        manifest = self._read(files, digest, log)
        if manifest is None:
            return None
        log.info("importing manifest list" if manifest.children or manifest.is_list else "importing manifest")
        with failing("importing manifest"):
            try:
                return images.add(manifest)
            except ManifestSkipError as error:
                log.warning("skipping manifest import", error=str(error))
        return None

    # --- step three

    def _step_three(self) -> None:
        hold("three", 0)
        started = time.monotonic()
        self.log.info("importing all blobs")
        counter = self.progress.counter("importing blobs", "blobs")
        waiting: list[tuple[bytes, int]] = []
        for path, size in self.files.blob_sizes():
            digest = None
            try:
                digest = storage.digest_of_blob_path(path)
                self.log.info("importing blob", digest=digest, size=size, count=0)
                waiting.append((digests.to_bytes(digest), size))
            except (StorageError, digests.DigestError) as error:
                self._flush(waiting)
                prefix = "" if digest is None else "checking for existence of blob: "
                raise ImportFailedError(f"{prefix}{error}") from None
            counter.advance()
            self.statistics.blobs_count += 1
            self.statistics.blobs_size_bytes += size
            # the first one alone: a database without the table must fail at once
            if len(waiting) >= BLOB_BATCH or self.statistics.blobs_count == 1:
                self._flush(waiting)
        self._flush(waiting)
        self.log.info("blob import complete", duration_s=time.monotonic() - started)

    def _flush(self, waiting: list[tuple[bytes, int]]) -> None:
        if waiting:
            with failing("checking for existence of blob: scanning blob"):
                self.store.create_blobs(waiting)
            waiting.clear()


def _now() -> datetime:
    return datetime.now(UTC)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
