"""Queues of removed tools are served until nothing is left that could be answered there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from common.domain.ids import NodeId
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import removed
from gateway_worker.removed import RemovedQueues
from tests.support.aio import ended, on_loop, until
from tests.support.tcp_proxy import TcpProxy

QUEUE, OTHER = "tool.a", "tool.b"
NODE = NodeId("n@h:1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at all the time."""
    monkeypatch.setattr(removed, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(removed, "SERVED_LEAST", 0.0)


@asynccontextmanager
async def watched(address: StoreAddress, keys: Keys) -> AsyncIterator[tuple[RemovedQueues, list[str]]]:
    """The queues, and what was left each time that one was forgotten."""
    redis, told = PipelinedConnection(address), []
    queues = RemovedQueues(redis, keys, on_forgotten=lambda: told.append(" ".join(sorted(queues.names))))
    task = asyncio.create_task(queues.run())
    try:
        yield queues, told
    finally:
        await ended(task)
        await redis.aclose()


@pytest.mark.parametrize("place", ["queue", "direct", "held"])
def test_it_is_served_while_a_call_is_anywhere(
    place: str, client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """In the queue, on a node's direct list, or held by a node, which may die and give it back."""

    @on_loop
    async def scenario() -> None:
        where = {"queue": QUEUE, "direct": keys.direct(NODE, QUEUE), "held": keys.calls(QUEUE)}[place]
        raw.zadd(keys.nodes, {NODE: 1})
        if place == "held":
            raw.hset(where, "call", f"{NODE} 1")
        else:
            raw.lpush(where, "call")
        async with watched(address, keys) as (queues, told):
            queues.add([QUEUE, OTHER])
            await until(lambda: told, description="the empty one to be forgotten")
            assert told == [QUEUE]
            raw.delete(where)
            await until(lambda: len(told) == 2, description="the other to be forgotten")
            assert queues.names == frozenset()

    scenario()


@on_loop
async def test_it_is_served_for_a_while_though_it_is_empty(
    client: Client, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Web processes learn of a removal a moment later; a tool that is registered again is none."""
    async with watched(address, keys) as (queues, told):
        monkeypatch.setattr(removed, "SERVED_LEAST", 3600)
        queues.add([QUEUE])
        monkeypatch.setattr(queues, "_since", {**queues._since, OTHER: float("-inf")})
        await until(lambda: told, description="the old one to be forgotten")
        assert queues.names == {QUEUE}
        queues.discard([QUEUE])
        assert queues.names == frozenset()


@on_loop
async def test_redis_away(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """It is served on: what lies there is not known."""
    address = StoreAddress(url=proxy.url, socket_timeout=0.3)
    proxy.refuse()
    async with watched(address, keys) as (queues, told):
        looks, plain = [], queues._forget_if_empty

        async def counted(queue: str, since: float) -> None:
            looks.append(queue)
            await plain(queue, since)

        queues._forget_if_empty = counted  # type: ignore[method-assign]
        queues.add([QUEUE])
        await until(lambda: len(looks) >= 3, description="looks in vain")
        assert queues.names == {QUEUE}
        assert not told
        proxy.refuse(False)
        await until(lambda: told, description="it to be forgotten")
