"""Messages that get no end here, or that run outside of what Redis counts: nothing is counted when they are over."""

from __future__ import annotations

from typing import Any

import orjson
from redis import Redis

from common.calls.head import MEMBER
from common.domain.errors import ErrorCode
from common.domain.ids import NodeId, ToolId
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.support.backends import EchoLog, invocation, stdio_tool
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench, running

NEVER = "2099-01-01T00:00:00+00:00"


def nothing_counted(bench: Bench) -> bool:
    """Neither a record, nor a place in the ledger, nor one in the counts."""
    counts = (bench.keys.calls(QUEUE), bench.keys.session_calls(stdio_tool().id))
    return bench.unacked() == 0 and not any(bench.raw.hlen(key) for key in counts)


def test_what_is_handed_to_celery_is_counted_no_more(bench: Bench) -> None:
    """A delayed message with a head of ours was counted when it was taken, and its session was claimed."""
    bench.send(invocation("x"), eta=NEVER)
    wait_until(lambda: len(bench.host.delivered) == 1, description="the hand-over")
    assert not nothing_counted(bench)
    bench.host.delivered[0][2]()
    wait_until(lambda: nothing_counted(bench), description="what it held to be given back")
    sessions = bench.keys.sessions(stdio_tool().id)
    wait_until(lambda: bench.raw.hlen(sessions) == 0, description="the session to be free again")


def test_a_head_that_redis_cannot_see_is_none(bench: Bench, client: Client, echo_log: EchoLog) -> None:
    """It stands behind other members: the message is a stock producer's, and runs under the rules of all."""
    call = invocation("echo", {"text": "x"})
    message = bench.message(call)
    moved = {**{name: part for name, part in message.items() if name != MEMBER}, MEMBER: message[MEMBER]}
    bench.push(orjson.dumps(moved))
    assert bench.ended(call) == "x"
    wait_until(lambda: nothing_counted(bench), description="the acknowledgement")
    assert len(echo_log.received("tools/call")) == 1
    again = bench.message(call)
    bench.push(orjson.dumps(again))
    wait_until(
        lambda: client.llen(QUEUE) == 0, description="the second one to be dropped, as the ledger knows it"
    )
    assert bench.works()
    assert len(echo_log.received("tools/call")) == 2


def test_a_second_message_of_a_call_that_runs_holds_nothing(bench: Bench, echo_log: EchoLog) -> None:
    """Redis forgot the first one's entry in the ledger: it goes on, and of the second nothing is left."""
    call = bench.send(invocation("sleep", {"seconds": 1.0}))
    wait_until(lambda: echo_log.received("tools/call"), description="the call to begin")
    bench.raw.delete(bench.keys.calls(QUEUE))
    bench.push(orjson.dumps(bench.message(call)))
    assert bench.result(call.id).failure is None
    wait_until(lambda: nothing_counted(bench), description="what both held to be given back")
    assert len(echo_log.received("tools/call")) == 1


def test_a_stop_sends_back_what_waits_for_its_turn(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> None:
    """Nothing of it was sent: it is the next one in the queue, for others. What is at the backend is lost with it."""
    with running(client, keys, raw, address, drain_timeout=0.1) as bench:
        bench.register(stdio_tool(env=echo_log.env, max_in_flight_per_session=1))
        assert bench.works()
        busy = bench.send(invocation("sleep", {"seconds": 30}))
        wait_until(lambda: len(echo_log.received("tools/call")) == 2, description="the call at the backend")
        waits = bench.send(invocation("echo", {"text": "x"}))
        wait_until(lambda: bench.engine.in_flight == 2, description="the other to wait for its turn")
        bench.engine.stop()
        assert bench.ended(busy) is ErrorCode.WORKER_LOST
        (message,) = client.lrange(QUEUE, 0, -1)
        assert orjson.loads(message)["headers"]["id"] == waits.id
        assert client.hlen(keys.calls(QUEUE)) == 0
        client.delete(QUEUE)


def test_a_claim_of_a_fetch_without_an_answer_is_free_when_its_call_is_none(bench: Bench) -> None:
    """The call has expired, so nobody asks for the session; and a direct list that nobody expects is looked into."""
    keys, node = bench.keys, NodeId(bench.engine.node)
    session, sessions = "acme:lost", keys.sessions(ToolId("local"))
    bench.raw.hset(sessions, session, f"{node} 5 1")
    bench.raw.sadd(keys.node_sessions(node), f"local|{session}")
    expired = invocation("echo")
    message = bench.message(expired, expires="2001-01-01T00:00:00+00:00")
    message[MEMBER] = message[MEMBER].replace("acme:alice", session)
    worker: Any = bench.engine._worker
    worker.fetcher._uncertain.append((node, [999], float("inf")))
    bench.raw.hset(keys.calls(QUEUE), expired.id, f"{node} 999")
    bench.raw.hset(keys.unacked(node), "999", orjson.dumps(message))
    assert bench.ended(expired) is ErrorCode.INVOCATION_CANCELLED
    wait_until(lambda: not bench.raw.hexists(sessions, session), description="the session to be free")
    call = invocation("echo", {"text": "x"})
    bench.raw.lpush(keys.direct(node, "tool.local"), orjson.dumps(bench.message(call)))
    assert bench.ended(call) == "x"
    wait_until(lambda: nothing_counted(bench), description="all to be given back")


def test_what_a_fetch_brings_behind_the_stop_goes_back(bench: Bench) -> None:
    """Nobody waits for it any more: others run it."""
    calls: Any = bench.engine._calls
    calls._loop.call_soon_threadsafe(calls.cut_off)
    call = bench.send(invocation("echo"))
    wait_until(lambda: bench.raw.llen(QUEUE) == 1, description="the call in its queue")
    bench.engine.stop()
    assert bench.raw.llen(QUEUE) == 1
    assert bench.raw.get(bench.keys.result(call.id)) is None
    bench.raw.delete(QUEUE)
