"""The sweep: what a dead node left is worked off once, whoever looks, and nobody who lives is declared dead."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.head import Head
from common.domain.errors import ErrorCode, StoreUnavailable
from common.domain.ids import InvocationId, NodeId
from common.domain.rules import Retry
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from gateway_worker import nodes, sweep
from gateway_worker.sweep import LEASE_ENDED, MOST_ATTEMPTS, Sweeper
from tests.common.store import delivery
from tests.support.aio import on_loop, until
from tests.support.backends import invocation
from tests.support.messages import QUEUE, head
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until
from tests.worker.node_member import REPLY, Member, beat_quickly, holds, member, outcome, subscribed

DEAD, OTHER = NodeId("dead:1"), NodeId("other:1")


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short life, so that a death is soon seen."""
    beat_quickly(monkeypatch)


def took(client: Client, keys: Keys, *heads: Head) -> None:
    """Let the node that is going to die fetch calls; the first has the tag 1."""
    delivery.live(client, keys, DEAD)
    delivery.put(client, *heads)
    assert len(delivery.fetch(client, keys, DEAD)[1]) == len(heads)
    delivery.send_all(client, keys, DEAD)


def lapse(client: Client, keys: Keys) -> None:
    """Its lease has run out; nobody has declared it dead."""
    client.zadd(keys.nodes, {DEAD: 1})


def listed(raw: Redis, keys: Keys) -> bool:
    """Whether something of the dead node is still to be worked off."""
    return raw.zscore(keys.nodes, DEAD) is not None


def code(raw: Redis, keys: Keys, name: str) -> ErrorCode | None:
    """The code of the end of a call; None if it has none."""
    return outcome(raw, keys, InvocationId(name))


def frames(heard: Any) -> list[str]:
    """Ids of the calls whose ends were published, in order."""
    found = []
    while message := heard.get_message(timeout=0.3):
        found.append(message["data"].partition(b" ")[0].decode())
    return found


# -- what becomes of it ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def grown_server(raw: Redis) -> None:
    """A server that has just started proves nothing, and tells its age in whole seconds."""
    wait_until(lambda: raw.info("server")["uptime_in_seconds"] >= 1, description="the server's first second")


@on_loop
async def test_each_call_of_a_dead_node_goes_its_way(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Sent: lost. Unsent, or with leave, or never fetched: back in front, in the old order. No head: begun here."""
    took(client, keys, head("sent", reply=REPLY), head("unsent"), head("safe", leave=Retry.SAFE))
    client.hset(keys.unsent(DEAD), mapping={"2": 1, "1": 0})
    client.hset(keys.unacked(DEAD), "9", "no head")
    assert delivery.admit(client, keys, head("direct"))[0] == b"admitted"
    delivery.put(client, head("behind", session="t:d"))
    lapse(client, keys)
    with subscribed(raw, REPLY) as heard:
        async with member("n", address, keys) as one:
            await until(lambda: not listed(raw, keys), description="all to be worked off")
        assert frames(heard) == ["sent"]
    assert one.taken_over == [("9", b"no head")]
    assert code(raw, keys, "sent") is ErrorCode.WORKER_LOST
    back = delivery.waiting(client, QUEUE)
    assert [(call.id, call.attempt) for call in back] == [
        ("unsent", 1),
        ("safe", 1),
        ("direct", 0),
        ("behind", 0),
    ]
    assert all(code(raw, keys, call.id) is None for call in back)
    delivery.require_nothing_left(client, keys, DEAD)
    assert raw.hgetall(keys.sessions(delivery.TOOL)) == {}
    assert raw.exists(keys.fenced(DEAD))
    told = [(event[b"kind"], event[b"node"]) for _, event in raw.xrange(keys.audit)]
    assert told == [(b"node_lost", DEAD.encode()), (b"invocation_lost", DEAD.encode())]


@on_loop
async def test_a_call_that_may_be_what_kills_workers_ends(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Leave or not: after so many nodes that died with it, it is answered."""
    took(
        client,
        keys,
        head("killer", leave=Retry.SAFE, attempt=MOST_ATTEMPTS),
        head("last try", leave=Retry.SAFE, attempt=MOST_ATTEMPTS - 1),
    )
    lapse(client, keys)
    async with member("n", address, keys):
        await until(lambda: not listed(raw, keys), description="all to be worked off")
    assert code(raw, keys, "killer") is ErrorCode.WORKER_LOST
    assert delivery.ids(delivery.waiting(client, QUEUE)) == ["last try"]


@on_loop
async def test_a_message_that_nobody_can_take_over_is_looked_at_again(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Once a sweep; so long the dead node stays listed."""
    took(client, keys)
    client.hset(keys.unacked(DEAD), "7", "no head")
    client.expire(keys.unacked(DEAD), 60)
    delivery.die(client, keys, DEAD)
    seen: list[tuple[NodeId, str, bytes]] = []

    async def take_over(node: NodeId, tag: str, message: bytes) -> bool:
        seen.append((node, tag, message))
        return False

    async with member("n", address, keys, sweeping=False) as one:
        sweeper = sweeper_of(one, address, keys, take_over)
        for _ in range(3):
            await sweeper.rescue(DEAD)
        assert seen == 3 * [(DEAD, "7", b"no head")]
        assert listed(raw, keys)
        client.hdel(keys.unacked(DEAD), "7")
        await sweeper.rescue(DEAD)
        assert not listed(raw, keys)
        await sweeper._redis.aclose()


def sweeper_of(one: Member, address: StoreAddress, keys: Keys, headless: sweep.OnHeadless) -> Sweeper:
    """Another sweeper for a node, with a connection of its own."""
    store = PipelinedConnection(address)
    return Sweeper(one.node, one.nodes, store, keys, RedisClock(), result_ttl=60, headless=headless)


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
            await until(lambda: outcome(raw, keys, ours.id), description="our call's end")
            await until(lambda: outcome(raw, keys, stock.id), description="the other's end")
            await until(lambda: raw.zscore(keys.nodes, dead.id) is None, description="all to be worked off")
        assert alive.taken_over == [("1", b"not a message")]
        assert outcome(raw, keys, ours.id) is outcome(raw, keys, stock.id) is ErrorCode.WORKER_LOST
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
        assert outcome(raw, keys, call.id) is None
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
        assert outcome(raw, keys, call.id) is ErrorCode.WORKER_LOST


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
            await until(lambda: outcome(raw, keys, call.id), description="the call's end")
            await until(lambda: raw.zscore(keys.nodes, dead.id) is None, description="the death to be noted")
        frames = []
        while message := heard.get_message(timeout=0.5):
            frames.append(message)
    assert len(frames) == 1


# -- sweepers that die ----------------------------------------------------------------------------------


@on_loop
async def test_a_sweeper_that_dies_half_way_leaves_the_rest_to_the_next(
    client: Client,
    address: StoreAddress,
    proxy: TcpProxy,
    keys: Keys,
    raw: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis did its first step, and it never heard of it: each call still has one end, and none is forgotten."""
    monkeypatch.setattr(sweep, "STEP", 2)
    names = [f"call-{n}" for n in range(5)]
    took(client, keys, *(head(name, reply=REPLY) for name in names))
    assert delivery.admit(client, keys, head("direct"))[0] == b"admitted"
    delivery.die(client, keys, DEAD)
    client.script_load(script("node_rescue").source)
    with subscribed(raw, REPLY) as heard:
        async with member("n1", StoreAddress(url=proxy.url), keys, sweeping=False) as dying:
            proxy.lose_answer_to(script("node_rescue").sha.encode())
            with pytest.raises(StoreUnavailable):
                await dying.sweeper.rescue(DEAD)
        assert listed(raw, keys)
        done = sum(code(raw, keys, name) is not None for name in names)
        assert 0 < done < len(names)
        async with member("n2", address, keys):
            await until(lambda: not listed(raw, keys), description="the rest to be worked off")
        assert sorted(frames(heard)) == names
    assert {code(raw, keys, name) for name in names} == {ErrorCode.WORKER_LOST}
    assert delivery.ids(delivery.waiting(client, QUEUE)) == ["direct"]
    delivery.require_nothing_left(client, keys, DEAD)
    assert raw.hgetall(keys.sessions(delivery.TOOL)) == {}


@on_loop
async def test_what_is_left_of_a_dead_node_needs_no_lease(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was declared dead by one that died right behind: whoever sees it goes on, also one that began just now."""
    monkeypatch.setattr(nodes, "LEASE", 3600)
    took(client, keys, head("sent"))
    delivery.die(client, keys, DEAD)
    client.set(keys.sweep_lease, OTHER, px=60_000)
    async with member("n", address, keys, sweeping=False) as one:
        await one.sweeper._sweep()
    assert code(raw, keys, "sent") is ErrorCode.WORKER_LOST
    assert not listed(raw, keys)


# -- who is declared dead, and by whom ------------------------------------------------------------------


@on_loop
async def test_one_that_renews_at_the_last_moment_is_not_declared_dead(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """The sweeper saw its lease ended; the script, which decides, sees it run."""
    took(client, keys, head("sent"))
    async with member("n", address, keys, sweeping=False) as one:
        assert not await one.sweeper.fence(DEAD, LEASE_ENDED)
        assert not raw.exists(keys.fenced(DEAD))
        await one.sweeper.rescue(DEAD)
        assert (code(raw, keys, "sent"), raw.hlen(keys.unacked(DEAD))) == (None, 1)
        lapse(client, keys)
        assert await one.sweeper.fence(DEAD, LEASE_ENDED)
        assert raw.exists(keys.fenced(DEAD))


@on_loop
async def test_leases_that_ran_out_while_redis_was_away_prove_nothing(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper's own beats must have come through for the time of a lease, so that the others had it too."""
    took(client, keys, head("sent"))
    lapse(client, keys)
    async with member("n", address, keys, sweeping=False) as one:
        monkeypatch.setattr(nodes, "LEASE", 3600)
        await one.sweeper._sweep()
        assert not raw.exists(keys.fenced(DEAD))
        monkeypatch.setattr(nodes, "LEASE", 0.0)
        await one.sweeper._sweep()
        assert raw.exists(keys.fenced(DEAD))


@on_loop
async def test_a_server_that_began_just_now_proves_nothing(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been loaded with leases of long ago."""
    took(client, keys, head("sent"))
    lapse(client, keys)
    async with member("n", address, keys, sweeping=False) as one:
        await until(lambda: one.nodes.steady, description="beats for the time of a lease")
        monkeypatch.setattr(sweep, "LEASE", 10**9)
        await one.sweeper._sweep()
        assert not raw.exists(keys.fenced(DEAD))
        monkeypatch.setattr(sweep, "LEASE", -1.0)
        await one.sweeper._sweep()
        assert raw.exists(keys.fenced(DEAD))


@on_loop
async def test_one_of_the_living_declares_others_dead(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Whoever holds the lease for it; the next takes it when that has run out."""
    took(client, keys, head("sent"))
    lapse(client, keys)
    async with member("n", address, keys, sweeping=False) as one:
        await until(lambda: one.nodes.steady, description="beats for the time of a lease")
        client.set(keys.sweep_lease, OTHER, px=60_000)
        await one.sweeper._sweep()
        assert not raw.exists(keys.fenced(DEAD))
        client.delete(keys.sweep_lease)
        await one.sweeper._sweep()
        assert not listed(raw, keys)
        assert code(raw, keys, "sent") is ErrorCode.WORKER_LOST


@on_loop
async def test_a_node_never_declares_itself_dead(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Its lease ended while it was frozen: it beats, and goes on if nobody else saw it."""
    async with member("n", address, keys, sweeping=False) as one:
        await until(lambda: one.nodes.steady, description="beats for the time of a lease")
        one.nodes.stop()
        raw.zadd(keys.nodes, {one.id: 1})
        await one.sweeper._sweep()
        assert not raw.exists(keys.fenced(one.id))
