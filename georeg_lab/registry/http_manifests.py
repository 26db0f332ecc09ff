"""`/v2/<name>/manifests/<reference>`. Source: registry 5.2, recorded answers."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from georeg_lab.registry import digests
from georeg_lab.registry import media_types as types
from georeg_lab.registry.auth import PATTERNS_LIMIT, protects
from georeg_lab.registry.backend import (
    InternalError,
    ManifestReferencedError,
    ManifestUnknownError,
    RepositoryUnknownError,
    StoredManifest,
    UnavailableError,
)
from georeg_lab.registry.http_app import Registry
from georeg_lab.registry.http_errors import GO_ERROR, APIError, APIErrors
from georeg_lab.registry.http_handler import Handler
from georeg_lab.registry.http_payloads import LIMIT, Payload, PayloadError, Reference, media_type, read, stored

SCHEMA_VERSION = 2
DEFAULT_OS, DEFAULT_ARCHITECTURE = "linux", "amd64"
_KINDS = {types.OCI_MANIFEST: "manifest", types.OCI_INDEX: "index"}
_PLURALS = {"manifest": "manifests", "index": "indexes"}


class Manifests(Handler):
    """One manifest, by tag or by digest."""

    def initialize(self, registry: Registry, **settings: Any) -> None:
        super().initialize(registry, **settings)
        reference = self.names.get("reference", "")
        self.digest = reference if digests.is_valid(reference) else ""
        self.tag = "" if self.digest else reference
        self.received = bytearray()
        self.too_large = False
        self.immutable: list[str] = []

    def receive(self, chunk: bytes) -> None:
        if len(self.received) + len(chunk) > LIMIT:
            self.too_large = True
            self.received.clear()
        if not self.too_large:
            self.received += chunk

    # --- pull

    def do_get(self) -> None:
        """Serve the manifest, in a form that the client accepts."""
        digest = self.digest
        if self.tag:
            try:
                digest = self.backend.tag_digest(self.repository, self.tag)
            except ManifestUnknownError:
                raise APIError("MANIFEST_UNKNOWN", {"Tag": self.tag}) from None
        wanted = self.request.headers.get_list("If-None-Match")
        if digest in wanted or f'"{digest}"' in wanted:
            self.set_status(304)
            return
        manifest = self._accepted(self._find(digest))
        self.set_header("Content-Type", manifest.media_type)
        self.set_header("Docker-Content-Digest", manifest.digest)
        self.set_header("Etag", f'"{manifest.digest}"')
        self.set_header("Content-Length", str(len(manifest.payload)))
        self.body(manifest.payload)
        self._pulled(manifest)

    do_head = do_get

    def _find(self, digest: str) -> StoredManifest:
        try:
            found: StoredManifest = self.backend.manifest(self.repository, digest)
        except ManifestUnknownError:
            raise APIError("MANIFEST_UNKNOWN", {"Name": self.repository, "Revision": digest}) from None
        return found

    def _accepted(self, manifest: StoredManifest) -> StoredManifest:
        """The manifest, or what stands for it where the client does not name its type. `*/*` names none."""
        accepted = set()
        for header in self.request.headers.get_list("Accept"):
            for part in header.split(","):
                with suppress(ValueError):
                    accepted.add(media_type(part))
        if manifest.media_type in accepted:
            return manifest
        kind = _KINDS.get(manifest.media_type)
        if kind:
            text = f"OCI {kind} found, but accept header does not support OCI {_PLURALS[kind]}"
            raise APIError("MANIFEST_UNKNOWN", message=text)
        if manifest.media_type != types.DOCKER_LIST or not self.tag:
            return manifest
        for child in stored(manifest.payload).children:
            if (child.os, child.architecture) == (DEFAULT_OS, DEFAULT_ARCHITECTURE):
                return self._find(child.digest)
        raise APIError("MANIFEST_UNKNOWN", GO_ERROR)

    def _pulled(self, manifest: StoredManifest) -> None:
        payload = stored(manifest.payload)
        self.registry.log.info(
            "manifest downloaded",
            correlation_id=self.correlation,
            digest=manifest.digest,
            media_type=manifest.media_type,
            path=self.repository,
            reference_count=len(payload.references),
            root_repo=self.repository.split("/")[0],
            size_bytes=len(manifest.payload),
            tag_name=self.tag,
            vars_name=self.repository,
            vars_reference=self.names["reference"],
        )
        self._announce("pull", payload, manifest.digest, manifest.media_type)

    def _announce(self, action: str, payload: Payload, digest: str, media_type: str) -> None:
        target = {
            "mediaType": media_type,
            "size": len(payload.data),
            "digest": digest,
            "length": len(payload.data),
            "repository": self.repository,
            "url": self.url(f"/v2/{self.repository}/manifests/{digest}"),
            **({"tag": self.tag} if self.tag else {}),
        }
        self.announce(action, target, references=[reference.event_entry() for reference in payload.references])

    # --- push

    def do_put(self) -> None:
        """Verify and store the manifest."""
        self._check_protection("push")
        payload = self._read()
        if self.digest and self.digest != payload.digest:
            raise APIError("DIGEST_INVALID")
        self._check_limits(payload)
        problems = [problem for reference in payload.references for problem in self._problems(payload, reference)]
        if problems:
            raise APIErrors(problems)
        if self.tag and self.immutable and self.backend.is_database and self._tag_exists():
            self._check_immutable()  # legacy metadata knows no immutable tags
        self.backend.put_manifest(self.repository, payload, self.tag)
        self.set_status(201)
        self.set_header("Docker-Content-Digest", payload.digest)
        self.set_header("Location", self.url(f"/v2/{self.repository}/manifests/{payload.digest}"))
        self._announce("push", payload, payload.digest, payload.media_type)

    def _read(self) -> Payload:
        if self.too_large:
            raise APIError("MANIFEST_INVALID", "http: request body too large")
        try:
            return read(self.request.headers.get("Content-Type", ""), bytes(self.received))
        except PayloadError as error:
            raise APIError("MANIFEST_INVALID", str(error)) from None

    def _check_limits(self, payload: Payload) -> None:
        if payload.schema_version != SCHEMA_VERSION:
            raise InternalError(f"unrecognized manifest schema version {payload.schema_version}")
        settings = self.registry.config.validation
        if settings.disabled:
            return
        limits = settings.manifests
        count, size = len(payload.references), len(payload.data)
        if 0 < limits.payload_size_limit < size:
            text = f"manifest payload size of {size} exceeds limit of {limits.payload_size_limit}"
            raise APIError("MANIFEST_SIZE_LIMIT", f"errors verifying manifest: {text}")
        if 0 < limits.reference_limit < count:
            raise APIError("MANIFEST_REFERENCE_LIMIT", [{"References": count, "Limit": limits.reference_limit}])

    def _problems(self, payload: Payload, reference: Reference) -> list[APIError]:
        """What is wrong with one reference; whatever it is, `MANIFEST_BLOB_UNKNOWN` follows."""
        unknown = APIError("MANIFEST_BLOB_UNKNOWN", reference.digest)
        if not self._allowed(payload, reference):
            return [APIError("UNKNOWN", GO_ERROR), unknown]
        as_manifest = types.is_manifest(reference.media_type) if not payload.is_list else payload.cache_config is None
        if reference.urls and not as_manifest and not payload.is_list:
            return []  # it lies elsewhere
        if not digests.is_valid(reference.digest):
            return [unknown] if as_manifest and not payload.is_list else [APIError("DIGEST_INVALID"), unknown]
        try:
            ask = self.backend.has_manifest if as_manifest else self.backend.has_blob
            return [] if ask(self.repository, reference.digest) else [unknown]
        except RepositoryUnknownError:
            return [unknown] if as_manifest and not payload.is_list else [APIError("UNKNOWN", GO_ERROR), unknown]
        except UnavailableError:
            return [APIError("UNAVAILABLE", GO_ERROR), unknown]

    def _allowed(self, payload: Payload, reference: Reference) -> bool:
        """Whether the URLs of a layer may be there. Without rules none may."""
        if payload.media_type == types.DOCKER_MANIFEST and reference.media_type == types.DOCKER_FOREIGN_LAYER:
            return bool(reference.urls) and all(self._is_allowed(url) for url in reference.urls)
        if payload.media_type == types.OCI_MANIFEST and reference.media_type in types.OCI_LAYERS:
            return all(self._is_allowed(url) for url in reference.urls)
        return True

    def _is_allowed(self, url: str) -> bool:
        validation = self.registry.config.validation
        rules = validation.manifests.urls
        if any(character < " " or character == "\x7f" for character in url):
            return False
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or parts.fragment:
            return False
        if validation.disabled:
            return True
        if not rules.allow and not rules.deny:
            return False
        if rules.allow and not any(re.search(rule, url) for rule in rules.allow):
            return False
        return not any(re.search(rule, url) for rule in rules.deny)

    # --- delete

    def do_delete(self) -> None:
        """Remove the tag, or the manifest with its tags."""
        if not self.registry.config.storage.delete_enabled:
            raise APIError("UNSUPPORTED")
        self._check_protection("delete")
        try:
            if self.tag:
                self.backend.delete_tag(self.repository, self.tag)
                self.announce("delete", {"repository": self.repository, "tag": self.tag})
            else:
                for tag in self.backend.delete_manifest(self.repository, self.digest):
                    self.announce("delete", {"repository": self.repository, "tag": tag})
                self.announce("delete", {"digest": self.digest, "repository": self.repository})
        except RepositoryUnknownError:
            raise APIError("NAME_UNKNOWN") from None
        except ManifestUnknownError:
            raise APIError("MANIFEST_UNKNOWN") from None
        except ManifestReferencedError:
            raise APIError("MANIFEST_REFERENCED") from None
        self.set_status(202)

    # --- protection of tags, by patterns in the token

    def _check_protection(self, action: str) -> None:
        """Raise APIError where the token protects what is to be pushed or deleted."""
        meta = self.grant.meta.get(self.repository) or {}
        denied: list[str] = (meta.get("tag_deny_access_patterns") or {}).get(action) or []
        self.immutable = meta.get("tag_immutable_patterns") or []
        if not self.tag:
            # whichever tags the manifest has: the real program does not look
            if action == "delete" and (denied or self.immutable):
                raise APIError("PROTECTED_MANIFEST")
            return
        if len(denied) + len(self.immutable) > PATTERNS_LIMIT:
            raise APIError("TAG_PATTERN_COUNT_LIMIT_EXCEEDED", GO_ERROR)
        if self._matches("TAG_PROTECTION_PATTERN_INVALID", denied, self.tag):
            raise APIError("PROTECTED_TAG", f'tag "{self.tag}" is protected')
        if action == "delete":
            self._check_immutable()

    def _check_immutable(self) -> None:
        if self._matches("TAG_IMMUTABILITY_PATTERN_INVALID", self.immutable, self.tag):
            raise APIError("IMMUTABLE_TAG", f'tag "{self.tag}" is immutable')

    @staticmethod
    def _matches(code: str, patterns: list[str], tag: str) -> bool:
        try:
            return protects(patterns, tag)
        except re.error:
            raise APIError(code, GO_ERROR) from None

    def _tag_exists(self) -> bool:
        try:
            self.backend.tag_digest(self.repository, self.tag)
        except ManifestUnknownError:
            return False
        return True
