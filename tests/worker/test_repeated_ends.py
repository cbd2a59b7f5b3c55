"""The outbox and a Redis that was restarted: the ends that it took last are kept, and written again."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from common.domain.ids import InvocationId
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker import outbox
from tests.support.aio import on_loop
from tests.support.messages import head, stamped
from tests.worker.test_outbox import A, B, Told, end, result, running


def rolled_back(raw: Redis, *names: str) -> None:
    """Redis has the records of these calls again, and not their results."""
    for tag, name in enumerate(names, start=1):
        raw.hset(Keys("test").unacked(A), str(tag), stamped(head(name)))
        raw.delete(Keys.result(InvocationId(name)))
    raw.expire(Keys("test").unacked(A), 60)


@on_loop
async def test_the_last_ends_are_written_again(
    client: Client, address: StoreAddress, raw: Redis, keys: Keys
) -> None:
    """Redis was restarted without them: it has them again, as often as it forgets, and nobody is told twice."""
    async with running(address) as box:
        told = Told(box)
        ends = [end(raw, name, tag=str(tag)) for tag, name in enumerate(("a", "b"), start=1)]
        box.put(*ends)
        assert await box.flushed(5)
        for _ in range(2):
            rolled_back(raw, "a", "b")
            box.repeat_ends()
            assert await box.flushed(5)
            assert [result(raw, name) for name in ("a", "b")] == [one.record for one in ends]
            assert raw.exists(keys.unacked(A)) == 0
        assert [name for name, *_ in told.ends] == ["a", "b"]
        assert (len(box._kept), box._kept_bytes) == (2, sum(one.size for one in ends))


@on_loop
async def test_ends_that_redis_still_has_are_published_once(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """Writing them again changes nothing."""
    with raw.pubsub() as heard:
        heard.subscribe("test:reply:web1")
        assert heard.get_message(timeout=5.0)["type"] == "subscribe"
        async with running(address) as box:
            box.put(end(raw, "i", reply="test:reply:web1"))
            assert await box.flushed(5)
            box.repeat_ends()
            box.put(("PUBLISH", "test:reply:web1", "all"))
            assert await box.flushed(5)
        frames = [heard.get_message(timeout=1.0)["data"]]
        while frames[-1] != b"all":
            frames.append(heard.get_message(timeout=1.0)["data"])
    assert [frame[:2] for frame in frames] == [b"i ", b"al"]


@on_loop
async def test_an_end_that_came_too_late_is_not_kept(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """Another one counts, whatever Redis forgets."""
    async with running(address) as box:
        raw.set(Keys.result(InvocationId("i")), "by another", ex=60)
        box.put(end(raw, "i", recorded=False))
        assert await box.flushed(5)
        raw.delete(Keys.result(InvocationId("i")))
        box.repeat_ends()
        assert await box.flushed(5)
    assert result(raw, "i") is None


@on_loop
async def test_ends_are_kept_until_redis_was_seen_well_after_them(
    client: Client, address: StoreAddress, raw: Redis
) -> None:
    """However long it was away: what it took right before that it may have forgotten."""
    async with running(address) as box:
        before = time.monotonic()
        box.put(end(raw, "i"))
        assert await box.flushed(5)
        box.confirmed(before + outbox.KEPT_FOR)
        assert box.tags(A) == {"1"}
        box.confirmed(time.monotonic() + outbox.KEPT_FOR)
        assert (box.tags(A), box._kept_bytes) == (set(), 0)


@pytest.mark.parametrize("bound", ["MOST_KEPT", "MOST_KEPT_BYTES"])
def test_the_newest_ends_are_kept(
    bound: str, client: Client, address: StoreAddress, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In number and in bytes they are bounded."""

    @on_loop
    async def scenario() -> None:
        async with running(address) as box:
            ends = [end(raw, f"i{n}", tag=str(n)) for n in range(5)]
            monkeypatch.setattr(outbox, bound, 2 if bound == "MOST_KEPT" else ends[3].size + ends[4].size)
            box.put(*ends)
            assert await box.flushed(5)
            assert box.tags(A) == {"3", "4"}

    scenario()


@on_loop
async def test_it_tells_which_records_it_knows_of(
    client: Client, address: StoreAddress, raw: Redis, keys: Keys
) -> None:
    """Waiting, under way, taken back, or taken by Redis lately; of the node in question."""
    async with running(address) as box:
        box.put(end(raw, "kept", tag="1"))
        assert await box.flushed(5)
        raw.config_set("maxmemory", "1")
        try:
            box.put(("SET", "refused", "1", "PX", 60_000), end(raw, "waits", tag="2", recorded=False))
            box.put(end(raw, "other", node=B, tag="9", recorded=False), ("HDEL", keys.unacked(A), "3"))
            assert box.tags(A) == {"1", "2", "3"}
            assert not await box.flushed(0.3)
            assert box.tags(A) - {"3"} == {"1", "2"}
        finally:
            raw.config_set("maxmemory", "0")
        assert await box.flushed(10)
        assert (box.tags(A), box.tags(B)) == ({"1", "2"}, {"9"})
