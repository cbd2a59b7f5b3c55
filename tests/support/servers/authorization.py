"""An authorization server's token endpoint, in threads of the test, which can also be made to misbehave.

Source: RFC 6749 (sections 2.3.1, 4.4, 5), RFC 7523 (private_key_jwt), RFC 8707 (resource), RFC 8693 (token exchange).
"""

from __future__ import annotations

import base64
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
import orjson

from tests.support.backends import http_backend
from tests.support.servers.http_wire import Connection, Request

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PATH = "/token"


class _Refused(Exception):
    """``code`` of RFC 6749, section 5.2."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


@dataclass(slots=True)
class Issued:
    """A token that was given out, and to whom."""

    client: str
    scopes: str
    resources: tuple[str, ...]
    audiences: tuple[str, ...]
    subject: dict[str, Any] | None = None
    """The claims of the subject token, by exchange."""
    actor: dict[str, Any] | None = None


@dataclass(slots=True)
class AuthorizationServer:
    """Its state, which a test changes as it likes."""

    url: str = ""
    clients: dict[str, str] = field(default_factory=lambda: {"gateway": "s3cr:t %+ä"})
    keys: dict[str, Any] = field(default_factory=dict)
    """Client -> the public key that its statements are checked with."""
    issuers: dict[str, Any] = field(default_factory=dict)
    """Issuer -> the public key of its subject tokens."""
    audience: str = "https://as.example.com"
    """What subject tokens have to be for."""
    methods: frozenset[str] = frozenset({"client_secret_basic", "client_secret_post", "private_key_jwt"})
    scopes: frozenset[str] = frozenset({"read", "write"})
    targets: frozenset[str] = frozenset({"https://api.example.com/mcp", "api"})
    expires_in: Any = 3600
    token_type: str = "Bearer"
    mode: str | None = None
    """How it fails: see :meth:`_misbehaves`."""
    fails: int | None = None
    """How many requests it fails so; None: all."""
    go_on: threading.Event = field(default_factory=threading.Event)
    tokens: dict[str, Issued] = field(default_factory=dict)
    forms: list[list[tuple[str, str]]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    """``jti`` of what it was shown: nothing is good twice."""

    def last(self, name: str) -> list[str]:
        """The values of a parameter of the last request."""
        return [value for key, value in self.forms[-1] if key == name]

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        self.requests.append(request)
        if self.mode is not None and self.fails != 0:
            self.fails = None if self.fails is None else self.fails - 1
            self._misbehaves(connection, self.mode)
            return
        try:
            if request.method != "POST" or request.path != PATH:
                raise _Refused("invalid_request", 404)
            form = parse_qsl(request.body.decode(), strict_parsing=True, keep_blank_values=True)
            self.forms.append(form)
            _answer(connection, 200, self._issue(dict(form), form, request))
        except _Refused as error:
            self.refused[error.code] += 1
            _answer(connection, error.status, {"error": error.code, "error_description": "no canary-words"})

    def _misbehaves(self, connection: Connection, mode: str) -> None:
        match mode:
            case "hang":
                self.go_on.wait(20)
                connection.abort()
            case "cut":
                connection.sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"access')
                connection.abort()
            case "drop":
                connection.abort()
            case "redirect":
                connection.respond("307 Temporary Redirect", headers={"Location": "/elsewhere"})
            case "throttle":
                connection.respond("429 Too Many Requests", b"{}", headers={"Retry-After": "0"})
            case "throttle long":
                connection.respond("503 Service Unavailable", b"{}", headers={"Retry-After": "3600"})
            case "teapot":
                connection.respond("400 Bad Request", b'{"error": "canary-error"}')
            case "flood":
                connection.respond("200 OK", b'{"x": "' + b"a" * 300_000 + b'"}')
            case _:
                connection.respond("200 OK", mode.encode())

    def _issue(self, form: dict[str, str], pairs: list[tuple[str, str]], request: Request) -> dict[str, Any]:
        client = self._client(form, request)
        scopes = form.get("scope", "read")
        resources = tuple(value for name, value in pairs if name == "resource")
        audiences = tuple(value for name, value in pairs if name == "audience")
        if not set(scopes.split()) <= self.scopes:
            raise _Refused("invalid_scope")
        if not {*resources, *audiences} <= self.targets:
            raise _Refused("invalid_target")
        issued = Issued(client, scopes, resources, audiences)
        if form["grant_type"] == EXCHANGE:
            if form.get("subject_token_type") != JWT_TYPE:
                raise _Refused("invalid_request")
            issued.subject = self._statement(form["subject_token"], "canalgate-subject+jwt")
            if "actor_token" in form:
                issued.actor = self._statement(form["actor_token"], "canalgate-actor+jwt")
        elif form["grant_type"] != "client_credentials":
            raise _Refused("unsupported_grant_type")
        token = f"canary-secret-issued-{uuid.uuid4().hex}"
        self.tokens[token] = issued
        more = (
            {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"} if issued.subject else {}
        )
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return {"access_token": token, "token_type": self.token_type, "scope": scopes, **life, **more}

    def _statement(self, token: str, kind: str) -> dict[str, Any]:
        """The claims of what an issuer says of a subject or an actor."""
        try:
            if jwt.get_unverified_header(token)["typ"] != kind:
                raise _Refused("invalid_grant")
            issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
            algorithm = jwt.get_unverified_header(token)["alg"]
            claims: dict[str, Any] = jwt.decode(
                token,
                self.issuers[issuer],
                algorithms=[algorithm],
                audience=self.audience,
                options={"require": ["exp", "iat", "jti", "sub", "iss", "aud"]},
            )
        except (jwt.PyJWTError, KeyError):
            raise _Refused("invalid_grant") from None
        self._once(claims)
        return claims

    def _once(self, claims: dict[str, Any]) -> None:
        if claims["jti"] in self.seen or claims["exp"] - claims["iat"] > 60:
            raise _Refused("invalid_grant")
        self.seen.add(claims["jti"])

    def _client(self, form: dict[str, str], request: Request) -> str:
        basic = request.headers.get("authorization", "")
        if basic.startswith("Basic "):
            name, _, secret = base64.b64decode(basic[6:]).decode().partition(":")
            return self._known("client_secret_basic", unquote_plus(name), unquote_plus(secret))
        if "client_assertion" in form:
            return self._by_key(form)
        return self._known("client_secret_post", form.get("client_id", ""), form.get("client_secret", ""))

    def _known(self, method: str, name: str, secret: str) -> str:
        if method not in self.methods or name not in self.clients or self.clients[name] != secret:
            raise _Refused("invalid_client", 401)
        return name

    def _by_key(self, form: dict[str, str]) -> str:
        name, token = form["client_id"], form["client_assertion"]
        if "private_key_jwt" not in self.methods or form.get("client_assertion_type") != ASSERTION:
            raise _Refused("invalid_client", 401)
        try:
            head = jwt.get_unverified_header(token)
            algorithm = head["alg"]
            if head["typ"] != "JWT":
                raise _Refused("invalid_client", 401)
            claims = jwt.decode(
                token,
                self.keys[name],
                algorithms=[algorithm],
                audience=self.url,
                issuer=name,
                options={"require": ["exp", "jti", "sub"]},
            )
        except (jwt.PyJWTError, KeyError):
            raise _Refused("invalid_client", 401) from None
        if claims["sub"] != name:
            raise _Refused("invalid_client", 401)
        self._once(claims)
        return name


_PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}


def _answer(connection: Connection, status: int, body: dict[str, Any]) -> None:
    connection.respond(
        f"{status} {_PHRASES[status]}", orjson.dumps(body), headers={"Cache-Control": "no-store"}
    )


@contextmanager
def running_authorization() -> Iterator[AuthorizationServer]:
    """One on a free port; ``url`` is its token endpoint."""
    server = AuthorizationServer()
    with http_backend(server.handle) as backend:
        server.url = backend.url.removesuffix("/mcp") + PATH
        try:
            yield server
        finally:
            server.go_on.set()
