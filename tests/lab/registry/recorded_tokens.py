"""Registry tokens as the recordings describe them."""

from __future__ import annotations

import base64
import datetime
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from georeg_lab.registry.auth import fingerprint

REALM = "https://gitlab.example.com/jwt/auth"
SERVICE = "container_registry"
ISSUER = "omnibus-gitlab-issuer"


class Signer:
    """A key with its self-signed certificate."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry tokens")])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .sign(self.key, hashes.SHA256())
        )

    @property
    def kid(self) -> str:
        return fingerprint(self.key.public_key())

    @property
    def x5c(self) -> list[str]:
        return [base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()]

    def write_bundle(self, path: Path) -> None:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def sign(self, claims: dict[str, Any], header: dict[str, Any], algorithm: str = "RS256") -> str:
        return jwt.encode(claims, self.key, algorithm=algorithm, headers=header)


def access(name: str, *actions: str) -> dict[str, Any]:
    return {"type": "repository", "name": name, "actions": list(actions)}


def claims(*granted: dict[str, Any], **more: Any) -> dict[str, Any]:
    now = int(time.time())
    standard = {"iss": ISSUER, "aud": SERVICE, "sub": "root", "exp": now + 300, "nbf": now - 5, "iat": now - 5}
    return {**standard, "access": list(granted), **more}


def _moment(value: Any) -> Any:
    found = re.fullmatch(r"now([+-]\d+)", value) if isinstance(value, str) else None
    return int(time.time()) + int(found[1]) if found else value


def recorded_token(setup: str, trusted: Signer, other: Signer) -> str:
    """The token that a line's `setup` describes, "" for none."""
    text = setup.removeprefix("token: ")
    if not text.startswith("{"):
        return "" if text == setup else text
    described = json.loads(text)
    signer = trusted if described["signed_by"] == "key of rootcertbundle" else other
    header = {name: value for name, value in described["header"].items() if name not in ("typ", "alg")}
    if header.get("kid"):
        header["kid"] = signer.kid if header["kid"].startswith("{kid") else trusted.kid
    if header.get("x5c"):
        header["x5c"] = signer.x5c
    payload = {name: _moment(value) for name, value in described["claims"].items()}
    if described["header"]["alg"] == "none":
        return jwt.encode(payload, None, algorithm="none", headers=header)
    return signer.sign(payload, header, described["header"]["alg"])
