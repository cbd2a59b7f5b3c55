"""A node with its sweeper, as the engine runs them, and what tests plant for them and see of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import wire_of_record
from common.domain.errors import ErrorCode, StoreUnavailable
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import Invocation, result_from_wire
from common.store.client import StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import nodes, sweep
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes
from gateway_worker.sweep import Sweeper
from tests.support.aio import ended
from tests.support.messages import head, stamped

REPLY = "test:reply:web1"


def beat_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the lives of nodes, so that a death is soon seen."""
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
        self.beats: list[float] = []
        self.unavailable = False
        self.may_fetch_from: Callable[[], int | None] = lambda: None
        self.fetching: list[int | None] = []
        """Over which connection might be fetched each time that the node said so."""

    def fenced(self) -> None:
        """The node begins anew under another name."""
        assert self.node is not None
        self.told.append(f"fenced {self.node.renew()}")

    async def forgotten(self) -> None:
        """Redis may have forgotten something. Raises :class:`StoreUnavailable` as long as it is to."""
        self.told.append("forgotten")
        if self.unavailable:
            raise StoreUnavailable("no answer")

    def begun_lately(self) -> list[InvocationId]:
        """What is to be declared."""
        return self.begun

    def confirmed(self, moment: float) -> None:
        """A beat counts."""
        self.beats.append(moment)

    def may_fetch(self) -> None:
        """What kept the node from fetching is over."""
        self.fetching.append(self.may_fetch_from())


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
async def member(
    name: str, address: StoreAddress, keys: Keys, *, sweeping: bool = True
) -> AsyncIterator[Member]:
    """A node that beats, and sweeps if it is to; it dies at the end without a goodbye."""
    store, clock, cluster = PipelinedConnection(address), RedisClock(), FakeCluster()
    node = cluster.node = Node(name)
    made = Nodes(node, store, keys, clock, cluster)
    taken_over: list[tuple[str, bytes]] = []

    async def take_over(owner: NodeId, tag: str, message: bytes) -> bool:
        taken_over.append((tag, message))
        return bool(await store.command("HDEL", keys.unacked(owner), tag))

    sweeper = Sweeper(node, made, store, keys, clock, result_ttl=60, headless=take_over)
    tasks = [asyncio.create_task(made.run())]
    if sweeping:
        tasks.append(asyncio.create_task(sweeper.run()))
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


def outcome(raw: Redis, keys: Keys, call: InvocationId) -> ErrorCode | None:
    """The code of a call's result; None while there is none."""
    record = raw.get(keys.result(call))
    if record is None:
        return None
    failure = result_from_wire(wire_of_record(orjson.loads(record))).failure
    assert failure is not None
    return failure.code
