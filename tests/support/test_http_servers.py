"""The HTTP backends of ``tests/support/servers`` do what their names say: other tests rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.servers.peer import INITIALIZE, META, MODERN, Json, logged
from tests.support.servers.process import running_http
from tests.support.wait import wait_until


def modern_post(method: str, request_id: int = 1, **params: Any) -> tuple[Json, dict[str, str]]:
    """Return body and headers of a modern request."""
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": META}}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    return body, headers | ({"Mcp-Name": params["name"]} if "name" in params else {})


def post(url: str, method: str, **params: Any) -> httpx.Response:
    """Send a modern request."""
    body, headers = modern_post(method, **params)
    return httpx.post(url, json=body, headers=headers, timeout=10.0)


def test_http_echo_in_both_eras(tmp_path: Path) -> None:
    """Legacy needs the session it was given; modern needs matching headers; errors carry the right status."""
    with running_http("echo_http", log=tmp_path / "log") as url, httpx.Client(timeout=10.0) as client:
        opened = client.post(
            url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
        )
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        assert client.post(url, json=listing).status_code == 400
        assert client.post(url, json=listing, headers={"Mcp-Session-Id": "unknown"}).status_code == 404
        assert len(client.post(url, json=listing, headers=session).json()["result"]["tools"]) == 14
        assert client.delete(url, headers=session).status_code == 200
        assert client.post(url, json=listing, headers=session).status_code == 404

        body, headers = modern_post("tools/call", name="echo", arguments={"text": "hi"})
        assert client.post(url, json=body, headers=headers).json()["result"]["content"][0]["text"] == "hi"
        mismatch = client.post(url, json=body, headers={**headers, "Mcp-Name": "add"})
        assert (mismatch.status_code, mismatch.json()["error"]["code"]) == (400, -32020)


def test_http_echo_streams_notifications(tmp_path: Path) -> None:
    """A call with progress gets an event stream that ends with its response; ``--sse`` streams all."""
    with running_http("echo_http", "--sse", log=tmp_path / "log") as url:
        plain = post(url, "tools/call", name="echo", arguments={"text": "hi"})
        assert plain.headers["content-type"] == "text/event-stream"
        body, headers = modern_post("tools/call", name="progress", arguments={"steps": 2})
        body["params"]["_meta"] = {**META, "progressToken": 1}
        streamed = httpx.post(url, json=body, headers=headers, timeout=10.0).text
        events = [orjson.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
        assert [event.get("method") for event in events] == ["notifications/progress"] * 2 + [None]


def test_http_echo_notices_a_client_that_hangs_up(tmp_path: Path) -> None:
    """In the modern era leaving is cancelling."""
    log = tmp_path / "echo.jsonl"
    with running_http("echo_http", log=tmp_path / "log", env={"ECHO_LOG": str(log)}) as url:
        body, headers = modern_post("tools/call", name="cancel_log", arguments={})
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, headers=headers, timeout=0.3)
        wait_until(lambda: len(logged(log)) == 3, description="disconnected and cancelled in the log")
    assert [sorted(entry.keys() - {"pid", "headers"}) for entry in logged(log)] == [
        ["received"],
        ["disconnected"],
        ["cancelled"],
    ]


@pytest.mark.parametrize(
    ("mode", "status", "header"),
    [
        ("html", 200, ("content-type", "text/html; charset=utf-8")),
        ("redirect", 307, ("location", "/elsewhere")),
        ("status_500", 500, ("content-type", "text/plain")),
        ("status_401", 401, ("www-authenticate", 'Bearer error="invalid_token"')),
        ("status_429", 429, ("retry-after", "7")),
    ],
)
def test_http_modes_with_a_status(tmp_path: Path, mode: str, status: int, header: tuple[str, str]) -> None:
    """The mode's answer comes for the method named by ``--only`` and for no other."""
    with running_http(
        "misbehaving_http", "--mode", mode, "--only", "tools/call", log=tmp_path / "log"
    ) as url:
        assert "result" in post(url, "tools/list").json()
        answer = post(url, "tools/call", name="echo", arguments={"text": "hi"})
        assert answer.status_code == status
        assert answer.headers[header[0]] == header[1]


def test_http_mode_hang(tmp_path: Path) -> None:
    """Headers come, then nothing."""
    with running_http("misbehaving_http", "--mode", "hang", log=tmp_path / "log") as url:
        body, headers = modern_post("tools/list")
        with httpx.stream("POST", url, json=body, headers=headers, timeout=0.3) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                answer.read()


def test_http_mode_cut_sse(tmp_path: Path) -> None:
    """The stream of a call breaks off after one notification."""
    with running_http("misbehaving_http", "--mode", "cut_sse", log=tmp_path / "log") as url:
        assert "result" in post(url, "tools/list").json()
        with pytest.raises(httpx.RemoteProtocolError):
            post(url, "tools/call", name="echo", arguments={"text": "hi"})


def test_http_mode_session_expired(tmp_path: Path) -> None:
    """A session serves one call, then it is unknown; a new session serves one again."""
    with running_http("misbehaving_http", "--mode", "session_expired", log=tmp_path / "log") as url:
        for _ in range(2):
            opened = httpx.post(
                url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
            )
            session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call"}
            call["params"] = {"name": "echo", "arguments": {"text": "hi"}}
            answers = [httpx.post(url, json=call, headers=session).status_code for _ in range(2)]
            assert answers == [200, 404]
