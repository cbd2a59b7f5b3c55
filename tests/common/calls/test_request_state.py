"""Request states: sealed, bound to their call, and of no use after their time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from common.calls.request_state import PREFIX, RequestStates, is_ours
from common.domain.errors import InvalidRequest
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.invocation import Caller, Invocation
from common.store.client import StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from tests.support.redis import RedisServer

CALL = Invocation(
    id=InvocationId("i-1"),
    caller=Caller(tenant=TenantId("t"), client=ClientId("c"), subject="s"),
    tool=ToolId("tool"),
    method="tools/call",
    params={"name": "x", "arguments": {"b": 1, "a": [2]}},
    version="2026-07-28",
    deadline=0,
)


@pytest.fixture
def states(redis_server: RedisServer) -> Iterator[RequestStates]:
    """Of a fresh database."""
    redis_server.client().flushdb()
    with closing(SharedConnection(StoreAddress(url=redis_server.url()))) as connection:
        yield RequestStates(connection, Keys("t"))


def test_a_state_leads_back_to_its_call(states: RequestStates) -> None:
    """Also on another web process, with the responses and another order of the arguments."""
    state = states.seal(CALL, ["q1", "q2"], expires=1000)
    assert is_ours(state)
    assert "i-1" not in state
    retry = replace(
        CALL,
        id=InvocationId(""),
        params={
            "arguments": {"a": [2], "b": 1},
            "name": "x",
            "_meta": {"progressToken": 3},
            "inputResponses": {"q1": {}},
            "requestState": state,
        },
    )
    other = RequestStates(states._connection, Keys("t"))
    found = other.open(state, retry, now=1000)
    assert (found.invocation, found.requests) == ("i-1", ("q1", "q2"))


@pytest.mark.parametrize(
    "change",
    [
        {"caller": Caller(tenant=TenantId("t"), client=ClientId("c"), subject="other")},
        {"caller": Caller(tenant=TenantId("t:c"), client=ClientId("s"))},
        {"tool": ToolId("other")},
        {"method": "prompts/get"},
        {"params": {"name": "y", "arguments": {"b": 1, "a": [2]}}},
        {"params": {"name": "x", "arguments": {"b": 1, "a": [2]}, "extra": 1}},
    ],
)
def test_it_is_of_no_other_call(states: RequestStates, change: dict[str, Any]) -> None:
    """Nor of another caller's."""
    state = states.seal(CALL, ["q"], expires=1000)
    with pytest.raises(InvalidRequest, match="requestState"):
        states.open(state, replace(CALL, **change), now=0)


def test_it_expires(states: RequestStates) -> None:
    """By Redis time."""
    state = states.seal(CALL, ["q"], expires=1000)
    with pytest.raises(InvalidRequest, match="expired"):
        states.open(state, CALL, now=1001)


def test_what_was_changed_is_refused(states: RequestStates) -> None:
    """Each of its characters counts, and so does its length."""
    state = states.seal(CALL, ["q"], expires=1000)
    damaged = [
        state[:place] + ("A" if state[place] != "A" else "B") + state[place + 1 :]
        for place in range(4, len(state) - 1)
    ]
    for wrong in (*damaged, state[:-4], state + "AAAA", PREFIX, PREFIX + "ä", PREFIX + "A" * 400):
        with pytest.raises(InvalidRequest):
            states.open(wrong, CALL, now=0)


def test_another_key_opens_nothing(
    states: RequestStates, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that was emptied; each process takes the new key up by itself, but does not ask for it each time."""
    state = states.seal(CALL, ["q"], expires=1000)
    redis_server.client().flushdb()
    other = RequestStates(states._connection, Keys("t"))
    fresh = other.seal(CALL, ["q"], expires=1000)
    with pytest.raises(InvalidRequest):
        other.open(state, CALL, now=0)
    with pytest.raises(InvalidRequest):
        states.open(fresh, CALL, now=0)
    monkeypatch.setattr("common.calls.request_state.READ_AGAIN", 0.0)
    assert states.open(fresh, CALL, now=0).invocation == "i-1"


@pytest.mark.parametrize("state", ["backend's own", "", None, 7, "cg2.x"])
def test_the_states_of_backends_are_not_ours(state: object) -> None:
    """They pass through."""
    assert not is_ours(state)
