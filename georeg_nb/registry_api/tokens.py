"""Registry tokens of a site's own GitLab: one for each scope, renewed before it ends. Source: registry 5.6, rails 5."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from georeg_nb.credentials import Secret
from georeg_nb.http import HttpSession

KEPT = 512
"""Scopes whose tokens are kept: a walk through a large registry needs one for each repository."""
MARGIN = 30.0
"""Seconds before its end at which a token is renewed; less for one that lives shortly."""


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    token: Secret | None = None
    renew_at: float = 0.0


class Tokens:
    """Asks GitLab for tokens. Safe to use from several threads: those who ask for one scope at once get one token."""

    def __init__(self, http: Callable[[], HttpSession], clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, scope: str, old: Secret | None = None) -> Secret:
        """A token for a scope that lives for a while; with `old`, which was refused, another one.

        Raises HttpRefused when GitLab gives none.
        """
        entry = self._entry(scope)
        with entry.lock:
            if entry.token is None or entry.token is old or self._clock() >= entry.renew_at:
                entry.token, seconds = self._ask(scope)
                entry.renew_at = self._clock() + seconds - min(MARGIN, seconds / 5)
            return entry.token

    def _entry(self, scope: str) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(scope, _Entry())
            self._entries.move_to_end(scope)
            if len(self._entries) > KEPT:
                self._entries.popitem(last=False)
            return entry

    def _ask(self, scope: str) -> tuple[Secret, float]:
        http = self._http()
        response = http.get(
            "/jwt/auth",
            params=[("service", "container_registry"), *([("scope", scope)] if scope else [])],
            remedy="is the registry switched on in this GitLab, and is the token an administrator's, "
            "with the scopes read_registry and write_registry?",
        )
        try:
            text = response.json()["token"]
            return Secret(text, "registry token", masked=False), lifetime(text)
        except (ValueError, KeyError, TypeError):
            raise http.refused(response, remedy="is this the address of a GitLab?") from None


def lifetime(token: str) -> float:
    """Seconds that a token lives for, from its own claims, whatever the clocks say; endless where it does not tell."""
    try:
        part = token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return max(0.0, float(claims["exp"]) - float(claims["iat"]))
    except (IndexError, ValueError, KeyError, TypeError):
        return float("inf")
