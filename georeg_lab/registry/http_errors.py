"""Error codes of the registry's HTTP answers, and their JSON body. Source: registry 5.4, recorded answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
NO_DETAIL: Any = object()
GO_ERROR: dict[str, Any] = {}
"""How Go writes an error value as `detail`: an object without fields."""

CODES: dict[str, tuple[int, str]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to registry"),
    "BLOB_UPLOAD_INVALID": (404, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to registry"),
    "CONTENT_RANGE_INVALID": (416, "invalid content range"),
    "DENIED": (403, "requested access to the resource is denied"),
    "DIGEST_INVALID": (400, "provided digest did not match uploaded content"),
    "IMMUTABLE_TAG": (401, "tag is immutable"),
    "INVALID_QUERY_PARAMETER_TYPE": (400, "invalid query parameter value type"),
    "INVALID_QUERY_PARAMETER_VALUE": (400, "invalid query parameter value"),
    "MANIFEST_BLOB_UNKNOWN": (400, "blob unknown to registry"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_REFERENCED": (409, "manifest referenced by a manifest list"),
    "MANIFEST_REFERENCE_LIMIT": (400, "too many manifest references"),
    "MANIFEST_SIZE_LIMIT": (400, "payload size limit exceeded"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to registry"),
    "NOT_IMPLEMENTED": (501, "operation not available"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "PROTECTED_MANIFEST": (
        401,
        "insufficient permissions to delete manifest due to tag protection or immutability policies",
    ),
    "PROTECTED_TAG": (401, "insufficient permissions to push or delete protected tag"),
    "RESUMABLE_BLOB_UPLOAD_INVALID": (416, "resumable blob upload invalid"),
    "TAG_IMMUTABILITY_PATTERN_INVALID": (400, "invalid tag immutability pattern"),
    "TAG_PATTERN_COUNT_LIMIT_EXCEEDED": (400, "tag protection and immutability patterns count limit exceeded"),
    "TAG_PROTECTION_PATTERN_INVALID": (400, "invalid tag protection pattern"),
    "TAG_UNKNOWN": (404, "tag name for repository does not exist"),
    "UNAUTHORIZED": (401, "authentication required"),
    "UNAVAILABLE": (503, "service unavailable"),
    "UNKNOWN": (500, "unknown error"),
    "UNSUPPORTED": (405, "The operation is unsupported."),
}


class APIError(Exception):
    """One error of an answer. `detail` is left out of the body unless given; `message` replaces the code's own."""

    def __init__(self, code: str, detail: Any = NO_DETAIL, message: str = "") -> None:
        self.code = code
        self.status, text = CODES[code]
        self.message = message or text
        self.detail = detail
        super().__init__(f"{code.lower().replace('_', ' ')}: {self.message}")

    def entry(self) -> dict[str, Any]:
        """The error as it stands in the body."""
        entry = {"code": self.code, "message": self.message}
        return entry if self.detail is NO_DETAIL else {**entry, "detail": self.detail}


class APIErrors(Exception):
    """Several errors of one answer; the first one decides the status."""

    def __init__(self, errors: Sequence[APIError]) -> None:
        super().__init__(", ".join(str(error) for error in errors))
        self.errors = list(errors)


def go_json(value: Any) -> bytes:
    """JSON as Go's encoder writes it: compact, keys in the given order, `<>&` escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: _GO_ESCAPES[match[0]], text).encode("utf-8", "replace")


def body(errors: Sequence[APIError]) -> bytes:
    """The body of an answer with these errors."""
    return go_json({"errors": [error.entry() for error in errors]}) + b"\n"
