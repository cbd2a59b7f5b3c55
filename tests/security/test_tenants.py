"""S2: every operation with one's own name of a thing, another tenant's, and one that does not exist.

What another tenant has cannot be told from what nobody has: both get one status, one body, one set of headers. The
operations are those of the live table of methods and of the live routes; one without a row fails.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import pytest
from werkzeug.test import TestResponse

from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.mcp.revisions import Era
from gateway_web.ingress.methods import HANDLERS
from tests.security.test_cves import KEYED
from tests.support.redis import RedisServer
from tests.web.admin.conftest import PREFIX, SETTINGS
from tests.web.harness import BOTH, INITIALIZE, LEGACY, OWN, Web, notification, request, serving
from tests.web.identity.test_matrix import OPEN, rules
from tests.web.ingress.test_input import answer, asking, required
from tests.web.ingress.test_resumption import Stream

pytestmark = pytest.mark.security

TENANTS = ("acme", "globex")
HIDDEN, ABSENT = "slow", "nope"
"""A tool that acme alone may use, and one that is not there."""
BY = {tenant: {"Authorization": f"Bearer {tenant[0] * 40}"} for tenant in TENANTS}
CALLERS = {tenant: Caller(tenant=TenantId(tenant), client=ClientId("ci")) for tenant in TENANTS}


@pytest.fixture(scope="module")
def web(redis_server: RedisServer) -> Iterator[Web]:
    """Two tenants with a key each, the same client and no subject; the admin API is on."""
    keys = [{"key": tenant[0] * 40, "tenant": tenant, "client": "ci"} for tenant in TENANTS]
    sections: dict[str, Any] = {
        **KEYED,
        "policy": {"rules": [{"effect": "deny", "tenants": ["globex"], "tools": [HIDDEN]}]},
        "identity": {"resolver": "api_key", "api_keys": keys},
        "admin": SETTINGS,
        "web": {"ping_interval": 0.05, "list_page_size": 1},
    }
    with serving(redis_server, OWN, way="gunicorn", **sections) as found:
        yield found


@pytest.fixture(autouse=True)
def rested(web: Web) -> Iterator[None]:
    """The worker is as at the start, and nothing is left under way."""
    web.worker.reset()
    yield
    web.worker.reset()
    web.nothing_waits()


def told(response: TestResponse, *names: str) -> tuple[int, str, dict[str, str]]:
    """All that a client can see of an answer, but for the names that it sent itself, and clocks."""
    text, headers = response.text, dict(response.headers)
    for name in names:
        text = text.replace(name, "NAME")
    for clock in ("Date", "X-Request-Id", "traceparent"):
        headers.pop(clock, None)
    return response.status_code, re.sub(r'"(invocationId|callId|requestId)":"[^"]+"', "ID", text), headers


# -- methods of MCP ---------------------------------------------------------------------------------------

PARAMS: dict[str, dict[str, Any]] = {
    "initialize": INITIALIZE,
    "ping": {},
    "logging/setLevel": {"level": "error"},
    "resources/subscribe": {"uri": "note://a"},
    "resources/unsubscribe": {"uri": "note://a"},
    "tools/list": {},
    "resources/list": {},
    "resources/templates/list": {},
    "prompts/list": {},
    "tools/call": {"name": "echo__add", "arguments": {}},
    "resources/read": {"uri": "note://a"},
    "prompts/get": {"name": "echo__greet"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "echo__greet"},
        "argument": {"name": "who", "value": ""},
    },
}
"""A good request of each method of the legacy era, the only one that has sessions."""
OPENS = frozenset({"initialize"})
"""Methods that make a session and belong to none."""


def test_every_method_has_a_row() -> None:
    """A new one says how it is asked for."""
    assert set(PARAMS) == set(HANDLERS[Era.LEGACY])
    assert set(HANDLERS[Era.MODERN]) - set(PARAMS) == {"server/discover"}, (
        "names nothing that belongs to anybody"
    )


@pytest.mark.parametrize("method", sorted(set(PARAMS) - OPENS))
def test_a_method_in_another_tenants_session(web: Web, method: str) -> None:
    """The owner is served; to others the session does not exist, and nothing reaches a worker."""
    session, absent = web.initialize(headers=BY["acme"]), uuid4().hex
    theirs, none = (
        web.legacy(name, method, PARAMS[method], headers=BY["globex"]) for name in (session, absent)
    )
    assert told(theirs, session) == told(none, absent)
    assert theirs.status_code == 404
    assert web.worker.taken == []
    own = web.legacy(session, method, PARAMS[method], headers=BY["acme"])
    assert own.status_code == 200
    assert "result" in own.text


# -- routes -----------------------------------------------------------------------------------------------

Named = Callable[[Web, str, str], TestResponse]
"""An operation as a tenant, on what has this name."""


def of_session(name: str, tenant: str, **more: str) -> dict[str, str]:
    return {"Mcp-Session-Id": name, "MCP-Protocol-Version": LEGACY, **BY[tenant], **more}


def sending(message: dict[str, Any]) -> Named:
    """POST a message within a session."""
    return lambda web, tenant, name: web.post(message, headers=of_session(name, tenant))


def streaming(**more: str) -> Named:
    """Open the stream of a session."""

    def opened(web: Web, tenant: str, name: str) -> TestResponse:
        headers = of_session(name, tenant, Accept="text/event-stream", **more)
        response = web.http.get("/mcp", headers=headers, buffered=False)
        if response.status_code == 200:
            response.close()
        return response

    return opened


def ending(web: Web, tenant: str, name: str) -> TestResponse:
    return web.http.delete("/mcp", headers=of_session(name, tenant))


def messaging(web: Web, tenant: str, name: str) -> TestResponse:
    return web.post(request("ping"), f"/messages?session_id={name}", headers=BY[tenant])


@dataclass(frozen=True)
class Row:
    """Operations of a route that name something, each with what its owner is answered; or why nothing is named."""

    operations: tuple[tuple[str, Named, int], ...] = ()
    names_nothing: str = ""


POSTED = (
    ("request", sending(request("ping")), 200),
    ("notification", sending(notification("notifications/initialized")), 202),
    ("roots", sending(notification("notifications/roots/list_changed")), 202),
    ("cancellation", sending(notification("notifications/cancelled", {"requestId": 1})), 202),
    ("answer", sending({"jsonrpc": "2.0", "id": "q1", "result": {}}), 202),
    ("refusal", sending({"jsonrpc": "2.0", "id": "q1", "error": {"code": 1, "message": "no"}}), 202),
)
STREAMED = (
    ("stream", streaming(), 200),
    ("stream from a place", streaming(**{"Last-Event-ID": "s.0"}), 200),
    ("call's stream", streaming(**{"Last-Event-ID": "c.00000000-0000-4000-8000-000000000000.0"}), 200),
)
ROUTES: dict[tuple[str, str], Row] = {
    ("POST", "mcp"): Row(POSTED),
    ("GET", "mcp"): Row(STREAMED),
    ("DELETE", "mcp"): Row((("end", ending, 200),)),
    ("POST", "messages"): Row((("message", messaging, 202),)),
    ("GET", "sse"): Row(
        names_nothing="makes a connection of its own; an id that is sent along is not looked at"
    ),
    ("WEBSOCKET", "ws"): Row(names_nothing="makes a connection and a session of its own, told on it alone"),
}
"""By method and door; the admin API has tokens of its own, see :func:`test_the_admin_api_is_no_tenants`."""
CELLS = [(route, operation) for route, row in ROUTES.items() for operation in row.operations]


def test_every_route_has_a_row(web: Web) -> None:
    """A new route names what it can be asked about, or why there is nothing."""
    found = [rule for rule in rules(web.app) if rule not in OPEN and not rule[1].startswith(PREFIX)]
    keys = {(method, path.rpartition("/")[2]) for method, path in found}
    assert keys == set(ROUTES)
    assert all(row.operations or len(row.names_nothing) > 30 for row in ROUTES.values())


@pytest.mark.parametrize(("route", "operation"), CELLS, ids=[f"{r[0]} {r[1]} {o[0]}" for r, o in CELLS])
def test_a_route_with_another_tenants_name(
    web: Web, route: tuple[str, str], operation: tuple[str, Named, int]
) -> None:
    """Others get what they get for a name that is nobody's; only then its owner, who notices nothing of them."""
    _, act, status = operation
    with ExitStack() as stack:
        if route == ("POST", "messages"):
            connections = web.gateway.connections
            name = connections.open(CALLERS["acme"].principal, None, lambda: None)
            stack.callback(connections.close, name)
        else:
            name = web.initialize(headers=BY["acme"])
        absent = uuid4().hex
        theirs, none = act(web, "globex", name), act(web, "globex", absent)
        assert told(theirs, name) == told(none, absent)
        assert theirs.status_code == 404
        assert act(web, "acme", name).status_code == status


# -- what is named inside of messages ---------------------------------------------------------------------


def begun(web: Web, session: str) -> tuple[Stream, Any]:
    """A call of acme's under way, and the stream of its answer."""
    web.worker.behaviour = lambda call: call.notify("notifications/progress", progress=1)
    call = {"name": "echo__add", "arguments": {}, "_meta": {"progressToken": 1}}
    response = web.legacy(session, "tools/call", call, headers=BY["acme"], buffered=False)
    return Stream(response), web.worker.next_call()


def test_a_place_in_another_tenants_stream(web: Web) -> None:
    """In a session of one's own it leads where an invented one does: to the end of that session's own stream."""
    mine, theirs = (web.initialize(headers=BY[tenant]) for tenant in ("globex", "acme"))
    stream, call = begun(web, theirs)
    found = []
    for last in (stream.next()["id"], "c.00000000-0000-4000-8000-000000000000.0"):
        headers = of_session(mine, "globex", Accept="text/event-stream", **{"Last-Event-ID": last})
        opened = Stream(web.http.get("/mcp", headers=headers, buffered=False))
        event = opened.next()
        found.append((event["data"], event["id"][:2]))
        opened.close()
    assert found[0] == found[1]
    assert found[0][1] == "s."
    call.finish(answer({}))
    stream.rest()


def test_a_cancellation_of_another_tenants_call(web: Web) -> None:
    """Request ids are each session's own: the same one names nothing of somebody else's."""
    mine, theirs = (web.initialize(headers=BY[tenant]) for tenant in ("globex", "acme"))
    stream, call = begun(web, theirs)
    answers = []
    for identity in (1, 987):
        message = notification("notifications/cancelled", {"requestId": identity})
        answers.append(told(web.post(message, headers=of_session(mine, "globex"))))
    assert answers[0] == answers[1]
    assert web.worker.cancelled == []
    call.finish(answer({"done": True}))
    assert '"done":true' in str(stream.rest())


def test_an_answer_to_another_tenants_question(web: Web) -> None:
    """It is taken as one to a question that nobody asked is; the call still waits for its own client."""
    mine, theirs = (web.initialize(headers=BY[tenant]) for tenant in ("globex", "acme"))
    web.worker.behaviour = asking
    params = {"name": "echo__add", "arguments": {}}
    response = web.legacy(theirs, "tools/call", params, headers=BY["acme"], buffered=False)
    next(response.iter_encoded())
    call = web.worker.next_call()
    answers = []
    for identity in ("q1", "nobody's"):
        given = {"jsonrpc": "2.0", "id": identity, "result": {"stolen": True}}
        answers.append(told(web.post(given, headers=of_session(mine, "globex"))))
    assert answers[0] == answers[1]
    assert call.answer("q1") is None
    call.finish(answer({}))
    response.close()


def test_a_state_that_another_tenant_was_given(web: Web) -> None:
    """A ``requestState`` of acme's is refused to globex as one that was never given out; the call waits on."""
    web.worker.behaviour = asking
    state = required(web, headers=BY["acme"])["requestState"]
    invented = state[:-1] + ("A" if state[-1] != "A" else "B")
    call = web.worker.next_call()
    answers = []
    for given in (state, invented):
        params = {
            "name": "echo__add",
            "arguments": {"a": 1},
            "requestState": given,
            "inputResponses": {"q1": {}},
        }
        answers.append(told(web.modern("tools/call", params, headers=BY["globex"])))
    assert answers[0] == answers[1]
    assert answers[0][0] == 400
    call.finish(answer({}))


def test_the_admin_api_is_no_tenants(web: Web) -> None:
    """A tenant's credential opens nothing there: one refusal at every route, of what there is and of what is not."""
    routes = [rule for rule in rules(web.app) if rule[1].startswith(PREFIX)]
    assert routes
    refused = set()
    for method, path in routes:
        for name in ("echo", "absent"):
            asked = re.sub(r"<[^>]+>", name, path)
            status, text, headers = told(web.http.open(asked, method=method, headers=BY["acme"]), asked)
            refused.add((status, text, tuple(sorted(headers.items()))))
    assert [status for status, *_ in refused] == [401]


# -- tools of somebody else -------------------------------------------------------------------------------


def test_every_route_of_a_tool_hides_those_of_others(web: Web) -> None:
    """Each route of the live map that names a tool: one of acme's is to globex what none is."""
    routes = [rule for rule in rules(web.app) if "<path:tool>" in rule[1] and rule not in OPEN]
    assert len(routes) >= 5
    for method, path in routes:
        found = [told(ask_about(web, method, path, tool, "globex"), tool) for tool in (HIDDEN, ABSENT)]
        assert found[0] == found[1], (method, path)
        status, text, _ = found[0]
        # A request that was understood is answered with 200 and an error of JSON-RPC.
        assert status == (401 if path.startswith(PREFIX) else 404) or "TOOL_NOT_FOUND" in text, (method, path)
    assert "result" in ask_about(web, "POST", "/servers/<path:tool>/mcp", HIDDEN, "acme").text


def ask_about(web: Web, method: str, path: str, tool: str, tenant: str) -> TestResponse:
    """A request for a tool that needs no session, or names one that is not there."""
    headers = {"Content-Type": "application/json", "Accept": BOTH, **of_session("absent", tenant)}
    if method == "WEBSOCKET":
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
        method = "GET"
    elif path.endswith("/mcp") and method == "POST":
        del headers["Mcp-Session-Id"]
    body = orjson.dumps(request("initialize", INITIALIZE)) if method == "POST" else None
    query = "session_id=absent" if path.endswith("/messages") else ""
    asked = path.replace("<path:tool>", tool)
    return web.http.open(asked, method=method, headers=headers, data=body, query_string=query)


@pytest.mark.parametrize("method", ["tools/list", "resources/list"])
def test_a_cursor_that_another_tenant_was_given(web: Web, method: str) -> None:
    """Into a list that shows acme more, it is to globex as one that was never given out."""
    cursor = web.modern(method, headers=BY["acme"]).json["result"]["nextCursor"]  # type: ignore[index]
    assert "result" in web.modern(method, {"cursor": cursor}, headers=BY["acme"]).text
    answers = [
        told(web.modern(method, {"cursor": given}, headers=BY["globex"])) for given in (cursor, "AAAAAAAA")
    ]
    assert answers[0] == answers[1]
    assert "-32602" in answers[0][1]


def test_a_session_of_another_takes_no_longer_to_miss(web: Web) -> None:
    """Whether it exists cannot be told from how long the answer takes: the medians are alike, within noise."""
    names = {"theirs": web.initialize(headers=BY["acme"]), "none": uuid4().hex}
    taken: dict[str, list[float]] = {kind: [] for kind in names}
    for _ in range(150):
        for kind, name in names.items():
            begun_at = time.perf_counter()
            assert web.legacy(name, "ping", headers=BY["globex"]).status_code == 404
            taken[kind].append(time.perf_counter() - begun_at)
    theirs, none = (statistics.median(taken[kind]) for kind in ("theirs", "none"))
    assert 0.5 < theirs / none < 2, (theirs, none)
