"""Who may do what: token, silly, or no authorization. Source: registry 2.4, 5.5 (scopes), 5.6."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from georeg_lab.registry.config import Auth

LEEWAY = 60
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
MAX_AUDIENCES = 10
KNOWN_TOKENS = 100
PATTERNS_LIMIT = 5
PATTERN_LENGTH = 100
_META = {
    "project_path": str,
    "project_id": int,
    "root_namespace_id": int,
    "tag_deny_access_patterns": {"push": [str], "delete": [str]},
    "tag_immutable_patterns": [str],
}
_CLAIMS = {
    **dict.fromkeys(("iss", "sub", "jti", "auth_type", "user"), str),
    **dict.fromkeys(("exp", "nbf", "iat"), int),
    "access": [{"type": str, "class": str, "name": str, "actions": [str], "meta": _META}],
}
"""A token with a claim of another type is malformed; null is the same as absent."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)


class AuthConfigError(ValueError):
    """The auth section cannot be used; the message is the registry's."""


@dataclass(frozen=True)
class Access:
    """One right that a request needs."""

    type: str
    name: str
    action: str

    def entry(self) -> dict[str, str]:
        """As it stands in the `detail` of a 401."""
        return {"Type": self.type, "Class": "", "Name": self.name, "ProjectPath": "", "Action": self.action}


@dataclass(frozen=True)
class Grant:
    """Who made the request, and the `meta` of the repositories in its token, by repository."""

    user: str = ""
    user_type: str = ""
    user_token: str = ""
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)

    def actor(self) -> dict[str, str]:
        """The `actor` of an event."""
        values = {"name": self.user, "user_type": self.user_type, "user": self.user_token}
        return {key: value for key, value in values.items() if value}


class Unauthorized(Exception):
    """The request must be refused with this challenge (`WWW-Authenticate`). `reason` is for the log only."""

    def __init__(self, challenge: str, reason: str) -> None:
        super().__init__(reason)
        self.challenge = challenge


class Authorization:
    """No authorization at all: everybody may do everything."""

    def authorize(self, header: str | None, host: str, required: Sequence[Access]) -> Grant:
        """Check the `Authorization` header of a request to `host`. Raises Unauthorized."""
        return Grant()


def _fits(value: Any, shape: Any) -> bool:
    """Whether a claim has this type: [item], {key: type}, or a type."""
    if value is None:
        return True
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(value.get(key), wanted) for key, wanted in shape.items())
    return type(value) is shape


def _scope(required: Sequence[Access]) -> str:
    actions: dict[tuple[str, str], list[str]] = {}
    for access in required:
        known = actions.setdefault((access.type, access.name), [])
        if access.action not in known:
            known.append(access.action)
    return " ".join(f"{kind}:{name}:{','.join(names)}" for (kind, name), names in actions.items())


def challenge(realm: str, service: str, required: Sequence[Access], error: str = "") -> str:
    """The value of `WWW-Authenticate`."""
    parts = [f'realm="{realm}"', f'service="{service}"']
    if required:
        parts.append(f'scope="{_scope(required)}"')
    if error:
        parts.append(f'error="{error}"')
    return "Bearer " + ",".join(parts)


class SillyAuthorization(Authorization):
    """Any `Authorization` header passes."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        for key in ("realm", "service"):
            if not isinstance(parameters.get(key), str):
                raise AuthConfigError(f'"{key}" must be set for silly access controller')
        self.realm = parameters["realm"]
        self.service = parameters["service"]

    def authorize(self, header: str | None, host: str, required: Sequence[Access]) -> Grant:
        if not header:
            raise Unauthorized(challenge(self.realm, self.service, required), "authorization challenge")
        return Grant(user="silly")


def fingerprint(public_key: Any) -> str:
    """The `kid` of a public key: 30 bytes of the SHA-256 of its DER form, base32, a colon after every 4 characters."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


class TokenAuthorization(Authorization):
    """Bearer tokens (JWT), signed by a key of the certificate bundle."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        from cryptography import x509

        for key in ("realm", "issuer", "service", "rootcertbundle"):
            if not isinstance(parameters.get(key), str) or not parameters[key]:
                raise AuthConfigError(f'token auth requires a valid option string: "{key}"')
        self.realm = parameters["realm"]
        self.issuer = parameters["issuer"]
        self.service = parameters["service"]
        self.auto_redirect = bool(parameters.get("autoredirect", False))
        path = parameters["rootcertbundle"]
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AuthConfigError(
                f"unable to open token auth root certificate bundle file {path!r}: open {path}: {reason}".replace(
                    "'", '"'
                )
            ) from None
        self.certificates = [x509.load_pem_x509_certificate(pem) for pem in _PEM.findall(content)]
        if not self.certificates:
            raise AuthConfigError("token auth requires at least one token signing root certificate")
        self.keys = {
            fingerprint(certificate.public_key()): certificate.public_key() for certificate in self.certificates
        }
        self._valid: dict[str, dict[str, Any]] = {}

    def authorize(self, header: str | None, host: str, required: Sequence[Access]) -> Grant:
        realm = f"https://{host}/auth/token" if self.auto_redirect else self.realm

        def refuse(reason: str, error: str = "") -> Unauthorized:
            return Unauthorized(challenge(realm, self.service, required, error), reason)

        parts = (header or "").split(" ")
        if len(parts) != 2 or parts[0].lower() != "bearer":
            raise refuse("authorization token required")
        try:
            claims = self._known(parts[1]) or self._verified(parts[1])
        except ValueError as error:
            raise refuse(f"invalid token: {error}", "invalid_token") from None
        granted, meta = _access(claims)
        for access in required:
            allowed = granted.get((access.type, access.name), set())
            if access.action not in allowed and "*" not in allowed:
                raise refuse("insufficient scope", "insufficient_scope")
        return Grant(
            str(claims.get("sub") or ""), str(claims.get("auth_type") or ""), str(claims.get("user") or ""), meta
        )

    def _known(self, token: str) -> dict[str, Any] | None:
        """The claims of a token that was verified before and has not expired since: clients send one many times."""
        claims = self._valid.get(token)
        return claims if claims and claims["exp"] > time.time() - LEEWAY else None

    def _verified(self, token: str) -> dict[str, Any]:
        """The claims of a valid token. Raises ValueError."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise ValueError("signing algorithm not allowed")
            unverified = jwt.decode(token, options={"verify_signature": False})
            if not _fits(unverified, _CLAIMS):
                raise ValueError("malformed token")
            audience = unverified.get("aud")
            if isinstance(audience, list) and len(audience) > MAX_AUDIENCES:
                raise ValueError("too many audiences")
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key(header),
                algorithms=[header["alg"]],
                audience=self.service,
                issuer=self.issuer,
                leeway=LEEWAY,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.PyJWTError as error:
            raise ValueError(str(error)) from None
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None
        if len(self._valid) >= KNOWN_TOKENS:
            self._valid.clear()
        self._valid[token] = claims
        return claims

    def _key(self, header: dict[str, Any]) -> Any:
        """The key that signed, by the first of `x5c`, `jwk`, `kid`. Raises ValueError."""
        if header.get("x5c"):
            return self._chain_key(header["x5c"])
        if header.get("jwk"):
            import jwt

            key = jwt.PyJWK(header["jwk"], algorithm=header["alg"]).key
            if fingerprint(key) not in self.keys:
                raise ValueError("key of the header is not trusted")
            return key
        if header.get("kid") in self.keys:
            return self.keys[header["kid"]]
        raise ValueError("token signed by an unknown key")

    def _chain_key(self, encoded: list[str]) -> Any:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        chain = [x509.load_der_x509_certificate(base64.b64decode(entry)) for entry in encoded]
        trusted = set(self.certificates)
        for at, certificate in enumerate(chain):
            if certificate in trusted:
                return chain[0].public_key()
            issuers = [*chain[at + 1 : at + 2], *self.certificates]
            for issuer in issuers:
                try:
                    certificate.verify_directly_issued_by(issuer)
                except (InvalidSignature, ValueError, TypeError):
                    continue
                if issuer in trusted:
                    return chain[0].public_key()
                break
            else:
                break
        raise ValueError("x509: certificate signed by unknown authority")


def _access(claims: dict[str, Any]) -> tuple[dict[tuple[str, str], set[str]], dict[str, dict[str, Any]]]:
    granted: dict[tuple[str, str], set[str]] = {}
    meta: dict[str, dict[str, Any]] = {}
    for entry in claims.get("access") or ():
        if not isinstance(entry, dict):
            continue
        key = (str(entry.get("type") or ""), str(entry.get("name") or ""))
        granted.setdefault(key, set()).update(str(action) for action in entry.get("actions") or ())
        if key[0] == "repository" and isinstance(entry.get("meta"), dict):
            meta[key[1]] = entry["meta"]
    return granted, meta


def create(settings: Auth) -> Authorization:
    """The configured provider. Raises AuthConfigError."""
    if not settings.provider:
        return Authorization()
    providers = {"token": TokenAuthorization, "silly": SillyAuthorization}
    if settings.provider not in providers:
        raise AuthConfigError(
            f"unable to configure authorization ({settings.provider}): no access controller registered with name: "
            f"{settings.provider}"
        )
    try:
        return providers[settings.provider](settings.parameters)
    except AuthConfigError as error:
        raise AuthConfigError(f"unable to configure authorization ({settings.provider}): {error}") from None


def protects(patterns: Sequence[str], tag: str) -> bool:
    """Whether one of the patterns matches the tag. Raises re.error, also for a pattern that is too long."""
    for pattern in patterns:
        if len(pattern) > PATTERN_LENGTH:
            raise re.error(f"pattern {pattern!r} exceeds length limit of {PATTERN_LENGTH}")
        if re.search(pattern, tag):
            return True
    return False
