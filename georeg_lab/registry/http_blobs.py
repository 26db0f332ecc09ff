"""`/v2/<name>/blobs/<digest>`: serving files as Go's `http.ServeContent` does. Source: registry 5.2."""

from __future__ import annotations

import uuid
from typing import Any, BinaryIO

from georeg_lab.registry import digests, storage
from georeg_lab.registry.backend import BlobUnknownError, RepositoryUnknownError, StoredBlob
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.http_errors import GO_ERROR, APIError
from georeg_lab.registry.http_handler import Handler

CHUNK = 1 << 16
MAX_AGE = "max-age=31536000"
OCTETS = "application/octet-stream"


class RangeError(ValueError):
    """A `Range` header that cannot be served. `overlaps` is False where it is well-formed but beyond the end."""

    def __init__(self, overlaps: bool) -> None:
        super().__init__("invalid range" if overlaps else "invalid range: failed to overlap")
        self.overlaps = overlaps


def ranges(header: str, size: int) -> list[tuple[int, int]]:
    """(first byte, number of bytes) of each range. [] = everything. Raises RangeError."""
    if not header:
        return []
    unit, equals, wanted = header.partition("=")
    if unit != "bytes" or not equals:
        raise RangeError(True)
    found, beyond = [], False
    for part in filter(None, (piece.strip() for piece in wanted.split(","))):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not dash or not (first + last).isdigit():
            raise RangeError(True)
        if not first:
            length = min(int(last), size)
            found.append((size - length, length))
        elif int(first) >= size:
            beyond = True
        else:
            end = min(int(last), size - 1) if last else size - 1
            if last and int(last) < int(first):
                raise RangeError(True)
            found.append((int(first), end - int(first) + 1))
    if beyond and not found:
        raise RangeError(False)
    return [] if sum(length for _, length in found) > size else found


class Blobs(Handler):
    """One blob of a repository."""

    def initialize(self, registry: Registry, **settings: Any) -> None:
        super().initialize(registry, **settings)
        self.parts: list[tuple[bytes, int, int]] = []
        self.closing = b""
        self.file: BinaryIO | None = None

    @property
    def digest(self) -> str:
        """The digest of the path. Raises APIError."""
        try:
            return digests.validate(self.names["digest"])
        except digests.DigestError:
            raise APIError("DIGEST_INVALID", GO_ERROR) from None

    def do_get(self) -> None:
        """Prepare what `stream` sends."""
        digest = self.digest
        try:
            blob: StoredBlob = self.backend.blob(self.repository, digest)
        except BlobUnknownError:
            raise APIError("BLOB_UNKNOWN", digest) from None
        etag = f'"{blob.digest}"'
        self.set_header("Docker-Content-Digest", blob.digest)
        if {etag, "*"} & {part.strip() for part in self.request.headers.get("If-None-Match", "").split(",")}:
            self.set_header("Etag", etag)
            self.set_header("Cache-Control", MAX_AGE)
            self.set_status(304)
            return
        try:
            applies = self.request.headers.get("If-Range", etag) == etag
            wanted = ranges(self.request.headers.get("Range", "") if applies else "", blob.size)
        except RangeError as error:
            if not error.overlaps:
                self.set_header("Content-Range", f"bytes */{blob.size}")
            self.text(416, str(error))
            return
        self.set_header("Etag", etag)
        self.set_header("Cache-Control", MAX_AGE)
        self.set_header("Accept-Ranges", "bytes")
        self._plan(blob, wanted)
        if not self.backend.is_database:
            self._pulled(blob)

    do_head = do_get

    def _plan(self, blob: StoredBlob, wanted: list[tuple[int, int]]) -> None:
        """Set length and parts: (head of the part, first byte, number of bytes)."""
        size = blob.size
        if len(wanted) <= 1:
            first, length = wanted[0] if wanted else (0, size)
            self.set_header("Content-Type", OCTETS)
            if wanted:
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {first}-{first + length - 1}/{size}")
            self.parts = [(b"", first, length)]
        else:
            boundary = uuid.uuid4().hex
            self.set_status(206)
            self.set_header("Content-Type", f"multipart/byteranges; boundary={boundary}")
            for at, (first, length) in enumerate(wanted):
                span = f"bytes {first}-{first + length - 1}/{size}"
                head = f"--{boundary}\r\nContent-Range: {span}\r\nContent-Type: {OCTETS}\r\n\r\n"
                self.parts.append((("\r\n" if at else "").encode() + head.encode(), first, length))
            self.closing = f"\r\n--{boundary}--\r\n".encode()
        total = sum(len(head) + length for head, _, length in self.parts) + len(self.closing)
        self.set_header("Content-Length", str(total))
        self.written = total
        if self.request.method == "HEAD":
            self.parts, self.closing = [], b""
        else:
            self.file = self.registry.files.open(storage.blob_path(blob.digest))

    async def stream(self) -> None:
        """Send the parts without holding the blob in memory."""
        if self.file is None:
            return
        with self.file:
            for head, first, length in self.parts:
                self.write(head)
                self.file.seek(first)
                while length > 0 and (chunk := self.file.read(min(CHUNK, length))):
                    length -= len(chunk)
                    self.write(chunk)
                    await self.flush()
            self.write(self.closing)

    def _pulled(self, blob: StoredBlob) -> None:
        target = {
            "mediaType": OCTETS,
            "size": blob.size,
            "digest": blob.digest,
            "length": blob.size,
            "repository": self.repository,
            "url": self.url(f"/v2/{self.repository}/blobs/{blob.digest}"),
        }
        self.announce("pull", target, meta={"blob": {"storageBackend": "filesystem"}})

    def do_delete(self) -> None:
        """Take the blob out of the repository; the file stays."""
        if not self.registry.config.storage.delete_enabled:
            raise APIError("UNSUPPORTED")
        digest = self.digest
        try:
            self.backend.delete_blob(self.repository, digest)
        except RepositoryUnknownError:
            raise APIError("NAME_UNKNOWN") from None
        except BlobUnknownError:
            raise APIError("BLOB_UNKNOWN") from None
        self.set_status(202)
        if not self.backend.is_database:
            self.announce("delete", {"digest": digest, "repository": self.repository})
