"""The engine as a whole, on real Redis and real children: every message of a tool queue ends in exactly one answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import task_message, wire_of_record
from common.domain.errors import ErrorCode
from common.domain.ids import InvocationId, ToolId
from common.domain.invocation import ExecutionResult, Invocation, result_from_wire
from common.domain.tool import Tool
from common.processes import is_running
from common.registry.registry import Registry
from common.settings import DiscoverySettings, RedisSettings, Settings, WorkerSettings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.engine import Engine
from gateway_worker.requests import RunningRequest
from tests.support.backends import (
    EchoLog,
    echo_backend,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
    text_of,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

REPLY = "test:reply:web1"
QUEUE = "tool.local"
NO_DISCOVERY = DiscoverySettings(retry_min=3600, retry_max=3600)


class FakeHost:
    """Stands where Celery is; remembers what it was told."""

    def __init__(self) -> None:
        self.reserved_ids: list[str] = []
        self.ready_ids: list[str] = []
        self.revoked_ids: set[str] = set()
        self.delivered: list[tuple[dict[str, Any], str, Callable[[], None]]] = []
        self.changes = 0
        self.on_look: Callable[[str], None] = lambda _: None

    def reserved(self, request: RunningRequest) -> None:
        """A call was fetched."""
        self.reserved_ids.append(request.id)

    def accepted(self, request: RunningRequest) -> None:
        """A call begins."""

    def ready(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""
        self.ready_ids.append(request.id)

    def revoked(self, task_id: str) -> bool:
        """Whether a call was taken back."""
        self.on_look(task_id)
        return task_id in self.revoked_ids

    def revoke(self, task_id: str) -> None:
        """Remember it."""
        self.revoked_ids.add(task_id)

    def deliver(self, envelope: dict[str, Any], queue: str, taken: Callable[[], None]) -> None:
        """Celery's own path."""
        self.delivered.append((envelope, queue, taken))

    def tools_changed(self) -> None:
        """The catalogue changed."""
        self.changes += 1


class Bench:
    """An engine, its registry, and the other end of its queues."""

    def __init__(self, client: Client, keys: Keys, raw: Redis, address: StoreAddress, **worker: Any) -> None:
        self.keys = keys
        self.raw = raw
        self.registry = Registry(client, keys)
        self.host = FakeHost()
        settings = Settings(
            redis=RedisSettings(key_prefix=keys.prefix),
            worker=WorkerSettings(**{"drain_timeout": 5.0, **worker}),
            discovery=NO_DISCOVERY,
        )
        limit = settings.worker.concurrency
        self.engine = Engine(settings, address, hostname="bench", limit=limit, host=self.host)
        self.heard = raw.pubsub()
        self.heard.subscribe(REPLY)
        assert self.heard.get_message(timeout=5.0)["type"] == "subscribe"

    def register(self, tool: Tool) -> None:
        """Register a tool and wait until the engine knows it."""
        self.registry.put(tool)
        wait_until(lambda: tool.id in self.engine.tools(), description=f"the engine to know {tool.id}")

    def push(self, raw_message: bytes | str) -> None:
        """Put any bytes into the queue."""
        self.raw.lpush(QUEUE, raw_message)
        self.raw.publish(self.keys.wake_channel, QUEUE)

    def message(self, call: Invocation, **headers: Any) -> dict[str, Any]:
        """Our own message for a call, with some headers changed."""
        raw_message = task_message(call, queue=QUEUE, reply_to=REPLY, prefix=self.keys.prefix)
        made: dict[str, Any] = orjson.loads(raw_message)
        made["headers"] |= headers
        return made

    def send(self, call: Invocation, **headers: Any) -> Invocation:
        """Enqueue a call."""
        self.push(orjson.dumps(self.message(call, **headers)))
        return call

    def result(self, task_id: str, timeout: float = 10.0) -> ExecutionResult:
        """Wait for a call's end."""
        key = self.keys.result(InvocationId(task_id))
        record = wait_until(lambda: self.raw.get(key), timeout=timeout, description=f"the end of {task_id}")
        return result_from_wire(wire_of_record(orjson.loads(record)))

    def ended(self, call: Invocation) -> ErrorCode | str:
        """The code of a call's failure, or the text of its answer."""
        result = self.result(call.id)
        return result.failure.code if result.failure is not None else text_of(result.result)

    def works(self) -> bool:
        """Whether a good call is answered."""
        return self.ended(self.send(invocation("echo", {"text": "works"}))) == "works"

    def frames(self) -> list[tuple[str, Any]]:
        """What arrived on the reply channel so far."""
        found = []
        while message := self.heard.get_message(timeout=0.3):
            name, _, frame = message["data"].partition(b" ")
            found.append((name.decode(), orjson.loads(frame)))
        return found

    def unacked(self) -> int:
        """Messages recorded as begun."""
        return int(self.raw.hlen(self.keys.unacked(self.engine.node)))


@contextmanager
def running(client: Client, keys: Keys, raw: Redis, address: StoreAddress, **worker: Any) -> Iterator[Bench]:
    """A running engine."""
    bench = Bench(client, keys, raw, address, **worker)
    bench.engine.start()
    try:
        bench.engine.follow([QUEUE])
        yield bench
    finally:
        bench.engine.stop(drain_timeout=0)
        bench.heard.close()


@pytest.fixture
def bench(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> Iterator[Bench]:
    """One with the echo tool, which writes a log."""
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        yield bench


@pytest.fixture(autouse=True)
def the_engine_never_breaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that breaks ends its process; here the test fails instead."""
    broken: list[int] = []
    monkeypatch.setattr("gateway_worker.engine.os._exit", broken.append)
    yield
    assert broken == []


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
    assert bench.host.reserved_ids == bench.host.ready_ids == [call.id]


def test_a_stock_producers_call(bench: Bench) -> None:
    """No reply channel: the record is published on its own key, and nothing breaks for the lack of a listener."""
    call = invocation("progress", {"steps": 2}, meta={"progressToken": "t"})
    message = bench.message(call)
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
    {"v": 99},
    {"scopes": 5},
    {"scopes": [[1]]},
]


def test_calls_of_the_wrong_shape_are_answered(bench: Bench, echo_log: EchoLog) -> None:
    """They have an id, so their producers are told what is wrong; those beside them are served."""
    bodies = [
        *WRONG_BODIES,
        *(orjson.dumps([[{**GOOD, **wrong}], {}, {}]).decode() for wrong in WRONG_MEMBERS),
    ]
    sent = {body: invocation("echo") for body in bodies}
    for body, call in sent.items():
        bench.push(orjson.dumps({**bench.message(call), "body": body}))
    codes = {body: bench.ended(call) for body, call in sent.items()}
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
        if looked_at == second.id and (task := bench.engine._running.get(first.id)):
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


# -- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "black hole", "reply lost"])
def test_a_fault_of_redis_while_a_call_runs(
    fault: str, client: Client, keys: Keys, raw: Redis, proxy: TcpProxy, echo_log: EchoLog
) -> None:
    """It is answered once Redis is back, and was executed once; so is the next."""
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        assert bench.works()
        call = bench.send(invocation("sleep", {"seconds": 0.3}))
        wait_until(lambda: len(echo_log.received("tools/call")) == 2, description="the call at the backend")
        {"cut": proxy.cut, "black hole": proxy.black_hole, "reply lost": proxy.swallow_next_reply}[fault]()
        assert bench.ended(call) == "slept 0.3 s"
        assert bench.works()
        wait_until(lambda: bench.unacked() == 0, description="the acknowledgements")
    assert len(echo_log.received("tools/call")) == 3


def test_redis_away_for_a_while(
    client: Client, keys: Keys, raw: Redis, proxy: TcpProxy, echo_log: EchoLog
) -> None:
    """Calls under way end and are answered afterwards; the sessions stay."""
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        call = bench.send(invocation("sleep", {"seconds": 0.2}))
        wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: bench.engine.in_flight == 0, description="the call to end")
        assert raw.get(keys.result(call.id)) is None
        proxy.refuse(False)
        assert bench.ended(call) == "slept 0.2 s"
        assert bench.works()
    assert (
        len({entry["pid"] for entry in echo_log.entries() if entry["received"]["method"] == "tools/call"})
        == 1
    )


# -- the end --------------------------------------------------------------------------------------------


def test_a_stop_lets_calls_end(client: Client, keys: Keys, raw: Redis, address: StoreAddress) -> None:
    """What runs is finished and answered, nothing more is fetched, nothing is left of the node."""
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool())
        pid = int(str(bench.ended(bench.send(invocation("pid")))))
        call = bench.send(invocation("sleep", {"seconds": 0.5}))
        wait_until(lambda: bench.engine.in_flight, description="the call under way")
        stopping = threading.Thread(target=bench.engine.stop)
        stopping.start()
        assert bench.ended(call) == "slept 0.5 s"
        stopping.join(10)
        assert not stopping.is_alive()
        left = invocation("echo")
        bench.send(left)
        assert raw.llen(QUEUE) == 1
        assert raw.get(keys.result(left.id)) is None
        assert raw.zscore(keys.nodes, bench.engine.node) is None
        assert bench.unacked() == 0
        assert not is_running(pid)


def test_a_stop_cuts_off_what_takes_too_long(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> None:
    """Its caller is told that the outcome is unknown, not that he cancelled it himself."""
    with running(client, keys, raw, address, drain_timeout=0.2) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        call = bench.send(invocation("cancel_log"))
        wait_until(lambda: echo_log.received("tools/call"), description="the call at the backend")
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 4.0
        assert bench.ended(call) is ErrorCode.WORKER_LOST
        assert bench.unacked() == 0


def test_a_stop_during_a_start_does_not_wait_for_it(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> None:
    """A silent child, with a minute to start, is ended at once."""
    with running(client, keys, raw, address, drain_timeout=0) as bench:
        bench.register(misbehaving("silent", env=echo_log.env, startup_timeout=60))
        call = bench.send(invocation("echo"))
        wait_until(echo_log.received, description="the child to be asked")
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 5.0
        assert isinstance(bench.ended(call), ErrorCode)
        assert not any(map(is_running, echo_log.pids()))


def test_a_stop_ends_services_that_miss_their_cancellation(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.11 ``asyncio.wait_for``, with which redis-py waits, loses one now and then (python/cpython#86296)."""

    async def deaf_once(_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    monkeypatch.setattr("gateway_worker.listener.Listener.run", deaf_once)
    with running(client, keys, raw, address) as bench:
        stopping = threading.Thread(target=bench.engine.stop, daemon=True)
        stopping.start()
        stopping.join(8)
        stuck = stopping.is_alive()
        if stuck:  # let the fixture end
            loop = bench.engine._loop
            assert loop is not None
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        assert not stuck


def test_a_stop_while_redis_is_away(client: Client, keys: Keys, raw: Redis, proxy: TcpProxy) -> None:
    """It ends in bounded time all the same."""
    with running(client, keys, raw, StoreAddress(url=proxy.url, socket_timeout=0.3)) as bench:
        bench.register(stdio_tool())
        assert bench.works()
        proxy.refuse()
        proxy.cut()
        begun = time.monotonic()
        bench.engine.stop()
        assert time.monotonic() - begun < 8.0


# -- the registry ---------------------------------------------------------------------------------------


def test_tools_come_and_go(bench: Bench) -> None:
    """A new one can be called as soon as it is known, a changed one runs as changed, a removed one is refused."""
    with echo_backend() as server:
        bench.register(http_tool(server.url, id=ToolId("local")))
        wait_until(
            lambda: bench.works() and len(server.messages("tools/call")) > 0,
            description="the new definition at work",
        )
    changes = bench.host.changes
    bench.registry.remove(ToolId("local"))
    wait_until(lambda: bench.engine.tools() == [], description="the removal")
    assert bench.ended(bench.send(invocation("echo"))) is ErrorCode.TOOL_NOT_FOUND
    assert bench.host.changes > changes
