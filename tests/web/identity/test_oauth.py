"""The gateway as an OAuth resource: what strangers may read, and what is said to whoever lacks a scope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.domain.ids import ToolId
from common.domain.tool import Origin
from common.settings import IdentitySettings
from gateway_web.identity.oauth import ProtectedResource
from tests.support.servers.issuer import AUDIENCE, Issuer, jwk
from tests.support.wait import wait_until
from tests.web.harness import INITIALIZE, Serve, Web, body, error, request
from tests.web.identity.support import settings
from tests.web.peers import Talk, WebSocketPeer, listening

ISSUER = Issuer(keys=[jwk("ES256", "k1")])
WELL_KNOWN = "/.well-known/oauth-protected-resource"
CALL = {"name": "echo__add", "arguments": {}}


def section(jwks: str = "/k", resource: str = AUDIENCE, **changes: Any) -> dict[str, Any]:
    token = {"issuer": ISSUER.name, "jwks": jwks, "tenant_claim": "tenant"}
    oauth = {"resource": resource, **changes.pop("oauth", {})}
    return {"resolver": ["jwt"], "jwt": token, "oauth": oauth, "required_scopes": ["mcp"], **changes}


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps({"keys": ISSUER.keys}))
    return str(file)


@pytest.fixture
def web(serve: Serve, jwks: str) -> Web:
    return serve(identity=section(jwks), tenants={"listed": ["acme"]})


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {ISSUER.token(**claims)}"}


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("", ""),
        ("/mcp", "/mcp"),
        ("/sse", "/sse"),
        ("/ws", "/ws"),
        ("/servers/echo/mcp", "/servers/echo/mcp"),
        ("/servers/no such tool/mcp", "/servers/no%20such%20tool/mcp"),
        ("/servers/it's%2Fodd/mcp", "/servers/it%27s%2Fodd/mcp"),
    ],
)
def test_the_metadata_are_at_the_root_and_at_each_endpoint(web: Web, path: str, resource: str) -> None:
    """The path of the endpoint stands behind the well-known one; whoever asks learns of no tool."""
    response = web.http.get(WELL_KNOWN + path)
    assert response.status_code == 200
    assert body(response) == {
        "resource": AUDIENCE + resource,
        "authorization_servers": [ISSUER.name],
        "scopes_supported": ["mcp"],
        "bearer_methods_supported": ["header"],
    }


@pytest.mark.parametrize(
    "path", ["/nowhere", "/servers/mcp", "/livez", "/mcp/x", "/servers/" + "x" * 600 + "/mcp"]
)
def test_what_is_no_endpoint_has_no_metadata(web: Web, path: str) -> None:
    """404."""
    assert web.http.get(WELL_KNOWN + path).status_code == 404


def test_no_header_has_a_say_in_a_url(web: Web) -> None:
    """Neither Host nor what a proxy adds."""
    sent = {
        "Host": "localhost",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "Forwarded": "host=evil",
    }
    assert b"evil" not in web.http.get(WELL_KNOWN, headers=sent).data
    refused = web.modern("tools/list", headers=sent)
    assert refused.headers["WWW-Authenticate"] == (
        f'Bearer realm="canalgate", resource_metadata="{AUDIENCE}{WELL_KNOWN}/mcp", scope="mcp"'
    )


def test_without_the_setting_there_are_no_metadata(serve: Serve) -> None:
    """And no challenge names any."""
    web = serve(identity={"resolver": "api_key"})
    assert web.http.get(WELL_KNOWN).status_code == 404
    assert web.modern("tools/list").headers["WWW-Authenticate"] == 'Bearer realm="canalgate"'


def resource_of(**changes: Any) -> ProtectedResource:
    given = section(**changes)
    identity: IdentitySettings = settings(*given.pop("resolver"), **given)
    return ProtectedResource(identity)


def test_a_gateway_below_a_path_has_its_metadata_below_it() -> None:
    """The well-known part stands between host and path (RFC 9728, section 3.1)."""
    found = resource_of(resource="https://h.example/gate")
    assert found.metadata_url("/mcp") == f"https://h.example{WELL_KNOWN}/gate/mcp"
    document = found.document("/mcp")
    assert document is not None
    assert document["resource"] == "https://h.example/gate/mcp"


def test_what_else_is_told_is_set() -> None:
    """Servers, scopes, a name, a page."""
    oauth = {
        "authorization_servers": ["https://a.example", "https://b.example"],
        "scopes_supported": ["x", "y"],
        "resource_name": "Gate",
        "documentation": "https://docs.example",
    }
    assert resource_of(oauth=oauth).document("") == {
        "resource": AUDIENCE,
        "authorization_servers": ["https://a.example", "https://b.example"],
        "scopes_supported": ["x", "y"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Gate",
        "resource_documentation": "https://docs.example",
    }


def scoped(web: Web, *scopes: str) -> None:
    """Let the tool echo need these."""
    gateway = web.gateway
    found = gateway.registry.get(ToolId("echo")).tool
    gateway.registry.put(replace(found, required_scopes=scopes), origin=Origin.FILE)

    def seen() -> bool:
        entry = gateway.catalogue.get(ToolId("echo"))
        return entry is not None and entry.tool.required_scopes == scopes

    wait_until(seen, description="the tool's scopes")


def test_a_scope_that_all_need(web: Web) -> None:
    """403 in both eras, with all that would do."""
    challenge = (
        'Bearer realm="canalgate", error="insufficient_scope", scope="mcp", '
        f'resource_metadata="{AUDIENCE}{WELL_KNOWN}/mcp"'
    )
    for response in (
        web.modern("tools/list", headers=bearer(scope="other")),
        web.post(request("initialize", INITIALIZE), headers=bearer(scope="")),
    ):
        assert error(response) == (403, -32003)
        assert body(response)["error"]["data"] == {"code": "INSUFFICIENT_SCOPE", "scopes": "mcp"}
        assert response.headers["WWW-Authenticate"] == challenge
    assert web.modern("tools/list", headers=bearer(scope="mcp more")).status_code == 200


@pytest.mark.parametrize("path", ["/mcp", "/servers/echo/mcp"])
def test_a_tool_may_need_more(web: Web, path: str) -> None:
    """Step up: the call is refused with the scopes of gateway and tool together, and passes with them."""
    scoped(web, "write", "admin")
    call = CALL if path == "/mcp" else {**CALL, "name": "add"}
    session = web.initialize(path, headers=bearer())
    for response in (
        web.modern("tools/call", call, path=path, headers=bearer(scope="mcp write")),
        web.legacy(session, "tools/call", call, path=path, headers=bearer(scope="mcp admin")),
    ):
        assert error(response) == (403, -32003)
        assert 'error="insufficient_scope", scope="admin mcp write"' in response.headers["WWW-Authenticate"]
        assert f'resource_metadata="{AUDIENCE}{WELL_KNOWN}{path}"' in response.headers["WWW-Authenticate"]
    assert web.worker.taken == []
    enough = bearer(scope="mcp write admin")
    assert web.modern("tools/call", call, path=path, headers=enough).status_code == 200
    assert web.legacy(session, "tools/call", call, path=path, headers=enough).status_code == 200
    assert web.modern("tools/list", path=path, headers=bearer()).status_code == 200


def test_on_a_connection_the_error_says_the_scopes(web: Web) -> None:
    """There is no header there."""
    scoped(web, "write")
    with listening(web) as place:
        talk = Talk(WebSocketPeer(place, **bearer()))
        talk.ask_modern("tools/call", CALL)
        assert talk.next()["error"]["data"] == {"code": "INSUFFICIENT_SCOPE", "scopes": "mcp write"}
        talk.peer.close()


def test_keys_that_cannot_be_had_are_not_the_callers_fault(serve: Serve) -> None:
    """503 with a time to come back, so that a client keeps its token."""
    web = serve(identity=section("http://127.0.0.1:9/keys"), tenants={"listed": ["acme"]})
    response = web.modern("tools/list", headers=bearer())
    assert error(response) == (503, -32013)
    assert response.headers["Retry-After"] == "1"
    assert body(response)["error"]["data"]["code"] == "IDENTITY_UNAVAILABLE"
