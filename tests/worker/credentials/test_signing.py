"""Statements that the gateway signs."""

from __future__ import annotations

import time

import jwt
from pydantic import SecretStr

from gateway_worker.credentials.given import GivenSecret
from gateway_worker.credentials.signing import ACTOR, CLIENT, SUBJECT, Signer
from tests.support.servers.issuer import private_key
from tests.worker.credentials.issuing import pem


def test_a_statement_is_good_for_a_minute_and_once() -> None:
    """Each has a name of its own, and says when it was made."""
    signer = Signer(GivenSecret("a.key", SecretStr(pem("ES256")), None), "ES256", "k1")
    public = private_key("ES256", "k1").public_key()
    made = [signer.sign({"sub": "ann"}, kind=SUBJECT) for _ in range(2)]
    first, second = (jwt.decode(text, public, algorithms=["ES256"]) for text in made)
    assert abs(first["iat"] - time.time()) < 5
    assert first["exp"] - first["iat"] == 60
    assert first["jti"] != second["jti"]
    assert jwt.get_unverified_header(made[0]) == {"alg": "ES256", "kid": "k1", "typ": SUBJECT}
    assert len({CLIENT, SUBJECT, ACTOR}) == 3
