"""`/v2/<name>/blobs/uploads/…`: pushing blobs in one piece, in pieces, or by mounting. Source: registry 5.2."""

from __future__ import annotations

import re
from typing import Any

from georeg_lab.registry import digests
from georeg_lab.registry.auth import Access
from georeg_lab.registry.backend import BlobUnknownError, StoredBlob
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.http_errors import GO_ERROR, APIError, APIErrors
from georeg_lab.registry.http_handler import Handler
from georeg_lab.registry.http_routes import NAME, NAME_LIMIT
from georeg_lab.registry.uploads import State, StateError, Upload, UploadUnknownError

OCTETS = "application/octet-stream"
CANONICAL = "sha256"
_NAME = re.compile(NAME, re.ASCII)


def content_range(header: str) -> tuple[int, int]:
    """First and last byte of a `Content-Range` of the form `a-b`. Raises APIError."""
    parts = header.split("-")
    if len(parts) != 2:
        raise APIError("UNKNOWN", f"invalid content range format, {header}")
    numbers = []
    for part in parts:
        if not re.fullmatch(r"[+-]?\d+", part):
            problem = f'strconv.ParseInt: parsing "{part}": invalid syntax'
            raise APIError("UNKNOWN", f"invalid content range values, {header}: {problem}")
        if not -(1 << 63) <= int(part) < 1 << 63:
            problem = f'strconv.ParseInt: parsing "{part}": value out of range'
            raise APIError("UNKNOWN", f"invalid content range values, {header}: {problem}")
        numbers.append(int(part))
    return numbers[0], numbers[1]


class Uploads(Handler):
    """The start of an upload, and everything that is done to one."""

    def initialize(self, registry: Registry, **settings: Any) -> None:
        super().initialize(registry, **settings)
        self.upload: Upload | None = None
        self.digest = ""

    def required(self) -> list[Access]:
        source = self.query("from")
        return [*super().required(), *([Access("repository", source, "pull")] if source else [])]

    def opened(self) -> None:
        """Find the upload and look whether the body may be appended to it."""
        if self.route.name == "upload-start":
            return
        self.upload = self._resumed()
        method = self.request.method
        if method == "PATCH":
            self._check_piece(self.upload)
        elif method == "PUT":
            self._check_digest()

    def before_refusal(self) -> None:
        """An upload that does not exist is said so even where nothing may be written."""
        if self.route.name == "upload-start":
            return
        try:
            self._resumed()
        except APIError as error:
            raise APIErrors([error]) from None

    def _resumed(self) -> Upload:
        try:
            state = State.unpack(self.query("_state"), self.registry.secret)
        except StateError:
            raise APIError("BLOB_UPLOAD_INVALID", GO_ERROR) from None
        if state.name != self.repository or state.uuid != self.names["uuid"]:
            raise APIError("BLOB_UPLOAD_INVALID")
        try:
            upload = Upload.resume(self.registry.files, self.repository, state.uuid)
        except UploadUnknownError:
            raise APIError("BLOB_UPLOAD_UNKNOWN", GO_ERROR) from None
        if self.request.method not in ("GET", "HEAD") and upload.size != state.offset:
            raise APIError("RESUMABLE_BLOB_UPLOAD_INVALID")
        return upload

    def _check_piece(self, upload: Upload) -> None:
        if self.request.headers.get("Content-Type", "") not in ("", OCTETS):
            raise APIError("UNKNOWN", GO_ERROR)
        header = self.request.headers.get("Content-Range", "")
        if header and content_range(header)[0] != upload.size:
            raise APIError("CONTENT_RANGE_INVALID")

    def _check_digest(self) -> None:
        text = self.query("digest")
        if not text:
            raise APIError("DIGEST_INVALID", "digest missing")
        try:
            self.digest = digests.validate(text)
        except digests.DigestError:
            raise APIError("DIGEST_INVALID", "digest parsing failed") from None

    def receive(self, chunk: bytes) -> None:
        if self.upload is not None and self.request.method in ("PATCH", "PUT"):
            self.upload.append(chunk)

    def _progress(self, upload: Upload) -> None:
        size = upload.size
        token = upload.state(size).pack(self.registry.secret)
        path = f"/v2/{self.repository}/blobs/uploads/{upload.uuid}"
        self.set_header("Location", self.url(path, _state=token))
        self.set_header("Docker-Upload-Uuid", upload.uuid)
        self.set_header("Range", f"0-{max(size - 1, 0)}")

    def do_post(self) -> None:
        """Mount a blob of another repository, or start an upload, whatever path an upload has."""
        if self.query("mount") and self.query("from") and self._mounted(self.query("mount"), self.query("from")):
            return
        self._progress(Upload.begin(self.registry.files, self.repository))
        self.set_status(202)

    def _mounted(self, digest: str, source: str) -> bool:
        if not digests.is_valid(digest) or not _NAME.fullmatch(source) or len(source) > NAME_LIMIT:
            return False
        try:
            blob: StoredBlob = self.backend.mount(self.repository, digest, source)
        except BlobUnknownError:
            return False
        self._created(blob.digest)
        self._announce("mount", blob, source)
        return True

    def _created(self, digest: str) -> None:
        self.set_status(201)
        self.set_header("Docker-Content-Digest", digest)
        self.set_header("Location", self.url(f"/v2/{self.repository}/blobs/{digest}"))

    def _announce(self, action: str, blob: StoredBlob, source: str = "") -> None:
        target = {
            "mediaType": OCTETS,
            "size": blob.size,
            "digest": blob.digest,
            "length": blob.size,
            "repository": self.repository,
            **({"fromRepository": source} if source else {}),
            "url": self.url(f"/v2/{self.repository}/blobs/{blob.digest}"),
        }
        self.announce(action, target)

    def do_get(self) -> None:
        """How far the upload is."""
        if self.upload is None:
            raise APIError("BLOB_UPLOAD_UNKNOWN")
        self._progress(self.upload)
        self.set_status(204)

    do_head = do_get

    def do_patch(self) -> None:
        """A piece was appended."""
        if self.upload is None:
            raise APIError("BLOB_UPLOAD_UNKNOWN")
        self._progress(self.upload)
        self.set_status(202)

    def do_put(self) -> None:
        """The last piece was appended: check, move into the blob store, link."""
        if self.upload is None:
            raise APIError("BLOB_UPLOAD_UNKNOWN")
        algorithm = self.digest.partition(":")[0]
        found = self.upload.hashes(*{CANONICAL, algorithm})
        if found[algorithm] != self.digest:
            raise APIError("DIGEST_INVALID", {"Digest": self.digest, "Reason": GO_ERROR})
        blob = StoredBlob(found[CANONICAL], self.upload.size)
        self.upload.commit(blob.digest)
        alias = "" if self.digest == blob.digest else self.digest
        self.backend.link_blob(self.repository, blob.digest, blob.size, alias)
        self._created(blob.digest)
        self._announce("push", blob)

    def do_delete(self) -> None:
        """Cancel."""
        if self.upload is None:
            raise APIError("BLOB_UPLOAD_UNKNOWN")
        self.upload.cancel()
        self.set_header("Docker-Upload-Uuid", self.upload.uuid)
        self.set_status(204)
