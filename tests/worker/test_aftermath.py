"""A worker after a restart of Redis that forgot its last writes: each call has one end, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from common.domain.errors import ErrorCode
from common.domain.ids import InvocationId, NodeId, ToolId
from common.domain.invocation import Invocation
from gateway_worker import nodes
from gateway_worker.claims import NotOwner
from tests.support.backends import EchoLog, invocation
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench

NEVER_SENT = "1000000"
"""A delivery tag behind all that were given out."""


@pytest.fixture(autouse=True)
def a_short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no other worker that would have to declare anything."""
    monkeypatch.setattr(nodes, "QUARANTINE", 0.3)


@pytest.fixture(autouse=True)
def the_engine_never_breaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that breaks ends its process; here the test fails instead."""
    broken: list[int] = []
    monkeypatch.setattr("gateway_worker.engine.os._exit", broken.append)
    yield
    assert broken == []


class Past:
    """What Redis had recorded of a call while that ran."""

    def __init__(self, bench: Bench, call: Invocation) -> None:
        self.bench, self.call = bench, call
        found: dict[Any, Any] = bench.raw.hgetall(records(bench))
        ((tag, self.message),) = found.items()
        self.tag = tag.decode()

    def again(self) -> None:
        """Redis comes back with that."""
        hold(self.bench, self.tag, self.message, self.call)


def records(bench: Bench) -> str:
    """The key of what the engine's node has recorded."""
    return bench.keys.unacked(NodeId(bench.engine.node))


def hold(bench: Bench, tag: str, message: bytes, call: Invocation | None = None) -> None:
    """Record a message for the engine's node; with its call, if it has a head."""
    node, keys = bench.engine.node, bench.keys
    bench.raw.hset(records(bench), tag, message)
    if call is not None:
        bench.raw.hset(keys.calls(QUEUE), call.id, f"{node} {tag}")


def restart(bench: Bench) -> None:
    """Let the node see another server at its next beat."""
    worker: Any = bench.engine._worker
    worker._nodes._run_id = b"another server's"
    worker._nodes._epoch = -1


def slept(bench: Bench) -> Past:
    """A call that ran to its end, and what Redis had of it before."""
    call = bench.send(invocation("sleep", {"seconds": 0.3}))
    wait_until(lambda: bench.unacked() == 1, description="the call to be taken")
    past = Past(bench, call)
    assert bench.ended(call) == "slept 0.3 s"
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgement")
    return past


def forget_kept(bench: Bench) -> None:
    """The ends that Redis has taken are older than what is kept."""
    worker: Any = bench.engine._worker
    worker.outbox._kept.clear()


def nothing_left(bench: Bench) -> None:
    """No record, no place in the ledger or in a count."""
    keys = bench.keys
    wait_until(lambda: bench.unacked() == 0, description="the records to go")
    assert bench.raw.hgetall(keys.calls(QUEUE)) == {}


def test_an_end_that_redis_forgot_is_written_again(bench: Bench, echo_log: EchoLog) -> None:
    """The caller who asks for it gets it, and nothing runs twice."""
    past = slept(bench)
    record = bench.raw.getdel(bench.keys.result(past.call.id))
    past.again()
    restart(bench)
    assert bench.ended(past.call) == "slept 0.3 s"
    assert bench.raw.get(bench.keys.result(past.call.id)) == record
    nothing_left(bench)
    assert len(echo_log.received("tools/call")) == 1


def test_a_call_that_runs_is_declared_and_goes_on(bench: Bench, echo_log: EchoLog) -> None:
    """Whether Redis still has its record or not."""
    calls = [bench.send(invocation("sleep", {"seconds": 2.5}, client=f"c{n}")) for n in range(2)]
    wait_until(lambda: bench.unacked() == 2, description="the calls to be taken")
    bench.raw.hdel(records(bench), min(bench.raw.hkeys(records(bench))))
    restart(bench)
    began = [bench.keys.began(call.id) for call in calls]
    wait_until(lambda: bench.raw.exists(*began) == 2, description="the declarations")
    worker: Any = bench.engine._worker
    wait_until(lambda: worker._nodes.fetch_epoch is not None, description="a clear standing")
    assert worker._aftermath._strays == []
    assert [bench.ended(call) for call in calls] == ["slept 2.5 s"] * 2
    wait_until(lambda: bench.unacked() == 0, description="the records to go")
    assert len(echo_log.received("tools/call")) == 2


def test_a_session_that_redis_forgot_is_the_nodes_again(bench: Bench, echo_log: EchoLog) -> None:
    """Before the node is confirmed, and with its backend as it is."""
    assert bench.works()
    sessions = bench.keys.sessions(ToolId("local"))
    (session,) = bench.raw.hkeys(sessions)
    bench.raw.hdel(sessions, session)
    restart(bench)
    owner = wait_until(lambda: bench.raw.hget(sessions, session), description="the claim")
    assert owner.startswith(bench.engine.node.encode())
    assert bench.works()
    called = [entry["pid"] for entry in echo_log.entries() if entry["received"]["method"] == "tools/call"]
    assert (len(called), len(set(called))) == (2, 1)


def test_a_record_whose_call_has_its_end_is_let_go(bench: Bench, echo_log: EchoLog) -> None:
    """Redis has the result, and forgot the rest."""
    past = slept(bench)
    forget_kept(bench)
    past.again()
    restart(bench)
    nothing_left(bench)
    assert bench.ended(past.call) == "slept 0.3 s"
    assert len(echo_log.received("tools/call")) == 1


@pytest.mark.parametrize("long_ago", [False, True])
def test_a_call_that_was_sent_and_has_no_end_is_answered(
    long_ago: bool, bench: Bench, echo_log: EchoLog
) -> None:
    """Its end was not kept: what came of it is unknown, and it must not run again, however long ago it was sent."""
    past = slept(bench)
    forget_kept(bench)
    if long_ago:
        worker: Any = bench.engine._worker
        worker.calls.begun.confirmed(float("inf"))
    bench.raw.delete(bench.keys.result(past.call.id))
    past.again()
    bench.frames()
    restart(bench)
    assert bench.ended(past.call) is ErrorCode.WORKER_LOST
    nothing_left(bench)
    assert [name for name, _ in bench.frames()] == [past.call.id]
    assert len(echo_log.received("tools/call")) == 1


def test_a_call_that_was_surely_not_sent_runs(bench: Bench, echo_log: EchoLog) -> None:
    """It had gone back to its queue, and Redis forgot that."""
    call = invocation("echo", {"text": "runs"})
    hold(bench, NEVER_SENT, orjson.dumps(bench.message(call)), call)
    restart(bench)
    assert bench.ended(call) == "runs"
    nothing_left(bench)
    assert len(echo_log.received("tools/call")) == 1


def test_a_call_that_went_back_is_not_declared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes it next must not be told that it was begun."""
    worker: Any = bench.engine._worker

    async def anothers(*_: object) -> None:
        raise NotOwner

    monkeypatch.setattr(worker.claims, "find", lambda *_: bench.engine.follow([]))
    monkeypatch.setattr(worker.claims, "confirm", anothers)
    call = bench.send(invocation("echo"))
    wait_until(lambda: bench.host.ended_ids == [call.id], description="the call to go back")
    wait_until(lambda: bench.raw.llen(QUEUE) == 1, description="the message in the queue")
    assert worker.calls.begun.lately() == set()


def test_a_stray_waits_until_the_others_had_time_to_declare(
    bench: Bench, echo_log: EchoLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that went back may run at another worker by now, and Redis forgot all of that."""
    monkeypatch.setattr(nodes, "QUARANTINE", 1.5)
    call = invocation("echo", {"text": "elsewhere"})
    worker: Any = bench.engine._worker
    hold(bench, NEVER_SENT, orjson.dumps(bench.message(call)), call)
    restart(bench)
    wait_until(lambda: worker._aftermath._strays, description="the stray to be found")
    bench.raw.set(bench.keys.began(call.id), "celery@other:1", ex=60)
    nothing_left(bench)
    assert bench.works()
    assert [m["params"]["arguments"]["text"] for m in echo_log.received("tools/call")] == ["works"]
    assert bench.raw.get(bench.keys.result(call.id)) is None


def test_what_celery_may_still_have_stays_recorded(bench: Bench) -> None:
    """It is not handed over twice."""
    bench.send(invocation("x"), task="somebody.elses")
    bench.send(invocation("x"), eta="2099-01-01T00:00:00+00:00")
    wait_until(lambda: len(bench.host.delivered) == 2, description="the hand-over")
    hold(bench, NEVER_SENT, b"not JSON")
    restart(bench)
    wait_until(lambda: bench.unacked() == 2, description="the stray to be dealt with")
    assert bench.raw.xlen(bench.keys.dead_letters) == 1
    assert len(bench.host.delivered) == 2


@pytest.mark.parametrize("ended", [False, True])
def test_a_stock_call_is_taken_up_again_unless_it_has_its_end(
    ended: bool, bench: Bench, echo_log: EchoLog
) -> None:
    """It had been put back with a head, and Redis forgot that; or it remembers its end, which stays."""
    call = invocation("echo", {"text": "stock"})
    expires = {"expires": "2020-01-01T00:00:00+00:00"} if ended else {}
    if ended:
        bench.raw.set(bench.keys.result(InvocationId(call.id)), b"its end", ex=60)
    hold(bench, NEVER_SENT, orjson.dumps(bench.stock_message(call, **expires)))
    restart(bench)
    if not ended:
        assert bench.ended(call) == "stock"
    nothing_left(bench)
    assert (bench.raw.get(bench.keys.result(call.id)) == b"its end") == ended
    assert len(echo_log.received("tools/call")) == int(not ended)


def test_what_the_fetcher_still_looks_for_is_no_stray(bench: Bench, echo_log: EchoLog) -> None:
    """The answer of its fetch was lost: it starts what is recorded."""
    call = invocation("echo", {"text": "recovered"})
    worker: Any = bench.engine._worker
    assert bench.works()
    worker.fetcher._look_at = float("inf")
    worker.fetcher._uncertain.append((bench.engine.node, [int(NEVER_SENT)], float("inf")))
    hold(bench, NEVER_SENT, orjson.dumps(bench.message(call)), call)
    restart(bench)
    wait_until(lambda: worker._nodes.fetch_epoch is not None, description="a clear standing")
    assert (worker._aftermath._strays, bench.unacked()) == ([], 1)
    worker.fetcher._look_at = 0.0
    assert bench.ended(call) == "recovered"
    nothing_left(bench)


def test_a_call_that_runs_is_recorded_again(bench: Bench, echo_log: EchoLog) -> None:
    """Should this worker die, or give it back, its record is what keeps it from being lost."""
    call = bench.send(invocation("sleep", {"seconds": 2.0}))
    wait_until(lambda: bench.unacked() == 1, description="the call to be taken")
    past = bench.raw.hgetall(records(bench))
    bench.raw.delete(records(bench), bench.keys.calls(QUEUE))
    restart(bench)
    wait_until(lambda: bench.unacked() == 1, description="the record")
    assert bench.raw.hgetall(records(bench)) == past
    assert bench.raw.hkeys(bench.keys.calls(QUEUE)) == [call.id.encode()]
    assert bench.ended(call) == "slept 2 s"
    nothing_left(bench)


def test_a_session_whose_release_redis_forgot_is_free_again(bench: Bench) -> None:
    """It is the node's by Redis, and the node has nothing of it; what waits for it is served all the same."""
    assert bench.works()
    sessions, node = bench.keys.sessions(ToolId("local")), bench.engine.node
    bench.raw.hset(sessions, "acme:gone", f"{node} 5 1")
    bench.raw.sadd(bench.keys.node_sessions(NodeId(node)), "local|acme:gone")
    restart(bench)
    wait_until(lambda: not bench.raw.hexists(sessions, "acme:gone"), description="the session to be free")
    assert bench.raw.hlen(sessions) == 1


def test_a_stray_of_a_call_that_runs_is_looked_at_when_it_has_ended(bench: Bench, echo_log: EchoLog) -> None:
    """Its record would else stay, and pass for a lost call once the worker is gone."""
    call = bench.send(invocation("sleep", {"seconds": 1.5}))
    wait_until(lambda: bench.unacked() == 1, description="the call to be taken")
    hold(bench, NEVER_SENT, Past(bench, call).message)
    restart(bench)
    assert bench.ended(call) == "slept 1.5 s"
    nothing_left(bench)
    assert len(echo_log.received("tools/call")) == 1
