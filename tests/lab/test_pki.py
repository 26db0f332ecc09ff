"""georeg_lab.pki: certificates that strict clients accept, for 127.0.0.1 and localhost."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from georeg_lab.pki import Authority, token_key_pair


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_strict_client_accepts_the_server(tmp_path: Path, host: str) -> None:
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue("primary")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(authority.certificate_file))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with server.wrap_socket(theirs, server_side=True) as connection:
            connection.sendall(b"hello")

    thread = threading.Thread(target=answer)
    thread.start()
    with client.wrap_socket(ours, server_hostname=host) as connection:
        assert connection.recv(5) == b"hello"
    thread.join()


def test_another_authority_is_refused(tmp_path: Path) -> None:
    certificate, _ = Authority(tmp_path / "one").issue("primary")
    other = Authority(tmp_path / "two").certificate_file
    subject = x509.load_pem_x509_certificate(certificate.read_bytes())
    with pytest.raises(Exception):  # noqa: B017 - the library's own, without a stable name
        subject.verify_directly_issued_by(x509.load_pem_x509_certificate(other.read_bytes()))


def test_certificates_are_kept_and_last(tmp_path: Path) -> None:
    first = Authority(tmp_path).issue("primary")[0].read_bytes()
    assert Authority(tmp_path).issue("primary")[0].read_bytes() == first
    end = x509.load_pem_x509_certificate(first).not_valid_after_utc
    assert end > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365)


def test_private_keys_are_private(tmp_path: Path) -> None:
    Authority(tmp_path).issue("primary")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {
        "ca.key": 0o600,
        "primary.key": 0o600,
    }


def test_the_token_pair_signs_and_verifies() -> None:
    pair = token_key_pair()
    public = x509.load_pem_x509_certificate(pair.certificate.encode()).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    token = jwt.encode({"sub": "root"}, pair.key, algorithm="RS256")
    assert jwt.decode(token, public, algorithms=["RS256"]) == {"sub": "root"}
