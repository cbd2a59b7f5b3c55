"""Fetching from a Redis that is not always there: no message is lost, and none is started twice."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from common.store.client import Client
from common.store.keys import Keys
from gateway_worker import fetcher
from gateway_worker.fetcher import Fetcher
from tests.support.aio import on_loop, until
from tests.support.tcp_proxy import TcpProxy
from tests.worker.test_fetcher import NODE, Slots, push, running, through


@pytest.fixture(autouse=True)
def quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look soon for what may have been taken."""
    monkeypatch.setattr(fetcher, "LOOK_AGAIN", 0.05)


@pytest.mark.parametrize("fault", ["reply lost", "cut after the script", "black hole", "cut", "refused"])
def test_a_fault_loses_and_doubles_nothing(
    fault: str, client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """Each message is started once, under the tag it is recorded with."""

    @on_loop
    async def scenario() -> None:
        slots = Slots(0)
        push(raw, "tool.a", *range(5))
        async with running(through(proxy), keys, slots, "tool.a") as fetching:
            # A first fetch, so that the script is known and the connection stands.
            slots.limit = 1
            fetching.wake()
            await until(lambda: len(slots.started) == 1, description="the first call")
            if fault == "refused":
                proxy.refuse()
                proxy.cut()
            elif fault == "black hole":
                proxy.black_hole()
            elif fault == "cut":
                proxy.cut()
            else:
                proxy.swallow_next_reply()
            slots.limit = 10
            fetching.wake()
            if fault == "cut after the script":
                await until(lambda: proxy.swallowed, description="the answer to be lost")
                proxy.cut()
            if fault == "refused":
                proxy.refuse(False)
            await until(lambda: len(slots.started) == 5, description="all five", shown=lambda: slots.started)
            push(raw, "tool.a", "afterwards")
            fetching.wake()
            await until(lambda: len(slots.started) == 6, description="the next")
        assert sorted(slots.messages) == [b"0", b"1", b"2", b"3", b"4", b"afterwards"]
        recorded = raw.hgetall(keys.unacked(NODE))
        assert {tag.encode(): message for tag, message, _ in slots.started} == recorded

    scenario()


@on_loop
async def test_a_script_that_runs_after_its_client_gave_up(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """A paused Redis takes the messages later than anybody waits for; they are found all the same."""
    slots = Slots(0)
    async with running(through(proxy), keys, slots, "tool.a") as fetching:
        slots.limit = 1
        push(raw, "tool.a", "first")
        await until(lambda: len(slots.started) == 1, description="the first call")
        push(raw, "tool.a", "second", "third")
        raw.execute_command("CLIENT", "PAUSE", 700, "ALL")
        slots.limit = 10
        fetching.wake()
        await until(lambda: len(slots.started) >= 3, description="the others", shown=lambda: slots.started)
    assert sorted(slots.messages) == [b"first", b"second", b"third"]


@on_loop
async def test_a_recorded_message_that_ended_is_not_started_again(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """A node that was buried meanwhile has nothing recorded any more, and starts nothing."""
    slots = Slots(0)
    async with running(through(proxy), keys, slots, "tool.a") as fetching:
        slots.limit = 1
        push(raw, "tool.a", "first")
        await until(lambda: len(slots.started) == 1, description="the first call")
        push(raw, "tool.a", "second")
        proxy.swallow_next_reply()
        slots.limit = 2
        fetching.wake()
        await until(lambda: raw.hlen(keys.unacked(NODE)) == 2, description="the second to be recorded")
        raw.delete(keys.unacked(NODE))
        push(raw, "tool.a", "third")
        await until(lambda: b"third" in slots.messages, description="the third")
    assert slots.messages == [b"first", b"third"]


async def lose_a_fetch(fetching: Fetcher, proxy: TcpProxy, keys: Keys, raw: Redis, recorded: int) -> None:
    """Let a fetch take messages whose answer never arrives."""
    proxy.swallow_next_reply()
    fetching.wake()
    await until(lambda: raw.hlen(keys.unacked(NODE)) == recorded, description="the messages to be recorded")


@on_loop
async def test_what_was_recorded_is_recovered_without_any_queue(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """A worker that follows nothing any more still owes an answer for what it took."""
    slots = Slots(1)
    async with running(through(proxy), keys, slots, "tool.a") as fetching:
        push(raw, "tool.a", "first")
        await until(lambda: len(slots.started) == 1, description="the first call")
        push(raw, "tool.a", "second")
        slots.limit = 10
        await lose_a_fetch(fetching, proxy, keys, raw, 2)
        proxy.refuse()
        await until(lambda: fetching._uncertain, description="the fetch to be given up")
        fetching.follow([])
        await asyncio.sleep(3 * fetcher.POLL)
        proxy.refuse(False)
        await until(lambda: len(slots.started) == 2, description="the second call")
    assert slots.messages == [b"first", b"second"]


@on_loop
async def test_no_more_is_recovered_than_there_are_free_slots(
    client: Client, proxy: TcpProxy, keys: Keys, raw: Redis
) -> None:
    """Others may have taken them meanwhile; what waits is first in line, and looks only for what is its own."""
    slots = Slots(1)
    async with running(through(proxy), keys, slots, "tool.a") as fetching:
        push(raw, "tool.a", "first")
        await until(lambda: len(slots.started) == 1, description="the first call")
        push(raw, "tool.a", *(f"lost {n}" for n in range(4)))
        slots.limit = 5
        before = whole_looks(raw)
        await lose_a_fetch(fetching, proxy, keys, raw, 5)
        slots.limit = 3
        await until(lambda: len(slots.started) == 3, description="as many as there are slots")
        push(raw, "tool.a", "afterwards")
        for n in range(4, 7):
            slots.freed += 1
            fetching.freed()
            await until(lambda n=n: len(slots.started) == n, description=f"{n} calls")
        assert slots.most == 3
        assert whole_looks(raw) == before
    assert slots.messages == [b"first", *(b"lost %d" % n for n in range(4)), b"afterwards"]


def whole_looks(raw: Redis) -> int:
    """How often a whole hash was read by now."""
    return int(raw.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"])
