"""`/v2/_catalog` and `/v2/<name>/tags/list`. Source: registry 5.2."""

from __future__ import annotations

import re

from georeg_lab.registry.auth import Access
from georeg_lab.registry.backend import RepositoryUnknownError
from georeg_lab.registry.http_errors import APIError
from georeg_lab.registry.http_handler import Handler

DEFAULT_PAGE = 100
MAX_PAGE = 1000


def page_size(text: str) -> int:
    """`n` of a query; what is no positive number counts as not given."""
    number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) else 0
    return number if 0 < number < 1 << 63 else DEFAULT_PAGE


class Catalog(Handler):
    """Names of the repositories, in pages."""

    def required(self) -> list[Access]:
        return [Access("registry", "catalog", "*")]

    def do_get(self) -> None:
        """List."""
        size = page_size(self.query("n"))
        if size > MAX_PAGE:
            raise APIError("PAGINATION_NUMBER_INVALID", f"n must be no larger than {MAX_PAGE}")
        found, more = self.backend.catalog(size, self.query("last"))
        if more:
            self.set_header("Link", f'{self.next_link(last=found[-1], n=size)}; rel="next"')
        self.json({"repositories": found})


class Tags(Handler):
    """Names of a repository's tags; in pages with the database only."""

    def do_get(self) -> None:
        """List."""
        size = page_size(self.query("n"))
        try:
            found, more = self.backend.tags(self.repository, size, self.query("last"))
        except RepositoryUnknownError:
            raise APIError("NAME_UNKNOWN", {"name": self.repository}) from None
        if more:
            self.set_header("Link", f'{self.next_link(last=found[-1], n=size)}; rel="next"')
        self.json({"name": self.repository, "tags": found or None})
