"""Uploads in progress: their files, and the signed token that carries their state. Source: registry 3, 5.2."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from georeg_lab.registry import storage
from georeg_lab.registry.storage import PathNotFoundError, Storage

CHUNK = 1 << 18
DAY = 86_400.0
UNPARSED = "unable to parse upload purge configuration"


class StateError(ValueError):
    """The `_state` of a request is missing, broken or not signed with this registry's secret."""


class UploadUnknownError(Exception):
    """No such upload: finished, cancelled, purged or never begun."""


@dataclass(frozen=True)
class State:
    """What the token says. `offset`: bytes that were received when it was handed out."""

    name: str
    uuid: str
    offset: int
    started_at: str

    def pack(self, secret: str) -> str:
        """The token."""
        value = {"Name": self.name, "UUID": self.uuid, "Offset": self.offset, "StartedAt": self.started_at}
        message = json.dumps(value, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(_signature(secret, message) + message).decode()

    @classmethod
    def unpack(cls, token: str, secret: str) -> State:
        """Read a token. Raises StateError."""
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            signature, message = raw[:32], raw[32:]
            if not hmac.compare_digest(signature, _signature(secret, message)):
                raise StateError("invalid secret")
            value = json.loads(message)
            return cls(str(value["Name"]), str(value["UUID"]), int(value["Offset"]), str(value["StartedAt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(str(error)) from None


def _signature(secret: str, message: bytes) -> bytes:
    return hmac.new(secret.encode(), message, hashlib.sha256).digest()


class Upload:
    """The files of one upload."""

    def __init__(self, files: Storage, repository: str, name: str, started_at: str = "") -> None:
        self.files = files
        self.repository = repository
        self.uuid = name
        self.folder = storage.upload_folder(repository, name)
        self.data = f"{self.folder}/data"
        self.started_at = started_at

    @classmethod
    def begin(cls, files: Storage, repository: str) -> Upload:
        """Start an upload: an empty `data`, and `startedat`."""
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        upload = cls(files, repository, str(uuid.uuid4()), started)
        files.write(f"{upload.folder}/startedat", started.encode())
        files.write(upload.data, b"")
        return upload

    @classmethod
    def resume(cls, files: Storage, repository: str, name: str) -> Upload:
        """Find an upload. Raises UploadUnknownError."""
        upload = cls(files, repository, name)
        try:
            upload.started_at = files.read(f"{upload.folder}/startedat").decode("ascii", "replace")
        except PathNotFoundError:
            raise UploadUnknownError from None
        return upload

    @property
    def size(self) -> int:
        """Bytes received so far."""
        try:
            return self.files.stat(self.data).st_size
        except PathNotFoundError:
            return 0

    def append(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        self.files.append(self.data, chunk)

    def hashes(self, *algorithms: str) -> dict[str, str]:
        """Digests of what was received, by algorithm."""
        sums = {name: hashlib.new(name) for name in algorithms}
        if self.files.exists(self.data):
            with self.files.open(self.data) as file:
                while chunk := file.read(CHUNK):
                    for hashed in sums.values():
                        hashed.update(chunk)
        return {name: f"{name}:{hashed.hexdigest()}" for name, hashed in sums.items()}

    def commit(self, digest: str) -> None:
        """Move what was received into the blob store, unless the blob is there already, and end the upload."""
        target = storage.blob_path(digest)
        if not self.files.exists(target):
            if not self.files.exists(self.data):
                self.files.write(self.data, b"")
            self._sync()
            self.files.move(self.data, target)
        self.cancel()

    def _sync(self) -> None:
        with Path(self.files.real(self.data)).open("rb") as file:
            os.fsync(file.fileno())

    def cancel(self) -> None:
        """Remove the upload's files."""
        self.files.delete(self.folder)

    def state(self, offset: int) -> State:
        """The state to hand out after `offset` bytes."""
        return State(self.repository, self.uuid, offset, self.started_at)


@dataclass(frozen=True)
class Purging:
    """The upload purger's settings: age and interval in seconds."""

    enabled: bool = True
    age: float = 7 * DAY
    interval: float = DAY
    dry_run: bool = False

    @classmethod
    def read(cls, section: Any) -> Purging:
        """Settings from `storage.maintenance.uploadpurging`. Raises ValueError with the registry's words."""
        from georeg_lab.registry import durations

        if section is None:
            return cls()
        if not isinstance(section, dict):
            raise ValueError("uploadpurging config key must contain additional keys")
        if section.get("enabled") is False:
            return cls(enabled=False)
        seconds = {}
        for key, named in (("age", "duration"), ("interval", "interval")):
            if key not in section:
                raise ValueError(f"{UNPARSED}: {key} missing")
            if not isinstance(section[key], str):
                raise ValueError(f"{UNPARSED}: {key} is not a string")
            try:
                seconds[key] = durations.parse(section[key])
            except ValueError as error:
                raise ValueError(f"{UNPARSED}: Cannot parse {named}: {error}") from None
        if "dryrun" not in section:
            raise ValueError(f"{UNPARSED}: dryrun missing")
        if not isinstance(section["dryrun"], bool):
            raise ValueError(f"{UNPARSED}: cannot parse dryrun")
        return cls(True, seconds["age"], seconds["interval"], section["dryrun"])


def outdated(files: Storage, age: float) -> Iterator[str]:
    """Folders of uploads that began more than `age` seconds ago."""
    before = datetime.now(UTC) - timedelta(seconds=age)
    top = Path(files.root + storage.REPOSITORIES)
    for folder in top.glob("**/_uploads/*"):
        path = f"{storage.REPOSITORIES}/{folder.relative_to(top)}"
        try:
            started = datetime.fromisoformat(files.read(f"{path}/startedat").decode().strip())
        except (storage.StorageError, ValueError):
            started = datetime.fromtimestamp(_changed(folder), UTC)
        if started < before:
            yield path


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()


def purge(files: Storage, settings: Purging) -> list[str]:
    """Remove outdated uploads (not with `dry_run`). Returns their folders."""
    found = list(outdated(files, settings.age))
    if not settings.dry_run:
        for path in found:
            try:
                files.delete(path)
            except PathNotFoundError:
                continue
    return found
