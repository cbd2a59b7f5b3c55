"""An issuer of tokens in the test's own process: it makes keys and tokens, and publishes its keys as badly as asked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
AUDIENCE = "https://gateway.example.com"
HOUR = 3600


@cache
def private_key(algorithm: str, name: str) -> PrivateKey:
    """A key for an algorithm; RSA keys take a while to make, so that each is made once."""
    if algorithm.startswith("ES"):
        return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 1024 if name == "weak" else 2048)


def jwk(algorithm: str, kid: str, **changes: Any) -> dict[str, Any]:
    """The public half of a key as issuers publish it."""
    public = private_key(algorithm, kid).public_key()
    found: Any = get_default_algorithms()[algorithm].to_jwk(public, as_dict=True)
    return {
        key: value
        for key, value in {**found, "kid": kid, "use": "sig", "alg": algorithm, **changes}.items()
        if value
    }


def public_pem(algorithm: str, kid: str) -> bytes:
    """What the classic attack signs with as if it were a shared secret."""
    return (
        private_key(algorithm, kid).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


@dataclass
class Issuer:
    """Its keys are published at ``jwks``; ``behave`` is what it does when it is asked for them."""

    name: str = "https://issuer.example.com"
    jwks: str = ""
    keys: list[dict[str, Any]] = field(default_factory=lambda: [jwk("ES256", "k1")])
    behave: str = "well"
    asked: int = 0
    go: threading.Event = field(default_factory=threading.Event)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token; a change to None leaves one out."""
        now = int(time.time())
        given = {
            "iss": self.name,
            "aud": AUDIENCE,
            "exp": now + HOUR,
            "iat": now,
            "tenant": "acme",
            "client_id": "bot",
            "sub": "ann",
            "scope": "mcp",
            **changes,
        }
        return {name: value for name, value in given.items() if value is not None}

    def token(
        self, *, algorithm: str = "ES256", kid: str | None = "k1", key: Any = None, **changes: Any
    ) -> str:
        """A signed token; members of the header are given as ``header``."""
        header = {"kid": kid, **changes.pop("header", {})}
        header = {name: value for name, value in header.items() if value is not None}
        key = key or private_key(algorithm, kid or "k1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some keys are weak on purpose
            return jwt.encode(self.claims(**changes), key, algorithm=algorithm, headers=header)

    def unsigned(self, **changes: Any) -> str:
        """A token with ``alg: none``."""
        return ".".join([encoded({"alg": "none", "kid": "k1"}), encoded(self.claims(**changes)), ""])


def encoded(part: Any) -> str:
    """A part of a token."""
    raw = part if isinstance(part, bytes) else orjson.dumps(part)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged_by_public_key(issuer: Issuer, algorithm: str = "RS256", kid: str = "r1") -> str:
    """HS256 with the published key as the secret: good for whoever lets the token say how it is to be checked."""
    front = f"{encoded({'alg': 'HS256', 'kid': kid})}.{encoded(issuer.claims())}"
    return f"{front}.{encoded(hmac.digest(public_pem(algorithm, kid), front.encode(), hashlib.sha256))}"


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """Serve an issuer's keys on loopback."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked += 1
            with suppress(ConnectionError, TimeoutError):  # whoever asked has had enough
                _answer(self, issuer)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    issuer.jwks = f"http://127.0.0.1:{server.server_port}/jwks.json"
    try:
        yield issuer
    finally:
        issuer.go.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def _answer(handler: BaseHTTPRequestHandler, issuer: Issuer) -> None:
    body = orjson.dumps({"keys": issuer.keys})
    status, headers = 200, {"Content-Type": "application/json"}
    if issuer.behave == "redirects" and handler.path == "/jwks.json":
        status, headers, body = 302, {"Location": "/elsewhere.json"}, b""
    elif issuer.behave == "fails":
        status = 500
    elif issuer.behave == "rubbish":
        body = b"<html>"
    elif issuer.behave == "floods":
        body = body + b" " * 1_000_000
    elif issuer.behave == "hangs":
        issuer.go.wait(20)
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if issuer.behave == "drips":
        for byte in body:
            if issuer.go.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
        return
    handler.wfile.write(body)
