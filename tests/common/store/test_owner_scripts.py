"""fetch, admit, session_release, session_reclaim: who owns a session, decided in the step that looks."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.ids import NodeId, TenantId, ToolId, encode_part, queue_of
from common.store.client import Client
from common.store.keys import Keys
from tests.common.store.delivery import (
    TOOL,
    A,
    B,
    admit,
    die,
    fetch,
    fetch_raw,
    head_of,
    ids,
    live,
    put,
    reclaim,
    release,
    rescue,
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
        assert client.llen(keys.direct(A, QUEUE)) == 2
        taken = fetch(client, keys, A, direct=True, tag=10)[1]
        assert taken == [("10", "3", b"held", token), ("11", "2", b"held", token)]

    def test_calls_passed_on_together_keep_their_order(self, client: Client, keys: Keys) -> None:
        """In front of what waits there, the oldest first."""
        live(client, keys, A, B)
        put(client, head("0"))
        fetch(client, keys, A)
        admit(client, keys, head("9"))
        put(client, *(head(name) for name in "1234"))
        assert fetch(client, keys, B)[1] == []
        assert ids(waiting(client, keys.direct(A, QUEUE))) == [*"12349"]
        return_direct(client, keys, A)
        assert ids(waiting(client)) == [*"12349"]

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
            args = [1, 1, 1000, 10, keys.begin, A, QUEUE, 0]
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
        client.lpush(queue, stamped(of._replace(id=head("2").id)))
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
