"""What a client sees of its tenant's bounds: 429 with the time to come again, and what counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from werkzeug.test import TestResponse

from common.domain.ids import TenantId
from common.domain.invocation import answer
from common.tenants.desk import TenantDesk
from tests.support.wait import wait_until
from tests.web.harness import INITIALIZE, Serve, Web, body, request

CALL = {"name": "echo__add", "arguments": {}}
ACME, UMBRA = ({"X-Tenant-Id": tenant, "X-Client-Id": "c"} for tenant in ("acme", "umbra"))


def serve_with(serve: Serve, *, web: dict[str, Any] | None = None, **acme: Any) -> Web:
    """Two tenants; one has bounds."""
    return serve(
        identity={"resolver": "header"},
        tenants={"listed": [{"id": "acme", **acme}, "umbra"]},
        **({"web": web} if web else {}),
    )


def refused(response: TestResponse) -> tuple[str, str]:
    """Code and reason of a refusal, which says when to come again in both places alike."""
    found = body(response)["error"]
    assert response.status_code == 429, response.text
    assert int(response.headers["Retry-After"]) == max(1, math.ceil(found["data"]["retry_after"]))
    assert found["data"]["retry_after"] > 0
    return found["data"]["code"], found["data"]["reason"]


def test_calls_beyond_the_rate_are_throttled_and_those_of_others_are_not(serve: Serve) -> None:
    """Exactly as many pass as the burst says; both eras count alike."""
    web = serve_with(serve, requests_per_minute=5, burst=4)
    session = web.initialize(headers=ACME)
    assert web.modern("tools/call", CALL, headers=ACME).status_code == 200
    assert [web.legacy(session, "tools/call", CALL, headers=ACME).status_code for _ in range(2)] == [200] * 2
    assert refused(web.legacy(session, "tools/call", CALL, headers=ACME)) == ("RATE_LIMITED", "tenant")
    assert refused(web.modern("tools/call", CALL, headers=ACME)) == ("RATE_LIMITED", "tenant")
    assert len(web.worker.taken) == 3
    assert [web.modern("tools/call", CALL, headers=UMBRA).status_code for _ in range(5)] == [200] * 5


@pytest.mark.parametrize(
    ("method", "params"),
    [("tools/list", None), ("resources/list", None), ("prompts/list", None), ("server/discover", None)],
)
def test_lists_and_discovery_are_no_way_around(method: str, params: Any, serve: Serve) -> None:
    """Each counts as a call does."""
    web = serve_with(serve, requests_per_minute=2)
    for _ in range(2):
        assert web.modern(method, params, headers=ACME).status_code == 200
    assert refused(web.modern(method, params, headers=ACME)) == ("RATE_LIMITED", "tenant")
    assert refused(web.modern("tools/call", CALL, headers=ACME)) == ("RATE_LIMITED", "tenant")


def test_nor_are_sessions_and_subscriptions(serve: Serve) -> None:
    """A session is refused before it is made; a stream before it begins. What keeps a session alive does not count."""
    web = serve_with(serve, requests_per_minute=1)
    session = web.initialize(headers=ACME)
    assert refused(web.post(request("initialize", INITIALIZE), headers=ACME)) == ("RATE_LIMITED", "tenant")
    listen = {"notifications": {"toolsListChanged": True}}
    assert refused(web.modern("subscriptions/listen", listen, headers=ACME)) == ("RATE_LIMITED", "tenant")
    uri = {"uri": "x://y"}
    for method in ("resources/subscribe", "logging/setLevel"):
        params = uri if method == "resources/subscribe" else {"level": "error"}
        path = "/servers/echo/mcp" if method == "resources/subscribe" else "/mcp"
        if path == "/mcp":
            assert refused(web.legacy(session, method, params, headers=ACME))[0] == "RATE_LIMITED"
    assert web.legacy(session, "ping", headers=ACME).status_code == 200


def test_each_client_and_each_capability_has_its_own_rate(serve: Serve) -> None:
    """The client's bounds it alone; the capability's all that its glob fits."""
    limit = {"tool": "echo", "name": "a*", "requests_per_minute": 2}
    web = serve_with(serve, client_requests_per_minute=3, client_burst=2, capabilities=[limit])
    other = {**ACME, "X-Client-Id": "d"}
    assert web.modern("tools/call", CALL, headers=ACME).status_code == 200
    assert web.modern("tools/call", CALL, headers=other).status_code == 200
    assert refused(web.modern("tools/call", CALL, headers=other)) == ("RATE_LIMITED", "capability")
    plain = {"name": "echo__sub__tract", "arguments": {}}
    assert web.modern("tools/call", plain, headers=other).status_code == 200
    assert refused(web.modern("tools/call", plain, headers=other)) == ("RATE_LIMITED", "client")


def test_a_call_of_no_tool_uses_nothing_up(serve: Serve) -> None:
    """It is refused before anything is counted."""
    web = serve_with(serve, requests_per_minute=1)
    for _ in range(3):
        response = web.modern("tools/call", {"name": "nowhere__x"}, headers=ACME)
        assert body(response)["error"]["data"]["code"] == "TOOL_NOT_FOUND"
    assert web.modern("tools/call", CALL, headers=ACME).status_code == 200


@pytest.mark.parametrize("whose", ["tenant", "client"])
def test_calls_at_a_time_are_bounded(whose: str, serve: Serve) -> None:
    """The next is refused while as many are under way as may be; nobody else is."""
    web = serve_with(serve, **{"max_calls" if whose == "tenant" else "client_max_calls": 2})
    web.worker.behaviour = lambda call: None
    taken = web.worker.taken
    with web.aside(lambda: _slow(web)), web.aside(lambda: _slow(web)):
        wait_until(lambda: len(taken) == 2, description="two calls under way")
        response = web.modern("tools/call", CALL, headers=ACME)
        assert refused(response) == ("CONCURRENCY_LIMIT_REACHED", f"{whose}_calls")
        with web.aside(lambda: _slow(web, UMBRA if whose == "tenant" else {**ACME, "X-Client-Id": "d"})):
            wait_until(lambda: len(taken) == 3, description="somebody else's call under way")
            for call in taken:
                _end(call)


def _slow(web: Web, headers: dict[str, str] = ACME) -> None:
    assert web.modern("tools/call", CALL, headers=headers).status_code == 200


def _end(call: Any) -> None:
    call.finish(answer({"content": []}))


def test_sessions_are_bounded_at_initialize(serve: Serve) -> None:
    """Calls of those that live go on; one that is ended makes room at once."""
    web = serve_with(serve, max_mcp_sessions=2)
    first, second = (web.initialize(headers=ACME) for _ in range(2))
    response = web.post(request("initialize", INITIALIZE), headers=ACME)
    assert refused(response) == ("CONCURRENCY_LIMIT_REACHED", "mcp_sessions")
    assert "Mcp-Session-Id" not in response.headers
    assert web.legacy(first, "tools/call", CALL, headers=ACME).status_code == 200
    web.initialize(headers=UMBRA)
    gone = web.http.delete("/mcp", headers={"Mcp-Session-Id": second, **ACME})
    assert gone.status_code == 200
    web.initialize(headers=ACME)


def test_a_session_that_expired_does_not_count_and_one_that_is_used_does(serve: Serve) -> None:
    """Each request begins its time anew, whichever way it goes."""
    web = serve_with(serve, max_mcp_sessions=2, web={"session_idle_timeout": 0.4})
    used, _ = (web.initialize(headers=ACME) for _ in range(2))

    def room() -> bool:
        assert web.legacy(used, "tools/call", CALL, headers=ACME).status_code == 200
        assert web.legacy(used, "ping", headers=ACME).status_code == 200
        return web.post(request("initialize", INITIALIZE), headers=ACME).status_code == 200

    wait_until(room, description="the session that nobody uses has expired")
    response = web.post(request("initialize", INITIALIZE), headers=ACME)
    assert refused(response)[1] == "mcp_sessions"


def test_a_quota_changed_at_run_time_holds_within_a_second(serve: Serve) -> None:
    """Raised, lowered, suspended and admitted again, without a restart."""
    web = serve_with(serve, requests_per_minute=1)
    desk = TenantDesk(web.gateway.client, web.gateway.keys, web.gateway.settings)
    acme = TenantId("acme")

    def code() -> str | None:
        response = web.modern("tools/call", CALL, headers=ACME)
        found = body(response).get("error")
        return None if found is None else str(found["data"]["code"])

    assert [code(), code()] == [None, "RATE_LIMITED"]
    for sets, expected in (
        ({"requests_per_minute": 100_000}, None),
        ({"enabled": False}, "FORBIDDEN"),
        ({"enabled": True, "requests_per_minute": 1}, "RATE_LIMITED"),
    ):
        desk.change(acme, sets, actor="me")
        wait_until(lambda wanted=expected: code() == wanted, timeout=1.5, description=f"{sets} holds")
    assert web.modern("tools/call", CALL, headers=UMBRA).status_code == 200


def test_a_tool_s_rate_is_that_of_all_tenants(serve: Serve) -> None:
    """It is the tool's, and of that tool alone."""
    web = serve_with(serve)
    web.gateway.registry.update(
        _echo(web), lambda tool: _with(tool, requests_per_minute=5, burst=2), actor="me"
    )
    wait_until(
        lambda: (entry := web.gateway.catalogue.get(_echo(web))) is not None and bool(entry.tool.rate),
        description="the catalogue has it",
    )
    answers = [web.modern("tools/call", CALL, headers=headers).status_code for headers in (ACME, UMBRA, ACME)]
    assert answers == [200, 200, 429]
    assert refused(web.modern("tools/call", CALL, headers=UMBRA)) == ("RATE_LIMITED", "tool")


def _echo(web: Web) -> Any:
    return next(entry.id for entry in web.gateway.catalogue.entries() if entry.id == "echo")


def _with(tool: Any, **changes: Any) -> Any:
    return replace(tool, **changes)
