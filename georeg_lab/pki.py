"""The lab's certificate authority, its server certificates, and the key pair that registry tokens are signed with."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 3650


@dataclass(frozen=True)
class KeyPair:
    """Certificate and private key, both PEM text."""

    certificate: str
    key: str


class Authority:
    """A certificate authority kept in a folder as `ca.crt` and `ca.key` (0600); made there when it is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.certificate_file.exists():
            self._create()
        self._certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{folder / 'ca.key'} is not a key of this authority")
        self._key = key

    @property
    def certificate_file(self) -> Path:
        """What clients are given to trust."""
        return self.folder / "ca.crt"

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("georeg lab certificate authority")
        builder = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        _write_secret(self.folder / "ca.key", _pem(key))
        self.certificate_file.write_bytes(_certificate_pem(builder.sign(key, hashes.SHA256())))

    def issue(self, name: str, dns: str = "") -> tuple[Path, Path]:
        """Certificate and key files `<name>.crt`, `<name>.key` (0600) of a server on 127.0.0.1 or localhost.

        Made when missing. The names are in the certificate both as IP address and as DNS name; with `dns`, that only.
        """
        certificate_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if certificate_file.exists() and key_file.exists():
            return certificate_file, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        names = [x509.DNSName(dns)] if dns else names
        builder = (
            _builder(_name(name), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        _write_secret(key_file, _pem(key))
        certificate_file.write_bytes(_certificate_pem(builder.sign(self._key, hashes.SHA256())))
        return certificate_file, key_file


def token_key_pair() -> KeyPair:
    """Self-signed RSA pair for registry tokens: `internal_key` and `internal_certificate` of gitlab-secrets.json."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = _name("gitlab-issuer")
    certificate = _builder(name, name, key.public_key()).sign(key, hashes.SHA256())
    return KeyPair(_certificate_pem(certificate).decode(), _pem(key).decode())


def host_key_pair() -> tuple[str, str]:
    """An SSH server's ed25519 key as OpenSSH writes it: private and public text."""
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    form = serialization.PublicFormat.OpenSSH
    return private.decode(), key.public_key().public_bytes(serialization.Encoding.OpenSSH, form).decode() + "\n"


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)  # clocks of clients may be behind
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=VALID_DAYS))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
