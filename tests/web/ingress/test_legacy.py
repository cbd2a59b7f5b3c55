"""The legacy era over Streamable HTTP: handshake, session, calls and refusals, row by row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from common import __version__
from common.domain.errors import (
    InternalError,
    InvocationTimeout,
    QueueFull,
    Throttled,
    ToolUnavailable,
    TransportFailure,
    WorkerLost,
)
from common.domain.invocation import answer, failed, rpc_failure
from common.mcp.revisions import LEGACY_VERSIONS
from tests.support.fake_worker import TakenCall
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until
from tests.web.harness import (
    ADD,
    INITIALIZE,
    LEGACY,
    META,
    ODD,
    OFFERED,
    OWN,
    SUBTRACT,
    Serve,
    Web,
    body,
    error,
    events,
    notification,
    request,
)

CALL = {"name": "echo__add", "arguments": {"a": 1}}


def silent(_call: TakenCall) -> None:
    """A backend that takes its time."""


# -- handshake ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [*LEGACY_VERSIONS, "1999-01-01", "2026-07-28", None, 7])
def test_a_session_begins_with_initialize(web: Web, version: object) -> None:
    """A known revision is echoed, all else is answered with the newest legacy one; the session id is a header."""
    response = web.post(request("initialize", {**INITIALIZE, "protocolVersion": version}, "first"))
    result = body(response)
    assert response.status_code == 200
    assert (result["jsonrpc"], result["id"]) == ("2.0", "first")
    assert result["result"] == {
        "protocolVersion": version if version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1],
        "capabilities": {"logging": {}, **OFFERED},
        "serverInfo": {"name": "canalgate", "version": __version__},
        "instructions": "# echo\nBe kind.",
    }
    assert len(response.headers["Mcp-Session-Id"]) == 32


def test_a_tools_own_endpoint_passes_on_its_instructions(web: Web) -> None:
    """And what its backend says of itself; while that is not known, this gateway answers, and offers everything."""
    own = body(web.post(request("initialize", INITIALIZE), "/servers/echo/mcp"))["result"]
    assert own["instructions"] == "Be kind."
    assert own["serverInfo"] == {"name": "Echo", "version": "7", "title": "The echo"}
    unknown = body(web.post(request("initialize", INITIALIZE), "/servers/unasked/mcp"))["result"]
    assert "instructions" not in unknown
    assert unknown["serverInfo"]["name"] == "canalgate"
    assert unknown["capabilities"] == {"logging": {}, **OFFERED}
    slow = body(web.post(request("initialize", INITIALIZE), "/servers/slow/mcp"))["result"]
    assert slow["capabilities"].keys() == {"logging", "tools", "resources"}


@pytest.mark.parametrize("params", [None, {}, {"clientInfo": "x", "capabilities": []}])
def test_a_poor_initialize_still_opens_a_session(web: Web, params: object) -> None:
    """What it does not say is empty."""
    response = web.post(request("initialize", params))
    session = response.headers["Mcp-Session-Id"]
    assert web.legacy(session, "ping").status_code == 200


def test_only_initialize_makes_a_session(web: Web, session: str) -> None:
    """No other answer carries the header."""
    for method, params in (("ping", {}), ("tools/list", {}), ("tools/call", CALL)):
        assert "Mcp-Session-Id" not in web.legacy(session, method, params).headers


def test_a_refused_initialize_makes_no_session(web: Web) -> None:
    """For a tool that is not there, or switched off."""
    for name in ("nobody", "off"):
        response = web.post(request("initialize", INITIALIZE), f"/servers/{name}/mcp")
        assert "error" in body(response)
        assert "Mcp-Session-Id" not in response.headers


def test_notifications_and_responses_are_taken(web: Web, session: str) -> None:
    """202 with nothing in it."""
    for message in (
        notification("notifications/initialized"),
        notification("notifications/unknown", {"x": 1}),
        notification("notifications/cancelled", {"requestId": [1]}),
        {"jsonrpc": "2.0", "id": 5, "result": {}},
        {"jsonrpc": "2.0", "id": 5, "error": {"code": 1, "message": "x"}},
    ):
        response = web.post(message, headers={"Mcp-Session-Id": session})
        assert (response.status_code, response.data) == (202, b"")


def test_ping_is_answered_here(web: Web, session: str) -> None:
    """No backend is asked."""
    response = web.legacy(session, "ping", id="p")
    assert (response.status_code, body(response)) == (200, {"jsonrpc": "2.0", "id": "p", "result": {}})
    assert web.worker.taken == []


# -- sessions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [request("ping"), notification("notifications/initialized")])
def test_without_a_session_there_is_no_request(web: Web, message: dict[str, Any]) -> None:
    """400 for none, 404 for one that is not known."""
    assert error(web.post(message)) == (400, -32600)
    assert error(web.post(message, headers={"Mcp-Session-Id": "unknown"})) == (404, -32600)


def test_the_id_is_echoed_in_a_refusal(web: Web) -> None:
    """Wherever it could be read."""
    for headers in ({}, {"Mcp-Session-Id": "unknown"}):
        assert body(web.post(request("ping", {}, "mine"), headers=headers))["id"] == "mine"


def test_a_deleted_session_is_gone(web: Web, session: str) -> None:
    """200, and 404 from then on, for every method."""
    headers = {"Mcp-Session-Id": session}
    assert web.http.delete("/mcp", headers=headers).status_code == 200
    assert error(web.http.delete("/mcp", headers=headers)) == (404, -32600)
    assert error(web.legacy(session, "ping")) == (404, -32600)
    assert web.http.delete("/mcp").status_code == 400


def test_a_session_holds_at_its_own_endpoint(web: Web, session: str) -> None:
    """One of the aggregate is unknown at a tool's, and the other way round."""
    assert error(web.legacy(session, "ping", path="/servers/echo/mcp")) == (404, -32600)
    own = web.initialize("/servers/echo/mcp")
    assert web.legacy(own, "ping", path="/servers/echo/mcp").status_code == 200
    assert error(web.legacy(own, "ping")) == (404, -32600)
    assert error(web.legacy(own, "ping", path="/servers/slow/mcp")) == (404, -32600)
    assert error(web.http.delete("/mcp", headers={"Mcp-Session-Id": own})) == (404, -32600)


@pytest.mark.parametrize("version", [None, *LEGACY_VERSIONS])
def test_the_version_header_may_be_missing(web: Web, session: str, version: str | None) -> None:
    """Or name any legacy revision: clients of the first ones did not know it."""
    headers = {} if version is None else {"MCP-Protocol-Version": version}
    response = web.post(request("ping"), headers={"Mcp-Session-Id": session, **headers})
    assert response.status_code == 200


# -- other methods of HTTP ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/servers/echo/mcp", "/servers/a%2Fb%20c/mcp"])
def test_methods_of_http(web: Web, path: str) -> None:
    """A stream of what belongs to no request is of a session; and there is nothing to put."""
    assert error(web.http.get(path, headers={"Accept": "text/event-stream"})) == (400, -32600)
    for method in ("PUT", "PATCH"):
        response = web.http.open(path, method=method)
        assert response.status_code == 405
        assert {"GET", "POST", "DELETE"} <= set(response.headers["Allow"].split(", "))


# -- what is no request ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code", "identity"),
    [
        (b"", -32700, None),
        (b"{", -32700, None),
        (b"hello", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1,"a":2}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1e999}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":99999999999999999999}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\\ud800"}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700, None),
        (b"\xef\xbb\xbf" + orjson.dumps(request("ping")), -32700, None),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":' + b"[" * 100 + b"]" * 100 + b"}}",
            -32700,
            None,
        ),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32600, None),
        (b"null", -32600, None),
        (b'"x"', -32600, None),
        (orjson.dumps([request("ping")]), -32600, None),
        (orjson.dumps({"id": 1, "method": "ping"}), -32600, 1),
        (orjson.dumps({"jsonrpc": "1.0", "id": 1, "method": "ping"}), -32600, 1),
        (orjson.dumps({"jsonrpc": "2.0", "id": 1}), -32600, 1),
        (orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": 7}), -32600, 1),
        (orjson.dumps(request("ping", [1], "x")), -32600, "x"),
        (orjson.dumps(request("ping", "x", "x")), -32600, "x"),
        (orjson.dumps(request("ping", {}, None)), -32600, None),
        (orjson.dumps(request("ping", {}, 1.5)), -32600, None),
        (orjson.dumps(request("ping", {}, True)), -32600, None),
        (orjson.dumps(request("ping", {}, [1])), -32600, None),
        (orjson.dumps({**request("ping"), "extra": 1}), -32600, 1),
        (orjson.dumps({**request("ping"), "result": {}}), -32600, 1),
    ],
)
def test_what_is_no_message_is_refused(
    web: Web, session: str, raw: bytes, code: int, identity: object
) -> None:
    """400, with the id where it could be read."""
    response = web.post(raw, headers={"Mcp-Session-Id": session})
    assert error(response) == (400, code)
    assert body(response)["id"] == identity


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Accept": ""}, 406),
        ({"Accept": "application/json"}, 406),
        ({"Accept": "text/event-stream"}, 406),
    ],
)
def test_what_the_guards_refuse(web: Web, session: str, headers: dict[str, str], status: int) -> None:
    """By status; and as JSON-RPC for those who look there."""
    response = web.post(request("ping"), headers={"Mcp-Session-Id": session, **headers})
    assert error(response) == (status, -32600)


def test_an_oversized_body_is_refused(serve: Serve) -> None:
    """Announced or not."""
    web = serve(web={"max_body_bytes": 2048})
    large = orjson.dumps(request("initialize", {"x": "x" * 2048}))
    assert error(web.post(large)) == (413, -32600)
    fits = orjson.dumps(request("initialize", {"x": ""}))
    assert web.post(fits + b" " * (2048 - len(fits))).status_code == 200
    assert web.post(fits + b" " * (2049 - len(fits))).status_code == 413


@pytest.mark.parametrize("length", ["-1", "+5", "1_0", "x"])
def test_an_odd_length_is_refused(web: Web, length: str) -> None:
    """400: two readers could read it in two ways."""
    response = web.post(request("ping"), environ_overrides={"CONTENT_LENGTH": length})
    if web.way == "gunicorn":
        assert response.status_code == 400, "gunicorn's parser is the first to refuse it"
        return
    assert error(response) == (400, -32602)


# -- lists ----------------------------------------------------------------------------------------------


def test_the_aggregate_lists_all_tools_by_prefixed_names(web: Web, session: str) -> None:
    """In a fixed order; disabled ones and those not asked yet offer nothing; all else is as the backend said."""
    result = body(web.legacy(session, "tools/list"))["result"]
    assert [tool["name"] for tool in result["tools"]] == [
        "echo__add",
        "echo__sub__tract",
        "it_x0027_s_x002F_a_x0020_b_x0025_c__add",
        "slow__wait",
    ]
    assert result["tools"][0] == {**ADD, "name": "echo__add"}
    assert set(result) == {"tools"}


@pytest.mark.parametrize("name", ["echo", ODD])
def test_a_tools_own_endpoint_lists_bare_names(web: Web, name: str) -> None:
    """Byte for byte what its backend said; the id may hold slash, space and percent."""
    path = f"/servers/{quote(name, safe='')}/mcp"
    session = web.initialize(path)
    tools = body(web.legacy(session, "tools/list", path=path))["result"]["tools"]
    assert tools == ([ADD, SUBTRACT] if name == "echo" else [ADD])


def test_a_slash_may_stand_for_itself(web: Web) -> None:
    """``/servers/a/b/mcp`` is tool ``a/b``."""
    path = "/servers/it's/a%20b%25c/mcp"
    session = web.initialize(path)
    assert body(web.legacy(session, "tools/list", path=path))["result"]["tools"] == [ADD]


def test_a_list_has_one_page(web: Web, session: str) -> None:
    """No cursor was given out, so none is good; null is none."""
    assert error(web.legacy(session, "tools/list", {"cursor": "x"})) == (200, -32602)
    assert "result" in body(web.legacy(session, "tools/list", {"cursor": None}))


@pytest.mark.parametrize("name", ["nobody", "off"])
def test_a_tool_that_may_not_be_used_is_an_error_at_its_endpoint(web: Web, name: str) -> None:
    """There is no session there, so no list either."""
    assert "error" in body(web.post(request("initialize", INITIALIZE), f"/servers/{name}/mcp"))


# -- calls ----------------------------------------------------------------------------------------------


def test_a_call_reaches_its_tool_under_its_own_name(web: Web, session: str) -> None:
    """The answer is JSON when nothing came before it, and says where the time went.

    What the client said of itself goes along; what it says under the other era's keys counts for nothing.
    """
    meta = {"progressToken": 5, META + "clientCapabilities": {"roots": {}}, META + "logLevel": "debug"}
    response = web.legacy(session, "tools/call", {**CALL, "_meta": meta}, id="c")
    result = body(response)
    assert response.status_code == 200
    assert result["id"] == "c"
    assert result["result"]["structuredContent"] == {
        "method": "tools/call",
        "params": {
            "name": "add",
            "arguments": {"a": 1},
            "_meta": {
                "progressToken": 5,
                META + "clientCapabilities": INITIALIZE["capabilities"],
                META + "clientInfo": INITIALIZE["clientInfo"],
            },
        },
    }
    timing = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
    assert {"queue", "backend", "total"} <= timing.keys()
    assert timing["backend"] in {"0.2", "0.3"}
    taken = web.worker.next_call().invocation
    assert (taken.tool, taken.method, taken.version) == ("echo", "tools/call", LEGACY)
    assert (taken.request_id, taken.mcp_session) == ("c", session)


@pytest.mark.parametrize(
    ("path", "name", "tool", "own"),
    [
        ("/mcp", "echo__sub__tract", "echo", "sub__tract"),
        ("/mcp", "echo__unlisted", "echo", "unlisted"),
        ("/mcp", "echo__", "echo", ""),
        ("/mcp", "unasked__anything", "unasked", "anything"),
        ("/mcp", "it_x0027_s_x002F_a_x0020_b_x0025_c__add", ODD, "add"),
        ("/servers/echo/mcp", "add", "echo", "add"),
        ("/servers/echo/mcp", "echo__add", "echo", "echo__add"),
        (f"/servers/{quote(ODD, safe='')}/mcp", "add", ODD, "add"),
    ],
)
def test_names_lead_to_tools(web: Web, path: str, name: str, tool: str, own: str) -> None:
    """Prefixed at the aggregate, bare at a tool's own endpoint; whether it exists is the backend's to say."""
    session = web.initialize(path)
    result = body(web.legacy(session, "tools/call", {"name": name, "arguments": {}}, path=path))
    assert result["result"]["structuredContent"]["params"]["name"] == own
    assert web.worker.next_call().invocation.tool == tool


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"name": "nobody__x"}, -32602),
        ({"name": "echo"}, -32602),
        ({"name": "add"}, -32602),
        ({"name": ""}, -32602),
        ({"name": "__add"}, -32602),
        ({"name": "ECHO__add"}, -32602),
        ({"name": "x" * 100_000}, -32602),
        ({"name": 7}, -32602),
        ({"name": None}, -32602),
        ({}, -32602),
        (None, -32602),
        ({"name": "echo__add", "arguments": []}, -32602),
        ({"name": "echo__add", "arguments": "x"}, -32602),
        ({"name": "echo__add", "arguments": None}, -32602),
        ({"name": "off__add"}, -32004),
    ],
)
def test_calls_that_are_refused(web: Web, session: str, params: object, code: int) -> None:
    """An answer to a request that was understood goes with 200: legacy clients drop others' bodies."""
    response = web.legacy(session, "tools/call", params, id=9)
    assert error(response) == (200, code)
    assert body(response)["id"] == 9
    assert len(response.data) < 1000
    assert web.worker.taken == []


@pytest.mark.parametrize(
    "method", ["resources/lists", "server/discover", "subscriptions/listen", "", "x" * 5000, "tools/Call"]
)
def test_an_unknown_method_is_not_found(web: Web, session: str, method: str) -> None:
    """200 with -32601, as legacy clients expect it."""
    response = web.legacy(session, method, {})
    assert error(response) == (200, -32601)
    assert len(response.data) < 1000


RESULT = {
    "content": [{"type": "text", "text": "ünï \u2028"}, {"type": "new-kind", "x": 1}],
    "structuredContent": {"n": 2**53 + 1, "f": 0.1, "none": None, "deep": [[{"a": [True]}]]},
    "_meta": {"vendor/x": "y", "progressToken": 3},
    "x-unknown": {"kept": ["as", "is"]},
    "isError": False,
}


@pytest.mark.parametrize("result", [RESULT, {}, {"isError": True, "content": []}])
def test_the_backends_result_is_passed_on_unchanged(web: Web, session: str, result: dict[str, Any]) -> None:
    """With all that we do not know."""
    web.worker.behaviour = lambda call: call.finish(answer(result))
    response = web.legacy(session, "tools/call", CALL)
    assert (response.status_code, body(response)) == (200, {"jsonrpc": "2.0", "id": 1, "result": result})


@pytest.mark.parametrize(
    "rpc",
    [
        {"code": -32602, "message": "Unknown tool: x"},
        {"code": -32601, "message": "no", "data": {"deep": [1, {"a": None}]}},
        {"code": -32000, "message": "", "data": None, "x-unknown": 1},
        {"code": 42, "message": "ü"},
        {"code": -32002, "message": "not found", "data": {"uri": "x"}},
    ],
)
def test_the_backends_error_is_passed_on_unchanged(web: Web, session: str, rpc: dict[str, Any]) -> None:
    """Code, message, data and what we do not know; with 200, for it is an answer."""
    web.worker.behaviour = lambda call: call.finish(rpc_failure(rpc))
    response = web.legacy(session, "tools/call", CALL)
    assert (response.status_code, body(response)) == (200, {"jsonrpc": "2.0", "id": 1, "error": rpc})


@pytest.mark.parametrize("rpc", [{}, {"code": "x"}, {"code": True, "message": 7}, {"message": None}])
def test_a_backends_error_that_is_none_becomes_one(web: Web, session: str, rpc: dict[str, Any]) -> None:
    """What we send is valid: an integer and a string."""
    web.worker.behaviour = lambda call: call.finish(rpc_failure(rpc))
    found = body(web.legacy(session, "tools/call", CALL))["error"]
    assert found["code"] == -32603
    assert isinstance(found["message"], str)


@pytest.mark.parametrize(
    ("fault", "status", "code", "headers"),
    [
        (InvocationTimeout("late"), 200, -32009, {}),
        (TransportFailure("broke"), 200, -32010, {}),
        (WorkerLost("gone"), 200, -32012, {}),
        (ToolUnavailable("not now"), 200, -32005, {}),
        (Throttled("slowly", retry_after=2.4), 429, -32007, {"Retry-After": "3"}),
        (Throttled("slowly", retry_after=0.2), 429, -32007, {"Retry-After": "1"}),
        (QueueFull("full", retry_after=7), 429, -32008, {"Retry-After": "7"}),
        (InternalError("oops"), 500, -32603, {}),
    ],
)
def test_failures_of_ours(
    web: Web, session: str, fault: Any, status: int, code: int, headers: dict[str, str]
) -> None:
    """With the stable code, and a status where it tells a proxy something."""
    web.worker.behaviour = lambda call: call.finish(failed(fault))
    response = web.legacy(session, "tools/call", CALL)
    assert error(response) == (status, code)
    found = body(response)["error"]
    assert (found["message"], found["data"]["code"]) == (fault.message, fault.code.value)
    assert {name: response.headers.get(name) for name in headers} == headers


def test_a_call_nobody_answers_times_out(web: Web, session: str) -> None:
    """At the tool's own bound, as an error of the call."""
    web.worker.behaviour = silent
    response = web.legacy(session, "tools/call", {"name": "slow__wait"})
    assert error(response) == (200, -32009)
    wait_until(lambda: web.worker.cancelled, description="the worker is told that nobody waits")


def test_without_redis_a_call_is_503(serve: Serve, proxy: TcpProxy) -> None:
    """With Retry-After, so that whoever stands in between does not think it was our answer."""
    web = serve(f"redis://127.0.0.1:{proxy.port}/{OWN}")
    session = web.initialize()
    proxy.refuse()
    proxy.cut()
    wire = web.gateway._hot._wire
    wait_until(lambda: wire is not None and wire.broken, description="the loss is known")
    for response in (
        web.legacy(session, "tools/call", CALL, id=3),
        web.post(request("initialize", INITIALIZE, 3)),
    ):
        assert error(response) == (503, -32013)
        assert (response.headers["Retry-After"], body(response)["id"]) == ("1", 3)
    response = web.http.delete("/mcp", headers={"Mcp-Session-Id": session})
    assert error(response) == (503, -32013)
    web.nothing_waits()
    proxy.refuse(False)
    wait_until(lambda: web.gateway.hub.listening, description="Redis is back")
    assert "result" in body(web.legacy(session, "tools/call", CALL))


# -- cancellation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [7, "seven", 0, ""])
def test_a_call_is_cancelled_by_its_id(web: Web, session: str, identity: object) -> None:
    """The client's own request ends; the worker is told."""
    web.worker.behaviour = silent
    headers = {"Mcp-Session-Id": session}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.legacy, session, "tools/call", CALL, id=identity)
        taken = web.worker.next_call()
        for wrong in (8, "7", "other", None, True):
            if wrong != identity:
                web.post(notification("notifications/cancelled", {"requestId": wrong}), headers=headers)
        other = web.initialize()
        web.post(
            notification("notifications/cancelled", {"requestId": identity}),
            headers={"Mcp-Session-Id": other},
        )
        assert web.gateway.hub.waiting == 1
        response = web.post(
            notification("notifications/cancelled", {"requestId": identity, "reason": "enough"}),
            headers=headers,
        )
        assert response.status_code == 202
        assert error(waiting.result(5)) == (200, -32800)
    wait_until(lambda: web.worker.cancelled == [taken.invocation.id], description="the worker is told")


def test_a_deleted_session_takes_its_calls_with_it(web: Web, session: str) -> None:
    """What waits for an answer, and what has begun a stream, end as cancelled; the worker is told; others go on."""

    def begin(call: TakenCall) -> None:
        if call.invocation.request_id == "stream":
            call.notify("notifications/progress", progressToken=1, progress=1)

    web.worker.behaviour = begin
    other = web.initialize()
    with ThreadPoolExecutor(3) as pool:
        waiting = pool.submit(web.legacy, session, "tools/call", CALL, id="plain")
        stream = pool.submit(lambda: web.legacy(session, "tools/call", CALL, id="stream").data)
        beside = pool.submit(web.legacy, other, "tools/call", CALL, id="other")
        wait_until(lambda: len(web.worker.taken) == 3, description="all calls are taken")
        assert web.http.delete("/mcp", headers={"Mcp-Session-Id": session}).status_code == 200
        assert error(waiting.result(5)) == (200, -32800)
        assert events(stream.result(5))[-1]["error"]["code"] == -32800
        theirs = {
            call.invocation.id: call for call in web.worker.taken if call.invocation.mcp_session == session
        }
        wait_until(lambda: set(web.worker.cancelled) == set(theirs), description="the worker is told")
        assert web.gateway.hub.waiting == 1
        (left,) = [call for call in web.worker.taken if call.invocation.id not in theirs]
        left.finish(answer({}))
        assert body(beside.result(5))["result"] == {}


# -- log level ------------------------------------------------------------------------------------------


def levels(response: Any) -> list[str]:
    return [
        message["params"]["level"]
        for message in events(response.data)
        if message.get("method") == "notifications/message"
    ]


def chatter(call: TakenCall) -> None:
    for level in ("debug", "info", "warning", "emergency", "odd"):
        call.notify("notifications/message", level=level, data="x")
    call.notify("notifications/progress", progressToken=1, progress=1)
    call.finish(answer({}))


def test_without_a_log_level_all_is_sent_along(web: Web, session: str) -> None:
    """As legacy servers may."""
    web.worker.behaviour = chatter
    assert levels(web.legacy(session, "tools/call", CALL)) == ["debug", "info", "warning", "emergency", "odd"]


def test_what_is_less_severe_than_wanted_is_left_out(web: Web, session: str) -> None:
    """From now on, in this session, at whichever web process; progress is not a log message."""
    assert body(web.legacy(session, "logging/setLevel", {"level": "warning"}))["result"] == {}
    web.worker.behaviour = chatter
    response = web.legacy(session, "tools/call", CALL)
    assert levels(response) == ["warning", "emergency", "odd"]
    assert [event.get("method") for event in events(response.data)].count("notifications/progress") == 1
    other = web.initialize()
    assert len(levels(web.legacy(other, "tools/call", CALL))) == 5


@pytest.mark.parametrize(
    "params", [{}, {"level": "loud"}, {"level": None}, {"level": 3}, {"level": ["debug"]}]
)
def test_an_unknown_level_is_refused(web: Web, session: str, params: dict[str, Any]) -> None:
    """As invalid params."""
    assert error(web.legacy(session, "logging/setLevel", params)) == (200, -32602)


@pytest.mark.parametrize("identity", ["a b", " ", "", '1 {"result":1}', "x\ny", "é 💡", "7", 7])
@pytest.mark.parametrize("modern", [False, True])
def test_an_id_is_any_text(web: Web, session: str, modern: bool, identity: str | int) -> None:
    """It comes back as it was, behind what the call says; also on a stream, where the frames of calls are."""

    def behaviour(call: TakenCall) -> None:
        assert call.invocation.request_id == identity or modern
        call.notify("notifications/progress", progressToken=identity, progress=1)
        call.finish(answer({"content": []}))

    web.worker.behaviour = behaviour
    meta = {"progressToken": identity}
    response = (
        web.modern("tools/call", CALL, id=identity, meta=meta)
        if modern
        else web.legacy(session, "tools/call", {**CALL, "_meta": meta}, id=identity)
    )
    progress, result = events(response.data)
    assert (progress["params"]["progressToken"], result["id"]) == (identity, identity)
    assert result["result"]["content"] == []


@pytest.mark.parametrize("identity", ["a b", '1 {"result":1}', ""])
def test_a_call_of_any_id_is_cancelled(web: Web, session: str, identity: str) -> None:
    """By that very id."""
    web.worker.behaviour = lambda _: None
    with web.aside(lambda: web.legacy(session, "tools/call", CALL, id=identity)):
        call = web.worker.next_call()
        cancel = notification("notifications/cancelled", {"requestId": identity})
        assert web.post(cancel, headers={"Mcp-Session-Id": session}).status_code == 202
        wait_until(lambda: call.invocation.id in web.worker.cancelled, description="the worker is told")
