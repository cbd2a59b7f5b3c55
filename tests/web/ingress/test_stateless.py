"""``web.stateless``: legacy clients over Streamable HTTP without a session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.harness import BOTH, INITIALIZE, LEGACY, Serve, Web, body, error, notification, request

CALL = {"name": "echo__add", "arguments": {"a": 1}}


@pytest.fixture
def web(serve: Serve) -> Web:
    """Without sessions."""
    return serve(web={"stateless": True})


def ask(web: Web, method: str, params: Any = None, **headers: str) -> Any:
    """A request of a client that has no session."""
    return web.post(request(method, params), headers={"MCP-Protocol-Version": LEGACY, **headers})


def test_a_client_gets_no_session(web: Web) -> None:
    """It is told so by the missing header, and that nothing reaches it outside its calls; nothing is kept of it."""
    response = web.post(request("initialize", INITIALIZE))
    assert "Mcp-Session-Id" not in response.headers
    result = body(response)["result"]
    assert result["protocolVersion"] == LEGACY
    assert result["capabilities"] == {"tools": {}, "resources": {}, "prompts": {}, "completions": {}}
    assert web.gateway.client.keys("*session*") == []


def test_requests_need_no_session(web: Web) -> None:
    """One that is sent all the same means nothing."""
    assert body(ask(web, "ping"))["result"] == {}
    called = body(ask(web, "tools/call", CALL, **{"Mcp-Session-Id": "of another gateway"}))["result"]
    assert called["structuredContent"]["params"]["arguments"] == {"a": 1}
    assert web.post(notification("notifications/initialized")).status_code == 202


def test_nobody_is_asked(web: Web) -> None:
    """A call says of its client nothing that could be asked, whatever it claims."""
    meta = {"io.modelcontextprotocol/clientCapabilities": {"sampling": {}}}
    ask(web, "tools/call", {**CALL, "_meta": meta})
    call = web.worker.next_call()
    assert call.invocation.mcp_session is None
    assert "io.modelcontextprotocol/clientCapabilities" not in call.invocation.params.get("_meta", {})


def test_the_revision_is_that_of_the_header(web: Web) -> None:
    """2025-03-26 if there is none; its lists have no member that came later."""
    ask(web, "tools/call", CALL)
    assert web.worker.next_call().invocation.version == LEGACY
    web.worker.reset()
    web.post(request("tools/call", CALL))
    assert web.worker.next_call().invocation.version == "2025-03-26"


@pytest.mark.parametrize("method", ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"])
def test_what_needs_a_session_is_not_there(web: Web, method: str) -> None:
    """As it is not offered."""
    assert error(ask(web, method, {"level": "info", "uri": "note://a"})) == (200, -32601)


def test_there_is_no_stream_and_nothing_to_end(web: Web) -> None:
    """GET and DELETE are not allowed, as for modern clients."""
    for method in (web.http.get, web.http.delete):
        refused = method("/mcp", headers={"Accept": BOTH, "Mcp-Session-Id": "x"})
        assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
