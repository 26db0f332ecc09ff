"""Which tags the importer will leave behind, and what it will die of: found before pushes are refused.

The importer says which tags it lost only when it has lost them, and a handful of corruptions end it altogether
(registry 1.6). Both are looked for through the legacy registry's HTTP, for any storage; where the storage is a file
system, also in the folders, for what HTTP does not show. Each cause is one row of the table in registry 1.6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from georeg_nb.errors import HttpRefused
from georeg_nb.procedures.state import Tags
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.site import Site

WORKERS = 8
BIG_CONFIG = 256_000  # bytes; a larger config is never read (registry 1.6)
LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
IMAGES = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
BUILDKIT = "application/vnd.buildkit.cacheconfig"
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
LINK_BYTES = {71, 135}  # "sha256:" or "sha512:" and the hash, no newline (registry 3)
FIND_LIMIT = 3600.0
# folders that hold nothing to be looked at, by far the most of a registry
PRUNED = ("*/_layers", "*/_uploads", "*/_manifests/revisions", "*/_manifests/tags/*/index")

Kind = str  # "lost", "fatal", "incomplete"


@dataclass(frozen=True, order=True)
class Trouble:
    """What the importer will stumble over. `kind`: lost (the tag), fatal (the whole import), incomplete (the image
    is broken already and will stay so: no tag is lost).
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


@dataclass(frozen=True)
class Forecast:
    """All tags of a legacy registry with their digests, and what an import will stumble over."""

    tags: Tags
    troubles: tuple[Trouble, ...]

    def of(self, kind: Kind) -> list[Trouble]:
        """Troubles of one kind."""
        return [trouble for trouble in self.troubles if trouble.kind == kind]


def read_tags(registry: RegistryAPI, progress: Callable[[str, float | None], object]) -> dict[tuple[str, str], str]:
    """(repository, tag) → digest of the whole registry over HTTP; "" where it lists a tag and cannot tell the
    digest.
    """
    paths = list(registry.catalog())
    found: dict[tuple[str, str], str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        lists = pool.map(registry.tags, paths)
        for number, (path, tags) in enumerate(zip(paths, lists, strict=True), 1):
            digests = pool.map(lambda tag, path=path: _digest(registry, path, tag), tags)
            found.update({(path, tag): digest for tag, digest in zip(tags, digests, strict=True)})
            progress(f"reading tags: {number} of {len(paths)} repositories", number / len(paths))
    return found


def _digest(registry: RegistryAPI, path: str, tag: str) -> str:
    try:
        return registry.digest(path, tag) or ""
    except HttpRefused as error:
        if error.status in (400, 404, 500):  # a broken link: the tag is there, its manifest is not
            return ""
        raise


def make(site: Site) -> Forecast:
    """Read the site's legacy registry and say what an import will do with it. Reads every manifest once; no layer."""
    tags = read_tags(site.registry, site.progress)
    troubles = list(_from_http(site.registry, tags, site.progress))
    named = {(trouble.repository, trouble.tag) for trouble in troubles}
    troubles += [t for t in from_folders(site) if (t.repository, t.tag) not in named or t.kind == "fatal"]
    return Forecast(tags, tuple(sorted(set(troubles))))


def _from_http(registry: RegistryAPI, tags: Tags, progress: Callable[[str, float | None], object]) -> Iterator[Trouble]:
    by_manifest: dict[tuple[str, str], list[str]] = {}
    for (path, tag), digest in tags.items():
        if digest:
            by_manifest.setdefault((path, digest), []).append(tag)
        else:
            yield Trouble(
                path, tag, "lost", "the registry lists the tag but has no manifest for it (link or file missing)"
            )
    judge = Judge(registry)
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = pool.map(lambda key: judge.tagged(*key), by_manifest)
        for number, ((path, _), named, found) in enumerate(
            zip(by_manifest, by_manifest.values(), answers, strict=True), 1
        ):
            yield from (Trouble(path, tag, kind, cause) for tag in named for kind, cause in found)
            if number % 50 == 0 or number == len(by_manifest):
                progress(f"reading manifests: {number} of {len(by_manifest)}", number / len(by_manifest))


class Judge:
    """Judges manifests as the importer will. Answers are (kind, cause)."""

    def __init__(self, registry: RegistryAPI) -> None:
        self._registry = registry
        self._blobs: dict[tuple[str, str], bool] = {}

    def tagged(self, path: str, digest: str) -> list[tuple[Kind, str]]:
        """A manifest that a tag names."""
        document, problem = self._document(path, digest)
        if document is None:
            return [problem]
        return list(self._manifest(path, document, child=False))

    def _document(self, path: str, digest: str) -> tuple[dict[str, Any] | None, tuple[Kind, str]]:
        try:
            manifest = self._registry.manifest(path, digest)
        except HttpRefused as error:
            if error.status not in (400, 500):
                raise
            return None, ("fatal", f"the registry cannot read manifest {digest} ({error.status})")
        if manifest is None:
            return None, ("lost", "its manifest is not linked to the repository, or its file is missing")
        if not manifest.payload:
            return None, ("lost", "its manifest is empty")
        try:
            document = json.loads(manifest.payload)
        except ValueError:
            return None, ("fatal", f"manifest {digest} is no JSON")
        if not isinstance(document, dict):
            return None, ("fatal", f"manifest {digest} is no JSON object")
        return document, ("", "")

    def _manifest(self, path: str, document: Mapping[str, Any], *, child: bool) -> Iterator[tuple[Kind, str]]:
        version = document.get("schemaVersion")
        if version == 1:
            yield "lost", "schema version 1 is not imported"
        elif version != 2:
            yield "lost", f"its manifest has schema version {version!r}"
        elif is_cache(document):
            yield from self._image(path, _cache_config(document), _cache_layers(document))
        elif "manifests" in document or document.get("mediaType") in LISTS:
            yield from [("fatal", "a list inside a list")] if child else self._list(path, document)
        elif document.get("mediaType") not in (None, *IMAGES):
            yield "fatal", f"unrecognized manifest type {document.get('mediaType')}"
        else:
            yield from self._image(path, document.get("config") or {}, document.get("layers") or [])

    def _image(
        self, path: str, config: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]
    ) -> Iterator[tuple[Kind, str]]:
        digest = str(config.get("digest") or "")
        if digest and int(config.get("size") or 0) <= BIG_CONFIG and not self._has(path, digest):
            yield "lost", f"configuration {digest} is not linked to the repository, or its file is missing"
        for layer in layers:
            digest = str(layer.get("digest") or "")
            if digest and not layer.get("urls") and not self._has(path, digest):
                yield "incomplete", f"layer {digest} is missing; the image is imported without it"

    def _list(self, path: str, document: Mapping[str, Any]) -> Iterator[tuple[Kind, str]]:
        for entry in document.get("manifests") or []:
            digest = str(entry.get("digest") or "")
            child, problem = self._document(path, digest)
            findings = [problem] if child is None else list(self._manifest(path, child, child=True))
            for kind, cause in findings:
                # A child that is left out costs the list a part, not the tag (registry 1.6, 6.4)
                yield ("fatal" if kind == "fatal" else "incomplete"), f"child {digest}: {cause}"

    def _has(self, path: str, digest: str) -> bool:
        key = (path, digest)
        if key not in self._blobs:
            self._blobs[key] = self._registry.has_blob(path, digest)
        return self._blobs[key]


def is_cache(document: Mapping[str, Any]) -> bool:
    """A BuildKit cache index: imported as if it were an image (registry 1.6)."""
    return any(BUILDKIT in str(entry.get("mediaType", "")) for entry in document.get("manifests") or [])


def _cache_config(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(e for e in document["manifests"] if BUILDKIT in str(e.get("mediaType", "")))


def _cache_layers(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [e for e in document["manifests"] if BUILDKIT not in str(e.get("mediaType", ""))]


# what only the folders show


def from_folders(site: Site) -> list[Trouble]:
    """What a file system holds that ends an import and that HTTP does not show. Empty for other storage drivers."""
    config = site.omnibus.registry_config()
    root = config.root_directory if config else None
    if not root:
        return []
    repositories = f"{root}/docker/registry/v2/repositories"
    if not site.omnibus.node.exists(repositories):
        return [Trouble("", "", "fatal", f"there is no {repositories}: an untouched registry cannot be imported")]
    pruned = " -o ".join(f"-path {path}" for path in PRUNED).split()
    wrong_size = [part for size in sorted(LINK_BYTES) for part in ("-not", "-size", f"{size}c")]

    def lines(*tests: str) -> list[str]:
        command = ["find", repositories, "(", *pruned, ")", "-prune", "-o", *tests, "-print"]
        output = site.omnibus.node.run(command, timeout=FIND_LIMIT).stdout
        # the node may print its own form of the path: what counts lies behind the folder's name
        return [line.partition("/docker/registry/v2/repositories/")[2] for line in output.splitlines() if line]

    return [
        *judge_links(lines("-type", "f", "-path", "*/_manifests/tags/*/current/link", "-not", "-empty", *wrong_size)),
        *judge_files(lines("-type", "f", "-path", "*/_manifests/tags/*", "-not", "-name", "link")),
        *judge_names(lines("-type", "d", "-name", "_manifests")),
        *judge_tag_names(lines("-type", "d", "-path", "*/_manifests/tags/*", "-name", "* *")),
    ]


def judge_links(paths: Iterable[str]) -> Iterator[Trouble]:
    """Links of tags whose size is not a digest's (a trailing newline, say). Empty ones only lose their tag: see
    HTTP.
    """
    for path in paths:
        repository, _, rest = path.partition("/_manifests/tags/")
        yield Trouble(repository, rest.split("/")[0], "fatal", "its link file does not hold exactly a digest")


def judge_files(paths: Iterable[str]) -> Iterator[Trouble]:
    """Plain files where only folders of tags belong."""
    for path in paths:
        repository, _, rest = path.partition("/_manifests/tags/")
        if "/" not in rest:
            yield Trouble(repository, rest, "fatal", "a stray file among the folders of tags")


def judge_names(folders: Iterable[str]) -> Iterator[Trouble]:
    """Folders that are repositories by their content and not by their name."""
    for folder in folders:
        name = folder.removesuffix("/_manifests")
        if not NAME.fullmatch(name):
            yield Trouble(name, "", "fatal", "no valid repository name, and the folder has _manifests")
        elif len(name) > 255:
            yield Trouble(name, "", "fatal", "a repository name of more than 255 characters")


def judge_tag_names(folders: Iterable[str]) -> Iterator[Trouble]:
    """Tags with a blank."""
    for folder in folders:
        repository, _, tag = folder.partition("/_manifests/tags/")
        if "/" not in tag:
            yield Trouble(repository, tag, "fatal", "a tag name with a blank")
