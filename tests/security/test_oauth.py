"""S7: a caller's token is for this gateway, and goes no further: looked at where it would arrive, at the backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import pytest

from tests.support.mcp import RawClient, modern
from tests.support.servers.authorization import AuthorizationServer, running_authorization
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.issuer import AUDIENCE, Issuer, running_issuer
from tests.support.servers.process import running_http, server_command

pytestmark = [pytest.mark.security, pytest.mark.e2e, pytest.mark.timeout(120)]
TOOLS = ("local", "remote", "issued")
ELSEWHERE = "https://another.example.com"


@dataclass
class Scene:
    """A gateway that takes tokens, who issues them, who issues those of its own, and what its backends log."""

    gateway: RunningGateway
    issuer: Issuer
    authorization: AuthorizationServer
    home: Path

    def client(self, tool: str, token: str) -> RawClient:
        """With this token."""
        return modern(self.gateway.tool_url(tool), authorization=f"Bearer {token}")

    def heard(self) -> bytes:
        """All that backends were sent, and whom the authorization server was asked by."""
        return b"".join((self.home / name).read_bytes() for name in ("stdio.jsonl", "http.jsonl"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A stdio tool, an HTTP tool without credentials, and one whose token the gateway is issued itself."""
    home = tmp_path_factory.mktemp("o")
    command, *args = server_command("echo")
    with (
        running_issuer() as issuer,
        running_authorization() as authorization,
        running_http("echo_http", log=home / "h.log", env={"ECHO_LOG": str(home / "http.jsonl")}) as url,
    ):
        authorization.clients["gateway"] = "a-secret-of-the-gateway"
        issued = {
            "tool": "issued",
            "token_url": authorization.url,
            "client_id": "gateway",
            "client_secret": "a-secret-of-the-gateway",
        }
        inject = {"headers": {"Authorization": "Bearer {access_token}"}}
        own = {"scope": "tool", "providers": "client_credentials", "inject": inject}
        tools = {
            "local": {"command": command, "args": args, "env": {"ECHO_LOG": str(home / "stdio.jsonl")}},
            "remote": {"url": url},
            "issued": {"url": url, "credentials": own},
        }
        settings = {
            "identity": {
                "resolver": "jwt",
                "jwt": {"issuer": issuer.name, "jwks": issuer.jwks, "tenant_claim": "tenant"},
                "oauth": {"resource": AUDIENCE},
            },
            "tenants": {"listed": ["acme"]},
            "credentials": {"providers": ["client_credentials"]},
            "client_credentials": {"clients": [issued]},
        }
        with running_gateway(tools, directory=home / "g", settings=settings) as gateway:
            yield Scene(gateway, issuer, authorization, home)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_token_for_somebody_else_reaches_no_backend(scene: Scene, tool: str) -> None:
    """Of another audience, of none, or for another endpoint of this gateway: 401, and where to get a good one."""
    marker = f"refused-{tool}"
    for audience in (ELSEWHERE, None, f"{AUDIENCE}/servers/other/mcp"):
        client = scene.client(tool, scene.issuer.token(aud=audience))
        answer = client.post("tools/call", {"name": "echo", "arguments": {"text": marker}})
        assert answer.status_code == 401, (audience, answer.text)
        challenge = answer.headers["www-authenticate"]
        assert 'error="invalid_token"' in challenge
        assert f"{AUDIENCE}/.well-known/oauth-protected-resource/servers/{tool}/mcp" in challenge
    assert marker.encode() not in scene.heard()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_callers_token_is_never_passed_on(scene: Scene, tool: str) -> None:
    """No part of it is in a header, a message or the environment of a backend, which gets the gateway's own token."""
    token = scene.issuer.token(jti=f"for-{tool}")
    client = scene.client(tool, token)
    assert client.text("echo", {"text": f"taken-{tool}"}) == f"taken-{tool}"
    told = client.text("env" if tool == "local" else "headers")
    heard = scene.heard()
    assert f"taken-{tool}".encode() in heard
    for part in token.split("."):
        assert part not in told
        assert part.encode() not in heard
    if tool == "remote":
        assert "authorization" not in orjson.loads(told)
    if tool == "issued":
        own = orjson.loads(told)["authorization"].removeprefix("Bearer ")
        assert scene.authorization.tokens[own].client == "gateway"


def test_the_metadata_name_this_gateway_and_its_issuer_by_https(scene: Scene) -> None:
    """Whatever the Host header and a proxy's headers say (RFC 9728)."""
    path = "/.well-known/oauth-protected-resource/servers/remote/mcp"
    answer = httpx.get(f"{scene.gateway.url}{path}", headers={"X-Forwarded-Host": "evil.example"})
    document = answer.json()
    assert document["resource"] == f"{AUDIENCE}/servers/remote/mcp"
    assert "evil" not in answer.text
    assert all(server.startswith("https://") for server in document["authorization_servers"])
