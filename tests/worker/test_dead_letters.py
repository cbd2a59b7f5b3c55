"""Poisoned messages in a tool's queue: kept with their reason, answered if anybody waits, and nothing else happens."""

from __future__ import annotations

import base64
import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.dead_letters import KEPT_BYTES, DeadLetter, DeadLetters, Reason
from common.domain.errors import ErrorCode
from common.domain.ids import NodeId, ToolId
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.scripts import run
from gateway_worker.sweep import PROCESS_GONE, fence_script
from tests.support.backends import invocation, stdio_tool
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, REPLY, Bench, running

SECRET = "a-secret-argument"
CALL = {"tenant": "t", "client": "c", "tool": "local", "method": "tools/call", "params": {"name": SECRET}}


@pytest.fixture
def bench(client: Client, keys: Keys, raw: Redis, address: StoreAddress) -> Iterator[Bench]:
    """Two slots, so that a slot that leaks is missed; the bound on messages is that of bodies of 64 KiB."""
    with running(client, keys, raw, address, concurrency=2) as bench:
        bench.register(stdio_tool())
        yield bench


@pytest.fixture
def letters(client: Client, keys: Keys) -> DeadLetters:
    """The reader's side."""
    return DeadLetters(client, keys)


def body_of(*args: Any, **kwargs: Any) -> str:
    """A body of protocol 2."""
    return orjson.dumps([args, kwargs, {}]).decode()


def envelope(bench: Bench, *, without: str = "", **changes: Any) -> bytes:
    """A stock producer's message with some members replaced (``headers__task``) or one left out."""
    return changed(bench.stock_message(invocation("echo", {"text": SECRET})), without=without, **changes)


def with_head(bench: Bench, *, without: str = "", **changes: Any) -> bytes:
    """The like of our own message: Redis reads its head, and counts it as a call before anybody reads the rest."""
    return changed(bench.message(invocation("echo", {"text": SECRET})), without=without, **changes)


def changed(made: dict[str, Any], *, without: str, **changes: Any) -> bytes:
    """A message with some members replaced, or one left out."""
    for path, value in changes.items():
        owner, _, member = path.rpartition("__")
        (made[owner] if owner else made)[member] = value
    owner, _, member = without.rpartition("__")
    (made[owner] if owner else made).pop(member, None)
    return orjson.dumps(made)


def protocol_1(task_id: str) -> bytes:
    """As Celery 3 sent it: everything in the body, no headers."""
    body = {"id": task_id, "task": "gateway.invoke", "args": [CALL], "kwargs": {}}
    properties = {"correlation_id": task_id, "body_encoding": "base64", "delivery_info": {}}
    return orjson.dumps(
        {
            "body": base64.b64encode(orjson.dumps(body)).decode(),
            "content-type": "application/json",
            "headers": {},
            "properties": properties,
        }
    )


POISON = [
    (lambda _: b"", Reason.NOT_JSON),
    (lambda _: b"not JSON", Reason.NOT_JSON),
    (lambda bench: envelope(bench)[:-2], Reason.NOT_JSON),
    (lambda _: b"\xff\x00\xfe", Reason.NOT_JSON),
    (lambda _: b"[" * 5000, Reason.NOT_JSON),
    (lambda _: b"[1, 2]", Reason.NOT_CELERY),
    (lambda _: b"null", Reason.NOT_CELERY),
    (lambda _: protocol_1("v1"), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, without="headers"), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, without="properties"), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, without="headers__id"), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__id=None), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__id="x" * 600), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__task=["gateway.invoke"]), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__eta="tomorrow"), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__eta=5), Reason.NOT_CELERY),
    (lambda bench: envelope(bench, headers__task="no.such.task"), Reason.UNKNOWN_TASK),
    (lambda bench: envelope(bench, without="body"), Reason.BAD_BODY),
    (lambda bench: envelope(bench, body="not JSON"), Reason.BAD_BODY),
    (
        lambda bench: envelope(bench, body=base64.b64encode(pickle.dumps([[], {}, {}])).decode()),
        Reason.BAD_BODY,
    ),
    (lambda bench: envelope(bench, body='{"a": 1, "b": 2, "c": 3}'), Reason.BAD_BODY),
    (lambda bench: envelope(bench, body="[5, 6, 7]"), Reason.BAD_BODY),
    (lambda bench: envelope(bench, body="nope", headers__eta="2020-01-01T00:00:00"), Reason.BAD_BODY),
    (lambda bench: envelope(bench, body=body_of(5)), Reason.BAD_INVOCATION),
    (lambda bench: envelope(bench, body=body_of(None)), Reason.BAD_INVOCATION),
    (lambda bench: envelope(bench, body=body_of({**CALL, "v": 99})), Reason.NEWER_FORMAT),
]


POISON_WITH_HEAD = [
    (lambda bench: with_head(bench)[:-2], Reason.NOT_JSON),
    (lambda bench: with_head(bench, without="headers"), Reason.NOT_CELERY),
    (lambda bench: with_head(bench, headers__id=None), Reason.NOT_CELERY),
    (lambda bench: with_head(bench, headers__task="no.such.task"), Reason.UNKNOWN_TASK),
    (lambda bench: with_head(bench, headers__eta="tomorrow"), Reason.NOT_CELERY),
    (lambda bench: with_head(bench, without="body"), Reason.BAD_BODY),
    (lambda bench: with_head(bench, body="not JSON"), Reason.BAD_BODY),
    (lambda bench: with_head(bench, body=body_of(5)), Reason.BAD_INVOCATION),
    (lambda bench: with_head(bench, body=body_of({**CALL, "v": 99})), Reason.NEWER_FORMAT),
    (lambda bench: with_head(bench, canalgate="2|from|the|future"), Reason.NEWER_FORMAT),
    (lambda bench: with_head(bench, canalgate=5), Reason.BAD_INVOCATION),
]


def only(letters: DeadLetters) -> DeadLetter:
    """Wait for the one letter."""
    found = wait_until(lambda: letters.newest(10), description="a dead letter")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("make", "reason"), POISON, ids=range(len(POISON)))
def test_each_poison_is_kept_with_its_reason_and_harms_nobody(
    make: Any,
    reason: Reason,
    bench: Bench,
    letters: DeadLetters,
    raw: Redis,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It leaves the record as the letter appears, takes no slot, and what it says is in no log."""
    for _ in range(3):  # more than there are slots
        poison = make(bench)
        bench.push(poison)
    wait_until(lambda: letters.count() == 3, description="the dead letters")
    letter = letters.newest(1)[0]
    assert (letter.reason, letter.queue, letter.node) == (reason.value, QUEUE, bench.engine.node)
    assert (letter.message, letter.size, letter.truncated) == (poison, len(poison), False)
    assert letter.sha1 == hashlib.sha1(poison, usedforsecurity=False).hexdigest()
    seconds, _ = raw.time()
    assert abs(seconds - letter.at.timestamp()) < 10
    assert bench.unacked() == 0
    assert bench.works()
    assert bench.engine.in_flight == 0
    assert SECRET not in "".join(capfd.readouterr()) + repr(letter) + letter.detail


@pytest.mark.parametrize(("make", "reason"), POISON_WITH_HEAD, ids=range(len(POISON_WITH_HEAD)))
def test_poison_with_a_head_keeps_nothing_that_was_counted_for_it(
    make: Any, reason: Reason, bench: Bench, letters: DeadLetters
) -> None:
    """Its place in the ledger and among the calls in flight, and the session claimed for it, are given back."""
    for _ in range(3):  # more than there are slots
        bench.push(make(bench))
    wait_until(lambda: letters.count() == 3, description="the dead letters")
    assert {letter.reason for letter in letters.newest(3)} == {reason.value}
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")
    assert not bench.raw.hgetall(bench.keys.calls(QUEUE))
    sessions = bench.keys.sessions(ToolId("local"))
    wait_until(lambda: not bench.raw.hgetall(sessions), description="the claim to be given back")
    assert bench.works()


@pytest.mark.parametrize(
    "changes",
    [
        {"headers__task": "no.such.task"},
        {"body": "not JSON"},
        {"body": body_of(5)},
        {"without": "headers"},
        {"without": "headers__task"},
    ],
    ids=["unknown task", "bad body", "bad invocation", "no headers", "no task"],
)
def test_whoever_waits_is_told_at_once(changes: dict[str, Any], bench: Bench, letters: DeadLetters) -> None:
    """By the id in the headers or the properties: the result key and the frame on the reply channel."""
    poison = envelope(bench, **changes)
    task_id = orjson.loads(poison)["properties"]["correlation_id"]
    bench.push(poison)
    result = bench.result(task_id)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INVALID_REQUEST
    assert [name for name, frame in bench.frames() if "result" in frame] == [task_id]
    assert only(letters).task_id == task_id


def test_a_stock_client_of_protocol_1_gets_its_failure(bench: Bench) -> None:
    """Celery's own record, which ``AsyncResult.get`` raises from."""
    bench.push(protocol_1("a-v1-task"))
    bench.result("a-v1-task")
    record = orjson.loads(bench.raw.get("celery-task-meta-a-v1-task"))
    assert record["status"] == "FAILURE"
    assert record["result"]["exc_type"] == "InvalidRequest"


@pytest.mark.parametrize(
    ("argument", "field"),
    [
        ({**CALL, "tool": "unheard-of"}, None),
        ({**CALL, "tenant": ""}, "tenant"),
        ({**CALL, "params": 5}, "params"),
    ],
)
def test_a_call_that_can_be_read_is_answered_and_is_no_letter(
    argument: Any, field: str | None, bench: Bench, letters: DeadLetters
) -> None:
    """Its producer learns what is wrong; there is nothing to look at."""
    poison = envelope(bench, body=body_of(argument))
    bench.push(poison)
    failure = bench.result(orjson.loads(poison)["headers"]["id"]).failure
    assert failure is not None
    assert failure.data.get("field") == field
    assert letters.count() == 0


def test_what_celery_itself_refuses(bench: Bench, letters: DeadLetters) -> None:
    """A delayed message stays recorded until Celery has it; if it cannot read it, it becomes a letter."""
    delayed = envelope(bench, headers__eta="2020-01-01T00:00:00+00:00")
    bench.push(delayed)
    wait_until(lambda: bench.host.refusals, description="the handing over")
    assert (bench.unacked(), letters.count()) == (1, 0)
    bench.host.refusals[0]()
    assert only(letters).reason == Reason.REFUSED.value
    assert bench.unacked() == 0


def test_a_large_message_is_kept_cut(bench: Bench, letters: DeadLetters) -> None:
    """Its beginning, its end, its size and its digest."""
    poison = b"begin" + b"x" * (2 * KEPT_BYTES) + b"end"
    bench.push(poison)
    letter = only(letters)
    assert letter.truncated
    assert letter.size == len(poison)
    assert letter.message == poison[: KEPT_BYTES // 2] + poison[-KEPT_BYTES // 2 :]
    assert letter.sha1 == hashlib.sha1(poison, usedforsecurity=False).hexdigest()


def test_a_huge_message_does_not_leave_redis(bench: Bench, letters: DeadLetters, raw: Redis) -> None:
    """It is cut before it is recorded, nothing like its size is sent, and its sender is answered."""
    body = "x" * (bench.engine._worker.fetcher._largest + 1)
    poison = envelope(bench, body=body)
    # Celery's own order: the properties stand behind the body.
    made = orjson.loads(poison)
    poison = orjson.dumps({name: made[name] for name in ("body", "headers", "properties")})
    sent = raw.info("stats")["total_net_output_bytes"]
    bench.push(poison)
    letter = only(letters)
    assert raw.info("stats")["total_net_output_bytes"] - sent < 1 << 20
    assert (letter.reason, letter.size, letter.truncated) == (Reason.OVERSIZED.value, len(poison), True)
    assert letter.sha1 == hashlib.sha1(poison, usedforsecurity=False).hexdigest()
    assert letter.message.startswith(b'{"body":"xxx')
    assert letter.message.endswith(poison[-100:])
    assert len(letter.message) == KEPT_BYTES
    assert bench.result(made["headers"]["id"]).failure is not None
    assert [name for name, _ in bench.frames()] == [made["headers"]["id"]]
    assert letter.task_id == made["headers"]["id"]
    assert bench.works()


def test_poison_of_a_dead_worker(bench: Bench, letters: DeadLetters, keys: Keys, raw: Redis) -> None:
    """What a dead node held and nobody can read is kept as well, and answered."""
    dead = NodeId("celery@dead:1")
    raw.hset(keys.unacked(dead), mapping={"1": b"not JSON", "2": envelope(bench, without="headers")})
    run(raw, "node_fence", *fence_script(keys, dead, PROCESS_GONE, actor="test"))
    wait_until(lambda: letters.count() == 2, description="both letters")
    wait_until(lambda: raw.zscore(keys.nodes, dead) is None, description="the node to be worked off")
    assert not raw.exists(keys.unacked(dead))
    assert REPLY.encode() in letters.newest(1)[0].message + letters.newest(2)[1].message


def test_poison_among_good_calls(bench: Bench) -> None:
    """Between two pieces of poison each a good call, of the session claimed for some: every one is answered."""
    calls = []
    for make, _ in (*POISON, *POISON_WITH_HEAD):
        bench.push(make(bench))
        calls.append(bench.send(invocation("echo", {"text": "good"})))
    assert {bench.ended(call) for call in calls} == {"good"}
    wait_until(lambda: bench.unacked() == 0, description="all acknowledgements")
    assert bench.engine.in_flight == 0
