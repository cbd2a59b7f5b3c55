"""fetch, admit, session_release, session_reclaim: who owns a session, decided in the step that looks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from common.domain.ids import NodeId, TenantId, ToolId, encode_part, queue_of
from common.store.client import Client
from common.store.keys import UNACKED_TTL, Keys
from tests.common.store.delivery import (
    TOOL,
    A,
    B,
    admit,
    die,
    fetch,
    fetch_raw,
    finish,
    head_of,
    ids,
    live,
    put,
    put_back,
    reclaim,
    recorded,
    release,
    require_nothing_left,
    rescue,
    rescue_all,
    return_direct,
    waiting,
)
from tests.lua.twin import ForcedTime
from tests.support.messages import QUEUE, head, stamped

ODD = ['q"uote', "per%cent", "b|ar", "ümlaut 語", "sp ace", "a:b", "st*r", "back\\slash", "new\nline"]


def heard(client: Client, channel: str, act: Any) -> list[bytes]:
    """What is published on a channel while ``act`` runs."""
    with client.pubsub(ignore_subscribe_messages=True) as listening:
        listening.subscribe(channel)
        listening.get_message(timeout=1)
        act()
        client.publish(channel, "end")
        found: list[bytes] = []
        while not found or found[-1] != b"end":
            if message := listening.get_message(timeout=1):
                found.append(message["data"])
    return found[:-1]


class TestOwner:
    """Claims, calls passed on, sessions given back."""

    def test_who_fetches_first_claims_and_later_calls_go_to_him(self, client: Client, keys: Keys) -> None:
        """One token for all of them; another node passes them on, in front of what waits there."""
        live(client, keys, A, B)
        put(client, head("1"))
        ((_, _, verdict, token),) = fetch(client, keys, A)[1]
        assert verdict == b"claimed"
        assert admit(client, keys, head("2"))[0] == b"admitted"
        assert client.llen(keys.direct(A, QUEUE)) == 1
        put(client, head("3"))
        assert fetch(client, keys, B)[1] == []
        assert client.hget(keys.direct_waiting, QUEUE) == b"2"
        taken = fetch(client, keys, A, direct=True, tag=10)[1]
        assert taken == [("10", "3", b"held", token), ("11", "2", b"held", token)]
        assert client.hgetall(keys.direct_waiting) == {}

    def test_the_owner_is_called_when_his_list_was_empty(self, client: Client, keys: Keys) -> None:
        """With the queue's name, on his own channel; not for what comes behind."""
        live(client, keys, A, B)
        put(client, head("1"))
        fetch(client, keys, A)

        def act() -> None:
            admit(client, keys, head("2"))
            admit(client, keys, head("3"))
            fetch(client, keys, A, direct=True, tag=10)
            put(client, head("4"))
            fetch(client, keys, B)

        assert heard(client, keys.node_wake_channel(A), act) == [QUEUE.encode()] * 2
        assert client.smembers(keys.direct_queues(A)) == {QUEUE.encode()}
        assert ids(waiting(client, keys.direct(A, QUEUE))) == ["4"]
        client.delete(keys.direct(A, QUEUE))

    def test_a_dead_owner_s_session_is_claimed_with_a_greater_token(self, client: Client, keys: Keys) -> None:
        """And its calls go to the tool's queue again, whether or not the sweep has come."""
        live(client, keys, A, B)
        put(client, head("1"))
        first = fetch(client, keys, A)[1][0][3]
        die(client, keys, A)
        assert admit(client, keys, head("2"))[0] == b"admitted"
        assert client.llen(QUEUE) == 1
        ((_, _, verdict, second),) = fetch(client, keys, B)[1]
        assert verdict == b"claimed"
        assert second > first
        assert client.smembers(keys.node_sessions(A)) == set()
        assert client.smembers(keys.node_sessions(B)) == {b"a|t:c"}

    def test_a_session_taken_over_is_not_freed_by_the_rescue_of_the_dead(
        self, client: Client, keys: Keys
    ) -> None:
        """It is the new owner's."""
        live(client, keys, A, B)
        put(client, head("1"))
        fetch(client, keys, A)
        die(client, keys, A)
        put(client, head("2"))
        token = fetch(client, keys, B)[1][0][3]
        assert rescue(client, keys, A)[3] == 0
        assert reclaim(client, keys, B) == token

    def test_the_token_grows_over_a_redis_that_forgot_it(self, client: Client, keys: Keys) -> None:
        """Redis' time keeps it growing."""
        live(client, keys, A)
        put(client, head("1"))
        first = fetch(client, keys, A)[1][0][3]
        client.flushdb()
        live(client, keys, A)
        put(client, head("2"))
        assert fetch(client, keys, A)[1][0][3] > first

    def test_the_token_grows_over_a_clock_that_steps_back(self, client: Client, keys: Keys) -> None:
        """By one then, for it remembers the last; by the time again once that is beyond it."""
        time = ForcedTime(client)

        def token(session: str) -> int:
            time.run("node_beat", [keys.nodes, keys.fenced(A)], [A, 60_000])
            put(client, head(session, session=session))
            args = [1, 1, UNACKED_TTL, 1000, 10, keys.begin, A, QUEUE, 0]
            return int(time.run("fetch", [keys.unacked(A), QUEUE], args, clock_reads=2)[1][4])

        first = token("t:1")
        assert first == time.now * 1000 + time.now * 7919 % 1000
        time.pass_by(-3_600_000)
        assert [token("t:2"), token("t:3")] == [first + 1, first + 2]
        time.pass_by(3_700_000)
        assert token("t:4") == time.now * 1000 + time.now * 7919 % 1000

    def test_only_the_owner_under_its_token_frees_a_session(self, client: Client, keys: Keys) -> None:
        """Not another node, not an older token; freed, it is in no index."""
        live(client, keys, A)
        put(client, head("1"))
        token = fetch(client, keys, A)[1][0][3]
        assert [release(client, keys, B, token), release(client, keys, A, token - 1)] == [0, 0]
        assert client.hlen(keys.sessions(TOOL)) == 1
        assert release(client, keys, A, token) == 1
        indices = keys.sessions(TOOL), keys.node_sessions(A), keys.tenant_sessions(TenantId("t"))
        assert client.exists(*indices) == 0
        assert release(client, keys, A, token) == 0

    def test_a_release_that_comes_twice_does_not_take_the_next_claim(
        self, client: Client, keys: Keys
    ) -> None:
        """The same node has claimed it anew meanwhile."""
        live(client, keys, A)
        put(client, head("1"))
        token = fetch(client, keys, A)[1][0][3]
        release(client, keys, A, token)
        again = reclaim(client, keys, A)
        assert release(client, keys, A, token) == 0
        assert reclaim(client, keys, A) == again

    def test_it_is_asked_for_again_by_whoever_may(self, client: Client, keys: Keys) -> None:
        """Its own: the token as it is. Nobody's: a new one. A living other's, or asked by a dead node: none."""
        live(client, keys, A, B)
        token = reclaim(client, keys, A)
        assert token is not None
        assert reclaim(client, keys, A) == token
        assert reclaim(client, keys, B) is None
        die(client, keys, A)
        assert reclaim(client, keys, A) is None
        assert (reclaim(client, keys, B) or 0) > token
        assert reclaim(client, keys, NodeId("never seen")) is None

    def test_parts_of_a_session_never_run_together(self, client: Client, keys: Keys) -> None:
        """(``a-b``, ``c``) and (``a``, ``b-c``) have a session each; so have ids with separators in them."""
        live(client, keys, A)
        sessions = ["a-b:c", "a:b-c", "a%3Ab:c", "a:b%3Ac", "a:b:c"]
        put(client, *(head(str(n), session=session) for n, session in enumerate(sessions)))
        taken = fetch(client, keys, A)[1]
        assert [verdict for _, _, verdict, _ in taken] == [b"claimed"] * 5
        assert client.hlen(keys.sessions(TOOL)) == 5

    @pytest.mark.parametrize("name", ODD)
    def test_odd_names_are_good_everywhere(self, client: Client, keys: Keys, name: str) -> None:
        """Of tool, node, tenant and client: claimed, passed on, freed, and under the catalogue's keys."""
        tool, mine, other = ToolId(name), NodeId(f"{name}@1"), NodeId(f"{name}@2")
        queue, session = queue_of(tool), f"{encode_part(name)}:{encode_part(name)}"
        of = head("1", session=session, queue=queue)
        live(client, keys, mine, other)
        client.lpush(queue, stamped(of))
        ((_, _, verdict, token),) = fetch(client, keys, mine, queue=queue)[1]
        assert verdict == b"claimed"
        assert client.hkeys(keys.sessions(tool)) == [session.encode()]
        assert client.scard(keys.tenant_sessions(TenantId(name))) == 1
        client.lpush(queue, stamped(replace(of, id=head("2").id)))
        assert fetch(client, keys, other, queue=queue)[1] == []
        assert ids(waiting(client, keys.direct(mine, queue))) == ["2"]
        assert fetch(client, keys, mine, queue=queue, direct=True, tag=2)[1] == [("2", "2", b"held", token)]
        assert release(client, keys, mine, token, session=session, tool=tool) == 1
        assert client.exists(keys.sessions(tool), keys.tenant_sessions(TenantId(name))) == 0

    def test_a_session_is_the_tool_s(self, client: Client, keys: Keys) -> None:
        """The same caller has another one with another tool."""
        live(client, keys, A, B)
        other = head("2", queue="tool.other")
        put(client, head("1"), other)
        assert fetch(client, keys, A)[1][0][2] == b"claimed"
        assert fetch(client, keys, B, queue="tool.other")[1][0][2] == b"claimed"

    def test_what_is_passed_on_does_not_stop_redis_for_long(self, client: Client, keys: Keys) -> None:
        """Thousands of calls for another's sessions: so many a step, and the list is served again at once."""
        live(client, keys, A, B)
        put(client, head("first"))
        fetch(client, keys, A)
        put(client, *(head(f"c{n}") for n in range(300)), head("mine", session="t:other"))
        steps = 0
        taken: list[Any] = []
        while client.llen(QUEUE):
            before = client.llen(QUEUE)
            _, flat, more, _, _ = fetch_raw(client, keys, B, most=10)
            assert before - client.llen(QUEUE) <= 110
            assert more == ([1] if client.llen(QUEUE) else more)
            taken += flat[2::5]
            steps += 1
        assert steps >= 3
        assert [head_of(message).id for message in taken] == ["mine"]
        assert return_direct(client, keys, A, 1000) == 300
        assert client.hgetall(keys.direct_waiting) == {}


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
