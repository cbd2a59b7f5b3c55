"""Calls whose payloads are sealed: read by whoever has the key, refused in words by whoever has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import notification_payload, result_of_wire, task_message, wire_of_record
from common.calls.dead_letters import DeadLetters
from common.calls.head import session_of
from common.calls.replies import Notification, ReplyHub, frame_from
from common.domain.errors import ErrorCode, PayloadUnreadable, WorkerLost
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, Invocation, answer, failed, result_to_wire, rpc_failure
from common.settings import RedisSettings
from common.store.client import Client, StoreAddress
from common.store.key_ring import keys_of
from common.store.keys import Keys
from common.store.shared import SharedConnection
from tests.support.backends import invocation, stdio_tool, text_of
from tests.support.messages import head
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, REPLY, Bench, running

SECRET = "hunter2-hunter2"
RING: Mapping[str, Any] = {"encryption_keys": ({"id": "k1", "secret": "s" * 32},)}
OTHER: Mapping[str, Any] = {"encryption_keys": ({"id": "k1", "secret": "x" * 32},)}
UNKNOWN: Mapping[str, Any] = {"encryption_keys": ({"id": "k2", "secret": "s" * 32},)}
LENIENT: Mapping[str, Any] = {**RING, "accept_plain": True}


def keys_with(sealing: Mapping[str, Any]) -> Keys:
    """The tests' keys, with these settings."""
    return keys_of(RedisSettings(key_prefix="test", **sealing))


@pytest.fixture
def engine(client: Client, raw: Redis, address: StoreAddress) -> Any:
    """Starts an engine with some settings; its tool is registered so that it can read that."""

    @contextmanager
    def start(sealing: Mapping[str, Any]) -> Iterator[Bench]:
        with running(client, keys_with(sealing), raw, address, sealing=sealing) as bench:
            bench.register(stdio_tool())
            yield bench

    return start


def sent(bench: Bench, call: Invocation, sealing: Mapping[str, Any] = RING) -> None:
    """Queue a call as a web process with these settings does."""
    session = session_of(stdio_tool(), call.caller, None)
    of = head(call.id, deadline=call.deadline, reply=REPLY, session=session, queue=QUEUE)
    message = task_message(call, of, prefix="test", seals=keys_with(sealing).seals)
    bench.push(b'{"enqueued_at":1,"circuit":0,' + message[1:])


def ended(bench: Bench, call: Invocation, sealing: Mapping[str, Any] = RING) -> ExecutionResult:
    """How it ended, as a web process with these settings reads it from its record."""
    key = bench.keys.result(call.id)
    record = wait_until(lambda: bench.raw.get(key), description="the end")
    return result_of_wire(wire_of_record(orjson.loads(record)), call.id, keys_with(sealing))


def code_of(result: ExecutionResult) -> ErrorCode | None:
    """Of its failure."""
    return None if result.failure is None else result.failure.code


def test_a_sealed_call_is_answered_sealed(engine: Any) -> None:
    """Neither its arguments nor its answer can be read in Redis, nor on the reply channel."""
    call = invocation("echo", {"text": SECRET})
    with engine(RING) as bench:
        sent(bench, call)
        assert text_of(ended(bench, call).result) == SECRET
        record = bench.raw.get(bench.keys.result(call.id)) or b""
        frames = bench.frames()
    assert SECRET.encode() not in record
    assert orjson.loads(record)["status"] == "SUCCESS"
    assert frames
    assert SECRET not in str(frames)
    [(_, frame)] = [found for found in frames if "result" in found[1]]
    assert text_of(result_of_wire(frame["result"], call.id, keys_with(RING)).result) == SECRET


@pytest.mark.parametrize("sealing", [{}, OTHER, UNKNOWN], ids=["no key", "another secret", "another id"])
def test_a_worker_without_the_key_says_so(sealing: Mapping[str, Any], engine: Any) -> None:
    """At once, in a failure that the caller can read."""
    call = invocation("echo", {"text": SECRET})
    with engine(sealing) as bench:
        sent(bench, call)
        result = ended(bench, call, sealing)
    assert code_of(result) is ErrorCode.PAYLOAD_UNREADABLE


def test_a_call_of_another_message_is_not_read(engine: Any) -> None:
    """What was sealed for one call cannot be put into another's message."""
    call, thief = invocation("echo", {"text": SECRET}), invocation("echo", {"text": "mine"})
    session = session_of(stdio_tool(), call.caller, None)
    message = {
        one.id: task_message(
            one,
            head(one.id, deadline=one.deadline, reply=REPLY, session=session, queue=QUEUE),
            prefix="test",
            seals=keys_with(RING).seals,
        )
        for one in (call, thief)
    }
    body = orjson.loads(message[call.id])["body"]
    stolen = orjson.dumps({**orjson.loads(message[thief.id]), "body": body})
    with engine(RING) as bench:
        bench.push(b'{"enqueued_at":1,"circuit":0,' + stolen[1:])
        assert code_of(ended(bench, thief)) is ErrorCode.PAYLOAD_UNREADABLE


@pytest.mark.parametrize(("sealing", "runs"), [(RING, False), (LENIENT, True)], ids=["refused", "accepted"])
def test_a_stock_producer_s_call_runs_by_leave(sealing: Mapping[str, Any], runs: bool, engine: Any) -> None:
    """It gets a sealed body with its head, and a sealed answer; without leave, an error that names the setting."""
    call = invocation("echo", {"text": SECRET})
    with engine(sealing) as bench:
        bench.push(orjson.dumps(bench.stock_message(call)))
        result = ended(bench, call, sealing)
        record = bench.raw.get(bench.keys.result(call.id)) or b""
    assert code_of(result) is (None if runs else ErrorCode.PAYLOAD_UNREADABLE)
    assert SECRET.encode() not in record
    if not runs:
        assert result.failure is not None
        assert "redis.accept_plain" in result.failure.message


def test_a_dead_letter_is_sealed(engine: Any, client: Client) -> None:
    """Its sender sealed nothing; whoever has the key reads it as it was."""
    with engine(RING) as bench:
        bench.push(f'{{"not":"celery","x":"{SECRET}"}}')
        letters = DeadLetters(client, keys_with(RING))
        [letter] = wait_until(lambda: letters.newest(5), description="the letter")
        raw = bench.raw.xrange(bench.keys.dead_letters)
    assert SECRET.encode() in letter.message
    assert letter.size == len(letter.message)
    assert SECRET not in str(raw)
    [unread] = DeadLetters(client, keys_with(OTHER)).newest(5)
    assert SECRET.encode() not in unread.message


def test_a_delayed_call_of_a_stock_producer_needs_leave(engine: Any) -> None:
    """When it is due."""
    payload = {"tenant": "t", "client": "c", "tool": "local", "method": "tools/call", "params": {}}
    for sealing, code in ((RING, ErrorCode.PAYLOAD_UNREADABLE), (LENIENT, None)):
        with engine(sealing) as bench:
            found = bench.engine.enqueue(payload, "delayed")
        assert (None if found is None else code_of(found)) == code


# -- the other end --------------------------------------------------------------------------------------


@pytest.fixture
def shared(address: StoreAddress) -> Iterator[SharedConnection]:
    """A web process's connection."""
    connection = SharedConnection(address)
    yield connection
    connection.close()


def hears(shared: SharedConnection, client: Client, sealing: Mapping[str, Any], frame: bytes) -> Any:
    """What a web process with these settings makes of a frame."""
    hub = ReplyHub(shared, keys_with(sealing))
    hub.start()
    try:
        assert hub.wait_listening(5)
        waiter = hub.expect(InvocationId("i"))
        client.publish(hub.channel, frame)
        return waiter.get(5)
    finally:
        hub.close()


def sealed_result(result: ExecutionResult, sealing: Mapping[str, Any] = RING) -> bytes:
    """As a worker with these settings sends it."""
    wire = keys_with(sealing).sealed(orjson.dumps(result_to_wire(result)), "result", "i")
    return b'i {"result":' + wire + b"}"


@pytest.mark.parametrize(
    ("sealing", "frame", "code"),
    [
        (RING, sealed_result(answer({"a": 1})), None),
        ({}, sealed_result(answer({"a": 1})), ErrorCode.PAYLOAD_UNREADABLE),
        (OTHER, sealed_result(answer({"a": 1})), ErrorCode.PAYLOAD_UNREADABLE),
        (RING, sealed_result(answer({"a": 1}), {}), ErrorCode.PAYLOAD_UNREADABLE),
        (RING, sealed_result(rpc_failure({"code": 1, "message": "m"}), {}), ErrorCode.PAYLOAD_UNREADABLE),
        (LENIENT, sealed_result(answer({"a": 1}), {}), None),
        (RING, sealed_result(failed(WorkerLost("lost")), {}), ErrorCode.WORKER_LOST),
    ],
    ids=["key", "no key", "other secret", "forged", "forged error", "leave", "a script's word"],
)
def test_a_waiting_process_always_gets_an_end(
    shared: SharedConnection, client: Client, sealing: Mapping[str, Any], frame: bytes, code: ErrorCode | None
) -> None:
    """What it cannot open is a failure, and no silence."""
    result = hears(shared, client, sealing, frame)
    assert isinstance(result, ExecutionResult)
    assert code_of(result) is code


def test_a_frame_that_cannot_be_opened_ends_the_call_here(shared: SharedConnection, client: Client) -> None:
    """A notification that is missing would not be noticed; a question would be waited for."""
    payload = notification_payload("notifications/progress", {"message": SECRET})
    sealed = b"i " + keys_with(RING).sealed(payload, "frame", "i")
    assert isinstance(hears(shared, client, RING, sealed), Notification)
    assert code_of(hears(shared, client, OTHER, sealed)) is ErrorCode.PAYLOAD_UNREADABLE
    assert code_of(hears(shared, client, RING, b"i " + payload)) is ErrorCode.PAYLOAD_UNREADABLE
    with pytest.raises(PayloadUnreadable):
        frame_from(sealed.removeprefix(b"i "), None, keys_with(RING), InvocationId("j"))
