"""Servers that speak the wire protocols of AWS Secrets Manager and Google Cloud Secret Manager, in threads of the test.

Sources: "GetSecretValue" and "Common errors" of the Secrets Manager API Reference; "Signature Version 4" of the AWS
General Reference; ``projects.secrets.versions.access`` of Secret Manager's REST reference, google.rpc.Status, RFC 7523.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import orjson

from tests.support.backends import http_backend
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.issuer import private_key
from tests.worker.credentials.issuing import pem

GOOGLE = "https://oauth2.googleapis.com/token"
"""For whom service accounts sign, wherever their token endpoint is."""


@dataclass(slots=True)
class SecretManager:
    """What both have in common; a test changes it as it likes."""

    url: str = ""
    secrets: dict[str, list[str | None]] = field(default_factory=dict)
    """Name -> its versions; None for one that was destroyed."""
    asked: list[str] = field(default_factory=list)
    """The names of the secrets that were asked for."""
    mode: str | None = None
    """How it fails: a status and an error's name (``400 ThrottlingException``), or "hang", "cut", or a whole body."""
    fails: int | None = None
    """How many requests it fails so; None: all."""
    refused: int = 0
    """Requests whose sender it did not believe."""
    go_on: threading.Event = field(default_factory=threading.Event)

    def put(self, name: str, value: Any) -> None:
        """A new version of a secret: a text, or an object that is written as JSON."""
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        self.secrets.setdefault(name, []).append(text)

    def handle(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        if self.mode is not None and self.fails != 0 and not request.path.endswith("/token"):
            self.fails = None if self.fails is None else self.fails - 1
            self.asked.append("")
            self._misbehave(connection, self.mode)
        else:
            self.answer(connection, request)

    def answer(self, connection: Connection, request: Request) -> None:
        """As its documents say."""
        raise NotImplementedError

    def fail(self, connection: Connection, status: int, code: str) -> None:
        """An error, as its documents say."""
        raise NotImplementedError

    def _misbehave(self, connection: Connection, mode: str) -> None:
        status, _, code = mode.partition(" ")
        if mode == "hang":
            self.go_on.wait(20)
            connection.abort()
        elif mode == "cut":
            connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            connection.abort()
        elif mode == "redirect":
            connection.respond("307 Temporary Redirect", headers={"Location": "/elsewhere"})
        elif status.isdigit():
            self.fail(connection, int(status), code)
        else:
            connection.respond("200 OK", mode.encode())


@dataclass(slots=True)
class AwsServer(SecretManager):
    """AWS JSON 1.1. Signatures are checked as the service does."""

    keys: dict[str, str] = field(default_factory=lambda: {"AKIDEXAMPLE": "canary-aws-secret"})
    session_token: str | None = None
    region: str = "eu-central-1"
    stages: dict[str, int] = field(default_factory=lambda: {"AWSCURRENT": -1, "AWSPREVIOUS": -2})

    def answer(self, connection: Connection, request: Request) -> None:
        if not self._believed(request):
            self.refused += 1
            self.fail(connection, 400, "InvalidSignatureException")
            return
        assert request.headers["x-amz-target"] == "secretsmanager.GetSecretValue"
        assert request.headers["content-type"] == "application/x-amz-json-1.1"
        wanted = orjson.loads(request.body)
        name, stage = wanted["SecretId"], wanted["VersionStage"]
        self.asked.append(name)
        versions = self.secrets.get(name, [])
        if stage not in self.stages or len(versions) < -self.stages[stage]:
            self.fail(connection, 400, "ResourceNotFoundException")
            return
        number = len(versions) + self.stages[stage]
        held: dict[str, Any] = {"SecretString": versions[number]}
        if versions[number] is None:
            held = {"SecretBinary": base64.b64encode(b"\xff").decode()}
        body = {
            "ARN": f"arn:aws:secretsmanager:{self.region}:123456789012:secret:{name}-AbCdEf",
            "Name": name,
            "VersionId": str(uuid.UUID(int=number + 1)),
            "VersionStages": [stage],
            "CreatedDate": 1523477145.713,
            **held,
        }
        connection.respond("200 OK", orjson.dumps(body), "application/x-amz-json-1.1")

    def fail(self, connection: Connection, status: int, code: str) -> None:
        body = {"__type": f"com.amazonaws.secretsmanager#{code}", "Message": "no canary-words"}
        connection.respond(f"{status} Error", orjson.dumps(body), "application/x-amz-json-1.1")

    def _believed(self, request: Request) -> bool:
        """Signature Version 4, worked out from what came over the wire."""
        kind, _, rest = request.headers.get("authorization", "").partition(" ")
        if kind != "AWS4-HMAC-SHA256":
            return False
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        key, *scope = parts["Credential"].split("/")
        if key not in self.keys or scope[1:] != [self.region, "secretsmanager", "aws4_request"]:
            return False
        if request.headers.get("x-amz-security-token") != self.session_token:
            return False
        signed = parts["SignedHeaders"].split(";")
        if not {"host", "x-amz-date", "x-amz-target"} <= set(signed):
            return False
        lines = "".join(f"{name}:{request.headers[name]}\n" for name in signed)
        digest = hashlib.sha256(request.body).hexdigest()
        canonical = f"{request.method}\n{request.path}\n\n{lines}\n{';'.join(signed)}\n{digest}"
        text = "\n".join(
            (
                "AWS4-HMAC-SHA256",
                request.headers["x-amz-date"],
                "/".join(scope),
                hashlib.sha256(canonical.encode()).hexdigest(),
            )
        )
        mac = b"AWS4" + self.keys[key].encode()
        for part in scope:
            mac = hmac.digest(mac, part.encode(), hashlib.sha256)
        want = hmac.digest(mac, text.encode(), hashlib.sha256).hex()
        return hmac.compare_digest(want, parts["Signature"])


@dataclass(slots=True)
class GcpServer(SecretManager):
    """REST, and the token endpoint where service accounts show what they signed."""

    project: str = "my-project"
    account: str = "worker@my-project.iam.gserviceaccount.com"
    key: Any = None
    """The public key of the service account; None: nobody has to be anybody."""
    tokens: set[str] = field(default_factory=set)
    logins: int = 0

    def answer(self, connection: Connection, request: Request) -> None:
        if request.path == "/token":
            self._log_in(connection, parse_qs(request.body.decode()))
            return
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key is not None and token not in self.tokens:
            self.refused += 1
            self.fail(connection, 401, "UNAUTHENTICATED")
            return
        front, back = f"/v1/projects/{self.project}/secrets/", ":access"
        if not request.path.startswith(front) or not request.path.endswith(back):
            self.fail(connection, 404, "NOT_FOUND")
            return
        name, _, version = request.path.removeprefix(front).removesuffix(back).partition("/versions/")
        self.asked.append(name)
        versions = self.secrets.get(name, [])
        number = len(versions) if version == "latest" else int(version)
        if not 0 < number <= len(versions):
            self.fail(connection, 404, "NOT_FOUND")
        elif (text := versions[number - 1]) is None:
            self.fail(connection, 400, "FAILED_PRECONDITION")
        else:
            body = {
                "name": f"projects/1234567/secrets/{name}/versions/{number}",
                "payload": {"data": base64.b64encode(text.encode()).decode(), "dataCrc32c": "1"},
            }
            connection.respond("200 OK", orjson.dumps(body))

    def fail(self, connection: Connection, status: int, code: str) -> None:
        body = {"error": {"code": status, "message": "no canary-words", "status": code}}
        connection.respond(f"{status} Error", orjson.dumps(body))

    def _log_in(self, connection: Connection, form: dict[str, list[str]]) -> None:
        try:
            claims = jwt.decode(form["assertion"][0], self.key, algorithms=["RS256"], audience=GOOGLE)
        except (jwt.PyJWTError, KeyError):
            claims = {}
        if claims.get("iss") != self.account:
            connection.respond("400 Bad Request", b'{"error": "invalid_grant"}')
            return
        self.logins += 1
        token = f"canary-google-{uuid.uuid4().hex}"
        self.tokens.add(token)
        body = {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}
        connection.respond("200 OK", orjson.dumps(body))


@contextmanager
def running_manager(server: SecretManager) -> Iterator[None]:
    """Serve it on a free port; ``url`` is its address."""
    with http_backend(server.handle) as backend:
        server.url = backend.url.removesuffix("/mcp")
        try:
            yield
        finally:
            server.go_on.set()


def account_file(server: GcpServer, directory: Path) -> str:
    """The key file of a service account that the server knows."""
    server.key = private_key("RS256", "gcp").public_key()
    held = {
        "type": "service_account",
        "project_id": server.project,
        "private_key_id": "k1",
        "private_key": pem("RS256", "gcp"),
        "client_email": server.account,
        "token_uri": f"{server.url}/token",
    }
    file = directory / "account.json"
    file.write_bytes(orjson.dumps(held))
    return str(file)
