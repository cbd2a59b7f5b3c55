"""fetch and admit: the bounds on sessions, and which session of a pool gets a call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.domain.ids import NodeId, ToolId
from common.store.client import Client
from common.store.keys import Keys
from tests.common.store.delivery import (
    TOOL,
    A,
    B,
    admit,
    die,
    fetch,
    finish,
    ids,
    live,
    put,
    put_back,
    recorded,
    release,
    require_nothing_left,
    rescue,
    rescue_all,
    send_all,
    waiting,
)
from tests.support.messages import QUEUE, head


class TestCaps:
    """``max_sessions`` of the tool and of the tenant: exact where sessions are created, a hint at admission."""

    def test_they_are_exact_with_twenty_who_claim_at_once(self, client: Client, keys: Keys) -> None:
        """Only the creation is refused."""
        nodes = [NodeId(f"n{n}") for n in range(20)]
        live(client, keys, *nodes)
        put(client, *(head(f"c{n}", session=f"t:c{n}", max_sessions=7) for n in range(40)))
        with ThreadPoolExecutor(20) as pool:
            found = [
                one for taken in pool.map(lambda n: fetch(client, keys, n, most=2)[1], nodes) for one in taken
            ]
        verdicts = [verdict for _, _, verdict, _ in found]
        assert (len(verdicts), verdicts.count(b"claimed"), verdicts.count(b"tool_limit")) == (40, 7, 33)
        assert client.hlen(keys.sessions(TOOL)) == 7

    def test_the_tenant_s_counts_over_all_tools(self, client: Client, keys: Keys) -> None:
        """Twenty at once, on two tools; another tenant is not concerned."""
        nodes = [NodeId(f"n{n}") for n in range(20)]
        live(client, keys, *nodes)
        for n in range(40):
            queue = "tool.a" if n % 2 else "tool.b"
            put(client, head(f"c{n}", session=f"t:c{n}", tenant_max_sessions=5, queue=queue))

        def take(node: NodeId) -> list[bytes]:
            return [
                verdict
                for queue in ("tool.a", "tool.b")
                for _, _, verdict, _ in fetch(client, keys, node, most=1, queue=queue)[1]
            ]

        with ThreadPoolExecutor(20) as pool:
            verdicts = [verdict for found in pool.map(take, nodes) for verdict in found]
        assert (len(verdicts), verdicts.count(b"claimed"), verdicts.count(b"tenant_limit")) == (40, 5, 35)
        put(client, head("u", session="u:c", tenant_max_sessions=5))
        assert fetch(client, keys, nodes[0], tag=9)[1][0][2] == b"claimed"

    def test_a_freed_session_makes_room(self, client: Client, keys: Keys) -> None:
        """At once, in both counts."""
        live(client, keys, A)
        bounds = {"max_sessions": 1, "tenant_max_sessions": 1}
        put(client, head("1", session="t:1", **bounds), head("2", session="t:2", **bounds))
        (_, _, _, token), (_, _, refused, none) = fetch(client, keys, A)[1]
        assert (refused, none) == (b"tool_limit", 0)
        release(client, keys, A, token, session="t:1")
        put(client, head("3", session="t:2", **bounds))
        assert fetch(client, keys, A, tag=5)[1][0][2] == b"claimed"

    def test_a_session_that_lives_goes_on_at_the_bound(self, client: Client, keys: Keys) -> None:
        """And one whose owner died is no new one."""
        live(client, keys, A, B)
        put(client, head("1", max_sessions=1), head("2", max_sessions=1))
        assert [verdict for _, _, verdict, _ in fetch(client, keys, A)[1]] == [b"claimed", b"held"]
        assert admit(client, keys, head("3", max_sessions=1))[0] == b"admitted"
        die(client, keys, A)
        assert admit(client, keys, head("4", max_sessions=1))[0] == b"admitted"
        assert fetch(client, keys, B)[1][0][2] == b"claimed"
        assert ids(waiting(client, keys.direct(A, QUEUE))) == ["3"]
        rescue_all(client, keys, A)

    @pytest.mark.parametrize(
        ("bound", "refusal"), [("max_sessions", b"tool_limit"), ("tenant_max_sessions", b"tenant_limit")]
    )
    def test_what_would_be_refused_is_refused_at_admission(
        self, client: Client, keys: Keys, bound: str, refusal: bytes
    ) -> None:
        """Nothing is queued; a pool is never refused there, for it may share."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert admit(client, keys, head("2", session="t:new", **{bound: 1}))[0] == refusal
        assert client.llen(QUEUE) == 0
        assert admit(client, keys, head("3", session="*", pool_size=2, **{bound: 1}))[0] == b"admitted"

    def test_draining_takes_calls_of_living_sessions_only(self, client: Client, keys: Keys) -> None:
        """A new one is refused, one whose owner is dead, and any of a pool."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        send_all(client, keys, A)
        assert admit(client, keys, head("2"), may_create=False)[0] == b"admitted"
        pool = head("3", session="*", pool_size=1)
        for refused in (head("3", session="t:new"), pool):
            assert admit(client, keys, refused, may_create=False)[0] == b"draining"
        die(client, keys, A)
        assert admit(client, keys, head("4"), may_create=False)[0] == b"draining"
        rescue(client, keys, A)
        assert client.llen(QUEUE) == 1


def pooled(call: str, size: int = 2, **parts: Any) -> Any:
    """The head of a call for a tool with a pool."""
    return head(call, session="*", pool_size=size, **parts)


class TestPool:
    """The session of a pool with the fewest calls."""

    def test_it_fills_up_and_then_shares(self, client: Client, keys: Keys) -> None:
        """First a session each, then the one with the fewest calls; what ends makes room there."""
        live(client, keys, A)
        put(client, *(pooled(str(n)) for n in range(4)))
        taken = fetch(client, keys, A)[1]
        assert [verdict for _, _, verdict, _ in taken] == [b"claimed", b"claimed", b"held", b"held"]
        assert client.hgetall(keys.session_calls(TOOL)) == {b"*0": b"2", b"*1": b"2"}
        second = recorded(client, keys, A, 2)
        finish(client, keys, A, "2", second)
        put(client, pooled("5"))
        fetch(client, keys, A, tag=10)
        assert recorded(client, keys, A, 10).session == second.session

    def test_a_burst_does_not_give_one_node_the_whole_pool(self, client: Client, keys: Keys) -> None:
        """Each may have its share at once; who comes second finds room, and the first shares what it has."""
        live(client, keys, A, B)
        put(client, *(pooled(str(n), 4) for n in range(6)))
        mine = [verdict for _, _, verdict, _ in fetch(client, keys, A, most=5)[1]]
        assert mine == [b"claimed", b"claimed", b"held", b"held", b"held"]
        assert fetch(client, keys, B)[1][0][2] == b"claimed"
        assert client.hlen(keys.sessions(TOOL)) == 3

    def test_beyond_its_share_a_node_claims_when_nobody_else_did(self, client: Client, keys: Keys) -> None:
        """A second after the last claim: a pool that no other worker serves is full all the same."""
        live(client, keys, A, B)
        put(client, *(pooled(str(n), 2) for n in range(2)))
        fetch(client, keys, A)
        assert client.hlen(keys.sessions(TOOL)) == 1
        owner, token, since = (client.hget(keys.sessions(TOOL), "*0") or b"").split()
        client.hset(keys.sessions(TOOL), "*0", b" ".join((owner, token, b"%d" % (int(since) - 1000))))
        put(client, pooled("2", 2))
        assert fetch(client, keys, A, tag=5)[1][0][2] == b"claimed"

    def test_one_without_calls_is_used_before_another_is_made(self, client: Client, keys: Keys) -> None:
        """A pool grows only under load."""
        live(client, keys, A)
        for n in range(3):
            put(client, pooled(str(n)))
            fetch(client, keys, A, tag=n + 1)
            finish(client, keys, A, str(n + 1), recorded(client, keys, A, n + 1))
        assert client.hkeys(keys.sessions(TOOL)) == [b"*0"]
        require_nothing_left_of_the_pool(client, keys)

    def test_a_call_goes_to_the_node_that_has_the_session(self, client: Client, keys: Keys) -> None:
        """As with any session; its count goes along."""
        live(client, keys, A, B)
        put(client, pooled("1", 1))
        token = fetch(client, keys, A)[1][0][3]
        put(client, pooled("2", 1))
        assert fetch(client, keys, B)[1] == []
        assert client.hgetall(keys.session_calls(TOOL)) == {b"*0": b"2"}
        assert fetch(client, keys, A, direct=True, tag=2)[1] == [("2", "2", b"held", token)]
        for tag in ("1", "2"):
            finish(client, keys, A, tag, recorded(client, keys, A, tag))
        require_nothing_left_of_the_pool(client, keys)

    def test_sessions_of_the_dead_count_as_none(self, client: Client, keys: Keys) -> None:
        """They are claimed anew by whoever needs one."""
        live(client, keys, A, B)
        put(client, pooled("1"), pooled("2"))
        fetch(client, keys, A)
        die(client, keys, A)
        put(client, pooled("3"))
        assert fetch(client, keys, B)[1][0][2] == b"claimed"
        assert recorded(client, keys, B, 1).session == "*0"

    def test_a_cap_below_its_size_makes_it_share_sooner(self, client: Client, keys: Keys) -> None:
        """What has a session to go to is not refused; without any it is."""
        live(client, keys, A)
        put(client, *(pooled(str(n), 3, max_sessions=1) for n in range(3)))
        assert [verdict for _, _, verdict, _ in fetch(client, keys, A)[1]] == [b"claimed", b"held", b"held"]
        client.hset(keys.sessions(ToolId("b")), "t:x", "n 1 1")
        put(client, pooled("9", 3, max_sessions=1, queue="tool.b"))
        assert fetch(client, keys, A, queue="tool.b", tag=9)[1][0][2] == b"tool_limit"
        finish(client, keys, A, "9", recorded(client, keys, A, 9))
        assert client.exists(keys.session_calls(ToolId("b"))) == 0

    def test_what_is_put_back_or_rescued_chooses_again(self, client: Client, keys: Keys) -> None:
        """The session it had is another's matter, and counts it no more."""
        live(client, keys, A)
        put(client, pooled("1"), pooled("2"))
        fetch(client, keys, A)
        put_back(client, keys, A, 1)
        client.hset(keys.unsent(A), "2", 1)
        die(client, keys, A)
        rescue(client, keys, A)
        assert [one.session for one in waiting(client)] == ["*", "*"]
        require_nothing_left(client, keys, A)

    def test_a_duplicate_that_waited_for_its_node_is_counted_no_more(
        self, client: Client, keys: Keys
    ) -> None:
        """It had a session of the pool, and is dropped where it is taken up."""
        live(client, keys, A, B)
        put(client, pooled("0", 1))
        fetch(client, keys, A)
        put(client, pooled("1", 1))
        fetch(client, keys, B)
        client.set(keys.result(head("1").id), "its end", ex=60)
        assert fetch(client, keys, A, direct=True, tag=5)[1:] == ([], [b"1"])
        finish(client, keys, A, "1", recorded(client, keys, A, 1))
        require_nothing_left_of_the_pool(client, keys)


def require_nothing_left_of_the_pool(client: Client, keys: Keys) -> None:
    """No session of the pool counts a call."""
    assert client.hgetall(keys.session_calls(TOOL)) == {}
