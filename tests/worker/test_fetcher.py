"""Fetching: never more than there are free slots, in turn from all queues, and no message lost or taken twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from structlog.testing import capture_logs

from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import fetcher
from gateway_worker.delivery import Taken
from gateway_worker.fetcher import Fetcher
from gateway_worker.node import Node
from tests.support.aio import ended, on_loop, until
from tests.support.tcp_proxy import TcpProxy

MEMBER = Node("n1")
NODE = MEMBER.id


class Slots:
    """Counts what was started; the test frees slots."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.started: list[tuple[str, bytes, str]] = []
        self.most = 0
        self.freed = 0
        self.store: PipelinedConnection | None = None

    def most_in_flight(self, queue: str) -> int:
        """Any number."""
        return 0

    def owns_sessions(self, queue: str) -> bool:
        """None: there are no direct lists."""
        return False

    def fetch_epoch(self) -> int | None:
        """Over whatever connection there is."""
        return None if self.store is None else self.store.epoch

    def free(self) -> int:
        """Slots left."""
        return self.limit - (len(self.started) - self.freed)

    def start(self, taken: Taken) -> None:
        """Take one."""
        assert taken.node == NODE
        self.started.append((taken.tag, taken.raw, taken.queue))
        self.most = max(self.most, len(self.started) - self.freed)

    @property
    def messages(self) -> list[bytes]:
        """What was started, in order."""
        return [message for _, message, _ in self.started]


async def living(address: StoreAddress, keys: Keys, slots: Slots) -> PipelinedConnection:
    """A connection over which the node has said that it lives, for longer than a test."""
    slots.store = store = PipelinedConnection(address)
    await store.run("node_beat", [keys.nodes, keys.fenced(NODE)], [NODE, 3_600_000])
    return store


@asynccontextmanager
async def running(address: StoreAddress, keys: Keys, slots: Slots, *queues: str) -> AsyncIterator[Fetcher]:
    """A fetcher at work on these queues."""
    store = await living(address, keys, slots)
    made = Fetcher(MEMBER, store, keys, slots, largest=1 << 20)
    made.follow(queues)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        await ended(task)
        await store.aclose()


def push(raw: Redis, queue: str, *messages: object) -> None:
    """Put messages into a queue, the first in front."""
    for message in messages:
        raw.lpush(queue, str(message))


def through(proxy: TcpProxy) -> StoreAddress:
    """Redis behind the proxy."""
    return StoreAddress(url=proxy.url, socket_timeout=0.3)


@on_loop
async def test_no_more_than_there_are_free_slots(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """What cannot start stays in its queue, for others; a slot that gets free takes one more."""
    slots = Slots(3)
    push(raw, "tool.a", *range(10))
    async with running(address, keys, slots, "tool.a") as fetching:
        await until(lambda: len(slots.started) == 3, description="three calls")
        assert raw.llen("tool.a") == 7
        assert sorted(raw.hvals(keys.unacked(NODE))) == [b"0", b"1", b"2"]
        for n in range(4, 11):
            slots.freed += 1
            fetching.wake()
            await until(lambda n=n: len(slots.started) == n, description="one more")
    assert slots.messages == [str(n).encode() for n in range(10)]
    assert slots.most == 3


@on_loop
async def test_a_wake_up_is_quick_and_none_is_needed(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Ours call out; a stock producer does not, and is found all the same."""
    slots = Slots(10)
    async with running(address, keys, slots, "tool.a") as fetching:
        push(raw, "tool.a", "quiet")
        await until(lambda: slots.messages == [b"quiet"], timeout=2, description="the quiet one")
        push(raw, "tool.a", "loud")
        fetching.wake(b"tool.a")
        await until(lambda: len(slots.started) == 2, timeout=2, description="the loud one")
        fetching.wake(b"tool.unknown")


def fetches(raw: Redis) -> int:
    """Scripts that were run by now."""
    return int(raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


@on_loop
async def test_a_call_costs_one_fetch(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch that brought less than it asked for has seen the queues empty: freed slots are no reason to look."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(10)
    async with running(address, keys, slots, "tool.a") as fetching:
        push(raw, "tool.a", "first")
        fetching.wake(b"tool.a")
        await until(lambda: len(slots.started) == 1, description="the first")
        before = fetches(raw)
        for n in range(2, 12):
            push(raw, "tool.a", n)
            fetching.wake(b"tool.a")
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")
            slots.freed += 1
            fetching.freed()
            await asyncio.sleep(0.01)
        assert fetches(raw) - before == 10


@on_loop
async def test_a_slot_that_gets_free_takes_what_is_left(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what was called out while no slot was free; without any poll."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(2)
    push(raw, "tool.a", *range(3))
    async with running(address, keys, slots, "tool.a") as fetching:
        await until(lambda: len(slots.started) == 2, description="two calls")
        slots.freed += 1
        fetching.freed()
        await until(lambda: len(slots.started) == 3, description="the one that was left")
        push(raw, "tool.a", "called out while full")
        fetching.wake(b"tool.a")
        await asyncio.sleep(0.05)
        assert len(slots.started) == 3
        slots.freed += 1
        fetching.freed()
        await until(lambda: len(slots.started) == 4, description="the one that was called out")
    assert slots.most == 2


@on_loop
async def test_a_wake_up_during_a_fetch_is_not_lost(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message may have come right behind the fetch that is under way."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(100)
    async with running(through(proxy), keys, slots, "tool.a") as fetching:
        push(raw, "tool.a", "first")
        await until(lambda: len(slots.started) == 1, description="the first")
        for n in range(2, 30):
            fetching.wake(b"tool.a")
            await asyncio.sleep(0)
            push(raw, "tool.a", n)
            fetching.wake(b"tool.a")
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")


@on_loop
async def test_a_busy_queue_does_not_hold_up_another(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Each gives one in turn, also over several fetches."""
    slots = Slots(6)
    push(raw, "tool.busy", *(f"busy {n}" for n in range(500)))
    push(raw, "tool.calm", "calm 0", "calm 1", "calm 2")
    async with running(address, keys, slots, "tool.busy", "tool.calm"):
        await until(lambda: len(slots.started) == 6, description="six calls")
    assert Counter(message.split()[0] for message in slots.messages) == {b"busy": 3, b"calm": 3}
    assert all(
        message.split()[0].decode() == queue.removeprefix("tool.") for _, message, queue in slots.started
    )


@on_loop
async def test_one_slot_serves_all_queues_in_turn(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Even when only one message is taken at a time."""
    slots = Slots(1)
    for name in "abc":
        push(raw, f"tool.{name}", *(f"{name}{n}" for n in range(3)))
    async with running(address, keys, slots, "tool.a", "tool.b", "tool.c") as fetching:
        for n in range(1, 10):
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")
            slots.freed += 1
            fetching.wake()
    taken = [message.decode() for message in slots.messages]
    assert [name[1] for name in taken] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


@on_loop
async def test_other_queues_from_now_on(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """What is no longer followed is left alone."""
    slots = Slots(10)
    async with running(address, keys, slots, "tool.a") as fetching:
        fetching.follow(["tool.b"])
        push(raw, "tool.a", "left")
        push(raw, "tool.b", "taken")
        await until(lambda: slots.messages == [b"taken"], description="the one of the other queue")
        fetching.follow([])
        push(raw, "tool.b", "left")
        await asyncio.sleep(2 * fetcher.POLL)
    assert slots.messages == [b"taken"]
    assert raw.llen("tool.a") == raw.llen("tool.b") == 1


@on_loop
async def test_a_paused_fetcher_ends(client: Client, address: StoreAddress, keys: Keys, raw: Redis) -> None:
    """And takes nothing more."""
    slots = Slots(10)
    store = await living(address, keys, slots)
    fetching = Fetcher(MEMBER, store, keys, slots, largest=1 << 20)
    fetching.follow(["tool.a"])
    task = asyncio.create_task(fetching.run())
    await asyncio.sleep(0)
    fetching.pause()
    push(raw, "tool.a", "late")
    await asyncio.wait_for(task, 5)
    await store.aclose()
    assert len(slots.started) + raw.llen("tool.a") == 1


# -- many queues ---------------------------------------------------------------------------------------


@on_loop
async def test_only_called_queues_are_looked_into(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds of queues, a call of one does not look into all the others."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(100)
    others = [f"tool.other{n}" for n in range(200)]
    so_far = pops(raw)
    async with running(address, keys, slots, "tool.a", *others) as fetching:
        await until(lambda: pops(raw) >= so_far + 201, description="the first look, into all")
        before = pops(raw)
        for n in range(1, 21):
            push(raw, "tool.a", n)
            fetching.wake(b"tool.a")
            await until(lambda n=n: len(slots.started) == n, description="it is fetched")
        assert pops(raw) - before <= 40


@on_loop
async def test_a_call_during_a_fetch_is_not_forgotten(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetch under way may have looked before the message came: its queue is looked into again."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(100)
    address = StoreAddress(url=proxy.url, connect_timeout=5, socket_timeout=5)
    so_far = pops(raw)
    async with running(address, keys, slots, "tool.a", "tool.b") as fetching:
        await until(lambda: pops(raw) >= so_far + 2, description="the first look")
        proxy.delay = 0.2
        push(raw, "tool.a", 1)
        fetching.wake(b"tool.a")
        await until(lambda: raw.llen("tool.a") == 0, description="the fetch is on its way back")
        push(raw, "tool.a", 2)
        push(raw, "tool.b", 3)
        fetching.wake(b"tool.a")
        fetching.wake(b"tool.b")
        proxy.delay = 0
        await until(lambda: sorted(slots.messages) == [b"1", b"2", b"3"], description="all are fetched")


@on_loop
async def test_full_slots_do_not_make_empty_queues_interesting(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fetch of one busy queue fills the slots: the hundreds of empty ones are still left alone."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(4)
    push(raw, "tool.a", *range(40))
    others = [f"tool.other{n}" for n in range(200)]
    async with running(address, keys, slots, "tool.a", *others) as fetching:
        await until(lambda: len(slots.started) == 4, description="the first look, into all")
        before = pops(raw)
        for n in range(8, 41, 4):
            slots.freed += 4
            fetching.freed()
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")
        assert pops(raw) - before <= 20


@on_loop
async def test_queues_that_a_full_fetch_did_not_reach_are_next(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any call: what was not looked into may hold something."""
    monkeypatch.setattr(fetcher, "POLL", 60)
    slots = Slots(2)
    for name in "abcde":
        push(raw, f"tool.{name}", f"{name}0", f"{name}1")
    async with running(address, keys, slots, *(f"tool.{name}" for name in "abcde")) as fetching:
        for n in range(2, 11, 2):
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")
            slots.freed += 2
            fetching.freed()
    assert [message.decode() for message in slots.messages] == [f"{c}{n}" for n in "01" for c in "abcde"]


@on_loop
async def test_a_pause_ends_when_what_it_waits_for_is_there(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses grow while nothing may be fetched; the last one must not keep calls waiting behind that."""
    monkeypatch.setattr(fetcher, "RETRY_FIRST", 60.0)
    slots = Slots(1)
    async with running(address, keys, slots, "tool.a") as fetching:
        await until(lambda: not fetching._look.is_set() and not fetching._ripe, description="empty queues")
        store, slots.store = slots.store, None
        push(raw, "tool.a", 1)
        with capture_logs() as logs:
            fetching.wake()
            await until(lambda: any(entry["event"] == "fetch_waits" for entry in logs), description="a pause")
        slots.store = store
        fetching.allow()
        await until(lambda: len(slots.started) == 1, description="the call")


@on_loop
async def test_a_queue_that_is_no_list_is_logged_and_harms_no_other(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Once a minute at most, though every look finds it."""
    slots = Slots(100)
    raw.set("tool.zbad", "no list", ex=60)
    with capture_logs() as logs:
        async with running(address, keys, slots, "tool.a", "tool.zbad") as fetching:
            for n in range(1, 6):
                push(raw, "tool.a", n)
                fetching.wake()
                await until(lambda n=n: len(slots.started) == n, timeout=0.5, description=f"{n} calls")
    assert [entry["queue"] for entry in logs if entry["event"] == "queue_unusable"] == ["tool.zbad"]
    assert not [entry for entry in logs if entry["event"] in {"fetch_waits", "call_recovered"}]


def pops(raw: Redis) -> int:
    """Queues that were looked into by now."""
    return int(raw.info("commandstats").get("cmdstat_rpop", {"calls": 0})["calls"])
