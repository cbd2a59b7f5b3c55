"""Nodes: a lease that says who lives, and a node that learns what became of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import nodes as module
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes
from tests.support.aio import on_loop, until
from tests.support.backends import invocation
from tests.support.tcp_proxy import TcpProxy
from tests.worker.node_member import FakeCluster, beat_quickly, holds, member, outcome


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short life, so that a death is soon seen."""
    beat_quickly(monkeypatch)


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
        assert outcome(raw, keys, call.id) is None
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
        restarted(one.nodes)
        assert one.nodes.fetch_epoch is None
        await until(lambda: raw.exists(keys.began(InvocationId("begun"))), description="the declaration")
        await until(lambda: one.nodes.fetch_epoch is not None, description="a clear standing")


def restarted(of: Nodes) -> None:
    """Let the node see another server at its next beat."""
    of._run_id = b"another server's"
    of._epoch = -1


@asynccontextmanager
async def beating_by_hand(
    address: StoreAddress, keys: Keys
) -> AsyncIterator[tuple[Nodes, FakeCluster, Node]]:
    """A node that has beaten once, and beats when it is told to."""
    node, store, cluster = Node("n"), PipelinedConnection(address), FakeCluster()
    cluster.node = node
    nodes = Nodes(node, store, keys, RedisClock(), cluster)
    try:
        await nodes.beat()
        yield nodes, cluster, node
    finally:
        await store.aclose()


@on_loop
async def test_a_restart_is_told_although_redis_still_lists_the_node(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """It may have lost the last second of its writes only, claims and ends among them."""
    async with beating_by_hand(address, keys) as (nodes, cluster, _):
        restarted(nodes)
        await nodes.beat()
        await nodes.beat()
        assert cluster.told == ["forgotten"]


@on_loop
async def test_it_is_said_when_fetching_may_go_on(
    client: Client, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, behind the wait after a restart: nobody has to look for the moment."""
    monkeypatch.setattr(module, "QUARANTINE", 0.2)
    async with beating_by_hand(address, keys) as (nodes, cluster, _):
        cluster.may_fetch_from = lambda: nodes.fetch_epoch
        restarted(nodes)
        await nodes.beat()
        await nodes.beat()
        said = len(cluster.fetching)
        assert nodes.fetch_epoch is None
        await until(lambda: len(cluster.fetching) > said, description="the word")
        await nodes.beat()
        assert cluster.fetching[said:] == [nodes.fetch_epoch]


@pytest.mark.parametrize("how", ["restarted", "emptied"])
def test_a_beat_counts_when_all_is_put_right(
    how: str, client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: the node is not confirmed and fetches nothing, and what was not answered is asked again."""
    monkeypatch.setattr(module, "QUARANTINE", 0.0)

    @on_loop
    async def scenario() -> None:
        async with beating_by_hand(address, keys) as (nodes, cluster, node):
            assert nodes.fetch_epoch is not None
            node.confirm(float("-inf"))
            beats = list(cluster.beats)
            cluster.unavailable = True
            restarted(nodes) if how == "restarted" else raw.flushdb()
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await nodes.beat()
                assert nodes.fetch_epoch is None
                assert (node.may_act, cluster.beats) == (False, beats)
            cluster.unavailable = False
            await nodes.beat()
            assert (node.may_act, nodes.fetch_epoch is None, len(cluster.beats)) == (True, False, 2)
            assert cluster.told == ["forgotten"] * 3

    scenario()


@on_loop
async def test_a_full_redis_hears_what_was_begun(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Otherwise nobody would empty its queues again."""
    async with beating_by_hand(address, keys) as (nodes, cluster, node):
        cluster.begun += [InvocationId(f"begun{n}") for n in range(2 * module.AT_ONCE + 1)]
        node.confirm(float("-inf"))
        restarted(nodes)
        raw.config_set("maxmemory", 1)
        try:
            await nodes.beat()
        finally:
            raw.config_set("maxmemory", 0)
        assert (node.may_act, cluster.told) == (True, ["forgotten"])
        declared = raw.mget([keys.began(call) for call in cluster.begun])
        assert declared == [node.id.encode()] * len(cluster.begun)
        assert 0 < raw.pttl(keys.began(cluster.begun[-1])) <= module.DECLARED_FOR_MS


@on_loop
async def test_one_more_connection_does_not_shorten_the_wait(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """The others still have to declare what they have begun."""
    async with beating_by_hand(address, keys) as (nodes, _, _):
        restarted(nodes)
        await nodes.beat()
        nodes._epoch = -1
        await nodes.beat()
        assert nodes._epoch == nodes._redis.epoch
        assert nodes.fetch_epoch is None
