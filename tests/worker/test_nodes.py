"""Nodes: a lease that says who lives, and an answer for every call that a dead one held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import task_message, wire_of_record
from common.domain.errors import ErrorCode
from common.domain.ids import NodeId
from common.domain.invocation import Invocation, result_from_wire
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import nodes
from gateway_worker.nodes import Nodes
from gateway_worker.outbox import Outbox
from tests.support.aio import ended, on_loop, until
from tests.support.backends import invocation
from tests.support.tcp_proxy import TcpProxy

REPLY = "test:reply:web1"


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short life, so that a death is soon seen."""
    monkeypatch.setattr(nodes, "LEASE_MS", 250)
    monkeypatch.setattr(nodes, "BEAT", 0.05)
    monkeypatch.setattr(nodes, "SWEEP_LEASE_MS", 100)


@asynccontextmanager
async def node(name: str, address: StoreAddress, keys: Keys) -> AsyncIterator[Nodes]:
    """A node that beats; it dies at the end without a goodbye."""
    store = PipelinedConnection(address)
    box = Outbox(store)
    made = Nodes(NodeId(name), store, keys, RedisClock(), box, result_ttl=60, unreadable=lambda *_: None)
    tasks = [asyncio.create_task(made.run()), asyncio.create_task(box.run())]
    try:
        async with asyncio.timeout(10):
            await made.beating.wait()
        yield made
        assert await box.flushed(5)
    finally:
        await ended(*tasks)
        await store.aclose()


@contextmanager
def subscribed(raw: Redis, *channels: str) -> Iterator[Any]:
    """A subscription that stands."""
    with raw.pubsub() as heard:
        heard.subscribe(*channels)
        for _ in channels:
            assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        yield heard


def holds(raw: Redis, keys: Keys, name: str, call: Invocation, *, reply_to: str = REPLY) -> None:
    """Record a call as begun by a node."""
    message = task_message(call, queue="tool.local", reply_to=reply_to, prefix="test")
    raw.hset(keys.unacked(NodeId(name)), str(call.id), message)
    raw.expire(keys.unacked(NodeId(name)), 60)


def outcome(raw: Redis, keys: Keys, call: Invocation) -> ErrorCode | None:
    """The code of a call's result; None while there is none."""
    record = raw.get(keys.result(call.id))
    if record is None:
        return None
    failure = result_from_wire(wire_of_record(orjson.loads(record))).failure
    assert failure is not None
    return failure.code


@on_loop
async def test_a_node_lives_as_long_as_it_beats(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Its lease ends in the future, by Redis' clock, and grows."""
    async with node("n1", address, keys):
        first = raw.zscore(keys.nodes, "n1")
        assert first is not None
        seconds, _ = raw.time()
        assert 0 < first / 1000 - seconds < 2
        await until(lambda: (raw.zscore(keys.nodes, "n1") or 0) > first, description="a second beat")


@on_loop
async def test_a_node_that_left_stays_away(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """It does not beat again while the rest of its worker is still closing."""
    async with node("n1", address, keys) as leaving, node("n2", address, keys):
        await leaving.leave()
        second = raw.zscore(keys.nodes, "n2") or 0
        # So long that the other one has beaten twice.
        await until(lambda: (raw.zscore(keys.nodes, "n2") or 0) > second + 60, description="more beats")
        assert raw.zscore(keys.nodes, "n1") is None


@on_loop
async def test_the_calls_of_a_dead_node_are_answered(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """``WORKER_LOST``, as a result and as a frame for whoever waits; then nothing of the node is left."""
    ours, stock = invocation("echo"), invocation("echo")
    with subscribed(raw, REPLY, keys.result(stock.id)) as heard:
        async with node("dead", address, keys):
            holds(raw, keys, "dead", ours)
            holds(raw, keys, "dead", stock, reply_to="")
            raw.hset(keys.unacked(NodeId("dead")), "x", "not a message")
        async with node("alive", address, keys):
            await until(lambda: outcome(raw, keys, ours), description="our call's end")
            await until(lambda: outcome(raw, keys, stock), description="the other's end")
        assert outcome(raw, keys, ours) is outcome(raw, keys, stock) is ErrorCode.WORKER_LOST
        frames = {}
        while message := heard.get_message(timeout=1.0):
            frames[message["channel"].decode()] = message["data"]
    name, _, frame = frames[REPLY].partition(b" ")
    assert name.decode() == ours.id
    assert orjson.loads(frame)["result"]["error"]["code"] == "WORKER_LOST"
    assert orjson.loads(frames[keys.result(stock.id)])["status"] == "FAILURE"
    assert raw.exists(keys.unacked(NodeId("dead"))) == 0
    assert raw.zscore(keys.nodes, "dead") is None


@on_loop
async def test_the_calls_of_the_living_are_left_alone(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """However often the others look."""
    call = invocation("echo")
    async with node("n1", address, keys), node("n2", address, keys):
        holds(raw, keys, "n1", call)
        await asyncio.sleep(0.4)
        assert outcome(raw, keys, call) is None
        assert raw.hlen(keys.unacked(NodeId("n1"))) == 1


@on_loop
async def test_one_that_renews_at_the_last_moment_is_not_buried(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Between the look for the dead and the burial it may have come back."""
    call = invocation("echo")
    async with node("n1", address, keys), node("n2", address, keys) as sweeper:
        holds(raw, keys, "n1", call)
        await sweeper._bury(NodeId("n1"), force=False)
    assert outcome(raw, keys, call) is None
    assert raw.hlen(keys.unacked(NodeId("n1"))) == 1


@on_loop
async def test_a_goodbye_answers_what_is_left(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """At once, and without anybody else."""
    call = invocation("echo")
    async with node("n1", address, keys) as leaving:
        holds(raw, keys, "n1", call)
        await leaving.leave()
        await until(lambda: outcome(raw, keys, call), description="the call's end")
    assert outcome(raw, keys, call) is ErrorCode.WORKER_LOST


@on_loop
async def test_each_death_is_answered_once(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """One of the living sweeps, whoever it is; the caller hears one end."""
    call = invocation("echo")
    with subscribed(raw, REPLY) as heard:
        async with node("dead", address, keys):
            holds(raw, keys, "dead", call)
        async with node("n1", address, keys), node("n2", address, keys), node("n3", address, keys):
            await until(lambda: outcome(raw, keys, call), description="the call's end")
            await until(lambda: raw.zscore(keys.nodes, "dead") is None, description="the death to be noted")
        frames = []
        while message := heard.get_message(timeout=0.5):
            frames.append(message)
    assert len(frames) == 1


@on_loop
async def test_a_node_outlives_its_connection(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """It beats again once Redis is back, and its own calls were not buried by itself."""
    call = invocation("echo")
    async with node("n1", StoreAddress(url=proxy.url, socket_timeout=0.3), keys):
        holds(raw, keys, "n1", call)
        proxy.refuse()
        proxy.cut()
        last = raw.zscore(keys.nodes, "n1") or 0
        await until(lambda: raw.time()[0] * 1000 > last + 500, timeout=5, description="the lease to run out")
        proxy.refuse(False)
        await until(lambda: (raw.zscore(keys.nodes, "n1") or 0) > last, description="a new beat")
        assert outcome(raw, keys, call) is None
