"""The outbox: ends of calls reach Redis in order and for sure, notifications once or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis
from structlog.testing import capture_logs

from common.calls.contract import task_message
from common.calls.head import Head
from common.domain.ids import InvocationId, NodeId, ToolId
from common.domain.invocation import answer
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from gateway_worker import outbox
from gateway_worker.delivery import End, Held, Taken, end_of
from gateway_worker.message import read_message
from gateway_worker.outbox import Outbox
from tests.support.aio import ended, on_loop, until
from tests.support.backends import invocation
from tests.support.messages import head, stamped
from tests.support.tcp_proxy import TcpProxy

A, B = NodeId("a:1"), NodeId("b:2")


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
async def test_who_asks_is_told_how_many_received_a_publication(address: StoreAddress, raw: Redis) -> None:
    """It is published in its turn, behind what was put before it."""
    async with running(address) as box:
        with raw.pubsub() as listener:
            listener.subscribe("news")
            assert listener.get_message(timeout=5.0)["type"] == "subscribe"
            box.put_notification(("PUBLISH", "news", b"first"))
            assert await box.put_question(("PUBLISH", "news", b"second")) == 1
            assert [listener.get_message(timeout=5.0)["data"] for _ in range(2)] == [b"first", b"second"]
        assert await box.put_question(("PUBLISH", "elsewhere", b"third")) == 0


@on_loop
async def test_who_asks_in_vain_is_told_that_nobody_knows(
    address: StoreAddress, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis refuses it, the answer is lost, or there is no place for it."""
    async with running(through(proxy)) as box:
        assert await box.put_question(("PUBLISH",)) is None
        proxy.swallow_next_reply()
        assert await box.put_question(("PUBLISH", "news", b"lost")) is None
        monkeypatch.setattr(outbox, "MAX_NOTIFICATIONS", 0)
        assert await box.put_question(("PUBLISH", "news", b"too many")) is None


@on_loop
async def test_a_question_waits_for_redis_as_other_notifications_do(address: StoreAddress) -> None:
    """It is published when Redis is there."""
    client = PipelinedConnection(address)
    box = Outbox(client, Keys("test"), result_ttl=60)
    asked = box.put_question(("PUBLISH", "news", b"early"))
    task = asyncio.create_task(box.run())
    try:
        assert await asyncio.wait_for(asked, 5) == 0
    finally:
        await ended(task)
        await client.aclose()


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


# -- ends of calls --------------------------------------------------------------------------------------


class Told:
    """What came of each end: the call, whether it came too late, whether its circuit wants to know."""

    def __init__(self, box: Outbox) -> None:
        self.ends: list[tuple[str, bool, bool]] = []
        box.on_finished = self.finished

    def finished(self, end: End, late: bool, circuit: bool) -> None:
        """Remember it."""
        self.ends.append((end.held.head.id, late, circuit))


def held(of: Head, tag: str, node: NodeId) -> Held:
    """A call as its worker holds it."""
    message = read_message(task_message(invocation("echo"), of, prefix="test"), of.queue)
    taken = Taken(node=node, tag=tag, raw=b"", queue=of.queue, verdict=b"held", token=1)
    return Held(taken=taken, head=of, message=message)


def end(
    raw: Redis, name: str, *, node: NodeId = A, tag: str = "1", recorded: bool = True, reply: str = ""
) -> End:
    """The end of a call, whose record the node has or has not."""
    of = head(name, reply=reply)
    if recorded:
        raw.hset(Keys("test").unacked(node), tag, stamped(of))
        raw.expire(Keys("test").unacked(node), 60)
    return end_of(held(of, tag, node), answer({"content": []}))


def evaluations(raw: Redis) -> int:
    """Scripts that were run by now."""
    return int(raw.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def result(raw: Redis, name: str) -> bytes | None:
    """What stands under a call's result key."""
    return raw.get(Keys.result(InvocationId(name)))


@on_loop
async def test_ends_of_a_batch_are_one_script_for_each_node(
    client: Client, address: StoreAddress, raw: Redis, keys: Keys
) -> None:
    """The right to answer is an incarnation's: those of the last one are not mixed with those of this one."""
    async with running(address) as box:
        told = Told(box)
        ends = [end(raw, f"a{n}", tag=str(n)) for n in range(3)]
        ends[1:1] = [end(raw, f"b{n}", node=B, tag=str(n)) for n in range(2)]
        box.put(("SET", "warm", "1", "PX", 60_000))
        assert await box.flushed(5)
        before = evaluations(raw)
        box.put(*ends)
        assert await box.flushed(5)
        assert evaluations(raw) - before == 2
        assert told.ends == [(name, False, False) for name in ("a0", "a1", "a2", "b0", "b1")]
    assert all(result(raw, done.held.head.id) == done.record for done in ends)
    assert raw.exists(keys.unacked(A), keys.unacked(B)) == 0


@on_loop
async def test_an_end_is_written_behind_what_was_put_before_it(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """Whoever waits hears of progress first."""
    with raw.pubsub() as heard:
        heard.subscribe("test:reply:web1")
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        async with running(address) as box:
            box.put(end(raw, "i", reply="test:reply:web1"))
            box.put_notification(("PUBLISH", "test:reply:web1", "progress of another"))
            assert await box.flushed(5)
        frames = [heard.get_message(timeout=1.0)["data"] for _ in range(2)]
    assert frames[0] == b"progress of another"
    assert frames[1].startswith(b"i ")


@on_loop
async def test_a_server_that_forgot_the_script_learns_it_again(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """It was restarted, or somebody flushed its scripts: no end is lost, and none is told twice."""
    async with running(address) as box:
        told = Told(box)
        box.put(end(raw, "first"))
        assert await box.flushed(5)
        raw.script_flush()
        box.put(end(raw, "second"), end(raw, "third", tag="2"))
        assert await box.flushed(5)
        assert told.ends == [(name, False, False) for name in ("first", "second", "third")]
        assert raw.script_exists(script("finish").sha) == [True]
    assert None not in (result(raw, "second"), result(raw, "third"))


@on_loop
async def test_an_end_that_comes_too_late_is_told_and_changes_nothing(
    client: Client, address: StoreAddress, raw: Redis, keys: Keys
) -> None:
    """The node was declared dead and its call answered, or it was; those in the same write are not touched by it."""
    raw.set(keys.fenced(B), 1, ex=60)
    raw.set(Keys.result(InvocationId("answered")), "by another", ex=60)
    with raw.pubsub() as heard:
        heard.subscribe("test:reply:web1")
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        async with running(address) as box:
            told = Told(box)
            box.put(
                end(raw, "good", tag="1"),
                end(raw, "answered", tag="2", recorded=False, reply="test:reply:web1"),
                end(raw, "fenced", node=B, tag="1", recorded=False, reply="test:reply:web1"),
                end(raw, "good too", tag="3"),
            )
            assert await box.flushed(5)
        assert heard.get_message(timeout=0.3) is None
    assert told.ends == [
        ("good", False, False),
        ("answered", True, False),
        ("good too", False, False),
        ("fenced", True, False),
    ]
    assert (result(raw, "answered"), result(raw, "fenced")) == (b"by another", None)


@on_loop
async def test_an_end_that_redis_forgot_to_expect_is_taken(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """There is neither record nor tombstone nor result: Redis lost its data, and the caller still waits."""
    async with running(address) as box:
        told = Told(box)
        box.put(end(raw, "i", recorded=False))
        assert await box.flushed(5)
        assert told.ends == [("i", False, False)]
    assert result(raw, "i") is not None


@on_loop
async def test_a_circuit_that_wants_to_know_is_told(
    client: Client, address: StoreAddress, raw: Redis, keys: Keys
) -> None:
    """Only that of the tool in question."""
    raw.hset(keys.circuit(ToolId("a")), "state", "half_open")
    raw.expire(keys.circuit(ToolId("a")), 60)
    async with running(address) as box:
        told = Told(box)
        box.put(end(raw, "i"), end_of(held(head("j", queue="tool.b"), "2", A), answer({})))
        assert await box.flushed(5)
        assert told.ends == [("i", False, True), ("j", False, False)]


@on_loop
async def test_an_end_whose_answer_is_lost_is_published_once(
    client: Client, proxy: TcpProxy, raw: Redis
) -> None:
    """It is sent again, finds its own result, and the caller hears nothing twice."""
    with raw.pubsub() as heard:
        heard.subscribe("test:reply:web1")
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        async with running(through(proxy)) as box:
            box.put(("SET", "warm", "1", "PX", 60_000))
            assert await box.flushed(5)
            told = Told(box)
            proxy.lose_answer_to(script("finish").sha.encode())
            box.put(end(raw, "i", reply="test:reply:web1"))
            assert await box.flushed(10)
            assert [name for name, *_ in told.ends] == ["i"]
        assert heard.get_message(timeout=1.0)["data"].startswith(b"i ")
        assert heard.get_message(timeout=0.3) is None
    assert result(raw, "i") is not None
