"""Bad input gets its typed error, and the gateway goes on as before."""

from __future__ import annotations

import httpx
import pytest

from tests.support.mcp import ACCEPT, MODERN, legacy, modern
from tests.support.servers.gateway import RunningGateway

pytestmark = pytest.mark.e2e
JSON = {"content-type": "application/json", "accept": ACCEPT}
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

CASES = [
    ("malformed JSON", b'{"jsonrpc":', {}, 400, -32700),
    ("duplicate keys", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', {}, 400, -32700),
    ("not a number", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', {}, 400, -32700),
    ("too deep", b"[" * 5000 + b"]" * 5000, {}, 400, -32700),
    ("batch", b"[" + PING + b"]", {}, 400, -32600),
    ("a string", b'"ping"', {}, 400, -32600),
    ("wrong version", b'{"jsonrpc":"1.0","id":1,"method":"ping"}', {}, 400, -32600),
    ("boolean id", b'{"jsonrpc":"2.0","id":true,"method":"ping"}', {}, 400, -32600),
    ("params a list", b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', {}, 400, -32600),
    ("unknown member", b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"x"}', {}, 400, -32600),
    ("oversized", b" " * (5 * 1024 * 1024), {}, 413, -32600),
    ("wrong content type", PING, {"content-type": "text/plain"}, 415, -32600),
    ("no accept", PING, {"accept": "text/html"}, 406, -32600),
    ("no session", PING, {}, 400, -32600),
    ("unknown session", PING, {"mcp-session-id": "nobody"}, 404, -32600),
    ("unknown revision", PING, {"mcp-protocol-version": "1999-01-01"}, 400, -32602),
    ("evil origin", PING, {"origin": "http://evil.example.com"}, 403, -32003),
    ("evil host", PING, {"host": "evil.example.com"}, 421, -32600),
    ("malformed host", PING, {"host": "a/?x"}, 400, None),
]


@pytest.mark.parametrize(
    ("body", "extra", "status", "code"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_bad_request_is_refused(
    gateway: RunningGateway, body: bytes, extra: dict[str, str], status: int, code: int | None
) -> None:
    """With the status and code of the specification, as JSON-RPC, and without a traceback."""
    answer = httpx.post(f"{gateway.url}/mcp", content=body, headers={**JSON, **extra})
    assert answer.status_code == status
    assert "Traceback" not in answer.text
    if code is not None:
        assert answer.json()["error"]["code"] == code


def test_unknown_methods(gateway: RunningGateway) -> None:
    """Legacy: 200 and -32601; modern: 404 and -32601; in both the id is echoed."""
    for client, status in ((legacy(f"{gateway.url}/mcp"), 200), (modern(f"{gateway.url}/mcp"), 404)):
        answer = client.post("no/such")
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == -32601
        assert isinstance(answer.json()["id"], int)


def test_unknown_tools(gateway: RunningGateway) -> None:
    """An unknown tool is named as such, at the aggregate and at its own endpoint."""
    for url, name in ((f"{gateway.url}/mcp", "nobody__echo"), (gateway.tool_url("nobody"), "echo")):
        error = modern(url).call(name)["error"]
        assert error["code"] == -32602
        assert error["data"]["code"] == "TOOL_NOT_FOUND"


def test_modern_requests_must_agree_with_their_headers(gateway: RunningGateway) -> None:
    """A header that names another tool than the body is refused before anything is looked up."""
    client = modern(f"{gateway.url}/mcp", **{"mcp-name": "something-else"})
    answer = client.post("tools/call", {"name": "local__echo", "arguments": {"text": "x"}})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020


def test_a_revision_to_come_is_told_what_is_served(gateway: RunningGateway) -> None:
    """-32022 lists the modern revisions."""
    client = modern(f"{gateway.url}/mcp")
    message = client.message("tools/list")
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"
    headers = client.sent_headers("tools/list", {}) | {"mcp-protocol-version": "2031-01-01"}
    answer = httpx.post(client.url, json=message, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32022
    assert answer.json()["error"]["data"]["supported"] == [MODERN]


def test_a_session_ends_with_delete(gateway: RunningGateway) -> None:
    """DELETE ends it, and what comes after is told that it does not exist."""
    client = legacy(f"{gateway.url}/mcp")
    headers = client.sent_headers("ping", {})
    assert httpx.delete(client.url, headers=headers).status_code == 200
    assert client.post("ping").status_code == 404
    assert httpx.delete(client.url, headers=headers).status_code == 404


def test_other_methods_of_http(gateway: RunningGateway) -> None:
    """A GET needs a session, and PUT is answered 405 with what is allowed."""
    assert httpx.get(f"{gateway.url}/mcp", headers=JSON).status_code == 400
    put = httpx.put(f"{gateway.url}/mcp", headers=JSON, content=PING)
    assert put.status_code == 405
    assert "POST" in put.headers["allow"]
