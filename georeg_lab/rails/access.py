"""Who asks: personal access tokens, administrators, scopes; and what a registry token grants (rails 5)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from georeg_lab.rails import repositories, tokens
from georeg_lab.rails.config import Databases, Row
from georeg_lab.rails.schema import token_digest

REPORTER, DEVELOPER, MAINTAINER = 20, 30, 40
LEVELS = {"pull": REPORTER, "push": DEVELOPER, "delete": DEVELOPER, "*": MAINTAINER}
SCOPES = {
    "pull": {"api", "read_registry", "write_registry"},
    "push": {"api", "write_registry"},
    "delete": {"api"},
    "*": {"api"},
}
REGISTRY_SCOPES = {"api", "read_registry", "write_registry"}


class ApiError(Exception):
    """An answer that is no success: status and JSON body."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


def denied(message: str) -> ApiError:
    """403 as `/jwt/auth` gives it."""
    return ApiError(403, {"errors": [{"code": "DENIED", "message": message}]})


def user_of_token(databases: Databases, token: str) -> Row | None:
    """User with `scopes` and `revoked` of a personal access token, None when nobody has it."""
    query = (
        "SELECT users.*, tokens.scopes, tokens.revoked FROM users"
        " JOIN personal_access_tokens AS tokens ON tokens.user_id = users.id WHERE token_digest = %s"
    )
    return databases.one(query, [token_digest(token)]) if token else None


def api_user(databases: Databases, token: str, *scopes: str) -> Row:
    """The user of an API call whose token has one of these scopes. Raises ApiError 401 or 403."""
    user = user_of_token(databases, token)
    if user is None:
        raise ApiError(401, {"message": "401 Unauthorized"})
    if user["revoked"]:
        raise ApiError(
            401,
            {
                "error": "invalid_token",
                "error_description": "Token was revoked. You have to re-authorize from the user.",
            },
        )
    if not set(scopes) & set(user["scopes"]):
        text = "The request requires higher privileges than provided by the access token."
        raise ApiError(403, {"error": "insufficient_scope", "error_description": text, "scope": " ".join(scopes)})
    return user


def administrator(databases: Databases, token: str, *scopes: str) -> Row:
    """The same, and an administrator."""
    user = api_user(databases, token, *scopes)
    if not user["admin"]:
        raise ApiError(403, {"message": "403 Forbidden"})
    return user


def basic_credentials(header: str) -> tuple[str, str]:
    """User and password of an HTTP Basic header; empty when there is none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def registry_auth(databases: Databases, header: str, service: str, scopes: Sequence[str]) -> Row:
    """The reply of `GET /jwt/auth`. Raises ApiError 404 (registry off) or 403 (no login, no registry right)."""
    config = databases.config
    if not config.registry_enabled:
        raise ApiError(404, {"errors": [{"code": "UNAVAILABLE", "message": "registry not enabled"}]})
    name, token = basic_credentials(header)
    user = user_of_token(databases, token)
    if user is None or user["revoked"] or user["username"] != name or not REGISTRY_SCOPES & set(user["scopes"]):
        raise denied("access forbidden")
    wanted = [scope for entry in scopes for scope in entry.split()]
    access = [granted for scope in wanted if (granted := _granted(databases, user, scope))]
    life = tokens.expire_delay(databases)
    token = tokens.registry_token(
        config, access, life, audience=service or tokens.SERVICE, user=user, auth_type="personal_access_token"
    )
    return {"token": token}


def _granted(databases: Databases, user: Row, scope: str) -> Row | None:
    """The access entry for one scope; None when nothing of it is allowed."""
    kind, _, rest = scope.partition(":")
    name, _, listed = rest.rpartition(":")
    actions = listed.split(",")
    if kind == "registry":
        catalog = name == "catalog" and actions == ["*"] and user["admin"]
        return {"type": "registry", "name": "catalog", "actions": ["*"]} if catalog else None
    if kind != "repository":
        return None
    path = name.removesuffix("/*")
    project = repositories.project_of(databases, path)
    if project is None:
        return None
    level = MAINTAINER if user["admin"] else _access_level(databases, user["id"], project["project_id"])
    allowed = [
        action
        for action in actions
        if action in LEVELS and level >= LEVELS[action] and SCOPES[action] & set(user["scopes"])
    ]
    if not allowed:
        return None
    if "push" in allowed and not databases.value("SELECT pg_is_in_recovery()"):
        repositories.find_or_create(databases, path)  # even when no image follows: a record alone proves no image
    return {**repositories.access_entry(databases, path, allowed), "name": name}


def _access_level(databases: Databases, user: int, project: int) -> int:
    query = "SELECT access_level FROM project_authorizations WHERE user_id = %s AND project_id = %s"
    return int(databases.value(query, [user, project]) or 0)
