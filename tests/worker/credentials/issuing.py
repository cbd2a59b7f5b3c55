"""What tests of issued tokens have in common."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.domain.credentials import Credentials
from tests.support.servers.authorization import AuthorizationServer
from tests.support.servers.issuer import private_key
from tests.worker.credentials.contract import values_of

SECRET = "s3cr:t %+ä"
"""That of the client ``gateway``; it has all that has to be encoded."""


def entry(server: AuthorizationServer, **more: Any) -> dict[str, Any]:
    """An entry for one tenant of one tool; None leaves a key out."""
    given = {
        "tool": "github",
        "tenant": "acme",
        "token_url": server.url,
        "client_id": "gateway",
        "client_secret": SECRET,
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


def token_of(found: Credentials) -> str:
    """The token."""
    return (values_of(found) or {})["access_token"]


def pem(algorithm: str, name: str = "k1") -> str:
    """A private key."""
    key = private_key(algorithm, name)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
