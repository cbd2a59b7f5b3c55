"""A machine whose time of day is wrong: leases and what is read off them are by Redis' clock alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from common.domain.ids import NodeId
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.node import LEASE, Node
from gateway_worker.nodes import Nodes
from gateway_worker.sweep import LEASE_ENDED, Sweeper
from tests.support.aio import on_loop

HOUR = 3600.0
OTHER = NodeId("celery@b:2")


class NoCluster:
    """Is told nothing in these tests."""

    def fenced(self) -> None:
        raise AssertionError("nobody declared the node dead")

    async def forgotten(self) -> None:
        raise AssertionError("Redis forgot nothing")

    def begun_lately(self) -> list[Any]:
        return []

    def confirmed(self, moment: float) -> None:
        pass

    def may_fetch(self) -> None:
        pass


@pytest.fixture(params=[HOUR, -HOUR], ids=["ahead", "behind"])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds by which this machine's time of day is wrong."""
    real: Callable[[], float] = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)
    off: float = request.param
    return off


def redis_ms(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def test_a_lease_ends_by_redis_clock(client: Client, address: StoreAddress, keys: Keys, wrong: float) -> None:
    """Neither an hour too late, so that its death goes unnoticed, nor before it began; the node learns the time."""

    @on_loop
    async def scenario() -> None:
        store, clock, node = PipelinedConnection(address), RedisClock(), Node("celery@a")
        nodes = Nodes(node, store, keys, clock, NoCluster())
        try:
            before = redis_ms(client)
            await nodes.beat()
            after = redis_ms(client)
        finally:
            await store.aclose()
        lease_ms = LEASE * 1000
        assert before + lease_ms <= (client.zscore(keys.nodes, node.id) or 0) <= after + lease_ms
        assert abs(clock.now() - redis_ms(client)) < 2000

    scenario()


def test_a_sweeper_spares_the_living(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, wrong: float
) -> None:
    """Whoever's lease runs by Redis' clock is not declared dead, even if this machine thinks that it is over."""
    raw.zadd(keys.nodes, {OTHER: redis_ms(client) + 60_000, "celery@c:3": redis_ms(client) - 1})

    @on_loop
    async def scenario() -> None:
        store, clock, node = PipelinedConnection(address), RedisClock(), Node("celery@a")
        nodes = Nodes(node, store, keys, clock, NoCluster())

        async def headless(*_: object) -> None:
            raise AssertionError("there are no messages")

        sweeper = Sweeper(node, nodes, store, keys, clock, result_ttl=60, headless=headless)
        try:
            assert not await sweeper.fence(OTHER, LEASE_ENDED)
            assert await sweeper.fence(NodeId("celery@c:3"), LEASE_ENDED)
        finally:
            await store.aclose()

    scenario()
    assert client.exists(keys.fenced(OTHER)) == 0
