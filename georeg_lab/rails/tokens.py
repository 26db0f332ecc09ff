"""Tokens for a registry, signed as Rails signs them (rails 5), and the tokens that sites show each other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from georeg_lab.rails.config import Config, Databases, Row

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SERVICE = "container_registry"
NOT_BEFORE_SECONDS = 5
FINGERPRINT_BYTES = 30
GEO_SCHEME = "GL-Geo"


@lru_cache(maxsize=4)
def _key(pem: bytes) -> tuple[RSAPrivateKey, str]:
    """Private key and its `kid`: 30 bytes of SHA-256 of the public key (DER), base32, a colon after every 4."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("the registry key is no RSA key")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_key().public_bytes(serialization.Encoding.DER, form)
    text = base64.b32encode(hashlib.sha256(der).digest()[:FINGERPRINT_BYTES]).decode()
    return key, ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def expire_delay(databases: Databases) -> int:
    """Life of a registry token in seconds: the application setting, 5 minutes by default."""
    minutes = databases.value("SELECT container_registry_token_expire_delay FROM application_settings WHERE id = 1")
    return 60 * int(minutes or 5)


def registry_token(
    config: Config,
    access: Sequence[Row],
    life: int,
    *,
    audience: str = SERVICE,
    user: Row | None = None,
    auth_type: str | None = None,
) -> str:
    """A token for a registry. `access`: granted scopes with type, name, actions, meta. `life` in seconds."""
    claims: dict[str, Any] = {"access": list(access), "aud": audience}
    if user:
        claims["sub"] = user["username"]
        info = {"token_type": auth_type, "username": user["username"], "user_id": user["id"]}
        claims["user"] = _signed(config, {"user_info": info}, life)
    if auth_type:
        claims["auth_type"] = auth_type
    return _signed(config, claims, life)


def _signed(config: Config, claims: dict[str, Any], life: int) -> str:
    import jwt

    key, kid = _key(config.registry_key)
    now = int(time.time())
    standard = {
        "jti": str(uuid.uuid4()),
        "iss": config.registry_issuer,
        "iat": now,
        "nbf": now - NOT_BEFORE_SECONDS,
        "exp": now + life,
    }
    return jwt.encode({**claims, **standard}, key, algorithm="RS256", headers={"kid": kid})


def site_secret(config: Config, site: Row) -> str:
    """A site's secret as this node reads it: it lies encrypted with `db_key_base` in the replicated database, so that a
    node with other secrets cannot make use of it (procedures 2.1, step 15)."""
    return hmac.new(config.db_key_base.encode(), str(site["secret_access_key"]).encode(), "sha256").hexdigest()


def geo_authorization(config: Config, site: Row, scope: str) -> str:
    """The Authorization header that a site shows another: its access key and a short token signed with its secret."""
    import jwt

    now = int(time.time())
    claims = {"scope": scope, "iat": now, "exp": now + 60}
    return f"{GEO_SCHEME} {site['access_key']}:{jwt.encode(claims, site_secret(config, site), algorithm='HS256')}"


def geo_site(databases: Databases, header: str, scope: str) -> Row | None:
    """The site that such a header comes from, None when it does not hold (clocks a minute apart break it)."""
    import jwt

    scheme, _, rest = header.partition(" ")
    access_key, _, token = rest.partition(":")
    if scheme != GEO_SCHEME or not token:
        return None
    site = databases.one("SELECT * FROM geo_nodes WHERE access_key = %s", [access_key])
    if site is None:
        return None
    try:
        claims = jwt.decode(token, site_secret(databases.config, site), algorithms=["HS256"], leeway=60)
    except jwt.InvalidTokenError:
        return None
    return site if claims.get("scope") == scope else None
