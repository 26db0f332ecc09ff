"""`POST /api/v4/container_registry_event/events`: the intake of the registry's notifications (rails 1)."""

from __future__ import annotations

import hmac
import json
from typing import Any

from georeg_lab.rails import repositories
from georeg_lab.rails.access import ApiError
from georeg_lab.rails.config import Databases

ACTIONS = ("push", "delete", "pull")


def take(databases: Databases, authorization: str, body: bytes) -> None:
    """Take a batch. Raises ApiError: 401 unless the whole header is the secret, 400 for the whole batch when one
    action is another than push, delete, pull (the registry does send `mount`)."""
    secret = databases.config.notification_secret
    if not secret or not hmac.compare_digest(authorization.encode(), secret.encode()):
        raise ApiError(401, {"message": "401 Unauthorized"})
    events = _parsed(body)
    for event in events:
        if event.get("action") in ("push", "delete"):
            _handle(databases, event.get("target") or {})


def _parsed(body: bytes) -> list[dict[str, Any]]:
    try:
        events = json.loads(body)["events"]
    except (ValueError, KeyError, TypeError):
        raise ApiError(400, {"error": "events is missing"}) from None
    if not isinstance(events, list) or any(not isinstance(event, dict) for event in events):
        raise ApiError(400, {"error": "events is invalid"})
    wrong = [
        f"events[{at}][action] does not have a valid value"
        for at, e in enumerate(events)
        if e.get("action") not in ACTIONS
    ]
    if wrong:
        raise ApiError(400, {"error": ", ".join(wrong)})
    return events


def _handle(databases: Databases, target: dict[str, Any]) -> None:
    """A manifest, or anything with a tag, of a known repository. Not: an OCI index by digest (no `manifest` in its
    media type), the deletion of a manifest by digest (neither type nor tag), blobs."""
    if "manifest" not in str(target.get("mediaType") or "") and not target.get("tag"):
        return
    repository = repositories.by_path(databases, str(target.get("repository") or ""))
    if repository is not None:
        repositories.touched(databases, repository["id"])
