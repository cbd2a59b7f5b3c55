"""The outbox: ends of calls reach Redis in order and for sure, notifications once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from structlog.testing import capture_logs

from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import outbox
from gateway_worker.outbox import Outbox
from tests.support.aio import ended, on_loop, until
from tests.support.tcp_proxy import TcpProxy


@asynccontextmanager
async def running(address: StoreAddress) -> AsyncIterator[Outbox]:
    """An outbox at work."""
    client = PipelinedConnection(address)
    box = Outbox(client, Keys("test"), result_ttl=60)
    task = asyncio.create_task(box.run())
    try:
        yield box
    finally:
        await ended(task)
        await client.aclose()


def through(proxy: TcpProxy, timeout: float = 0.3) -> StoreAddress:
    """Redis behind the proxy."""
    return StoreAddress(url=proxy.url, socket_timeout=timeout)


@on_loop
async def test_everything_is_written_in_order(client: Client, address: StoreAddress, raw: Redis) -> None:
    """Also beyond the size of one batch."""
    async with running(address) as box:
        for n in range(3 * outbox.MAX_BATCH):
            box.put(("RPUSH", "tool.order", str(n)))
        assert await box.flushed(10)
    assert [int(value) for value in raw.lrange("tool.order", 0, -1)] == list(range(3 * outbox.MAX_BATCH))


@on_loop
async def test_acknowledgements_of_a_batch_are_one_command_behind_its_results(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """A call is acknowledged no earlier than its result is kept."""
    async with running(address) as box:
        box.put(("SET", "warm", "1", "PX", 60_000))
        assert await box.flushed(5)
        raw.hset("tool.hash", mapping={str(n): "x" for n in range(10)})
        with raw.monitor() as monitor:
            for n in range(10):
                box.put(("SET", f"end-{n}", "1", "PX", 60_000), ("HDEL", "tool.hash", str(n)))
            assert await box.flushed(5)
            names = [monitor.next_command()["command"].split()[0] for _ in range(11)]
    assert names == ["SET"] * 10 + ["HDEL"]
    assert not raw.exists("tool.hash")


@on_loop
async def test_a_slow_answer_holds_up_no_write(client: Client, proxy: TcpProxy, raw: Redis) -> None:
    """Several writes are under way, and no more than the bound; the rest goes when the first is answered."""
    async with running(through(proxy, timeout=5.0)) as box:
        box.put(("SET", "warm", "1", "PX", 60_000))
        assert await box.flushed(5)
        proxy.delay = 1.0
        count = 2 * outbox.MAX_UNDER_WAY
        for n in range(count):
            box.put(("RPUSH", "tool.seen", str(n)))
            await asyncio.sleep(0)
        await until(
            lambda: raw.llen("tool.seen") == outbox.MAX_UNDER_WAY, timeout=0.8, description="four writes"
        )
        proxy.delay = 0.0
        assert await box.flushed(10)
    assert raw.lrange("tool.seen", 0, -1) == [str(n).encode() for n in range(count)]


@on_loop
async def test_flushed_waits_for_the_write(client: Client, address: StoreAddress, raw: Redis) -> None:
    """An empty one is flushed at once; a full one that nobody writes is not."""
    box = Outbox(PipelinedConnection(address), Keys("test"), result_ttl=60)
    assert await box.flushed(0.01)
    box.put(("SET", "x", "1", "PX", 60_000))
    assert not await box.flushed(0.05)
    async with running(address) as box:
        box.put(("SET", "x", "1", "PX", 60_000))
        assert await box.flushed(5)
        assert raw.get("x") == b"1"


@pytest.mark.parametrize("fault", ["refused", "cut", "reply lost", "black hole"])
def test_ends_of_calls_survive_a_fault(
    fault: str, client: Client, proxy: TcpProxy, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are sent again until Redis has them, the last one last, also when they make several batches."""
    monkeypatch.setattr(outbox, "MAX_BATCH", 4)

    @on_loop
    async def scenario() -> None:
        async with running(through(proxy)) as box:
            box.put(("SET", "warm", "1", "PX", 60_000))
            assert await box.flushed(5)
            if fault == "refused":
                proxy.refuse()
                proxy.cut()
            elif fault == "cut":
                proxy.cut()
            elif fault == "reply lost":
                proxy.swallow_next_reply()
            else:
                proxy.black_hole()
            for n in range(5):
                box.put(
                    ("SET", "end", str(n), "PX", 60_000),
                    ("HSET", "hash", str(n), "x"),
                    ("PEXPIRE", "hash", 60_000),
                )
            if fault == "refused":
                assert not await box.flushed(0.3)
                box.put(("SET", "end", "5", "PX", 60_000))
                proxy.refuse(False)
            assert await box.flushed(10)
        assert raw.get("end") == (b"5" if fault == "refused" else b"4")
        assert len(raw.hkeys("hash")) == 5

    scenario()


@on_loop
async def test_a_notification_is_never_sent_twice(client: Client, proxy: TcpProxy, raw: Redis) -> None:
    """After a fault it is gone: progress must not run backwards. The end of its call is not."""
    with raw.pubsub() as heard:
        heard.subscribe("frames")
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        async with running(through(proxy)) as box:
            box.put_notification(("PUBLISH", "frames", "first"))
            assert await box.flushed(5)
            proxy.swallow_next_reply()
            box.put_notification(("PUBLISH", "frames", "second"))
            box.put(("PUBLISH", "frames", "the end"))
            assert await box.flushed(10)
        frames = []
        while message := heard.get_message(timeout=0.3):
            frames.append(message["data"])
    assert frames[0] == b"first"
    assert frames[1:].count(b"second") == 1
    assert frames[-1] == b"the end"


@on_loop
async def test_beyond_the_bound_only_notifications_are_dropped(
    client: Client, address: StoreAddress, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted; ends of calls are all kept."""
    monkeypatch.setattr(outbox, "MAX_NOTIFICATIONS", 10)
    store = PipelinedConnection(address)
    box = Outbox(store, Keys("test"), result_ttl=60)
    for n in range(15):
        box.put_notification(("RPUSH", "tool.kept", f"note {n}"))
    for n in range(15):
        box.put(("RPUSH", "tool.kept", f"end {n}"))
    box.put_notification(("RPUSH", "tool.kept", "note at last"))
    assert box.dropped_notifications == 6
    task = asyncio.create_task(box.run())
    assert await box.flushed(5)
    await ended(task)
    await store.aclose()
    assert raw.lrange("tool.kept", 0, -1) == [
        *(f"note {n}".encode() for n in range(10)),
        *(f"end {n}".encode() for n in range(15)),
    ]


@on_loop
async def test_notifications_are_bounded_in_bytes_too(
    client: Client, address: StoreAddress, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big ones do not fill the memory; what is written makes room again; drops are logged once a burst."""
    monkeypatch.setattr(outbox, "MAX_NOTIFICATION_BYTES", 1000)
    store = PipelinedConnection(address)
    box = Outbox(store, Keys("test"), result_ttl=60)
    with capture_logs() as logs:
        for n in range(5):
            box.put_notification(("RPUSH", "tool.kept", b"%d" % n + b"x" * 299))
        box.put(("RPUSH", "tool.kept", b"e" * 2000))
        task = asyncio.create_task(box.run())
        assert await box.flushed(5)
        assert box.dropped_notifications == 2
        for n in range(5, 10):
            box.put_notification(("RPUSH", "tool.kept", b"%d" % n + b"x" * 299))
        assert await box.flushed(5)
    await ended(task)
    await store.aclose()
    assert [value[:1] for value in raw.lrange("tool.kept", 0, -1)] == [
        b"0",
        b"1",
        b"2",
        b"e",
        b"5",
        b"6",
        b"7",
    ]
    assert [entry["event"] for entry in logs].count("notifications_dropped") == 2


@on_loop
async def test_what_redis_refuses_for_good_holds_up_nothing(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """It is logged, and the rest goes on."""
    raw.set("string", "x", px=60_000)
    async with running(address) as box:
        box.put(("HDEL", "string", "field"), ("NO-SUCH-COMMAND",), ("SET", "after", "1", "PX", 60_000))
        assert await box.flushed(5)
    assert raw.get("after") == b"1"


@on_loop
async def test_what_redis_cannot_take_now_is_kept(client: Client, address: StoreAddress, raw: Redis) -> None:
    """Full memory is no reason to lose an answer."""
    async with running(address) as box:
        raw.config_set("maxmemory", "1")
        try:
            box.put(("SET", "end", "1", "PX", 60_000))
            assert not await box.flushed(0.4)
        finally:
            raw.config_set("maxmemory", "0")
        assert await box.flushed(10)
    assert raw.get("end") == b"1"


@on_loop
async def test_big_batches_are_split(client: Client, address: StoreAddress, raw: Redis) -> None:
    """Results of some megabytes each do not become one write of a gigabyte."""
    big = b"x" * (3 << 20)
    async with running(address) as box:
        for n in range(6):
            box.put(("SET", f"big-{n}", big, "PX", 60_000))
        assert len(box._batch()) == 2
    assert raw.dbsize() <= 6


@on_loop
async def test_a_stopped_outbox_ends(client: Client, proxy: TcpProxy) -> None:
    """Whatever state its connection is in."""
    async with running(through(proxy)) as box:
        proxy.refuse()
        box.put(("SET", "x", "1", "PX", 60_000))
        await until(lambda: not box._empty.is_set(), description="something to write")
