"""Short statements that the gateway signs with a key of the operator's (JWT, RFC 7519)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from common.domain.errors import ConfigurationError
from gateway_worker.credentials.failure import ProviderFailed
from gateway_worker.credentials.given import GivenSecret

LIFE = 60
"""Seconds that a statement is good for."""
LEAST_RSA_BITS = 2048
CLIENT, SUBJECT, ACTOR = "JWT", "canalgate-subject+jwt", "canalgate-actor+jwt"
"""What a statement is of (``typ``; RFC 8725, section 3.11), so that none passes for another: of the gateway itself, as
client of a server; of a subject; of who acts for him. The first is what servers in use take (RFC 7523).
"""
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1"}


class Signer:
    """Signs with the key that stands in the settings at that moment."""

    def __init__(self, key: GivenSecret, algorithm: str, key_id: str | None) -> None:
        """Raises :class:`ConfigurationError` for what is no key, or none for this algorithm."""
        self._key = key
        self._algorithm = algorithm
        self._key_id = key_id
        try:
            self.sign({}, kind=CLIENT)
        except ProviderFailed as error:
            raise ConfigurationError(str(error), field=key.where) from None

    def sign(self, claims: Mapping[str, Any], *, kind: str) -> str:
        """``claims`` with ``iat``, ``exp`` and a ``jti`` of their own; ``kind`` is their ``typ``.

        Raises :class:`ProviderFailed`.
        """
        now = int(time.time())
        body = {**claims, "iat": now, "exp": now + LIFE, "jti": uuid.uuid4().hex}
        headers = {"typ": kind} | ({} if self._key_id is None else {"kid": self._key_id})
        return jwt.encode(body, self._loaded(), algorithm=self._algorithm, headers=headers)

    @property
    def public(self) -> bytes:
        """The public half of the key, as DER. Raises :class:`ProviderFailed`."""
        found: bytes = (
            self._loaded().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        return found

    def _loaded(self) -> Any:
        where = self._key.where
        try:
            key = load_pem_private_key(self._key.read().encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ProviderFailed(f"{where} holds no private key in PEM without a passphrase") from None
        if not _fits(key, self._algorithm):
            raise ProviderFailed(
                f"{where} holds no key for {self._algorithm} (RSA has {LEAST_RSA_BITS} bits or more): "
                "change the key, or algorithm beside it"
            )
        return key


def _fits(key: object, algorithm: str) -> bool:
    if algorithm in _CURVES:
        return isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == _CURVES[algorithm]
    if algorithm == "EdDSA":
        return isinstance(key, ed25519.Ed25519PrivateKey)
    return isinstance(key, rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA_BITS
