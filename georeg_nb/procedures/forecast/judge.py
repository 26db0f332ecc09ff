"""What the importer does with one tag: the table of registry 1.6, as code. Held to every recorded import.

A `Source` shows manifests and blobs of a legacy registry: over HTTP for any storage, or from the folders of a file
system, where HTTP cannot tell a broken link from a missing one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from georeg_nb.errors import HttpRefused, NodeFileMissing
from georeg_nb.nodes import Node
from georeg_nb.registry_api import RegistryAPI

Kind = Literal["lost", "fatal", "incomplete"]
BlobState = Literal["there", "missing", "broken", "fatal"]

BIG_CONFIG = 256_000  # bytes; a larger config is never read
IMAGES = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
BUILDKIT = "application/vnd.buildkit.cacheconfig"
HASH_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, order=True)
class Trouble:
    """What the importer will stumble over. `kind`: lost (the tag), fatal (it ends the whole import), incomplete (the
    image is broken already and stays so: no tag is lost).
    """

    repository: str
    tag: str
    kind: Kind
    cause: str

    @property
    def name(self) -> str:
        """As `accept_losses` names it."""
        return f"{self.repository}:{self.tag}"

    def row(self) -> dict[str, str]:
        """For a table."""
        return {"repository": self.repository, "tag": self.tag, "what": self.kind, "cause": self.cause}


class Problem(Exception):
    """A manifest that cannot be had, and what the importer makes of that."""

    def __init__(self, kind: Kind, cause: str) -> None:
        super().__init__(cause)
        self.kind: Kind = kind
        self.cause = cause


class Source(Protocol):
    """Where manifests and blobs of a legacy registry are read."""

    def manifest(self, path: str, digest: str) -> bytes:
        """Payload of a manifest of the repository. Raises Problem."""

    def blob(self, path: str, digest: str) -> BlobState:
        """Whether a config or layer can be had from the repository."""


class OverHttp:
    """The registry's own answers."""

    def __init__(self, registry: RegistryAPI) -> None:
        self._registry = registry
        self._blobs: dict[tuple[str, str], BlobState] = {}

    def manifest(self, path: str, digest: str) -> bytes:
        try:
            found = self._registry.manifest(path, digest)
        except HttpRefused as error:
            if error.status not in (400, 500):
                raise
            raise Problem("fatal", f"the registry cannot read manifest {digest} ({error.status})") from None
        if found is None:
            raise Problem("lost", f"manifest {digest} is not linked to the repository, or its file is missing")
        return found.payload

    def blob(self, path: str, digest: str) -> BlobState:
        key = (path, digest)
        if key not in self._blobs:
            self._blobs[key] = "there" if self._registry.has_blob(path, digest) else "missing"
        return self._blobs[key]


class InFolders:
    """The files of the file system driver (registry 3). `root` is its root directory on the node."""

    def __init__(self, node: Node, root: str) -> None:
        self._node = node
        self._v2 = f"{root}/docker/registry/v2"

    def tag(self, path: str, tag: str) -> str:
        """The digest that a tag names. Raises Problem."""
        return self._digest(f"{self._v2}/repositories/{path}/_manifests/tags/{tag}/current/link", "tag link")

    def manifest(self, path: str, digest: str) -> bytes:
        target = self._digest(f"{self._v2}/repositories/{path}/_manifests/revisions/{_folder(digest)}/link", "revision")
        payload = self._read(self._data(target))
        if payload is None:
            raise Problem("lost", f"the file of manifest {digest} is missing")
        return payload

    def blob(self, path: str, digest: str) -> BlobState:
        try:
            target = self._digest(f"{self._v2}/repositories/{path}/_layers/{_folder(digest)}/link", "link")
        except Problem as problem:
            missing = problem.cause.endswith("missing")
            return "fatal" if problem.kind == "fatal" else "missing" if missing else "broken"
        return "there" if self._node.exists(self._data(target)) else "missing"

    def _digest(self, link: str, what: str) -> str:
        text = self._read(link)
        if text is None:
            raise Problem("lost", f"its {what} is missing")
        return judge_link(text.decode("latin-1"), what)

    def _data(self, digest: str) -> str:
        algorithm, _, encoded = digest.partition(":")
        return f"{self._v2}/blobs/{algorithm}/{encoded[:2]}/{encoded}/data"

    def _read(self, path: str) -> bytes | None:
        try:
            return self._node.read_file(path)
        except NodeFileMissing:
            return None


def _folder(digest: str) -> str:
    return digest.replace(":", "/", 1)


def judge_link(text: str, what: str = "link") -> str:
    """The digest in a link file. Raises Problem: fatal where a hash has the wrong length (a newline behind it is
    enough), or is SHA-384; any other garbage only loses the tag.
    """
    algorithm, colon, encoded = text.partition(":")
    if not (algorithm and colon and encoded) or algorithm not in HASH_LENGTH:
        raise Problem("lost", f"its {what} is {'empty' if not text else 'no digest'}")
    if len(encoded) != HASH_LENGTH[algorithm]:
        raise Problem("fatal", f"its {what} has a hash of the wrong length (a newline behind it?)")
    if not re.fullmatch(r"[0-9a-f]+", encoded):
        raise Problem("lost", f"its {what} is no digest")
    if algorithm == "sha384":
        raise Problem("fatal", f"its {what} is a SHA-384 digest, which the importer does not know")
    return text


class Judge:
    """Judges manifests as the importer will; answers are (kind, cause)."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def tagged(self, path: str, digest: str) -> list[tuple[Kind, str]]:
        """What becomes of a tag that names this manifest; nothing: it is imported whole."""
        try:
            return list(self._manifest(path, self._document(path, digest), child=False))
        except Problem as problem:
            return [(problem.kind, problem.cause)]

    def _document(self, path: str, digest: str) -> dict[str, Any]:
        payload = self._source.manifest(path, digest)
        if not payload:
            raise Problem("lost", f"manifest {digest} is empty")
        try:
            document = json.loads(payload)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Problem("fatal", f"manifest {digest} is no JSON")
        return document

    def _manifest(self, path: str, document: Mapping[str, Any], *, child: bool) -> Iterator[tuple[Kind, str]]:
        version, media_type = document.get("schemaVersion"), document.get("mediaType")
        entries = [entry for entry in document.get("manifests") or [] if isinstance(entry, Mapping)]
        caches = [entry for entry in entries if BUILDKIT in str(entry.get("mediaType", ""))]
        if version == 1:
            yield "lost", "schema version 1 is not imported"
        elif version != 2:
            yield "lost", f"its manifest has schema version {version!r}"
        elif caches:  # a BuildKit cache index is imported as if it were an image
            yield from self._image(path, caches[0], [entry for entry in entries if entry not in caches])
        elif child and ("manifests" in document or media_type in LISTS):
            yield "fatal", "a list inside a list"
        elif "manifests" in document or media_type in LISTS:
            yield from self._list(path, entries)
        elif media_type not in (None, "", *IMAGES):
            yield "fatal", f"unrecognized manifest type {media_type}"
        else:
            yield from self._image(path, document.get("config") or {}, document.get("layers") or [])

    def _image(
        self, path: str, config: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[Kind, str]]:
        digest = str(config.get("digest") or "")
        if digest and int(config.get("size") or 0) <= BIG_CONFIG:
            state = self._source.blob(path, digest)
            if state == "fatal":
                yield "fatal", f"the link of configuration {digest} has a hash of the wrong length"
            elif state != "there":
                yield "lost", f"configuration {digest} is not linked to the repository, or its file is missing"
        for layer in layers:
            digest = str(layer.get("digest") or "")
            if digest and not layer.get("urls"):
                yield from self._layer(digest, self._source.blob(path, digest))

    @staticmethod
    def _layer(digest: str, state: BlobState) -> Iterator[tuple[Kind, str]]:
        if state == "fatal":
            yield "fatal", f"the link of layer {digest} has a hash of the wrong length"
        elif state == "broken":
            yield "lost", f"the link of layer {digest} is broken"
        elif state == "missing":
            yield "incomplete", f"layer {digest} is missing; the image is imported without it"

    def _list(self, path: str, entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Kind, str]]:
        for entry in entries:
            digest = str(entry.get("digest") or "")
            try:
                findings = list(self._manifest(path, self._document(path, digest), child=True))
            except Problem as problem:
                findings = [(problem.kind, problem.cause)]
            for kind, cause in findings:
                # A child that is left out costs the list a part, not the tag (registry 1.6, 6.4).
                yield ("fatal" if kind == "fatal" else "incomplete"), f"child {digest}: {cause}"
