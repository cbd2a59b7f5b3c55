"""TLS contexts from rules: what they demand, and files that change or cannot be used."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from common.domain.errors import InvalidRequest
from common.domain.tls import PLAIN_TLS, TlsRules
from common.tls import TlsFileError, client_context, http_context
from tests.support.certificates import Authority


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_certificates_are_required_names_checked_and_old_versions_refused(version: str) -> None:
    """Whatever else is given: the rules have no words for less."""
    context = client_context(TlsRules(min_version=version))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version.name == f"TLSv1_{version[2]}"


def test_an_authority_of_ones_own_is_the_only_one(tmp_path: Path) -> None:
    """Not beside the system's: whoever names one means that one."""
    context = client_context(TlsRules(ca_file=str(Authority(tmp_path).file)))
    assert len(context.get_ca_certs()) == 1


def test_a_context_is_made_once_and_anew_when_a_file_changes(tmp_path: Path) -> None:
    """A certificate that is replaced is shown by the next connection."""
    ca = Authority(tmp_path)
    old, new = ca.issue("me", usage="client"), ca.issue("me", usage="client")
    rules = TlsRules(ca_file=str(ca.file), cert_file=str(old.both))
    kept = http_context(rules)
    assert not kept.fresh
    first = kept.now()
    assert kept.fresh
    assert http_context(rules).now() is first
    os.replace(new.both, old.both)
    assert not kept.fresh
    assert kept.now() is not first


def _passphrase(tmp_path: Path, ca: Authority) -> TlsRules:
    made = ca.issue("me", usage="client")
    key = serialization.load_pem_private_key(made.key.read_bytes(), password=None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return TlsRules(cert_file=str(made.cert), key_file=str(made.key))


def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    """And nothing of what is in it; OpenSSL asks nobody for a passphrase."""
    ca = Authority(tmp_path)
    one, other = ca.issue("me", usage="client"), ca.issue("me", usage="client")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("hunter2")
    gone = str(tmp_path / "gone.pem")
    cases = [
        (TlsRules(ca_file=gone), "gone.pem: No such file"),
        (TlsRules(cert_file=gone), "gone.pem: No such file"),
        (TlsRules(ca_file=str(nonsense)), "nonsense.pem: not what it should be"),
        (TlsRules(cert_file=str(nonsense)), "nonsense.pem: not what it should be"),
        (
            TlsRules(cert_file=str(one.cert), key_file=str(other.key)),
            "the key does not belong to the certificate",
        ),
        (TlsRules(cert_file=str(one.cert)), "server-|client-"),
        (_passphrase(tmp_path, ca), "behind a passphrase"),
    ]
    for rules, said in cases:
        for make in (client_context, lambda rules: http_context(rules).now()):
            with pytest.raises(TlsFileError, match=said) as refused:
                make(rules)
            assert "hunter2" not in str(refused.value)


def test_a_key_without_a_certificate_means_nothing() -> None:
    """Nor does a version that is no version."""
    with pytest.raises(InvalidRequest, match="tls_cert_file"):
        TlsRules(key_file="k")
    with pytest.raises(InvalidRequest, match="tls_min_version"):
        TlsRules(min_version="1.1")
    assert PLAIN_TLS.files == ()
