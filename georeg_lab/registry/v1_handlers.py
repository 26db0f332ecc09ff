"""`/gitlab/v1/…`: GitLab's own API, with the metadata database only. Source: registry 5.5."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from georeg_lab.registry import VERSION, v1_queries
from georeg_lab.registry.auth import Access
from georeg_lab.registry.backend import InternalError
from georeg_lab.registry.db import DatabaseError, Queries
from georeg_lab.registry.http_base import public_version
from georeg_lab.registry.http_errors import APIError
from georeg_lab.registry.http_handler import Handler
from georeg_lab.registry.importer_store import Repository
from georeg_lab.registry.v1_queries import Image, Listing, Place, Tag

Result = TypeVar("Result")
DEFAULT_PAGE = 100
MAX_PAGE = 1000
SORTS = ("-name", "name", "-published_at", "published_at")
TAG = r"[\w][\w.-]{0,127}"
PART_OF_A_TAG = "^[a-zA-Z0-9._-]{1,128}$"
SIZES = ("self", "self_with_descendants")


def time_text(moment: datetime) -> str:
    """A time as the API writes it: milliseconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _times(created: datetime, updated: datetime | None) -> dict[str, str]:
    return {"created_at": time_text(created), **({"updated_at": time_text(updated)} if updated else {})}


class V1Handler(Handler):
    """A route that asks the database."""

    def ask(self, work: Callable[[Queries], Result]) -> Result:
        """Run queries. Raises UnavailableError, InternalError."""
        assert self.registry.pool is not None
        try:
            return self.registry.pool.run(work)
        except DatabaseError as error:
            raise InternalError(str(error)) from None

    def page_size(self) -> int:
        """`n`. Raises APIError."""
        text = self.query("n")
        if "n" not in self.request.query_arguments:
            return DEFAULT_PAGE
        try:
            number = int(text)
        except ValueError:
            detail = "the 'n' query parameter value type must be one of: int"
            raise APIError("INVALID_QUERY_PARAMETER_TYPE", detail) from None
        if not 1 <= number <= MAX_PAGE:
            detail = f"the 'n' query parameter value must be between 1 and {MAX_PAGE}"
            raise APIError("INVALID_QUERY_PARAMETER_VALUE", detail)
        return number

    def choice(self, name: str, values: tuple[str, ...]) -> str:
        """A parameter that must be one of these, or "". Raises APIError."""
        value = self.query(name)
        if value and value not in values:
            detail = f"the '{name}' query parameter must be set to one of: {', '.join(values)}"
            raise APIError("INVALID_QUERY_PARAMETER_VALUE", detail)
        return value

    def matching(self, name: str, pattern: str) -> str:
        """A parameter that must match, or "". Raises APIError."""
        value = self.query(name)
        if value and not re.search(pattern, value, re.ASCII):
            detail = f"the '{name}' query parameter value must match the pattern '{pattern}'"
            raise APIError("INVALID_QUERY_PARAMETER_VALUE", detail)
        return value

    def exclusive(self, one: str, other: str) -> None:
        """Raise APIError if both parameters are given."""
        if self.query(one) and self.query(other):
            detail = f"keys: [{one} {other}] are mutually exclusive"
            raise APIError("INVALID_QUERY_PARAMETER_VALUE", detail)


class V1Base(Handler):
    """`/gitlab/v1/`: says by its status whether the database is in use."""

    def _describe(self) -> None:
        self.set_header("Gitlab-Container-Registry-Version", public_version())
        self.json({}, newline=False)

    do_get = do_head = do_post = do_put = do_patch = do_delete = do_options = _describe


class V1Repository(V1Handler):
    """One repository: details, size, rename."""

    def required(self) -> list[Access]:
        below = self.request.method == "PATCH" or self.query("size") == "self_with_descendants"
        more = [Access("repository", f"{self.repository}/*", "pull")] if below else []
        return [*super().required(), *more]

    def do_get(self) -> None:
        """Details."""
        wanted = self.choice("size", SIZES)

        def work(queries: Queries) -> dict[str, Any]:
            result: dict[str, Any] = {"name": self.repository.rsplit("/", 1)[-1], "path": self.repository}
            row = v1_queries.repository(queries, self.repository)
            if row is None:
                namespace = v1_queries.namespace(queries, self.repository.split("/")[0])
                if wanted != "self_with_descendants" or namespace is None:
                    raise APIError("NAME_UNKNOWN")
                nowhere = Repository(namespace, 0, self.repository, None)
                return {**result, **_size(queries, nowhere, True), "created_at": ""}
            found, created, updated = row
            if wanted:
                result.update(_size(queries, found, wanted != "self"))
            result.update(_times(created, updated))
            if found.last_published_at:
                result["last_published_at"] = time_text(found.last_published_at)
            return result

        self.json(self.ask(work))

    def do_patch(self) -> None:
        """Rename: needs Redis, which the real program refuses to do without."""
        raise APIError("NOT_IMPLEMENTED", "the server is missing the dependency 'redis'")


def _size(queries: Queries, found: Repository, below: bool) -> dict[str, Any]:
    return {"size_bytes": v1_queries.size(queries, found, below), "size_precision": "default"}


class V1Tags(V1Handler):
    """The tags of a repository with their details."""

    def do_get(self) -> None:
        """List one page."""
        self.exclusive("last", "before")
        self.exclusive("name", "name_exact")
        size = self.page_size()
        sort = self.choice("sort", SORTS)
        by_time = sort.endswith("published_at")
        listing = Listing(
            size,
            self._place("last", by_time),
            self._place("before", by_time),
            self.matching("name", PART_OF_A_TAG),
            self.matching("name_exact", TAG),
            by_time,
            sort.startswith("-"),
        )
        wants_referrers = self.query("referrers") == "true"
        artifact_types = [part for part in self.query("referrer_type").split(",") if part]

        def work(queries: Queries) -> list[dict[str, Any]]:
            row = v1_queries.repository(queries, self.repository)
            if row is None:
                raise APIError("NAME_UNKNOWN", {"name": self.repository})
            page = v1_queries.tags(queries, row[0], listing)
            self._link(queries, row[0], listing, page)
            named: dict[int, list[dict[str, str]]] = {}
            if wants_referrers:
                named = v1_queries.referrers(queries, row[0], [tag.manifest for tag in page], artifact_types)
            return [_tag_entry(tag, named.get(tag.manifest)) for tag in page]

        self.json(self.ask(work))

    def _place(self, name: str, by_time: bool) -> Place | None:
        if not by_time:
            text = self.matching(name, TAG)
            return Place(text) if text else None
        text = self.query(name)
        if not text:
            return None
        try:
            moment, _, tag = base64.b64decode(text, validate=True).decode().partition("|")
            return Place(tag, datetime.fromisoformat(moment))
        except ValueError:
            detail = f"the '{name}' query parameter value is invalid"
            raise APIError("INVALID_QUERY_PARAMETER_VALUE", detail) from None

    def _marker(self, listing: Listing, tag: Tag) -> str:
        if not listing.by_time:
            return tag.name
        moment = tag.published_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return base64.b64encode(f"{moment}|{tag.name}".encode()).decode()

    def _link(self, queries: Queries, found: Repository, listing: Listing, page: list[Tag]) -> None:
        if not page:
            return
        query = {"n": listing.limit, "sort": self.query("sort"), "name": listing.name}
        links = []
        started = listing.last is not None or listing.before is not None
        if started and v1_queries.has_tags_beyond(queries, found, listing, page[0], forward=False):
            links.append(f'{self.next_link(before=self._marker(listing, page[0]), **query)}; rel="previous"')
        if v1_queries.has_tags_beyond(queries, found, listing, page[-1], forward=True):
            links.append(f'{self.next_link(last=self._marker(listing, page[-1]), **query)}; rel="next"')
        if links:
            self.set_header("Link", ", ".join(links))


def _tag_entry(tag: Tag, referrers: list[dict[str, str]] | None) -> dict[str, Any]:
    return {
        "name": tag.name,
        "digest": tag.digest,
        **({"config_digest": tag.config_digest} if tag.config_digest else {}),
        "media_type": tag.media_type,
        "size_bytes": tag.size,
        **_times(tag.created_at, tag.updated_at),
        "published_at": time_text(tag.published_at),
        **({"referrers": referrers} if referrers else {}),
    }


def _image_entry(image: Image, references: list[Image] | None = None) -> dict[str, Any]:
    manifest: dict[str, Any] = {"digest": image.digest, "media_type": image.media_type}
    if references:
        manifest["references"] = [_image_entry(child) for child in references]
    entry: dict[str, Any] = {"size_bytes": image.size, "manifest": manifest}
    if image.config_digest:
        entry["config"] = {
            "digest": image.config_digest,
            "media_type": image.config_media_type,
            "platform": _platform(image.config_payload),
        }
    return entry


def _platform(payload: bytes) -> dict[str, str]:
    try:
        content = json.loads(payload)
    except ValueError:
        content = None
    content = content if isinstance(content, dict) else {}
    return {key: str(content.get(key) or "") for key in ("architecture", "os")}


class V1Tag(V1Handler):
    """One tag with its image."""

    def do_get(self) -> None:
        """Details."""
        name = self.names["tag"]

        def work(queries: Queries) -> dict[str, Any]:
            row = v1_queries.repository(queries, self.repository)
            if row is None:
                raise APIError("NAME_UNKNOWN", {"name": self.repository})
            found = v1_queries.tag(queries, row[0], name)
            if found is None:
                raise APIError("TAG_UNKNOWN", {"tagName": name})
            image, created, updated = found
            children = v1_queries.children(queries, row[0], image.id)
            return {
                "repository": self.repository,
                "name": name,
                "image": _image_entry(image, children),
                **_times(created, updated),
                "published_at": time_text(max(created, updated or created)),
            }

        self.json(self.ask(work))


class V1Repositories(V1Handler):
    """The repositories below a path that have a tag."""

    def required(self) -> list[Access]:
        return [*super().required(), Access("repository", f"{self.repository}/*", "pull")]

    def do_get(self) -> None:
        """List one page."""
        size = self.page_size()
        top = self.repository.split("/")[0]

        def work(queries: Queries) -> list[tuple[str, str, datetime, datetime | None]]:
            namespace = v1_queries.namespace(queries, top)
            if namespace is None:
                raise APIError("NAME_UNKNOWN", {"namespace": top})
            return v1_queries.repositories(queries, namespace, self.repository, size, self.query("last"))

        rows = self.ask(work)
        if len(rows) == size:
            self.set_header("Link", f'{self.next_link(last=rows[-1][1], n=size)}; rel="next"')
        self.json([{"name": row[0], "path": row[1], **_times(row[2], row[3])} for row in rows])


class V1Statistics(V1Handler):
    """Which release this is, and which imports were made."""

    def required(self) -> list[Access]:
        return [Access("registry", "statistics", "*")]

    def do_get(self) -> None:
        """Answer."""
        rows = self.ask(v1_queries.import_statistics)
        blob_fields = ("blobs_count", "blobs_size_bytes")
        imports = [
            {
                key: time_text(value) if isinstance(value, datetime) else value
                for key, value in row.items()
                if not (key in blob_fields and not value)
            }
            for row in rows
        ]
        self.json(
            {
                "release": {"ext_features": "tag_delete", "version": VERSION},
                "database": {"enabled": self.registry.is_database},
                **({"import": imports} if imports else {}),
            }
        )
