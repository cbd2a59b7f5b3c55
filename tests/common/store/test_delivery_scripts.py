"""Who owns a session, who may answer a call, what becomes of a dead node's calls: each in one step of Redis."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest

from common.calls.contract import wire_of_record
from common.calls.head import Head, head_from_text
from common.domain.ids import InvocationId, NodeId, TenantId, ToolId
from common.domain.invocation import result_from_wire
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import UNACKED_TTL, Keys
from common.store.scripts import run
from gateway_worker.sweep import LEASE_ENDED, PROCESS_GONE, fence_script, lost_answer
from tests.support.messages import QUEUE, head, stamped, unstamped

A, B = NodeId("celery@a:1"), NodeId("celery@b:2")
TOOL = ToolId("a")
RESULT_MS = 60_000


def live(client: Client, keys: Keys, *nodes: NodeId, lease: int = 60_000) -> None:
    """Let nodes live."""
    for node in nodes:
        run(client, "node_beat", [keys.nodes, keys.fenced(node)], [node, lease])


def die(client: Client, keys: Keys, node: NodeId) -> None:
    """Declare a node dead."""
    assert run(client, "node_fence", *fence_script(keys, node, PROCESS_GONE, actor="test")) == 1


def fetch(
    client: Client,
    keys: Keys,
    node: NodeId,
    *,
    direct: bool = False,
    most: int = 50,
    cap: int = 0,
    tag: int = 1,
) -> tuple[bytes, list[tuple[str, str, bytes, int]], list[bytes]]:
    """Status; what was taken: tag, id, verdict, fencing token; what was dropped."""
    lists = [QUEUE, *([keys.direct(node, QUEUE)] if direct else [])]
    named = [part for _ in lists for part in (QUEUE, cap)]
    status, flat, _, _, dropped = run(
        client,
        "fetch",
        [keys.unacked(node), *lists],
        [most, tag, UNACKED_TTL, 1000, 10, keys.begin, node, *named],
    )
    taken = [
        (number.decode(), _head(message).id, verdict, int(token))
        for _, number, message, verdict, token in zip(*[iter(flat)] * 5, strict=True)
    ]
    return status, taken, dropped


def _head(message: bytes) -> Head:
    return head_from_text(orjson.loads(message)["canalgate"])


def put(client: Client, *heads: Head) -> None:
    """Messages in the tool's queue."""
    for one in heads:
        client.lpush(QUEUE, stamped(one))


def finish(client: Client, keys: Keys, node: NodeId, tag: str, of: Head, record: str = "r") -> list[Any]:
    """End a call; numbers of the refused, and queues of circuits that want to know."""
    args = [tag, of.id, of.queue, of.session, of.reply, record, "f", 0]
    answer: list[Any] = run(client, "finish", [keys.unacked(node)], [keys.begin, node, RESULT_MS, *args])
    return answer


def rescue(client: Client, keys: Keys, node: NodeId, step: int = 100, attempts: int = 3) -> list[Any]:
    """One step of working off what a node left."""
    named = [keys.nodes, keys.fenced(node), keys.unacked(node), keys.unsent(node), keys.direct_queues(node)]
    answer: list[Any] = run(
        client,
        "node_rescue",
        [*named, keys.node_sessions(node), keys.audit],
        [keys.begin, node, step, attempts, RESULT_MS, *lost_answer(), 1000],
    )
    return answer


def admit(client: Client, keys: Keys, of: Head, *, may_create: bool = True) -> list[Any]:
    """Ask for a place in the queue."""
    named = [of.queue, keys.drain(of.queue), keys.head(of.queue)]
    answer: list[Any] = run(
        client, "admit", named, [unstamped(of), keys.begin, 0, 0, int(may_create), 1, 1000]
    )
    return answer


def require_nothing_left(client: Client, keys: Keys, *nodes: NodeId) -> None:
    """No call is under way, and nothing counts one."""
    for key in (keys.calls, keys.in_flight(QUEUE), keys.direct_waiting, keys.session_calls(TOOL)):
        assert client.hgetall(key) == {}, key
    for node in nodes:
        assert client.hgetall(keys.unacked(node)) == {}
        assert client.smembers(keys.node_sessions(node)) == set()


class TestOwners:
    """fetch, admit, session_release, session_reclaim."""

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

    def test_the_token_grows_over_a_redis_that_forgot_it(self, client: Client, keys: Keys) -> None:
        """Redis' time keeps it growing."""
        live(client, keys, A)
        put(client, head("1"))
        first = fetch(client, keys, A)[1][0][3]
        client.flushdb()
        live(client, keys, A)
        put(client, head("2"))
        assert fetch(client, keys, A)[1][0][3] > first

    def test_only_the_owner_under_its_token_frees_a_session(self, client: Client, keys: Keys) -> None:
        """Not another node, not an older token; freed, it is in no index."""
        live(client, keys, A)
        put(client, head("1"))
        token = fetch(client, keys, A)[1][0][3]

        def release(node: NodeId, number: int) -> int:
            args = [keys.begin, node, "a", "t:c", str(number)]
            return int(run(client, "session_release", [keys.sessions(TOOL)], args))

        assert [release(B, token), release(A, token - 1)] == [0, 0]
        assert release(A, token) == 1
        assert (
            client.exists(keys.sessions(TOOL), keys.node_sessions(A), keys.tenant_sessions(TenantId("t")))
            == 0
        )

    def test_it_is_asked_for_again_by_whoever_may(self, client: Client, keys: Keys) -> None:
        """Its own: the token as it is. Nobody's: a new one. A living other's, or asked by a dead node: none."""
        live(client, keys, A, B)

        def reclaim(node: NodeId) -> int | None:
            args = [keys.begin, node, "a", "t:c"]
            found = run(client, "session_reclaim", [keys.sessions(TOOL)], args)
            return None if found is None else int(found)

        token = reclaim(A)
        assert token is not None
        assert reclaim(A) == token
        assert reclaim(B) is None
        die(client, keys, A)
        assert reclaim(A) is None
        assert (reclaim(B) or 0) > token

    def test_parts_of_a_session_never_run_together(self, client: Client, keys: Keys) -> None:
        """(``a-b``, ``c``) and (``a``, ``b-c``) have a session each; so have ids with separators in them."""
        live(client, keys, A)
        sessions = ["a-b:c", "a:b-c", "a%3Ab:c", "a:b%3Ac", "a:b:c"]
        put(client, *(head(str(n), session=session) for n, session in enumerate(sessions)))
        taken = fetch(client, keys, A)[1]
        assert [verdict for _, _, verdict, _ in taken] == [b"claimed"] * 5
        assert client.hlen(keys.sessions(TOOL)) == 5

    def test_caps_are_exact_with_twenty_who_claim_at_once(self, client: Client, keys: Keys) -> None:
        """``max_sessions`` of the tool, and of the tenant; only the creation is refused."""
        nodes = [NodeId(f"n{n}") for n in range(20)]
        live(client, keys, *nodes)
        put(client, *(head(f"c{n}", session=f"t:c{n}", max_sessions=7) for n in range(40)))
        with ThreadPoolExecutor(20) as pool:
            found = [
                one for taken in pool.map(lambda n: fetch(client, keys, n, most=2)[1], nodes) for one in taken
            ]
        verdicts = [verdict for _, _, verdict, _ in found]
        assert (len(verdicts), verdicts.count(b"claimed"), verdicts.count(b"tool_limit")) == (40, 7, 33)
        live(client, keys, A)
        put(client, *(head(f"d{n}", session=f"u:c{n}", tenant_max_sessions=2) for n in range(5)))
        verdicts = [verdict for _, _, verdict, _ in fetch(client, keys, A)[1]]
        assert sorted(verdicts) == [b"claimed"] * 2 + [b"tenant_limit"] * 3

    def test_draining_takes_calls_of_living_sessions_only(self, client: Client, keys: Keys) -> None:
        """A new one is refused, and one whose owner is dead."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert admit(client, keys, head("2"), may_create=False)[0] == b"admitted"
        assert admit(client, keys, head("3", session="t:new"), may_create=False)[0] == b"draining"
        die(client, keys, A)
        assert admit(client, keys, head("4"), may_create=False)[0] == b"draining"
        rescue(client, keys, A)
        assert client.llen(QUEUE) == 1

    def test_a_pool_fills_up_and_then_shares(self, client: Client, keys: Keys) -> None:
        """First a session each, then the one with the fewest calls; what ends makes room there."""
        live(client, keys, A)
        pool = [head(str(n), session="*", pool_size=2) for n in range(4)]
        put(client, *pool)
        taken = fetch(client, keys, A)[1]
        assert [verdict for _, _, verdict, _ in taken] == [b"claimed", b"claimed", b"held", b"held"]
        assert client.hgetall(keys.session_calls(TOOL)) == {b"*0": b"2", b"*1": b"2"}
        second = _head(client.hget(keys.unacked(A), "2") or b"")
        finish(client, keys, A, "2", second)
        put(client, head("5", session="*", pool_size=2))
        fetch(client, keys, A, tag=10)
        assert _head(client.hget(keys.unacked(A), "10") or b"").session == second.session


class TestLedger:
    """fetch and finish: begun once, ended once."""

    def test_an_id_is_begun_once(self, client: Client, keys: Keys) -> None:
        """While it is held, when it has its end, and when it was begun before Redis forgot."""
        live(client, keys, A)
        put(client, head("1"), head("1"))
        _, taken, dropped = fetch(client, keys, A)
        assert ([name for _, name, _, _ in taken], dropped) == (["1"], [b"1"])
        finish(client, keys, A, "1", head("1"))
        put(client, head("1"))
        client.set(keys.began(InvocationId("2")), "x", ex=60)
        put(client, head("2"))
        assert fetch(client, keys, A, tag=5)[1:] == ([], [b"1", b"2"])
        require_nothing_left(client, keys)

    def test_an_end_is_written_once(self, client: Client, keys: Keys) -> None:
        """Sent twice, since the first answer was lost, it changes nothing; everything held is given back."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert client.hgetall(keys.in_flight(QUEUE)) == {A.encode(): b"1"}
        assert finish(client, keys, A, "1", head("1"), "first") == [[], []]
        assert finish(client, keys, A, "1", head("1"), "second") == [[1], []]
        assert client.get(keys.result(InvocationId("1"))) == b"first"
        assert client.hgetall(keys.in_flight(QUEUE)) == {}

    def test_the_late_answer_of_a_dead_node_is_refused(self, client: Client, keys: Keys) -> None:
        """The rescue has answered; nothing of the late one is to be seen."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        die(client, keys, A)
        assert rescue(client, keys, A)[:3] == [1, 0, 1]
        assert finish(client, keys, A, "1", head("1"), "late") == [[1], []]
        assert b"WORKER_LOST" in (client.get(keys.result(InvocationId("1"))) or b"")

    def test_an_answer_that_redis_forgot_to_expect_is_taken(self, client: Client, keys: Keys) -> None:
        """It came back empty: no record, no tombstone, no result. A second one is refused."""
        assert finish(client, keys, A, "1", head("1"), "first") == [[], []]
        assert finish(client, keys, A, "1", head("1"), "second") == [[1], []]

    def test_what_is_beyond_max_in_flight_stays_until_a_place_is_given_back(
        self, client: Client, keys: Keys
    ) -> None:
        """Over all nodes; whoever gives it back calls out."""
        live(client, keys, A, B)
        put(client, *(head(str(n), session=f"t:c{n}") for n in range(5)))
        assert len(fetch(client, keys, A, cap=2, most=1)[1]) == 1
        assert len(fetch(client, keys, B, cap=2)[1]) == 1
        assert (fetch(client, keys, A, cap=2, tag=5)[1], client.llen(QUEUE)) == ([], 3)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.wake_channel)
            channel.get_message(timeout=1)
            finish(client, keys, A, "1", head("0", session="t:c0"))
            heard = channel.get_message(timeout=2)
        assert heard is not None
        assert heard["data"] == QUEUE.encode()
        assert len(fetch(client, keys, A, cap=2, tag=6)[1]) == 1

    @pytest.mark.parametrize("why", ["lease", "tombstone", "unlisted"])
    def test_a_node_that_may_not_act_takes_nothing(self, client: Client, keys: Keys, why: str) -> None:
        """Its lease ended, it was declared dead, or it was never listed."""
        if why != "unlisted":
            live(client, keys, A, lease=0 if why == "lease" else 60_000)
        if why == "tombstone":
            client.set(keys.fenced(A), 1, ex=60)
        put(client, head("1"))
        assert fetch(client, keys, A) == (b"lapsed", [], [])
        assert client.llen(QUEUE) == 1

    @pytest.mark.parametrize("call", ['q"uote', "per%cent", "b|ar", "ümlaut", "sp ace", "a:b"])
    def test_any_id_is_a_good_one(self, client: Client, keys: Keys, call: str) -> None:
        """Begun, ended and lost under its own name."""
        live(client, keys, A)
        put(client, head(call))
        fetch(client, keys, A)
        assert client.hkeys(keys.calls) == [call.encode()]
        die(client, keys, A)
        rescue(client, keys, A)
        record = orjson.loads(client.get(keys.result(InvocationId(call))) or b"")
        assert record["task_id"] == call


class TestRescue:
    """node_rescue, call_return, direct_return: no call of a dead node is lost, none runs twice without leave."""

    def test_each_call_of_a_dead_node_goes_its_way(self, client: Client, keys: Keys) -> None:
        """Sent without leave: lost. Unsent, or with leave: back, in the old order, at its next attempt."""
        live(client, keys, A)
        heads = [
            head("sent"),
            head("unsent"),
            head("safe", leave=Retry.SAFE),
            head("never", leave=Retry.NEVER),
        ]
        put(client, *heads)
        fetch(client, keys, A)
        client.hset(keys.unsent(A), mapping={"2": 1, "1": 0})
        die(client, keys, A)
        assert rescue(client, keys, A) == [1, 2, 2, 1, []]
        waiting = [_head(message) for message in reversed(client.lrange(QUEUE, 0, -1))]
        assert [(one.id, one.attempt) for one in waiting] == [("unsent", 1), ("safe", 1)]
        for name in ("sent", "never"):
            record = orjson.loads(client.get(keys.result(InvocationId(name))) or b"")
            lost = result_from_wire(wire_of_record(record))
            assert lost.failure is not None
            assert lost.failure.code.value == "WORKER_LOST"
        assert client.zscore(keys.nodes, A) is None
        require_nothing_left(client, keys, A)

    def test_the_waiting_process_hears_of_it(self, client: Client, keys: Keys) -> None:
        """On its reply channel, as of any other end."""
        live(client, keys, A)
        put(client, head("1", reply="test:reply:x"))
        fetch(client, keys, A)
        die(client, keys, A)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("test:reply:x")
            channel.get_message(timeout=1)
            rescue(client, keys, A)
            heard = channel.get_message(timeout=2)
        assert heard is not None
        name, _, frame = heard["data"].partition(b" ")
        assert (name, orjson.loads(frame)["result"]["error"]["code"]) == (b"1", "WORKER_LOST")

    def test_in_steps_that_another_may_go_on_with(self, client: Client, keys: Keys) -> None:
        """250 calls, direct ones among them, in steps of 100: the node stays listed until the last is done."""
        live(client, keys, A)
        put(client, *(head(f"h{n}", session=f"t:c{n}") for n in range(125)))
        fetch(client, keys, A, most=200)
        for n in range(125):
            assert admit(client, keys, head(f"d{n}", session=f"t:c{n}"))[0] == b"admitted"
        die(client, keys, A)
        steps = []
        while not steps or not steps[-1][0]:
            assert client.zscore(keys.nodes, A) == 0
            steps.append(rescue(client, keys, A))
            assert sum(steps[-1][1:4]) <= 100
        assert [sum(column) for column in zip(*(step[1:4] for step in steps), strict=True)] == [125, 125, 125]
        ids = [_head(message).id for message in reversed(client.lrange(QUEUE, 0, -1))]
        assert ids == [f"d{n}" for n in range(125)]
        require_nothing_left(client, keys, A)

    def test_a_call_that_kills_workers_is_answered_in_the_end(self, client: Client, keys: Keys) -> None:
        """It has leave for a few attempts, not for ever."""
        put(client, head("1", leave=Retry.SAFE))
        outcomes = []
        for number in range(4):
            node = NodeId(f"n{number}")
            live(client, keys, node)
            if not fetch(client, keys, node)[1]:
                break
            die(client, keys, node)
            outcomes.append(rescue(client, keys, node)[1:3])
        assert outcomes == [[1, 0], [1, 0], [1, 0], [0, 1]]

    def test_permits_of_a_half_open_circuit_come_back(self, client: Client, keys: Keys) -> None:
        """Their holder died with its node."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        client.zadd(keys.circuit_permits(TOOL), {"1": 9e12})
        die(client, keys, A)
        rescue(client, keys, A)
        assert client.zcard(keys.circuit_permits(TOOL)) == 0

    def test_what_has_no_head_is_handed_to_the_sweeper(self, client: Client, keys: Keys) -> None:
        """It stays recorded, and the node listed, until that is done."""
        live(client, keys, A)
        client.lpush(QUEUE, "stock")
        fetch_headless = run(
            client,
            "fetch",
            [keys.unacked(A), QUEUE],
            [5, 1, UNACKED_TTL, 1000, 10, keys.begin, A, QUEUE, 0],
        )
        assert fetch_headless[1][3] == b"headless"
        die(client, keys, A)
        assert rescue(client, keys, A) == [0, 0, 0, 0, [b"1", b"stock"]]
        client.hdel(keys.unacked(A), "1")
        assert rescue(client, keys, A)[0] == 1

    def test_the_living_are_not_touched(self, client: Client, keys: Keys) -> None:
        """Without a tombstone nothing is worked off."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert rescue(client, keys, A) == [0, 0, 0, 0, []]
        assert client.hlen(keys.unacked(A)) == 1
        assert run(client, "node_fence", *fence_script(keys, A, LEASE_ENDED, actor="t")) == 0

    def test_a_call_goes_back_by_itself(self, client: Client, keys: Keys) -> None:
        """In front, with nothing held any more; once."""
        live(client, keys, A)
        put(client, head("1"), head("2"))
        fetch(client, keys, A, most=1)
        args = [keys.begin, A, "1"]
        assert [run(client, "call_return", [keys.unacked(A)], args) for _ in range(2)] == [1, 0]
        assert [_head(message).id for message in reversed(client.lrange(QUEUE, 0, -1))] == ["1", "2"]
        require_nothing_left(client, keys)

    def test_a_direct_list_goes_back_in_its_order(self, client: Client, keys: Keys) -> None:
        """In front of what waits in the queue."""
        live(client, keys, A)
        put(client, head("0"))
        fetch(client, keys, A)
        for name in ("1", "2", "3"):
            admit(client, keys, head(name))
        put(client, head("4", session="t:d"))
        args = [keys.begin, A, QUEUE, 100]
        assert run(client, "direct_return", [keys.direct(A, QUEUE)], args) == 3
        assert [_head(message).id for message in reversed(client.lrange(QUEUE, 0, -1))] == [
            "1",
            "2",
            "3",
            "4",
        ]
        assert client.hgetall(keys.direct_waiting) == {}


def used(client: Client) -> int:
    """Bytes that Redis holds for its data."""
    return int(client.info("memory")["used_memory_dataset"])


def test_ten_thousand_idle_sessions_are_small_and_freed_in_short_steps(client: Client, keys: Keys) -> None:
    """At most 2 KiB each; a step of their rescue blocks Redis for at most 5 ms (the mean: single ones are noise)."""
    live(client, keys, A)
    before = used(client)
    tenants: Sequence[str] = [f"tenant-{n % 50}" for n in range(10_000)]
    for start in range(0, 10_000, 500):
        named = [
            head(f"i{n}", session=f"{tenants[n]}:client-with-a-long-name-{n}")
            for n in range(start, start + 500)
        ]
        put(client, *named)
        taken = fetch(client, keys, A, most=500, tag=start + 1)[1]
        for (tag, _, _, _), one in zip(taken, named, strict=True):
            finish(client, keys, A, tag, one)
    for key in client.scan_iter("celery-task-meta-*", count=5000):
        client.delete(key)
    assert client.hlen(keys.sessions(TOOL)) == 10_000
    assert (used(client) - before) / 10_000 <= 2048
    die(client, keys, A)
    client.config_resetstat()
    steps = 0
    while not rescue(client, keys, A)[0]:
        steps += 1
    stats = client.info("commandstats")["cmdstat_evalsha"]
    assert steps >= 100
    assert float(stats["usec_per_call"]) <= 5000
    assert client.exists(keys.sessions(TOOL)) == 0
