"""What a call sends along: published, and logged only where its client may come back for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.contract import server_request_payload, task_message
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import asking as asking_module
from gateway_worker.asking import Asking
from gateway_worker.delivery import Held, Taken
from gateway_worker.frames import Frames, frame_command
from gateway_worker.message import read_message
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox
from tests.support.aio import ended, on_loop, until
from tests.support.backends import invocation
from tests.support.messages import head

CHANNEL = "test:reply:web"
TTL = 60


@asynccontextmanager
async def running(address: StoreAddress, keys: Keys) -> AsyncIterator[tuple[Outbox, PipelinedConnection]]:
    """An outbox at work."""
    redis = PipelinedConnection(address)
    box = Outbox(redis, keys, result_ttl=TTL)
    task = asyncio.create_task(box.run())
    try:
        yield box, redis
    finally:
        await ended(task)
        await redis.aclose()


def held(*, resumable: bool) -> Held:
    """A call as the worker holds it."""
    call = invocation("echo")
    of = head(call.id, reply=CHANNEL)
    return Held(
        taken=Taken(node=Node("n").id, tag="1", raw=b"", queue=of.queue, verdict=b"held", token=1),
        head=of,
        message=read_message(task_message(call, of, prefix="test"), of.queue),
        resumable_until=int(time.time() * 1000) + 600_000 if resumable else None,
    )


def logged(raw: Redis, keys: Keys, call: Held) -> list[Any]:
    """The frames in the log of a call."""
    return [orjson.loads(fields[b"f"]) for _, fields in raw.xrange(keys.call_stream(call.head.id))]


@on_loop
async def test_nothing_is_logged_for_who_cannot_come_back(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """A frame is one message on the reply channel."""
    call = held(resumable=False)
    assert frame_command(keys, call, b"{}") == ("PUBLISH", CHANNEL, call.head.id.encode() + b" {}")
    async with running(address, keys) as (box, _):
        frames = Frames(keys, box, result_ttl=TTL)
        frames.notify(call, "notifications/progress", {"progress": 1})
        frames.end(call)
        assert await box.flushed(5)
    assert not raw.exists(keys.call_stream(call.head.id))


@on_loop
async def test_a_log_lives_as_long_as_the_result(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """From the call's end on; before that until nobody may come back any more."""
    call = held(resumable=True)
    key = keys.call_stream(call.head.id)
    async with running(address, keys) as (box, _):
        frames = Frames(keys, box, result_ttl=TTL)
        for number in (1, 2):
            frames.notify(call, "notifications/progress", {"progress": number})
        assert await box.flushed(5)
        assert raw.pexpiretime(key) == call.resumable_until
        frames.end(call)
        assert await box.flushed(5)
    assert 0 < raw.pttl(key) <= TTL * 1000
    assert [frame["notification"]["params"]["progress"] for frame in logged(raw, keys, call)] == [1, 2]


@on_loop
async def test_a_call_that_sends_nothing_along_costs_nothing(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """Whoever made it."""
    async with running(address, keys) as (box, _):
        assert await box.flushed(5)
        before = raw.info("commandstats")
        Frames(keys, box, result_ttl=TTL).end(held(resumable=True))
        assert await box.flushed(5)
        assert raw.info("commandstats").get("cmdstat_pexpire") == before.get("cmdstat_pexpire")


@on_loop
async def test_what_cannot_be_written_is_left_out(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """It has no place."""
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    call = held(resumable=True)
    async with running(address, keys) as (box, _):
        frames = Frames(keys, box, result_ttl=TTL)
        frames.notify(call, "notifications/progress", {"deep": deep})
        frames.notify(call, "notifications/progress", {})
        assert await box.flushed(5)
    assert raw.xinfo_stream(keys.call_stream(call.head.id))["last-generated-id"] == b"0-1"


@on_loop
async def test_a_script_that_redis_forgot_is_loaded_again(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis
) -> None:
    """No frame is lost by it."""
    call = held(resumable=True)
    async with running(address, keys) as (box, _):
        assert await box.flushed(5)
        raw.script_flush()
        Frames(keys, box, result_ttl=TTL).notify(call, "notifications/progress", {})
        await until(lambda: len(logged(raw, keys, call)) == 1, description="the frame")
        assert await box.flushed(5)


def test_a_question_is_logged_once(
    client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is sent; and so is that it is taken back."""
    monkeypatch.setattr(asking_module, "LOOK", 0.02)
    monkeypatch.setattr(asking_module, "AGAIN_FIRST", 0.05)
    monkeypatch.setattr(asking_module, "AGAIN_MAX", 0.05)

    @on_loop
    async def scenario() -> None:
        call = held(resumable=True)
        pubsub = raw.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(CHANNEL)
        heard: list[bytes] = []

        def asked() -> int:
            while message := pubsub.get_message(timeout=0):
                heard.append(message["data"])
            return len(heard)

        async with running(address, keys) as (box, redis):
            asking = Asking(Node("n"), redis, keys, box)
            looking = asyncio.create_task(asking.run())
            question = asyncio.create_task(asking.ask(call, invocation("x"), "roots/list", {}, seconds=10))
            await until(lambda: asked() >= 3, description="the question three times")
            assert len(logged(raw, keys, call)) == 1
            await ended(question)
            await ended(looking)
            assert await box.flushed(5)
        asking_for, taken_back = logged(raw, keys, call)
        name = asking_for["request"]["id"]
        assert heard[0].partition(b" ")[2] == b"1 " + server_request_payload(name, "roots/list", {})
        assert heard[1].partition(b" ")[2] == server_request_payload(name, "roots/list", {})
        assert taken_back["notification"]["params"]["requestId"] == name
        raw.delete(keys.server_request(call.head.id))
        pubsub.close()

    scenario()
