"""A server that speaks Vault's HTTP API as far as a credentials provider needs it, in threads of the test.

Source: the API of HashiCorp Vault 1.20: "KV secrets engine - version 2", "AppRole", "Kubernetes", "Token", and "HTTP
status codes" on the page "HTTP API".
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.support.servers.http_wire import Connection, Request


@dataclass(slots=True)
class Token:
    """A token that was given out; ``ends`` is monotonic, None for a root token."""

    ends: float | None
    renewable: bool = True

    @property
    def valid(self) -> bool:
        return self.ends is None or time.monotonic() < self.ends


@dataclass(slots=True)
class VaultServer:
    """Its state, which a test changes as it likes."""

    lease: float = 3600.0
    """Seconds that a token lives from its login, and from each renewal."""
    namespace: str | None = None
    root: str = "root-token"
    roles: dict[str, str] = field(default_factory=lambda: {"role-id": "secret-id"})
    accounts: dict[str, str] = field(default_factory=lambda: {"worker": "a-jwt"})
    secrets: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    """Path below the mount ``secret`` -> its versions; None for one that was deleted."""
    forbidden: set[str] = field(default_factory=set)
    sealed: bool = False
    renewable: bool = True
    silent: bool = False
    """Whether it leaves requests unanswered, until :attr:`going_on` is set."""
    drips: str = ""
    """What of its answers comes byte by byte and without an end, until :attr:`going_on` is set: head or body."""
    going_on: threading.Event = field(default_factory=threading.Event)
    tokens: dict[str, Token] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""

    def __post_init__(self) -> None:
        self.tokens[self.root] = Token(ends=None, renewable=False)

    def put(self, path: str, **values: Any) -> None:
        """Write a new version of a secret."""
        self.secrets.setdefault(path, []).append(values)

    def delete(self, path: str) -> None:
        """Delete the newest version."""
        self.secrets[path].append(None)

    def expire(self) -> None:
        """Let all tokens end that were given out by a login."""
        self.tokens = {name: token for name, token in self.tokens.items() if token.ends is None}

    def count(self, pattern: str) -> int:
        """How many requests there were whose method and path match."""
        return sum(re.search(pattern, line) is not None for line in self.asked)

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        path = request.path.partition("?")[0]
        self.asked.append(f"{request.method} {path}")
        if self.silent:
            self.going_on.wait(30)
        if self.drips:
            self._drip(connection)
        elif self.sealed:
            _answer(connection, 503, {"errors": ["Vault is sealed"]})
        elif request.headers.get("x-vault-namespace") != self.namespace:
            _answer(connection, 404, {"errors": ["namespace not found"]})
        elif login := re.fullmatch(r"/v1/auth/([\w/-]+)/login", path):
            self._log_in(connection, login[1], orjson.loads(request.body))
        elif (token := self._token(request)) is None:
            _answer(connection, 403, {"errors": ["permission denied"]})
        elif path == "/v1/auth/token/lookup-self":
            left = 0 if token.ends is None else int(token.ends - time.monotonic())
            _answer(connection, 200, {"data": {"ttl": left, "renewable": token.renewable}})
        elif path == "/v1/auth/token/renew-self":
            self._renew(connection, request, token)
        elif found := re.fullmatch(r"/v1/secret/data/(.+)", path):
            self._read(connection, found[1])
        else:
            _answer(connection, 404, {"errors": ["no handler for route"]})

    def _drip(self, connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\n" + (
            b"X: " if self.drips == "head" else b"Content-Length: 100000\r\n\r\n"
        )
        with suppress(OSError):
            connection.sock.sendall(head)
            while not self.going_on.wait(0.05):
                connection.sock.sendall(b"a")
        connection.abort()

    def _token(self, request: Request) -> Token | None:
        token = self.tokens.get(request.headers.get("x-vault-token", ""))
        return token if token is not None and token.valid else None

    def _log_in(self, connection: Connection, mount: str, body: dict[str, Any]) -> None:
        if "role_id" in body:
            good = mount.startswith("approle") and self.roles.get(body["role_id"]) == body.get("secret_id")
        else:
            good = mount.startswith("kube") and self.accounts.get(body.get("role", "")) == body.get("jwt")
        if not good:
            _answer(connection, 400, {"errors": ["invalid role or secret ID"]})
            return
        name = f"hvs.{uuid.uuid4().hex}"
        self.tokens[name] = Token(ends=time.monotonic() + self.lease, renewable=self.renewable)
        _answer(connection, 200, self._auth(name))

    def _renew(self, connection: Connection, request: Request, token: Token) -> None:
        if not token.renewable or not self.renewable:
            _answer(connection, 400, {"errors": ["lease is not renewable"]})
            return
        token.ends = time.monotonic() + self.lease
        _answer(connection, 200, self._auth(request.headers["x-vault-token"]))

    def _auth(self, token: str) -> dict[str, Any]:
        auth = {"client_token": token, "lease_duration": self.lease, "renewable": self.renewable}
        return {"auth": auth, "data": None}

    def _read(self, connection: Connection, path: str) -> None:
        if path in self.forbidden:
            _answer(connection, 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
            return
        versions = self.secrets.get(path)
        if not versions:
            _answer(connection, 404, {"errors": []})
            return
        deleted = versions[-1] is None
        metadata = {
            "version": len(versions),
            "created_time": "2026-01-01T00:00:00Z",
            "deletion_time": "2026-01-02T00:00:00Z" if deleted else "",
            "destroyed": False,
        }
        _answer(connection, 404 if deleted else 200, {"data": {"data": versions[-1], "metadata": metadata}})


_PHRASES = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}


def _answer(connection: Connection, status: int, body: dict[str, Any]) -> None:
    connection.respond(f"{status} {_PHRASES[status]}", orjson.dumps(body))
