"""A certificate authority of the test's own, and what it signs: for both ends of TLS.

::

    ca = Authority(tmp_path)
    server = ca.issue("localhost", "127.0.0.1")            # names and addresses that it proves
    client = ca.issue("alice", usage="client")
    context = server_context(server, client_ca=ca.file)    # or client_context(ca.file, client)
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Usage = Literal["server", "client"]
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM: the certificate, its key, and both in one."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """A certificate authority whose own certificate is ``file``."""

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._made = 0
        made = (
            _begun(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *more: str, usage: Usage = "server", days: float = 1, organisation: str = ""
    ) -> Certificate:
        """A certificate with the subject ``CN=name``, good for ``days`` from yesterday on (below 0: run out).

        Of a server's, all names (or addresses) are in it; of a client's, its common name is all.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_alternative(each) for each in (name, *more)]
        made = (
            _begun(_name(name, organisation), self._name, key, days)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGES[usage]]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self._made += 1
        stem = self._directory / f"{usage}-{self._made}"
        files = Certificate(stem.with_suffix(".crt"), stem.with_suffix(".key"), stem.with_suffix(".pem"))
        cert = made.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files.cert.write_bytes(cert)
        files.key.write_bytes(private)
        files.both.write_bytes(private + cert)
        return files


def server_context(certificate: Certificate, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """A server's; with ``client_ca`` it demands a client certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if client_ca is not None:
        context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path, certificate: Certificate | None = None) -> ssl.SSLContext:
    """A client's that trusts ``ca``, with a certificate of its own if one is given."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate.cert, certificate.key)
    return context


def _name(common: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float = 1
) -> x509.CertificateBuilder:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(yesterday, yesterday + dt.timedelta(days=days)))
        .not_valid_after(yesterday + dt.timedelta(days=1 + days) if days > 0 else yesterday)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
