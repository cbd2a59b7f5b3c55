"""The modern era over Streamable HTTP: each rung of the ladder, then lists and calls."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest

from common import __version__
from common.domain.errors import Throttled, TransportFailure
from common.domain.invocation import answer, failed, rpc_failure
from common.mcp.revisions import REMOVED_IN_MODERN
from tests.support.fake_worker import TakenCall
from tests.web.harness import (
    ADD,
    META,
    META_FIELDS,
    MODERN,
    ODD,
    OFFERED,
    Web,
    body,
    error,
    events,
    notification,
    request,
)

CALL = {"name": "echo__add", "arguments": {"a": 1}}
SERVER_INFO = {META + "serverInfo": {"name": "canalgate", "version": __version__}}
VERSION = META + "protocolVersion"
HEADERS = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}


def described(**changes: Any) -> dict[str, Any]:
    """``params`` with the obligatory ``_meta``; None takes a key out."""
    meta = {**META_FIELDS, **{META + name: value for name, value in changes.items()}}
    return {"_meta": {key: value for key, value in meta.items() if value is not None}}


# -- the ladder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "headers", "status", "code"),
    [
        # 1. the description in the body
        (None, HEADERS, 400, -32602),
        ({}, HEADERS, 400, -32602),
        ({"_meta": None}, HEADERS, 400, -32602),
        ({"_meta": []}, HEADERS, 400, -32602),
        ({"_meta": {}}, HEADERS, 400, -32602),
        (described(protocolVersion=None), HEADERS, 400, -32602),
        (described(clientCapabilities=None), HEADERS, 400, -32602),
        # 2. headers against it
        (described(), {**HEADERS, "Mcp-Method": ""}, 400, -32020),
        (described(), {**HEADERS, "Mcp-Method": "tools/call"}, 400, -32020),
        (described(), {**HEADERS, "Mcp-Method": "Tools/List"}, 400, -32020),
        (described(), {**HEADERS, "Mcp-Method": "tools/list,tools/list"}, 400, -32020),
        (described(), {**HEADERS, "MCP-Protocol-Version": f"{MODERN},{MODERN}"}, 400, -32020),
        (described(), {**HEADERS, "MCP-Protocol-Version": "2099-01-01"}, 400, -32020),
        (described(protocolVersion="2099-01-01"), HEADERS, 400, -32020),
        (described(protocolVersion=7), HEADERS, 400, -32020),
        # 3. the version
        (
            described(protocolVersion="2099-01-01"),
            {**HEADERS, "MCP-Protocol-Version": "2099-01-01"},
            400,
            -32022,
        ),
        (described(protocolVersion="garbage"), {**HEADERS, "MCP-Protocol-Version": "garbage"}, 400, -32022),
        # 4. the rest of the description
        (described(clientCapabilities=[]), HEADERS, 400, -32602),
        (described(clientInfo="x"), HEADERS, 400, -32602),
        (described(logLevel="loud"), HEADERS, 400, -32602),
        ({"_meta": {**META_FIELDS, "progressToken": [1]}}, HEADERS, 400, -32602),
        # and what is right, or only looks wrong
        (described(), HEADERS, 200, 0),
        (described(), {**HEADERS, "Mcp-Method": " tools/list\t"}, 200, 0),
        (described(), {**HEADERS, "MCP-Protocol-Version": f" {MODERN} "}, 200, 0),
        (described(), {**HEADERS, "Mcp-Name": "whatever"}, 200, 0),
        (described(clientInfo={"name": "x"}, logLevel="debug"), HEADERS, 200, 0),
        (described(unknown={"x": 1}), HEADERS, 200, 0),
    ],
)
def test_the_ladder(web: Web, params: Any, headers: dict[str, str], status: int, code: int) -> None:
    """The first rung that breaks decides; the id is echoed."""
    response = web.post(request("tools/list", params, "mine"), headers=headers)
    found = body(response)
    assert (response.status_code, found.get("error", {"code": 0})["code"]) == (status, code)
    assert found["id"] == "mine"


def test_an_unknown_version_is_told_the_known_ones(web: Web) -> None:
    """So that the client can fall back."""
    headers = {"MCP-Protocol-Version": "2099-01-01", "Mcp-Method": "server/discover"}
    response = web.post(request("server/discover", described(protocolVersion="2099-01-01")), headers=headers)
    assert error(response) == (400, -32022)
    assert body(response)["error"]["data"] == {"supported": [MODERN], "requested": "2099-01-01"}


@pytest.mark.parametrize("method", sorted(REMOVED_IN_MODERN | {"no/such", "Tools/list", "initialize"}))
def test_unknown_and_removed_methods_are_404(web: Web, method: str) -> None:
    """-32601, after the ladder."""
    assert error(web.modern(method)) == (404, -32601)


@pytest.mark.parametrize(
    ("message", "headers", "status", "code"),
    [
        (notification("notifications/cancelled", {"requestId": 1}), HEADERS, 202, 0),
        (notification("notifications/unknown"), {"MCP-Protocol-Version": MODERN}, 202, 0),
        (notification("notifications/cancelled"), {"MCP-Protocol-Version": "2099-01-01"}, 400, -32022),
        (notification("notifications/cancelled"), {"MCP-Protocol-Version": "x"}, 400, -32022),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, HEADERS, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}, HEADERS, 400, -32600),
        ([request("tools/list", described())], HEADERS, 400, -32600),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}', HEADERS, 400, -32700),
        (b"nonsense", HEADERS, 400, -32700),
    ],
)
def test_what_is_no_request(web: Web, message: Any, headers: dict[str, str], status: int, code: int) -> None:
    """Notifications are taken; clients of this era send no responses and no batches."""
    response = web.post(message, headers=headers)
    assert response.status_code == status
    assert (response.data == b"") if status == 202 else (body(response)["error"]["code"] == code)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["/mcp", "/servers/echo/mcp"])
@pytest.mark.parametrize("version", [MODERN, "2099-01-01"])
def test_there_is_only_post(web: Web, method: str, path: str, version: str) -> None:
    """No stream to get, no session to delete."""
    headers = {"MCP-Protocol-Version": version, "Mcp-Session-Id": "x"}
    response = web.http.open(path, method=method, headers=headers)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_a_session_header_means_nothing(web: Web) -> None:
    """The era is stateless: none is asked for, none is given, an unknown one does no harm."""
    response = web.modern("tools/list", headers={"Mcp-Session-Id": "unknown"})
    assert response.status_code == 200
    assert "Mcp-Session-Id" not in response.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Accept": "application/json"}, 406), ({"Content-Type": "text/plain"}, 415), ({"Accept": ""}, 406)],
)
def test_what_the_guards_refuse(web: Web, headers: dict[str, str], status: int) -> None:
    """As in the legacy era."""
    assert error(web.modern("tools/list", headers=headers)) == (status, -32600)


# -- discovery and lists --------------------------------------------------------------------------------


def test_discovery_names_the_revisions_of_this_era(web: Web) -> None:
    """And is valid by its schema: result type, cache hints, server."""
    assert body(web.modern("server/discover"))["result"] == {
        "supportedVersions": [MODERN],
        "capabilities": OFFERED,
        "instructions": "# echo\nBe kind.",
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": SERVER_INFO,
    }
    own = body(web.modern("server/discover", path="/servers/echo/mcp"))["result"]
    assert own["instructions"] == "Be kind."


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (
            "/mcp",
            ["echo__add", "echo__sub__tract", "it_x0027_s_x002F_a_x0020_b_x0025_c__add", "slow__wait"],
        ),
        ("/servers/echo/mcp", ["add", "sub__tract"]),
        (f"/servers/{quote(ODD, safe='')}/mcp", ["add"]),
        ("/servers/unasked/mcp", []),
    ],
)
def test_lists(web: Web, path: str, names: list[str]) -> None:
    """As in the legacy era, with this era's fields."""
    result = body(web.modern("tools/list", path=path))["result"]
    assert [tool["name"] for tool in result["tools"]] == names
    assert {key: value for key, value in result.items() if key != "tools"} == {
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": SERVER_INFO,
    }
    if names:
        assert result["tools"][0] == {**ADD, "name": names[0]}


@pytest.mark.parametrize(("name", "status", "code"), [("nobody", 400, -32602), ("off", 200, -32004)])
def test_a_tool_that_may_not_be_used(web: Web, name: str, status: int, code: int) -> None:
    """Unknown is invalid params; switched off is a code of ours."""
    path = f"/servers/{name}/mcp"
    assert error(web.modern("tools/list", path=path)) == (status, code)
    assert error(web.modern("tools/call", {"name": "add"}, path=path)) == (status, code)


# -- calls ----------------------------------------------------------------------------------------------


def test_a_call_reaches_its_tool(web: Web) -> None:
    """With what it says about itself, and without a session."""
    response = web.modern("tools/call", CALL, id="c", meta={"progressToken": 1, "vendor/x": 2})
    assert response.status_code == 200
    asked = body(response)["result"]["structuredContent"]["params"]
    assert (asked["name"], asked["arguments"]) == ("add", {"a": 1})
    assert asked["_meta"] == {**META_FIELDS, "progressToken": 1, "vendor/x": 2}
    taken = web.worker.next_call().invocation
    assert (taken.tool, taken.version, taken.mcp_session, taken.request_id) == ("echo", MODERN, None, "c")
    assert "Server-Timing" in response.headers


@pytest.mark.parametrize(
    ("name", "header", "status"),
    [
        ("echo__add", "echo__add", 200),
        ("echo__add", " echo__add ", 200),
        ("echo__add", "=?base64?" + base64.b64encode(b"echo__add").decode() + "?=", 200),
        ("echo__ü", "=?base64?" + base64.b64encode("echo__ü".encode()).decode() + "?=", 200),
        ("echo__add", "", 400),
        ("echo__add", "echo__sub", 400),
        ("echo__add", "ECHO__add", 400),
        ("echo__add", "echo__add,echo__add", 400),
        ("echo__add", "=?base64?!!!?=", 400),
    ],
)
def test_the_name_header_repeats_the_name(web: Web, name: str, header: str, status: int) -> None:
    """What was routed on must be what is called."""
    response = web.modern("tools/call", {"name": name}, headers={"Mcp-Name": header})
    assert response.status_code == status
    if status == 400:
        assert body(response)["error"]["code"] == -32020
        assert web.worker.taken == []


@pytest.mark.parametrize(
    ("arguments", "header", "status"),
    [
        ({"region": "eu"}, "eu", 200),
        ({}, None, 200),
        (None, None, 200),
        ({"region": None}, None, 200),
        ({"region": "ü"}, "=?base64?" + base64.b64encode("ü".encode()).decode() + "?=", 200),
        ({"region": "eu"}, None, 400),
        ({"region": "eu"}, "us", 400),
        ({"region": "eu"}, "eu,eu", 400),
        ({}, "eu", 400),
        (None, "eu", 400),
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/servers/echo/mcp"])
def test_parameter_headers_repeat_arguments(
    web: Web, path: str, arguments: dict[str, Any] | None, header: str | None, status: int
) -> None:
    """Where the tool's schema asks for them, and both ways."""
    params: dict[str, Any] = {"name": "echo__add" if path == "/mcp" else "add"}
    if arguments is not None:
        params["arguments"] = arguments
    headers = {} if header is None else {"Mcp-Param-Region": header}
    response = web.modern("tools/call", params, path=path, headers=headers)
    assert response.status_code == status
    assert body(response).get("error", {"code": -32020})["code"] == -32020


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"name": "nobody__x"}, 400, -32602),
        ({"name": "add"}, 400, -32602),
        ({"name": "off__add"}, 200, -32004),
        ({"name": 7}, 400, -32020),
        ({}, 400, -32602),
        ({"name": "echo__add", "arguments": []}, 400, -32602),
        ({"name": "echo__add", "arguments": None}, 400, -32602),
    ],
)
def test_calls_that_are_refused(web: Web, params: dict[str, Any], status: int, code: int) -> None:
    """With the status the code stands for."""
    assert error(web.modern("tools/call", params)) == (status, code)
    assert web.worker.taken == []


@pytest.mark.parametrize(
    ("rpc", "status"),
    [
        ({"code": -32602, "message": "Unknown tool: x", "data": {"a": 1}}, 400),
        ({"code": -32601, "message": "no"}, 404),
        ({"code": -32603, "message": "oops"}, 200),
        ({"code": -32000, "message": "mine", "x": 1}, 200),
        ({"code": -32021, "message": "m", "data": {"requiredCapabilities": {"sampling": {}}}}, 400),
    ],
)
def test_the_backends_error_is_passed_on_unchanged(web: Web, rpc: dict[str, Any], status: int) -> None:
    """Under the status its code stands for."""
    web.worker.behaviour = lambda call: call.finish(rpc_failure(rpc))
    response = web.modern("tools/call", CALL)
    assert (response.status_code, body(response)) == (status, {"jsonrpc": "2.0", "id": 1, "error": rpc})


def test_the_backends_result_is_passed_on_unchanged(web: Web) -> None:
    """The worker has translated it where that was needed: nothing is added here."""
    result = {"content": [], "resultType": "input_required", "x": {"y": [None]}}
    web.worker.behaviour = lambda call: call.finish(answer(result))
    assert body(web.modern("tools/call", CALL))["result"] == result


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(TransportFailure("broke"), 200, -32010), (Throttled("slowly", retry_after=3), 429, -32007)],
)
def test_failures_of_ours(web: Web, fault: Any, status: int, code: int) -> None:
    """With the stable code."""
    web.worker.behaviour = lambda call: call.finish(failed(fault))
    response = web.modern("tools/call", CALL)
    assert error(response) == (status, code)
    assert body(response)["error"]["data"]["code"] == fault.code.value


# -- log messages ---------------------------------------------------------------------------------------


def chatter(call: TakenCall) -> None:
    for level in ("debug", "error"):
        call.notify("notifications/message", level=level, data="x")
    call.finish(answer({}))


def test_without_a_log_level_no_log_is_sent_along(web: Web) -> None:
    """And a call that says nothing else is answered as plain JSON."""
    web.worker.behaviour = chatter
    response = web.modern("tools/call", CALL)
    assert response.mimetype == "application/json"
    assert body(response)["result"] == {}


@pytest.mark.parametrize(("level", "expected"), [("debug", ["debug", "error"]), ("warning", ["error"])])
def test_log_messages_are_sent_along_if_asked_for(web: Web, level: str, expected: list[str]) -> None:
    """From the level on that this very request names."""
    web.worker.behaviour = chatter
    response = web.modern("tools/call", CALL, meta={META + "logLevel": level})
    found = events(response.data)
    assert [message["params"]["level"] for message in found[:-1]] == expected
    assert found[-1]["result"] == {}
