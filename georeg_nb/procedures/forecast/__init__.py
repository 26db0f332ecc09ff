"""Which tags the importer will leave behind, and what it will die of: found before pushes are refused.

The importer says which tags it lost only when it has lost them, and a handful of corruptions end it altogether
(registry 1.6). Both are looked for through the legacy registry's HTTP, for any storage; where the storage is a file
system, every tag in trouble is judged once more from its files, and the folders are searched for what HTTP does not
show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from georeg_nb.errors import HttpRefused
from georeg_nb.procedures.forecast.judge import InFolders, Judge, Kind, OverHttp, Problem, Trouble
from georeg_nb.procedures.state import Tags
from georeg_nb.registry_api import RegistryAPI
from georeg_nb.site import Site

__all__ = ["Forecast", "Trouble", "make", "read_tags"]

WORKERS = 8
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
FIND_LIMIT = 3600.0
# folders that hold nothing to be looked at, by far the most of a registry
PRUNED = ("*/_layers", "*/_uploads", "*/_manifests/revisions", "*/_manifests/tags/*/index")
LINK_SIZES = ("71c", "135c")  # "sha256:" or "sha512:" and the hash, no newline

Progress = Callable[[str, float | None], object]


@dataclass(frozen=True)
class Forecast:
    """All tags of a legacy registry with their digests, and what an import will stumble over."""

    tags: Tags
    troubles: tuple[Trouble, ...]

    def of(self, kind: Kind) -> list[Trouble]:
        """Troubles of one kind."""
        return [trouble for trouble in self.troubles if trouble.kind == kind]


def read_tags(
    registry: RegistryAPI, progress: Progress, unreadable: set[tuple[str, str]] | None = None
) -> dict[tuple[str, str], str]:
    """(repository, tag) → digest of the whole registry over HTTP; "" where it lists a tag and cannot tell the digest.

    Those of them at which it even fails (400, 500) are added to `unreadable`.
    """
    paths = list(registry.catalog())
    failing: set[tuple[str, str]] = set() if unreadable is None else unreadable
    found: dict[tuple[str, str], str] = {}

    def digest(path: str, tag: str) -> str:
        try:
            return registry.digest(path, tag) or ""
        except HttpRefused as error:
            if error.status not in (400, 404, 500):
                raise
            if error.status != 404:
                failing.add((path, tag))
            return ""

    with ThreadPoolExecutor(WORKERS) as pool:
        lists = pool.map(registry.tags, paths)
        for number, (path, tags) in enumerate(zip(paths, lists, strict=True), 1):
            digests = pool.map(lambda tag, path=path: digest(path, tag), tags)
            found.update({(path, tag): value for tag, value in zip(tags, digests, strict=True)})
            progress(f"reading tags: {number} of {len(paths)} repositories", number / len(paths))
    return found


def make(site: Site) -> Forecast:
    """Read the site's legacy registry and say what an import will do with it. Reads every manifest once, and no
    layer.
    """
    unreadable: set[tuple[str, str]] = set()
    tags = read_tags(site.registry, site.progress, unreadable)
    troubles = set(_over_http(site.registry, tags, unreadable, site.progress))
    config = site.omnibus.registry_config()
    if config and config.root_directory:
        folders = Folders(site, config.root_directory)
        others, links = folders.search()
        again = {(t.repository, t.tag) for t in troubles} | links
        troubles = {trouble for path, tag in again for trouble in folders.judge(path, tag)} | set(others)
    return Forecast(tags, tuple(sorted(troubles)))


def _over_http(
    registry: RegistryAPI, tags: Tags, unreadable: set[tuple[str, str]], progress: Progress
) -> Iterator[Trouble]:
    by_manifest: dict[tuple[str, str], list[str]] = {}
    for (path, tag), digest in tags.items():
        if digest:
            by_manifest.setdefault((path, digest), []).append(tag)
        elif (path, tag) in unreadable:
            yield Trouble(path, tag, "fatal", "the registry fails at reading it")
        else:
            yield Trouble(path, tag, "lost", "the registry lists the tag but has no manifest for it")
    judge = Judge(OverHttp(registry))
    with ThreadPoolExecutor(WORKERS) as pool:
        answers = pool.map(lambda key: judge.tagged(*key), by_manifest)
        for number, (key, found) in enumerate(zip(by_manifest, answers, strict=True), 1):
            yield from (Trouble(key[0], tag, kind, cause) for tag in by_manifest[key] for kind, cause in found)
            if number % 50 == 0 or number == len(by_manifest):
                progress(f"reading manifests: {number} of {len(by_manifest)}", number / len(by_manifest))


class Folders:
    """The file system driver's folders on the node."""

    def __init__(self, site: Site, root: str) -> None:
        self._node = site.omnibus.node
        self._v2 = f"{root}/docker/registry/v2"
        self._source = InFolders(self._node, root)
        self._judge = Judge(self._source)

    def judge(self, path: str, tag: str) -> list[Trouble]:
        """One tag, from its files."""
        try:
            found = self._judge.tagged(path, self._source.tag(path, tag))
        except Problem as problem:
            found = [(problem.kind, problem.cause)]
        return [Trouble(path, tag, kind, cause) for kind, cause in found]

    def search(self) -> tuple[list[Trouble], set[tuple[str, str]]]:
        """What ends an import and does not show over HTTP; and tags whose link has not the size of a digest."""
        if not self._node.exists(f"{self._v2}/repositories"):
            cause = f"there is no {self._v2}/repositories: an untouched registry cannot be imported"
            return [Trouble("", "", "fatal", cause)], set()
        sizes = [part for size in LINK_SIZES for part in ("-not", "-size", size)]
        links = self._find("-type", "f", "-path", "*/_manifests/tags/*/current/link", *sizes)
        troubles = [
            *judge_files(self._find("-type", "f", "-path", "*/_manifests/tags/*", "-not", "-name", "link")),
            *judge_names(self._find("-type", "d", "-name", "_manifests")),
            *judge_tag_names(self._find("-type", "d", "-path", "*/_manifests/tags/*", "-name", "* *")),
            *self._blob_folders(),
        ]
        return troubles, {_tag_of(link) for link in links}

    def _find(self, *tests: str) -> list[str]:
        pruned = " -o ".join(f"-path {path}" for path in PRUNED).split()
        command = ["find", f"{self._v2}/repositories", "(", *pruned, ")", "-prune", "-o", *tests, "-print"]
        output = self._node.run(command, timeout=FIND_LIMIT).stdout
        # the node may print its own form of the path: what counts lies behind the folder's name
        return [line.partition("/docker/registry/v2/repositories/")[2] for line in output.splitlines() if line]

    def _blob_folders(self) -> Iterator[Trouble]:
        command = ["find", f"{self._v2}/blobs", "-mindepth", "2", "-maxdepth", "2", "-type", "d", "-not", "-name"]
        for line in self._node.run([*command, "[0-9a-f][0-9a-f]"], timeout=FIND_LIMIT, check=False).stdout.splitlines():
            place = line.partition("/docker/registry/v2/")[2]
            files = self._node.run(["find", f"{self._v2}/{place}", "-name", "data"], timeout=FIND_LIMIT, check=False)
            if files.stdout.strip():
                yield Trouble("", "", "fatal", f"{place} in the storage is no folder of a blob")


def _tag_of(link: str) -> tuple[str, str]:
    repository, _, rest = link.partition("/_manifests/tags/")
    return repository, rest.split("/")[0]


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
        repository, tag = _tag_of(folder)
        if folder.endswith(f"/{tag}"):
            yield Trouble(repository, tag, "fatal", "a tag name with a blank")
