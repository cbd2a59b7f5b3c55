"""The engine as a whole, on real Redis and real children: every message of a tool queue ends in exactly one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from common.domain.errors import ErrorCode
from common.domain.ids import ToolId
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.support.backends import (
    EchoLog,
    invocation,
    stdio_tool,
    text_of,
)
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench, running

pytestmark = pytest.mark.usefixtures("the_engine_never_breaks")


def texts(log: EchoLog) -> list[str]:
    """The texts that the tool was asked to echo."""
    return [m["params"]["arguments"].get("text") for m in log.received("tools/call")]


# -- a call ---------------------------------------------------------------------------------------------


def test_a_call_from_queue_to_answer(bench: Bench) -> None:
    """Frames in order on the reply channel, the result kept for a while, nothing left recorded."""
    call = bench.send(invocation("progress", {"steps": 3}, meta={"progressToken": "t"}))
    assert bench.ended(call) == "did 3 steps"
    frames = bench.frames()
    assert [name for name, _ in frames] == [call.id] * 4
    assert [frame["notification"]["params"]["progress"] for _, frame in frames[:-1]] == [1, 2, 3]
    assert text_of(frames[-1][1]["result"]["result"]) == "did 3 steps"
    assert 0 < bench.raw.ttl(bench.keys.result(call.id)) <= 300
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgement")
    assert bench.host.began_ids == bench.host.ended_ids == [call.id]


def test_a_stock_producers_call(bench: Bench) -> None:
    """No reply channel: the record is published on its own key, and nothing breaks for the lack of a listener."""
    call = invocation("progress", {"steps": 2}, meta={"progressToken": "t"})
    message = bench.stock_message(call)
    del message["properties"]["reply_to"]
    with bench.raw.pubsub() as heard:
        heard.subscribe(bench.keys.result(call.id))
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        bench.push(orjson.dumps(message))
        published = heard.get_message(timeout=10.0)
    assert orjson.loads(published["data"])["status"] == "SUCCESS"
    assert bench.ended(call) == "did 2 steps"


def test_no_more_calls_at_once_than_allowed(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress
) -> None:
    """The rest waits in the queue, where it can be seen and others can take it."""
    with running(client, keys, raw, address, concurrency=2) as bench:
        bench.register(stdio_tool())
        calls = [bench.send(invocation("sleep", {"seconds": 0.4})) for _ in range(5)]
        wait_until(lambda: bench.engine.in_flight == 2, description="two under way")
        assert raw.llen(QUEUE) == 3
        assert [bench.ended(call) for call in calls] == ["slept 0.4 s"] * 5


# -- messages that are not to be executed ---------------------------------------------------------------


def test_expired_and_revoked_calls_are_answered_and_not_executed(bench: Bench, echo_log: EchoLog) -> None:
    """By the producer's ``expires``, by ``revoke``, by a cancellation that overtook the call, by the deadline."""
    expired = bench.send(invocation("echo", {"text": "expired"}), expires="2020-01-01T00:00:00+00:00")
    revoked = invocation("echo", {"text": "revoked"})
    bench.host.revoked_ids.add(revoked.id)
    bench.send(revoked)
    overtaken = invocation("echo", {"text": "overtaken"})
    bench.raw.publish(bench.keys.cancel_channel, overtaken.id)
    wait_until(lambda: overtaken.id in bench.host.revoked_ids, description="the cancellation")
    bench.send(overtaken)
    late = bench.send(invocation("echo", {"text": "late"}, seconds=-1))
    for call in (expired, revoked, overtaken):
        assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED
    assert bench.ended(late) is ErrorCode.INVOCATION_TIMEOUT
    all_four = {call.id for call in (expired, revoked, overtaken, late)}
    assert {name for name, frame in bench.frames() if "result" in frame} == all_four
    assert bench.works()
    assert texts(echo_log) == ["works"]
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")


POISON: list[bytes] = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b'{"headers": {}, "properties": {}}',
    b'{"headers": [], "properties": []}',
    b'{"headers": {"id": "x"}, "properties": {}}',
    b"[" * 5000,
]


def test_poison_is_acknowledged_and_stops_nobody(bench: Bench) -> None:
    """Nobody can be answered for it; the calls between and behind it are served."""
    calls = []
    for poison in POISON:
        bench.push(poison)
        calls.append(bench.send(invocation("echo", {"text": "served"})))
    assert [bench.ended(call) for call in calls] == ["served"] * len(POISON)
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")


GOOD = {"tenant": "t", "client": "c", "tool": "local", "method": "tools/call"}
WRONG_BODIES = [
    "",
    "5",
    "not JSON",
    "[]",
    "[[], {}, {}]",
    "[[5], {}, {}]",
    "[[{}], {}, {}]",
    "[[1, 2], {}, {}]",
]
WRONG_MEMBERS: list[dict[str, Any]] = [
    {"method": None},
    {"tenant": ""},
    {"tenant": 5},
    {"tool": []},
    {"params": []},
    {"deadline": "soon"},
    {"version": "2031-01-01"},
    {"scopes": 5},
    {"scopes": [[1]]},
]


@pytest.mark.parametrize("made", ["by us", "by a stock producer"])
def test_calls_of_the_wrong_shape_are_answered(made: str, bench: Bench, echo_log: EchoLog) -> None:
    """They have an id, so their producers are told what is wrong; those beside them are served."""
    bodies = [
        *WRONG_BODIES,
        *(orjson.dumps([[{**GOOD, **wrong}], {}, {}]).decode() for wrong in WRONG_MEMBERS),
    ]
    newer = orjson.dumps([[{**GOOD, "v": 99}], {}, {}]).decode()
    sent = {body: invocation("echo") for body in (*bodies, newer)}
    for body, call in sent.items():
        message = bench.message(call) if made == "by us" else bench.stock_message(call)
        bench.push(orjson.dumps({**message, "body": body}))
    codes = {body: bench.ended(call) for body, call in sent.items()}
    assert codes.pop(newer) is ErrorCode.FORMAT_TOO_NEW
    assert {body: code for body, code in codes.items() if code is not ErrorCode.INVALID_REQUEST} == {}
    assert bench.works()
    assert texts(echo_log) == ["works"]


def test_a_second_copy_is_not_executed(bench: Bench, echo_log: EchoLog) -> None:
    """A producer that sent twice because an answer was lost."""
    call = invocation("sleep", {"seconds": 0.3})
    bench.send(call)
    bench.send(call)
    assert bench.ended(call) == "slept 0.3 s"
    wait_until(lambda: bench.unacked() == 0, description="both acknowledged")
    assert len(echo_log.received("tools/call")) == 1


def test_other_tasks_go_celerys_own_way(bench: Bench) -> None:
    """A foreign or delayed task stays recorded until Celery has it."""
    foreign = bench.send(invocation("x"), task="somebody.elses")
    delayed = bench.send(invocation("x"), eta="2099-01-01T00:00:00+00:00")
    wait_until(lambda: len(bench.host.delivered) == 2, description="the hand-over")
    assert bench.unacked() == 2
    for envelope, queue, taken in bench.host.delivered:
        assert envelope["headers"]["id"] in (foreign.id, delayed.id)
        assert queue == QUEUE
        taken()
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgement")


# -- cancellation ---------------------------------------------------------------------------------------


def test_a_call_is_taken_back_while_it_runs(bench: Bench, echo_log: EchoLog) -> None:
    """The backend is told, the caller answered, the slot free."""
    call = bench.send(invocation("cancel_log"))
    wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
    bench.raw.publish(bench.keys.cancel_channel, call.id)
    assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED
    wait_until(lambda: echo_log.received("notifications/cancelled"), description="the cancellation")
    wait_until(lambda: bench.engine.in_flight == 0, description="the free slot")


def test_a_call_cancelled_before_its_first_step(bench: Bench, echo_log: EchoLog) -> None:
    """Its task never ran, so nothing in it could answer: it is answered all the same."""
    first, second = invocation("echo", {"text": "first"}), invocation("echo", {"text": "second"})

    def cancel_the_first(looked_at: str) -> None:
        # Both were fetched together: the first has a task by now, which has not had its first step.
        if looked_at == second.id and (task := bench.engine._calls._running.get(first.id)):
            task.cancel()

    bench.host.on_look = cancel_the_first
    for call in (first, second):
        bench.raw.lpush(QUEUE, orjson.dumps(bench.message(call)))
    bench.raw.publish(bench.keys.wake_channel, QUEUE)
    assert bench.ended(second) == "second"
    assert bench.ended(first) in (ErrorCode.INVOCATION_CANCELLED, "first")
    wait_until(lambda: bench.unacked() == 0, description="both acknowledged")
    wait_until(lambda: bench.engine.in_flight == 0, description="the free slots")


def test_nonsense_on_a_channel_stops_nobody(bench: Bench) -> None:
    """Anybody who can reach Redis can publish anything."""
    for channel in ("cancel", "wake", "registry"):
        for nonsense in (b"", b"\xff\xfe", b"no such id", b"x" * 100_000):
            bench.raw.publish(f"{bench.keys.prefix}:{channel}", nonsense)
    assert bench.works()
    call = bench.send(invocation("cancel_log"))
    wait_until(lambda: bench.engine.in_flight, description="the call under way")
    bench.raw.publish(bench.keys.cancel_channel, call.id)
    assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED


def test_a_session_that_no_call_came_to_use_is_free_again(bench: Bench) -> None:
    """It was claimed as the call was fetched; the call had expired, its deadline had passed, or it was taken back."""
    sessions = bench.keys.sessions(ToolId("local"))
    revoked = invocation("echo", {"text": "x"}, client="revoked")
    bench.host.revoked_ids.add(revoked.id)
    ends = [
        bench.send(invocation("echo", client="expired"), expires="2020-01-01T00:00:00+00:00"),
        bench.send(invocation("echo", client="late", seconds=-1)),
        bench.send(revoked),
    ]
    assert all(isinstance(bench.ended(call), ErrorCode) for call in ends)
    wait_until(lambda: bench.raw.hlen(sessions) == 0, description="the claims to be given back")


# -- Celery's events ------------------------------------------------------------------------------------


@contextmanager
def monitor(bench: Bench) -> Iterator[Callable[[], bytes | None]]:
    """Listens to events as a monitor does; each call waits for one, and gives None if none comes."""
    with bench.raw.pubsub() as listener:
        listener.psubscribe(bench.keys.prefix + "event*")
        assert listener.get_message(timeout=5.0)["type"] == "psubscribe"
        yield lambda: (listener.get_message(timeout=5.0) or {}).get("data")


def happen(bench: Bench, *numbers: int) -> None:
    """Give the host events to publish."""
    topic = bench.keys.prefix + "events"
    bench.host.waiting_events += [("PUBLISH", topic, b"%d" % number) for number in numbers]


def made(bench: Bench) -> list[bytes]:
    """The events that were made to be published."""
    return [command[-1] for command in bench.host.made_events]


def test_events_that_somebody_hears_are_told_in_their_order(bench: Bench) -> None:
    """All of them."""
    with monitor(bench) as heard:
        happen(bench, 1, 2, 3)
        assert [heard() for _ in range(3)] == [b"1", b"2", b"3"]


def test_events_that_nobody_hears_are_not_made(bench: Bench) -> None:
    """But for the first, which tells that nobody does. Whoever comes later is told of what happens then."""
    happen(bench, 1, 2, 3)
    wait_until(lambda: made(bench), description="the first event")
    happen(bench, 4)
    wait_until(lambda: b"4" in made(bench), description="the next ones")
    with monitor(bench) as heard:
        happen(bench, 5, 6)
        found = [heard(), heard()]
        if found[0] == b"4":  # it comes only now
            found = [found[1], heard()]
    assert found == [b"5", b"6"]
    assert made(bench) == [b"1", b"4", b"5", b"6"]


def test_where_redis_does_not_say_who_hears_all_events_are_told(bench: Bench) -> None:
    """Here for it refuses the first."""
    with monitor(bench) as heard:
        bench.host.waiting_events.append(("PUBLISH",))
        happen(bench, 2, 3)
        assert [heard() for _ in range(2)] == [b"2", b"3"]
