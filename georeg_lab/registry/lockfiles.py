"""The two lockfiles that say which metadata a storage belongs to.

Source: registry 3.1–3.3. Who looks at them and when is decided by the callers: `serve`, the import, offline GC."""

from __future__ import annotations

from georeg_lab.registry.import_log import Logger
from georeg_lab.registry.storage import PathNotFoundError, Storage, StorageError

FOLDER = "/docker/registry/lockfiles"
CONTENT = b'{"version":1}'


class Lockfile:
    """One lockfile: `name` is the file's, `label` what log lines call it."""

    def __init__(self, storage: Storage, name: str, label: str) -> None:
        self.storage = storage
        self.name = name
        self.label = label
        self.path = f"{FOLDER}/{name}"

    def is_locked(self, log: Logger | None = None) -> bool:
        """Whether the file is there. A folder in its place is reported and counts as absent. Raises StorageError."""
        if self.storage.is_folder(self.path):
            if log:
                log.warning("lock path should not be a directory", lock=self.label, path=self.path)
            return False
        return self.storage.exists(self.path)

    def lock(self) -> None:
        """Write the file. Raises StorageError, e.g. where a folder is in its place."""
        self.storage.write(self.path, CONTENT)

    def unlock(self) -> None:
        """Remove the file, or a folder in its place; nothing there is fine. Raises StorageError."""
        try:
            self.storage.delete(self.path)
        except PathNotFoundError:
            return


class Lockfiles:
    """Both lockfiles of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.database = Lockfile(storage, "database-in-use", "databaseInUse")
        self.filesystem = Lockfile(storage, "filesystem-in-use", "filesystemInUse")

    def present(self) -> list[str]:
        """Names of the lockfiles that are there."""
        return [lock.name for lock in (self.database, self.filesystem) if lock.is_locked()]

    def hand_over(self, log: Logger) -> None:
        """After a successful import: the storage belongs to the database from now on. Raises StorageError."""
        for lock, verb in ((self.filesystem, "unlock"), (self.database, "lock")):
            lock.is_locked(log)
            try:
                lock.unlock() if verb == "unlock" else lock.lock()
            except StorageError as error:
                raise StorageError(f"could not {verb} {lock.name} lockfile: {error}") from None

    def restore(self, log: Logger, *, dry_run: bool) -> None:
        """After a failed import or a dry run: the storage counts as the file system's, whatever it was before.

        Only a dry run spares `database-in-use`, by failing. Raises StorageError."""
        try:
            if not dry_run:
                self.database.unlock()
            elif self.database.is_locked(log):
                raise StorageError("database-in-use lockfile exists")
            self.filesystem.lock()
        except StorageError as error:
            raise StorageError(f"could not restore lockfiles: {error}") from None
