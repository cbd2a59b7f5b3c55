"""Calls, queues, workers and sessions as they stand in Redis: what operators are shown of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import orjson
import pytest
from redis import Redis

from common.audit.journal import Journal
from common.control.calls import MOST, STEP, CallState, LiveCalls
from common.control.cluster import queues, workers
from common.control.sessions import LiveSessions, SessionFacts, facts_to_json
from common.domain.errors import InvocationNotFound, SessionNotFound
from common.domain.ids import InvocationId, NodeId, ToolId
from common.store.keys import Keys
from tests.support.messages import head, stamped
from tests.support.redis import RedisServer

KEYS = Keys("live")
NODE = NodeId("worker1@host:ab12")
TOOL, QUEUE = ToolId("a"), "tool.a"


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """With one node that lives."""
    with redis_server.client(3) as client:
        client.flushdb()
        client.zadd(KEYS.nodes, {NODE: now(client) + 5000})
        yield client


def now(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def message(
    redis: Redis, call: str, *, method: str = "tools/call", age: int = 2000, **parts: object
) -> bytes:
    """A message as it lies there, with an argument that nobody may see."""
    payload = {"id": call, "method": method, "params": {"arguments": {"secret": "sesame"}}}
    body = orjson.dumps([[payload], {}, {}]).decode()
    return stamped(head(call, **parts), at=now(redis) - age, body=body)


def test_waiting_and_running_calls_are_told_apart(redis: Redis) -> None:
    """By where they are, the oldest first."""
    redis.lpush(QUEUE, message(redis, "queued", age=3000))
    redis.lpush(KEYS.direct(NODE, QUEUE), message(redis, "direct", age=2000))
    redis.hset(KEYS.unacked(NODE), "7", message(redis, "held", age=1000))
    found = LiveCalls(redis, KEYS).of_tool(TOOL)
    assert [(call.id, call.state, call.node) for call in found] == [
        ("queued", CallState.WAITING, ""),
        ("direct", CallState.WAITING, NODE),
        ("held", CallState.RUNNING, NODE),
    ]
    assert [(call.tenant, call.client, call.method) for call in found] == [("t", "c", "tools/call")] * 3
    assert 2.9 < found[0].age < 10
    assert found[0].left > 0
    assert "sesame" not in repr(found)


def test_other_tools_and_strange_messages_are_left_out(redis: Redis) -> None:
    """A node holds calls of all tools; a stock producer's messages have no head."""
    redis.hset(
        KEYS.unacked(NODE),
        mapping={
            "1": message(redis, "mine"),
            "2": message(redis, "other", queue="tool.b"),
            "3": b'{"body": "x"}',
        },
    )
    redis.lpush(QUEUE, b"\xff\x00", b'{"enqueued_at":1,"circuit":0,"canalgate":"99|x"}')
    assert [call.id for call in LiveCalls(redis, KEYS).of_tool(TOOL)] == ["mine"]


def test_a_key_of_another_type_hides_nothing(redis: Redis) -> None:
    """Somebody else's key in the queue's place."""
    redis.set(QUEUE, "no list")
    redis.hset(KEYS.unacked(NODE), "1", message(redis, "mine"))
    assert [call.id for call in LiveCalls(redis, KEYS).of_tool(TOOL)] == ["mine"]


def test_a_long_queue_is_read_whole_and_in_order(redis: Redis) -> None:
    """In steps; none is told twice."""
    count = 2 * STEP + 7
    assert count < MOST
    for number in range(count):
        redis.lpush(QUEUE, message(redis, f"c{number:04}", age=10_000 - number))
    found = [call.id for call in LiveCalls(redis, KEYS).of_tool(TOOL)]
    assert found == sorted(found)
    assert len(found) == count


def test_a_call_is_cancelled_once_it_is_found(redis: Redis) -> None:
    """The workers are told, and the journal is, with the actor."""
    redis.lpush(QUEUE, message(redis, "wanted"))
    calls = LiveCalls(redis, KEYS)
    with redis.pubsub() as heard:
        heard.subscribe(KEYS.cancel_channel)
        heard.get_message(timeout=5)
        assert calls.cancel(InvocationId("wanted"), tools=[TOOL], actor="admin:me").tool == TOOL
        told = heard.get_message(timeout=5)
    assert told is not None
    assert told["data"] == b"wanted"
    event = Journal(redis, KEYS).newest(1)[0].fields
    assert (event["kind"], event["actor"], event["detail"]) == ("invocation_cancelled", "admin:me", "wanted")
    with pytest.raises(InvocationNotFound):
        calls.cancel(InvocationId("unknown"), tools=[TOOL], actor="admin:me")


def test_queues_and_workers_are_counted(redis: Redis) -> None:
    """All at one moment."""
    redis.lpush(QUEUE, message(redis, "q", age=4000))
    redis.lpush(KEYS.direct(NODE, QUEUE), message(redis, "d", age=6000))
    redis.hset(KEYS.calls(QUEUE), "r", f"{NODE} 1")
    redis.hset(KEYS.unacked(NODE), "1", message(redis, "r"))
    redis.sadd(KEYS.node_sessions(NODE), "a|t:c")
    (queue,) = queues(redis, KEYS, [TOOL])
    assert (queue.waiting, queue.waiting_direct, queue.in_flight) == (1, 1, 1)
    assert queue.age is not None
    assert 5.9 < queue.age < 15
    (worker,) = workers(redis, KEYS)
    assert (worker.node, worker.host, worker.sessions, worker.calls) == (NODE, "host", 1, 1)
    assert 0 < worker.lease <= 5


def test_an_empty_queue_has_no_age(redis: Redis) -> None:
    """And an unknown tool an empty queue."""
    assert queues(redis, KEYS, [ToolId("none")])[0].age is None


def test_a_session_is_shown_with_what_its_worker_told(redis: Redis) -> None:
    """As long as the claim is the one that the worker told of."""
    redis.hset(KEYS.sessions(TOOL), "t:c", f"{NODE} 41 {now(redis)}")
    facts = SessionFacts(tool="a", session="t:c", fence=41, in_flight=2, age=3, idle=0, version="x", pid=99)
    redis.set(KEYS.session_facts(NODE), orjson.dumps([{**facts_to_json(facts), "newer": 1}]), px=60_000)
    (found,) = LiveSessions(redis, KEYS).of_tools([TOOL])
    assert found.facts == facts
    redis.hset(KEYS.sessions(TOOL), "t:c", f"{NODE} 42 {now(redis)}")
    (found,) = LiveSessions(redis, KEYS).of_tools([TOOL])
    assert found.facts is None


def test_closing_tells_whether_it_is_closed_already(redis: Redis) -> None:
    """Once the claim is gone, or another's."""
    live = LiveSessions(redis, KEYS)
    redis.hset(KEYS.sessions(TOOL), "t:c", f"{NODE} 41 {now(redis)}")
    assert not live.close(TOOL, "t:c", actor="admin:me", timeout=0.1)
    with redis.pubsub() as heard:
        heard.subscribe(KEYS.close_session_channel)
        heard.get_message(timeout=5)

        def worker() -> None:
            assert heard.get_message(timeout=5)
            redis.hdel(KEYS.sessions(TOOL), "t:c")

        thread = threading.Thread(target=worker)
        thread.start()
        assert live.close(TOOL, "t:c", actor="admin:me", timeout=10)
        thread.join()
    with pytest.raises(SessionNotFound):
        live.close(TOOL, "t:c", actor="admin:me")
