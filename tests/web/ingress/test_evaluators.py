"""Evaluators at the doors: what they deny has taken nothing, and what they let pass says who let it."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.errors import ErrorCode, GatewayError
from common.domain.ids import ClientId, TenantId, ToolId, queue_of
from common.domain.invocation import Caller
from common.policy.counters import CounterReader
from tests.web.harness import Serve, Web, body

CEL = {
    "rules": [{"effect": "deny", "mcp_tools": ["sub*"]}],
    "evaluators": [
        {"id": "small", "type": "cel", "expression": "!has(arguments.a) || arguments.a < 10"},
        {"id": "broken", "type": "cel", "expression": "arguments.nothing == 1"},
        {"id": "idle", "type": "cel", "expression": "counters.tool_waiting < 2", "counters": True},
    ],
    "evaluator": "small",
}
ME = Caller(tenant=TenantId("default"), client=ClientId("default"))
ECHO = ToolId("echo")


def add(a: int) -> dict[str, Any]:
    return {"name": "echo__add", "arguments": {"a": a}}


def refusal(web: Web, a: int, session: str) -> dict[str, Any]:
    """The same in both eras."""
    modern = body(web.modern("tools/call", add(a)))["error"]
    assert body(web.legacy(session, "tools/call", add(a)))["error"] == modern
    return modern  # type: ignore[no-any-return]


def test_a_denied_call_has_taken_nothing(serve: Serve) -> None:
    """No key of Redis is another one, no worker has seen it, nobody waits for it; an allowed one goes on."""
    web = serve(policy=CEL)
    session = web.initialize()
    redis = web.gateway.client
    before = set(redis.keys("*"))
    for _ in range(3):
        assert refusal(web, 10, session)["data"] == {"code": "POLICY_DENIED", "reason": "evaluator"}
    assert set(redis.keys("*")) == before
    assert (web.worker.taken, web.gateway.hub.waiting) == ([], 0)
    assert "result" in body(web.modern("tools/call", add(9)))
    web.nothing_waits()


def test_an_evaluator_that_breaks_denies(serve: Serve) -> None:
    """The caller learns no more than that."""
    web = serve(policy={**CEL, "evaluator": "broken"})
    found = refusal(web, 1, web.initialize())
    assert found["data"] == {"code": "POLICY_DENIED", "reason": "evaluator_error"}
    assert found["message"] == "policy denies this call: it could not be decided"
    assert web.gateway.policy.counts.evaluations == {("broken", "raised"): 2}


def test_a_call_says_who_let_it_pass(serve: Serve) -> None:
    """For the records."""
    web = serve(policy=CEL)
    with web.gateway.begin(ME, ECHO, "tools/call", {"name": "add"}) as call:
        assert (call.decision.allowed, call.decision.evaluator) == (True, "small")
        call.next(10)
    web.nothing_waits()


@pytest.mark.parametrize("params", [{"name": "sub"}, {"name": "add", "arguments": {"a": 10}}])
def test_a_call_that_is_gone_on_with_is_judged_as_well(serve: Serve, params: dict[str, Any]) -> None:
    """By rules and evaluator, before its state is looked at."""
    web = serve(policy=CEL)
    with pytest.raises(GatewayError) as caught:
        web.gateway.resume(ME, ECHO, "tools/call", {**params, "requestState": "x"}, version="2026-07-28")
    assert caught.value.code is ErrorCode.POLICY_DENIED


def test_counters_are_those_of_redis(serve: Serve) -> None:
    """Of the tool and the tenant; an evaluator that wants them decides by them."""
    web = serve(policy={**CEL, "evaluator": "idle"})
    gateway = web.gateway
    queue = queue_of(ToolId("nobody"))
    gateway.client.hset(gateway.keys.calls(queue), mapping={"a": "1", "b": "2"})
    gateway.client.lpush(queue, "x", "y", "z")
    gateway.client.sadd(gateway.keys.tenant_sessions(ME.tenant), "s")
    found = CounterReader(gateway._hot, gateway.keys).read(ME.tenant, ToolId("nobody"))
    assert (found.tool_calls, found.tool_waiting, found.tenant_sessions) == (2, 3, 1)
    judged = [
        gateway.policy.judge(ME, tool, "tools/call", {"name": "x"}) for tool in (ToolId("nobody"), ECHO)
    ]
    assert [decision.allowed for decision in judged] == [False, True]
    gateway.client.delete(gateway.keys.calls(queue), queue, gateway.keys.tenant_sessions(ME.tenant))
