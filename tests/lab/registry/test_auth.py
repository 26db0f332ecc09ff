"""Tokens beyond the recorded ones: certificate chains, keys in the header, limits, protected tags, set-up errors."""

from __future__ import annotations

import base64
import datetime
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import recorded_images as images
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from recorded_tokens import ISSUER, REALM, SERVICE, Signer, access, claims
from registry_server import Server, database_section

from georeg_lab.registry import auth
from georeg_lab.registry.auth import Access, AuthConfigError, TokenAuthorization, Unauthorized
from georeg_lab.registry.config import Auth, Database

PULL = [Access("repository", "g/p", "pull")]
GRANTED = access("g/p", "pull")


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def other() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def bundle(signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "bundle.crt"
    signer.write_bundle(path)
    return path


@pytest.fixture(scope="module")
def authorization(bundle: Path) -> TokenAuthorization:
    return TokenAuthorization(settings(bundle))


def settings(bundle: Path, **more: Any) -> dict[str, Any]:
    return {"realm": REALM, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle), **more}


def is_refused(authorization: TokenAuthorization, token: str, error: str = "invalid_token") -> bool:
    with pytest.raises(Unauthorized) as refused:
        authorization.authorize(f"Bearer {token}", "registry.example.com", PULL)
    return f'error="{error}"' in refused.value.challenge


def leaf_of(issuer: Signer) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A key whose certificate is signed by another's key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(issuer.key, hashes.SHA256())
    )
    return key, certificate


def encoded(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


def test_kid_is_twelve_groups_of_four(signer: Signer) -> None:
    groups = signer.kid.split(":")
    assert [len(group) for group in groups] == [4] * 12
    assert set("".join(groups)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


def test_a_token_tells_who_it_is(authorization: TokenAuthorization, signer: Signer) -> None:
    meta = {"project_path": "g/p", "tag_deny_access_patterns": {"push": ["^v"]}}
    content = claims({**GRANTED, "meta": meta}, sub="alice", auth_type="gitlab_or_ldap", user="opaque")
    found = authorization.authorize(f"bearer {signer.sign(content, {'kid': signer.kid})}", "r", PULL)
    assert found.actor() == {"name": "alice", "user_type": "gitlab_or_ldap", "user": "opaque"}
    assert found.meta == {"g/p": meta}


def test_chain_of_certificates(authorization: TokenAuthorization, signer: Signer, other: Signer) -> None:
    key, leaf = leaf_of(signer)
    token = jwt.encode(claims(GRANTED), key, algorithm="ES256", headers={"x5c": [encoded(leaf)]})
    assert authorization.authorize(f"Bearer {token}", "r", PULL).user == "root"
    foreign_key, foreign = leaf_of(other)
    chain = [encoded(foreign), *other.x5c]
    token = jwt.encode(claims(GRANTED), foreign_key, algorithm="ES256", headers={"x5c": chain})
    assert is_refused(authorization, token)
    stolen = jwt.encode(claims(GRANTED), foreign_key, algorithm="ES256", headers={"x5c": [encoded(leaf)]})
    assert is_refused(authorization, stolen)
    assert is_refused(authorization, other.sign(claims(GRANTED), {"x5c": ["bm8="]}))


def test_key_in_the_header(authorization: TokenAuthorization, signer: Signer, other: Signer) -> None:
    for who, trusted in ((signer, True), (other, False)):
        key = jwt.algorithms.RSAAlgorithm.to_jwk(who.key.public_key(), as_dict=True)
        token = who.sign(claims(GRANTED), {"jwk": key})
        if trusted:
            assert authorization.authorize(f"Bearer {token}", "r", PULL).user == "root"
        else:
            assert is_refused(authorization, token)


@pytest.mark.parametrize(
    ("more", "accepted"),
    [
        ({"aud": ["x", SERVICE]}, True),
        ({"aud": [SERVICE, *"abcdefghi"]}, True),
        ({"aud": [SERVICE, *"abcdefghij"]}, False),
        ({"aud": []}, False),
        ({"exp": -30}, True),
        ({"exp": -90}, False),
        ({"nbf": +30}, True),
        ({"nbf": +900}, False),
        ({"exp": "soon"}, False),
        ({"exp": +100.5}, False),
        ({"access": None}, None),
        ({"access": [{"type": "repository"}]}, None),
        ({"access": ["none"]}, False),
        ({"access": {}}, False),
        ({"sub": 5}, False),
        ({"user": 5}, False),
        ({"access": [{**GRANTED, "meta": "x"}]}, False),
    ],
)
def test_claims(authorization: TokenAuthorization, signer: Signer, more: dict[str, Any], accepted: bool | None) -> None:
    moments = {key: int(time.time()) + more[key] for key in more if key in ("exp", "nbf") and more[key] != "soon"}
    token = signer.sign({**claims(GRANTED), **more, **moments}, {"kid": signer.kid})
    if accepted:
        assert authorization.authorize(f"Bearer {token}", "r", PULL).user == "root"
    else:
        assert is_refused(authorization, token, "invalid_token" if accepted is False else "insufficient_scope")


def test_a_token_is_verified_once_until_it_expires(
    authorization: TokenAuthorization, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signer.sign(claims(GRANTED), {"kid": signer.kid})
    assert authorization._known(token) is None
    authorization.authorize(f"Bearer {token}", "r", PULL)
    assert authorization._known(token) == authorization._verified(token)
    later = authorization._verified(token)["exp"] + 60
    monkeypatch.setattr(time, "time", lambda: later)
    assert authorization._known(token) is None


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_algorithms(authorization: TokenAuthorization, signer: Signer, algorithm: str) -> None:
    token = signer.sign(claims(GRANTED), {"kid": signer.kid}, algorithm)
    if algorithm.startswith("RS"):
        assert authorization.authorize(f"Bearer {token}", "r", PULL).user == "root"
    else:
        assert is_refused(authorization, token)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer  {token}", "Bearer {token} x", "Basic {token}", "{token}"])
def test_headers_that_are_no_token(authorization: TokenAuthorization, signer: Signer, header: str) -> None:
    token = signer.sign(claims(GRANTED), {"kid": signer.kid})
    with pytest.raises(Unauthorized) as refused:
        authorization.authorize(header.replace("{token}", token), "r", PULL)
    assert "error=" not in refused.value.challenge


def test_symmetric_signature_with_the_public_key(authorization: TokenAuthorization, signer: Signer) -> None:
    forged = jwt.encode(claims(GRANTED), signer.kid * 2, algorithm="HS256", headers={"kid": signer.kid})
    assert is_refused(authorization, forged)
    assert is_refused(authorization, "a.b.c")


def test_realm_of_the_host(bundle: Path) -> None:
    found = TokenAuthorization(settings(bundle, autoredirect=True))
    with pytest.raises(Unauthorized) as refused:
        found.authorize(None, "registry.example.com:5050", PULL)
    assert refused.value.challenge == (
        f'Bearer realm="https://registry.example.com:5050/auth/token",service="{SERVICE}",scope="repository:g/p:pull"'
    )


@pytest.mark.parametrize("missing", ["realm", "service", "issuer", "rootcertbundle"])
def test_options_that_are_required(bundle: Path, missing: str) -> None:
    parameters = {key: value for key, value in settings(bundle).items() if key != missing}
    with pytest.raises(AuthConfigError, match=f'token auth requires a valid option string: "{missing}"'):
        auth.create(Auth("token", parameters))


def test_bundles_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(AuthConfigError, match="unable to open token auth root certificate bundle file"):
        auth.create(Auth("token", settings(tmp_path / "missing.crt")))
    (tmp_path / "empty.crt").write_text("no certificate in here\n")
    with pytest.raises(AuthConfigError, match="at least one token signing root certificate"):
        auth.create(Auth("token", settings(tmp_path / "empty.crt")))
    with pytest.raises(AuthConfigError, match="no access controller registered with name: htpasswd"):
        auth.create(Auth("htpasswd", {}))


# --- patterns in the token that protect tags


@pytest.fixture(scope="module", params=["legacy", "database"])
def server(
    request: pytest.FixtureRequest,
    start_registry: Callable[..., Server],
    new_metadata: Callable[[], Database],
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    options: dict[str, Any] = {"auth": {"token": settings(bundle)}}
    if request.param == "database":
        options["database"] = database_section(new_metadata())
    running = start_registry(tmp_path_factory.mktemp("protected"), options=options)
    yield running
    running.stop()


def header(signer: Signer, **meta: Any) -> dict[str, str]:
    right = {**access("g/p", "pull", "push", "delete"), "meta": meta}
    accept = images.TYPES["oci"][0]
    return {"Authorization": f"Bearer {signer.sign(claims(right), {'kid': signer.kid})}", "Accept": accept}


CODES = re.compile(
    rb"PROTECTED_TAG|PROTECTED_MANIFEST|IMMUTABLE_TAG|TAG_PATTERN_COUNT_LIMIT_EXCEEDED|[A-Z_]+_PATTERN_INVALID"
)


def code(
    server: Server, method: str, reference: str, headers: dict[str, str], image: images.Image | None = None
) -> Any:
    types = {"Content-Type": image.media_type} if image else {}
    path = f"/v2/g/p/manifests/{reference}"
    answer = server.request(method, path, {**headers, **types}, image.payload if image else None)
    found = CODES.search(answer.body)
    return answer.status, found[0].decode() if found else ""


@pytest.fixture(scope="module")
def pushed(server: Server, signer: Signer) -> tuple[images.Image, images.Image]:
    """Two images whose blobs are there."""
    found = images.image("auth-1", "oci", (60,)), images.image("auth-2", "oci", (61,))
    for image in found:
        for data in image.blobs:
            server.push_blob("g/p", data, images.digest(data), header(signer))
    return found


Images = tuple[images.Image, images.Image]


def test_protected_tags(server: Server, signer: Signer, pushed: Images) -> None:
    free, (image, _) = header(signer), pushed
    denied = header(signer, tag_deny_access_patterns={"push": ["^v\\d"], "delete": ["^v\\d"]})
    assert code(server, "PUT", "v1", denied, image) == (401, "PROTECTED_TAG")
    assert code(server, "PUT", "x1", denied, image) == (201, "")
    assert code(server, "PUT", image.digest, denied, image) == (201, "")
    assert code(server, "PUT", "v1", free, image) == (201, "")
    assert code(server, "GET", "v1", denied) == (200, "")
    assert code(server, "DELETE", "v1", denied) == (401, "PROTECTED_TAG")
    assert code(server, "DELETE", "v-unknown", denied) == (404, "")
    assert code(server, "DELETE", image.digest, denied) == (401, "PROTECTED_MANIFEST")
    assert code(server, "DELETE", image.digest, free) == (202, "")


def test_immutable_tags(server: Server, signer: Signer, pushed: Images) -> None:
    """Legacy metadata lets an immutable tag move, but not go."""
    immutable = header(signer, tag_immutable_patterns=["^release"])
    moved = (401, "IMMUTABLE_TAG") if "database" in server.options else (201, "")
    assert code(server, "PUT", "release", immutable, pushed[0]) == (201, "")
    assert code(server, "PUT", "release", immutable, pushed[0]) == moved
    assert code(server, "PUT", "release", immutable, pushed[1]) == moved
    assert code(server, "DELETE", "release", immutable) == (401, "IMMUTABLE_TAG")
    assert code(server, "DELETE", pushed[0].digest, immutable) == (401, "PROTECTED_MANIFEST")
    assert code(server, "DELETE", "release", header(signer)) == (202, "")


@pytest.mark.parametrize("pattern", ["(", "a" * 101])
def test_patterns_that_are_refused(server: Server, signer: Signer, pushed: Images, pattern: str) -> None:
    broken = header(signer, tag_deny_access_patterns={"push": [pattern], "delete": [pattern]})
    invalid = (400, "TAG_PROTECTION_PATTERN_INVALID")
    assert code(server, "PUT", "w1", broken, pushed[0]) == invalid
    assert code(server, "DELETE", "w1", broken) == invalid
    immutable = header(signer, tag_immutable_patterns=[pattern])
    assert code(server, "DELETE", "w1", immutable) == (400, "TAG_IMMUTABILITY_PATTERN_INVALID")


def test_patterns_that_are_too_many(server: Server, signer: Signer, pushed: Images) -> None:
    many = {"tag_deny_access_patterns": {"push": ["a"] * 3, "delete": ["a"] * 3}, "tag_immutable_patterns": ["a"] * 3}
    for method, image in (("PUT", pushed[0]), ("DELETE", None)):
        assert code(server, method, "w1", header(signer, **many), image) == (400, "TAG_PATTERN_COUNT_LIMIT_EXCEEDED")


def test_the_version_of_the_api_is_told_after_authorization_only(server: Server, signer: Signer) -> None:
    for path in ("/v2/", "/gitlab/v1/", "/gitlab/v1/statistics/"):
        refused = server.request("GET", path)
        assert (refused.status, refused.headers.get("Gitlab-Container-Registry-Version")) == (401, None)
    admitted = server.request("GET", "/gitlab/v1/", header(signer))
    assert admitted.status == (200 if "database" in server.options else 404)


def test_a_right_for_one_repository_opens_no_other(server: Server, signer: Signer) -> None:
    answer = server.request("GET", "/v2/g/p2/tags/list", header(signer))
    assert answer.status == 401
    assert 'scope="repository:g/p2:pull",error="insufficient_scope"' in answer.headers["Www-Authenticate"]
    assert server.request("GET", "/v2/", header(signer)).status == 200
    basic = {"Authorization": "Basic " + base64.b64encode(b"root:secret").decode()}
    assert server.request("GET", "/v2/", basic).status == 401
    assert "secret" not in (server.folder / "stdout").read_text() + server.stderr
