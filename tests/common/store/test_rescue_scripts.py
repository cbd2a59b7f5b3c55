"""node_rescue: no call of a dead node is lost, none runs twice without leave, and nothing goes on counting it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from celery.result import AsyncResult

from common.calls.contract import wire_of_record
from common.calls.replies import ReplyHub
from common.domain.errors import ErrorCode
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import ExecutionResult, result_from_wire
from common.domain.rules import Retry
from common.store.client import Client, StoreAddress
from common.store.keys import UNSENT_TTL, Keys
from common.store.scripts import run
from common.store.shared import SharedConnection
from gateway_worker.sweep import LEASE_ENDED, MOST_ATTEMPTS, fence_script
from tests.common.store.delivery import (
    TOOL,
    A,
    B,
    admit,
    die,
    fetch,
    fetch_raw,
    finish_all,
    ids,
    live,
    put,
    recorded,
    require_nothing_left,
    rescue,
    rescue_all,
    result,
    send_all,
    under_way,
    waiting,
)
from tests.support.messages import QUEUE, head
from tests.support.stock_celery import make_app

ODD = [
    "plain",
    'q"uote',
    "per%cent",
    "b|ar",
    "ümlaut語",
    "a:b",
    "st*r",
    "back\\slash",
    "new\nline",
    "%41",
    "/",
]


@pytest.fixture
def hub(address: StoreAddress, client: Client, keys: Keys) -> Iterator[ReplyHub]:
    """A web process that listens."""
    connection = SharedConnection(address)
    listening = ReplyHub(connection, keys)
    listening.start()
    assert listening.wait_listening(5)
    yield listening
    listening.close()
    connection.close()


class TestEachCall:
    """What becomes of one."""

    def test_each_goes_its_way(self, client: Client, keys: Keys) -> None:
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
        assert [(one.id, one.attempt) for one in waiting(client)] == [("unsent", 1), ("safe", 1)]
        for name in ("sent", "never"):
            lost = result_from_wire(wire_of_record(orjson.loads(result(client, keys, name))))
            assert lost.failure is not None
            assert lost.failure.code is ErrorCode.WORKER_LOST
        require_nothing_left(client, keys, A)

    def test_one_that_was_claimed_with_its_session_counts_as_unsent(self, client: Client, keys: Keys) -> None:
        """Its backend has still to start: the node may die before it can say anything. One that is held is lost."""
        live(client, keys, A)
        put(client, head("claimed", session="t:new"), head("held", session="t:new"))
        fetch(client, keys, A)
        assert 0 < client.ttl(keys.unsent(A)) <= UNSENT_TTL
        die(client, keys, A)
        assert rescue(client, keys, A) == [1, 1, 1, 1, []]
        assert ids(waiting(client)) == ["claimed"]
        require_nothing_left(client, keys, A)

    def test_a_waiting_process_reads_its_frame(self, client: Client, keys: Keys, hub: ReplyHub) -> None:
        """With the decoder it has for all ends, whatever the id."""
        waiters = [hub.expect(InvocationId(call)) for call in ODD]
        live(client, keys, A)
        put(client, *(head(call, reply=hub.channel) for call in ODD))
        fetch(client, keys, A)
        send_all(client, keys, A)
        die(client, keys, A)
        rescue(client, keys, A)
        for waiter in waiters:
            heard = waiter.get(5)
            assert isinstance(heard, ExecutionResult), waiter.id
            assert heard.failure is not None
            assert heard.failure.code is ErrorCode.WORKER_LOST
        require_nothing_left(client, keys, A)

    def test_a_stock_client_reads_its_record(self, client: Client, keys: Keys, redis_url: str) -> None:
        """As that of any task that failed: state, exception, and its own id in it."""
        live(client, keys, A)
        put(client, *map(head, ODD))
        fetch(client, keys, A)
        send_all(client, keys, A)
        die(client, keys, A)
        rescue(client, keys, A)
        app = make_app(redis_url.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host="))
        for call in ODD:
            assert orjson.loads(result(client, keys, call))["task_id"] == call
            found: Any = AsyncResult(call, app=app)
            assert (found.state, type(found.result).__name__) == ("FAILURE", "WorkerLost")
            assert "whether the tool acted is unknown" in str(found.result)
        app.close()

    def test_who_waits_on_the_result_s_channel_is_told_there(self, client: Client, keys: Keys) -> None:
        """The record itself, as Celery's backend publishes it."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        send_all(client, keys, A)
        die(client, keys, A)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.result(InvocationId("1")))
            channel.get_message(timeout=1)
            rescue(client, keys, A)
            heard = channel.get_message(timeout=2)
        assert heard is not None
        assert heard["data"] == result(client, keys, "1")

    def test_attempts_are_bounded(self, client: Client, keys: Keys) -> None:
        """A call with leave may be what kills the workers: it is answered in the end, unsent or not."""
        put(client, head("1", leave=Retry.SAFE), head("2"))
        outcomes = []
        for number in range(MOST_ATTEMPTS + 1):
            node = NodeId(f"n{number}")
            live(client, keys, node)
            assert len(fetch(client, keys, node)[1]) == 2
            for tag in client.hkeys(keys.unacked(node)):
                client.hset(keys.unsent(node), tag, int(recorded(client, keys, node, tag.decode()).id == "2"))
            die(client, keys, node)
            outcomes.append(rescue(client, keys, node, attempts=MOST_ATTEMPTS)[1:3])
        assert outcomes == [[2, 0]] * MOST_ATTEMPTS + [[0, 2]]

    def test_what_goes_back_may_be_begun_again(self, client: Client, keys: Keys) -> None:
        """Also if its dead node had declared that it was begun."""
        live(client, keys, A, B)
        put(client, head("1", leave=Retry.SAFE))
        fetch(client, keys, A)
        client.set(keys.began(InvocationId("1")), A, ex=60)
        die(client, keys, A)
        rescue(client, keys, A)
        assert [name for _, name, _, _ in fetch(client, keys, B)[1]] == ["1"]

    def test_permits_of_a_half_open_circuit_come_back(self, client: Client, keys: Keys) -> None:
        """Their holder died with its node; others keep theirs."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        send_all(client, keys, A)
        client.zadd(keys.circuit_permits(TOOL), {"1": 9e12, "2": 9e12})
        die(client, keys, A)
        rescue(client, keys, A)
        assert client.zrange(keys.circuit_permits(TOOL), 0, -1) == [b"2"]

    def test_one_that_has_its_end_gets_no_other(self, client: Client, keys: Keys) -> None:
        """Redis was restarted and has the record again; another node ended the call meanwhile."""
        live(client, keys, A)
        put(client, head("1"), head("2", leave=Retry.SAFE, session="t:d"))
        fetch(client, keys, A)
        for call in ("1", "2"):
            client.set(keys.result(InvocationId(call)), "the end", ex=60)
        die(client, keys, A)
        rescue_all(client, keys, A)
        assert [result(client, keys, call) for call in ("1", "2")] == [b"the end"] * 2
        assert client.llen(QUEUE) == 0
        require_nothing_left(client, keys, A)

    def test_a_place_in_flight_is_called_out(self, client: Client, keys: Keys) -> None:
        """What was held back comes up with somebody else."""
        live(client, keys, A, B)
        put(client, head("1"), head("2", session="t:d"))
        fetch(client, keys, A, most=1, cap=1)
        send_all(client, keys, A)
        assert fetch(client, keys, B, cap=1)[1] == []
        die(client, keys, A)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.wake_channel)
            channel.get_message(timeout=1)
            rescue(client, keys, A)
            heard = channel.get_message(timeout=2)
        assert heard is not None
        assert heard["data"] == QUEUE.encode()
        assert [name for _, name, _, _ in fetch(client, keys, B, cap=1)[1]] == ["2"]

    def test_the_lost_are_audited(self, client: Client, keys: Keys) -> None:
        """The node once, each call that was answered."""
        live(client, keys, A)
        put(client, head("1"), head("2", leave=Retry.SAFE))
        fetch(client, keys, A)
        send_all(client, keys, A)
        die(client, keys, A)
        rescue(client, keys, A)
        found = [(fields[b"kind"], fields.get(b"detail")) for _, fields in client.xrange(keys.audit)]
        assert found == [(b"node_lost", None), (b"invocation_lost", b"1")]


class TestSteps:
    """In steps that anybody may go on with."""

    def test_the_node_stays_listed_until_the_last(self, client: Client, keys: Keys) -> None:
        """250 calls and sessions in steps of 100, direct ones among them."""
        live(client, keys, A)
        put(client, *(head(f"h{n}", session=f"t:c{n}") for n in range(125)))
        fetch(client, keys, A, most=200)
        send_all(client, keys, A)
        for n in range(125):
            assert admit(client, keys, head(f"d{n}", session=f"t:c{n}"))[0] == b"admitted"
        die(client, keys, A)
        steps = rescue_all(client, keys, A)
        assert [sum(column) for column in zip(*(step[1:4] for step in steps), strict=True)] == [125, 125, 125]
        assert ids(waiting(client)) == [f"d{n}" for n in range(125)]
        require_nothing_left(client, keys, A)

    @pytest.mark.parametrize("step", [1, 7, 100])
    def test_all_goes_back_in_its_old_order(self, client: Client, keys: Keys, step: int) -> None:
        """What was held before what waited for the node, and that before what waits for anybody."""
        live(client, keys, A)
        put(client, *(head(f"h{n}", session="t:c", leave=Retry.SAFE) for n in range(120)))
        fetch(client, keys, A, most=120, tag=95)
        for n in range(30):
            admit(client, keys, head(f"d{n}"))
        put(client, head("last", session="t:other"))
        die(client, keys, A)
        rescue_all(client, keys, A, step)
        order = [*(f"h{n}" for n in range(120)), *(f"d{n}" for n in range(30)), "last"]
        assert ids(waiting(client)) == order
        assert client.zscore(keys.nodes, A) is None

    def test_a_sweeper_that_dies_half_way_leaves_the_rest(self, client: Client, keys: Keys) -> None:
        """Another goes on; both at once do nothing twice."""
        live(client, keys, A)
        put(client, *(head(f"{n}", session=f"t:{n}", leave=Retry.SAFE) for n in range(60)))
        fetch(client, keys, A, most=60)
        die(client, keys, A)
        assert rescue(client, keys, A, 10) == [0, 10, 0, 0, []]
        assert under_way(client, keys) == {A: 50}
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: rescue(client, keys, A, 10), range(20)))
        assert sum(step[1] for step in found) == 50
        assert sum(step[3] for step in found) == 60
        assert sorted(map(int, ids(waiting(client)))) == list(range(60))
        require_nothing_left(client, keys, A)

    def test_several_queues_are_worked_off(self, client: Client, keys: Keys) -> None:
        """Each call goes back to its own tool's."""
        live(client, keys, A)
        for queue in ("tool.a", "tool.b%2F"):
            put(client, head(f"0{queue}", queue=queue, leave=Retry.SAFE))
            fetch(client, keys, A, queue=queue, tag=1 if queue == QUEUE else 2)
            admit(client, keys, head(f"1{queue}", queue=queue))
        die(client, keys, A)
        rescue_all(client, keys, A, 1)
        for queue in ("tool.a", "tool.b%2F"):
            assert ids(waiting(client, queue)) == [f"0{queue}", f"1{queue}"]
            require_nothing_left(client, keys, A, queue=queue)

    def test_what_has_no_head_is_handed_to_the_sweeper(self, client: Client, keys: Keys) -> None:
        """It stays recorded, and the node listed, until that is done; the others do not wait for it."""
        live(client, keys, A)
        put(client, head("1", leave=Retry.SAFE), head("2"))
        client.lpush(QUEUE, *(f"stock{n}" for n in range(30)))
        fetch_raw(client, keys, A)
        die(client, keys, A)
        done, returned, lost, _, headless = rescue(client, keys, A, 10)
        assert (done, returned, lost) == (0, 1, 1)
        assert 0 < len(headless) // 2 <= 10
        while found := rescue(client, keys, A, 10)[4]:
            assert all(client.hget(keys.unacked(A), tag) for tag in found[::2])
            client.hdel(keys.unacked(A), *found[::2])
        assert client.zscore(keys.nodes, A) is None

    def test_the_living_are_not_touched(self, client: Client, keys: Keys) -> None:
        """Without a tombstone nothing is worked off."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert rescue(client, keys, A) == [0, 0, 0, 0, []]
        assert client.hlen(keys.unacked(A)) == 1
        assert run(client, "node_fence", *fence_script(keys, A, LEASE_ENDED, actor="t")) == 0


def busy(client: Client) -> float:
    """Milliseconds of processor time that Redis has used."""
    info = client.info("cpu")
    return (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])) * 1000


def rescue_measured(client: Client, keys: Keys, node: NodeId) -> list[float]:
    """All steps of a rescue: what each cost Redis in ms of processor time."""
    times, done = [], 0
    while not done:
        before = busy(client)
        done = rescue(client, keys, node)[0]
        times.append(busy(client) - before)
    return times


def used(client: Client) -> int:
    """Bytes that Redis holds for its data."""
    return int(client.info("memory")["used_memory"])


def test_ten_thousand_idle_sessions_are_small_and_freed_in_short_steps(client: Client, keys: Keys) -> None:
    """At most 2 KiB each; a step of their rescue keeps Redis for at most 5 ms (the median)."""
    live(client, keys, A)
    before = used(client)
    for start in range(0, 10_000, 500):
        named = [
            head(f"i{n}", session=f"tenant-{n % 50}:client-with-a-long-name-{n}")
            for n in range(start, start + 500)
        ]
        with client.pipeline(transaction=False) as pipe:
            put(pipe, *named)
            pipe.execute()
        taken = fetch(client, keys, A, most=500, tag=start + 1)[1]
        ends = [(tag, one, "r") for (tag, _, _, _), one in zip(taken, named, strict=True)]
        finish_all(client, keys, A, ends)
        client.delete(*(keys.result(one.id) for one in named))
    assert client.hlen(keys.sessions(TOOL)) == 10_000
    assert (used(client) - before) / 10_000 <= 2048
    die(client, keys, A)
    times = rescue_measured(client, keys, A)
    assert len(times) >= 100
    assert statistics.median(times) <= 5
    assert client.exists(keys.sessions(TOOL)) == 0
    require_nothing_left(client, keys, A)
