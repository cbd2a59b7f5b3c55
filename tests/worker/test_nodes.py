"""Nodes: a lease that says who lives, and an answer for every call that a dead one held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import wire_of_record
from common.domain.errors import ErrorCode
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import Invocation, result_from_wire
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import nodes, sweep
from gateway_worker.node import LEASE as REAL_LEASE
from gateway_worker.node import SELF_FENCE, Node
from gateway_worker.nodes import Nodes
from gateway_worker.sweep import Sweeper
from tests.support.aio import ended, on_loop, until
from tests.support.backends import invocation
from tests.support.messages import head, stamped
from tests.support.tcp_proxy import TcpProxy

REPLY = "test:reply:web1"


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short life, so that a death is soon seen."""
    for module in (nodes, sweep):
        monkeypatch.setattr(module, "LEASE", 0.25)
        monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(sweep, "SWEEP_LEASE_MS", 100)


class FakeCluster:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.told: list[str] = []
        self.begun: list[InvocationId] = []

    def fenced(self) -> None:
        """The node begins anew under another name."""
        assert self.node is not None
        self.told.append(f"fenced {self.node.renew()}")

    def forgotten(self) -> None:
        """Redis does not know it any more."""
        self.told.append("forgotten")

    def begun_lately(self) -> list[InvocationId]:
        """What is to be declared."""
        return self.begun


@dataclass(slots=True)
class Member:
    """A node with its sweeper."""

    node: Node
    nodes: Nodes
    sweeper: Sweeper
    cluster: FakeCluster
    taken_over: list[tuple[str, bytes]]

    @property
    def id(self) -> NodeId:
        return self.node.id

    async def leave(self) -> None:
        """Say goodbye."""
        self.nodes.stop()
        await self.sweeper.fence(self.id, sweep.GOODBYE)
        await self.sweeper.rescue(self.id)


@asynccontextmanager
async def member(name: str, address: StoreAddress, keys: Keys) -> AsyncIterator[Member]:
    """A node that beats and sweeps; it dies at the end without a goodbye."""
    store, clock, cluster = PipelinedConnection(address), RedisClock(), FakeCluster()
    node = cluster.node = Node(name)
    made = Nodes(node, store, keys, clock, cluster)
    taken_over: list[tuple[str, bytes]] = []

    async def take_over(owner: NodeId, tag: str, message: bytes) -> None:
        taken_over.append((tag, message))
        await store.command("HDEL", keys.unacked(owner), tag)

    sweeper = Sweeper(node, made, store, keys, clock, result_ttl=60, headless=take_over)
    tasks = [asyncio.create_task(made.run()), asyncio.create_task(sweeper.run())]
    try:
        async with asyncio.timeout(10):
            await made.beating.wait()
        yield Member(node, made, sweeper, cluster, taken_over)
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


def holds(raw: Redis, keys: Keys, node: NodeId, call: Invocation, *, reply: str = REPLY) -> None:
    """Record a call as begun by a node."""
    of = head(call.id, queue="tool.local", reply=reply)
    raw.hset(keys.unacked(node), str(abs(hash(call.id)) % 10**6), stamped(of))
    raw.expire(keys.unacked(node), 60)


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
    """Its lease ends in the future, by Redis' clock, and grows; then it may act."""
    async with member("n1", address, keys) as one:
        first = raw.zscore(keys.nodes, one.id)
        assert first is not None
        seconds, _ = raw.time()
        assert 0 < first / 1000 - seconds < 2
        await until(lambda: (raw.zscore(keys.nodes, one.id) or 0) > first, description="a second beat")
        assert one.node.may_act


@on_loop
async def test_a_node_that_left_stays_away(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """It does not beat again while the rest of its worker is still closing."""
    async with member("n1", address, keys) as leaving, member("n2", address, keys) as other:
        await leaving.leave()
        second = raw.zscore(keys.nodes, other.id) or 0
        # So long that the other one has beaten twice.
        await until(lambda: (raw.zscore(keys.nodes, other.id) or 0) > second + 60, description="more beats")
        assert raw.zscore(keys.nodes, leaving.id) is None


@on_loop
async def test_the_calls_of_a_dead_node_are_answered(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """``WORKER_LOST``, as a result and as a frame for whoever waits; then nothing of the node is left."""
    ours, stock = invocation("echo"), invocation("echo")
    with subscribed(raw, REPLY, keys.result(stock.id)) as heard:
        async with member("dead", address, keys) as dead:
            holds(raw, keys, dead.id, ours)
            holds(raw, keys, dead.id, stock, reply="")
            raw.hset(keys.unacked(dead.id), "1", "not a message")
        async with member("alive", address, keys) as alive:
            await until(lambda: outcome(raw, keys, ours), description="our call's end")
            await until(lambda: outcome(raw, keys, stock), description="the other's end")
            await until(lambda: raw.zscore(keys.nodes, dead.id) is None, description="all to be worked off")
        assert alive.taken_over == [("1", b"not a message")]
        assert outcome(raw, keys, ours) is outcome(raw, keys, stock) is ErrorCode.WORKER_LOST
        frames = {}
        while message := heard.get_message(timeout=1.0):
            frames[message["channel"].decode()] = message["data"]
    name, _, frame = frames[REPLY].partition(b" ")
    assert name.decode() == ours.id
    assert orjson.loads(frame)["result"]["error"]["code"] == "WORKER_LOST"
    assert orjson.loads(frames[keys.result(stock.id)])["status"] == "FAILURE"
    assert raw.exists(keys.unacked(dead.id)) == 0


@on_loop
async def test_the_calls_of_the_living_are_left_alone(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """However often the others look."""
    call = invocation("echo")
    async with member("n1", address, keys) as one, member("n2", address, keys) as other:
        holds(raw, keys, one.id, call)
        await until(lambda: other.nodes.steady, description="the other to look for the dead")
        first = raw.zscore(keys.nodes, other.id) or 0
        await until(lambda: (raw.zscore(keys.nodes, other.id) or 0) > first + 300, description="some looks")
        assert outcome(raw, keys, call) is None
        assert raw.hlen(keys.unacked(one.id)) == 1


@on_loop
async def test_a_goodbye_answers_what_is_left(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """At once, and without anybody else."""
    call = invocation("echo")
    async with member("n1", address, keys) as leaving:
        holds(raw, keys, leaving.id, call)
        await leaving.leave()
        assert outcome(raw, keys, call) is ErrorCode.WORKER_LOST


@on_loop
async def test_each_death_is_answered_once(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Whoever of the living sees it; the caller hears one end."""
    call = invocation("echo")
    with subscribed(raw, REPLY) as heard:
        async with member("dead", address, keys) as dead:
            holds(raw, keys, dead.id, call)
        async with member("n1", address, keys), member("n2", address, keys), member("n3", address, keys):
            await until(lambda: outcome(raw, keys, call), description="the call's end")
            await until(lambda: raw.zscore(keys.nodes, dead.id) is None, description="the death to be noted")
        frames = []
        while message := heard.get_message(timeout=0.5):
            frames.append(message)
    assert len(frames) == 1


@on_loop
async def test_a_node_outlives_its_connection(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """It beats again once Redis is back, under its name, for nobody declared it dead."""
    call = invocation("echo")
    async with member("n1", StoreAddress(url=proxy.url, socket_timeout=0.3), keys) as one:
        holds(raw, keys, one.id, call)
        proxy.refuse()
        proxy.cut()
        last = raw.zscore(keys.nodes, one.id) or 0
        await until(lambda: raw.time()[0] * 1000 > last + 500, timeout=5, description="the lease to run out")
        proxy.refuse(False)
        await until(lambda: (raw.zscore(keys.nodes, one.id) or 0) > last, description="a new beat")
        assert outcome(raw, keys, call) is None
        assert one.cluster.told == []


@on_loop
async def test_one_that_was_declared_dead_begins_anew(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """It is told once, at its next beat, and lives on under another name."""
    async with member("n1", address, keys) as one:
        first = one.id
        raw.set(keys.fenced(first), 1, ex=60)
        await until(lambda: one.cluster.told, description="the news")
        await until(lambda: raw.zscore(keys.nodes, one.id), description="the new name to be listed")
        assert (one.cluster.told, one.id != first) == ([f"fenced {first}"], True)


@on_loop
async def test_a_redis_that_forgot_the_node_is_no_death(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """It keeps its name, and asks for its sessions again."""
    async with member("n1", address, keys) as one:
        first = one.id
        raw.flushdb()
        await until(lambda: one.cluster.told, description="the news")
        assert (one.cluster.told, one.id) == (["forgotten"], first)


@on_loop
async def test_a_restarted_redis_hears_first_what_was_begun(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Until then, and for a while after it, nothing is fetched over the new connection."""
    async with member("n1", address, keys) as one:
        await until(lambda: one.nodes.fetch_epoch is not None, description="a clear standing")
        one.cluster.begun.append(InvocationId("begun"))
        one.nodes._run_id = b"another server's"
        one.nodes._epoch = -1
        assert one.nodes.fetch_epoch is None
        await until(lambda: raw.exists(keys.began(InvocationId("begun"))), description="the declaration")
        await until(lambda: one.nodes.fetch_epoch is not None, description="a clear standing")


class TestNode:
    """What a node may do depends on the last beat that was confirmed."""

    def test_it_may_act_until_some_seconds_after_the_beat_was_sent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not after it was answered: a slow answer makes the time shorter, never longer than the lease."""
        now = [100.0]
        monkeypatch.setattr("gateway_worker.node.time.monotonic", lambda: now[0])

        async def scenario() -> None:
            node = Node("n")
            assert not node.may_act
            node.confirm(sent_at=98.0)
            assert node.may_act
            now[0] = 98.0 + SELF_FENCE - 0.01
            assert node.may_act
            now[0] = 98.0 + SELF_FENCE
            assert not node.may_act

        asyncio.run(scenario())
        assert SELF_FENCE < REAL_LEASE

    @on_loop
    async def test_whoever_waits_goes_on_with_the_next_confirmation(self) -> None:
        """And another incarnation has to be confirmed first."""
        node = Node("n")
        node.confirm(time.monotonic())
        last = node.renew()
        assert last != node.id
        assert not node.may_act
        waiting = asyncio.create_task(node.until_confirmed())
        await asyncio.sleep(0)
        assert not waiting.done()
        node.confirm(time.monotonic())
        await asyncio.wait_for(waiting, 5)
