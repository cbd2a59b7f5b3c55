"""The worker's connection: one socket for all tasks of a loop, with the same promises as the shared one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis

from common.domain.errors import StoreUnavailable
from common.store.client import Client, StoreAddress
from common.store.pipelined import CommandRefused, PipelinedConnection
from tests.support.messages import unstamped
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

PATIENCE = 0.3
Story = Callable[[PipelinedConnection], Awaitable[None]]


@asynccontextmanager
async def opened(address: StoreAddress) -> AsyncIterator[PipelinedConnection]:
    connection = PipelinedConnection(address)
    try:
        yield connection
    finally:
        await connection.aclose()


def tell(story: Story, address: StoreAddress) -> None:
    """Run a story on a loop of its own with a connection."""

    async def run() -> None:
        async with opened(address) as connection:
            await story(connection)

    asyncio.run(run())


@pytest.fixture
def hasty(proxy: TcpProxy) -> StoreAddress:
    return StoreAddress(url=proxy.url, connect_timeout=PATIENCE, socket_timeout=PATIENCE)


def test_commands_are_answered(address: StoreAddress, client: Client) -> None:
    """One by one, and several in one write with Redis' errors among the answers."""

    async def story(redis: PipelinedConnection) -> None:
        assert await redis.command("SET", "test:a", "ü", "EX", 60) == b"OK"
        assert await redis.command("GET", "test:b") is None
        with pytest.raises(CommandRefused, match="unknown command"):
            await redis.command("NONSENSE")
        found = await redis.commands([("GET", "test:a"), ("LPOP", "test:a"), ("EXISTS", "test:a")])
        assert (found[0], found[2]) == ("ü".encode(), 1)
        assert isinstance(found[1], CommandRefused)
        assert await redis.commands([]) == []

    tell(story, address)


def test_a_turn_of_the_loop_is_one_write(address: StoreAddress, client: Client, raw: Redis) -> None:
    """1000 tasks, one connection, each its own answer."""

    async def story(redis: PipelinedConnection) -> None:
        mine = await redis.command("CLIENT", "ID")
        found = await asyncio.gather(*(redis.command("ECHO", str(number)) for number in range(1000)))
        assert found == [str(number).encode() for number in range(1000)]
        assert await redis.command("CLIENT", "ID") == mine

    tell(story, address)


def test_a_forgotten_script_is_sent_again(address: StoreAddress, client: Client) -> None:
    """Nobody notices SCRIPT FLUSH."""

    async def story(redis: PipelinedConnection) -> None:
        for _ in range(2):
            await redis.command("SCRIPT", "FLUSH")
            await redis.run(
                "admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100]
            )

    tell(story, address)
    assert client.llen("tool.a") == 2


def test_a_cancelled_task_does_not_disturb_the_others(address: StoreAddress, client: Client) -> None:
    """Its answer is thrown away when it comes."""

    async def story(redis: PipelinedConnection) -> None:
        await redis.command("PING")
        asking = [asyncio.create_task(redis.command("ECHO", str(number))) for number in range(20)]
        await asyncio.sleep(0)
        for task in asking[::2]:
            task.cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert found[1::2] == [str(number).encode() for number in range(1, 20, 2)]
        assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])

    tell(story, address)


def test_a_lost_answer_is_an_error_and_no_second_try(
    hasty: StoreAddress, proxy: TcpProxy, client: Client
) -> None:
    """In time; executed once; the next command connects anew."""

    async def story(redis: PipelinedConnection) -> None:
        await redis.run(
            "admit", ["tool.warm", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100]
        )
        proxy.swallow_next_reply()
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await redis.run(
                "admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100]
            )
        assert time.monotonic() - begun < PATIENCE + 1
        assert await redis.command("ECHO", "next") == b"next"

    tell(story, hasty)
    assert client.llen("tool.a") == 1


def test_a_cut_connection_is_replaced(hasty: StoreAddress, proxy: TcpProxy, client: Client) -> None:
    """Whoever waited is told at once, single commands and batches alike."""

    async def story(redis: PipelinedConnection) -> None:
        await redis.command("PING")
        proxy.delay = 5
        waiting: list[Awaitable[Any]] = [
            asyncio.create_task(redis.command("PING")),
            asyncio.create_task(redis.commands([("PING",), ("PING",)])),
        ]
        await asyncio.sleep(0.02)
        proxy.cut()
        proxy.delay = 0
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [StoreUnavailable, StoreUnavailable]
        assert await redis.command("PING") == b"PONG"

    tell(story, hasty)


def test_a_server_that_is_away_is_an_error_at_once() -> None:
    """Nobody listens."""

    async def story(redis: PipelinedConnection) -> None:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await redis.command("PING")

    tell(story, StoreAddress(url="unix:///nonexistent/redis.sock"))


def test_a_server_that_hangs_is_an_error_in_time(redis_server: RedisServer) -> None:
    """Stopped by a signal: everybody who waits is told."""

    async def story(redis: PipelinedConnection) -> None:
        await redis.command("PING")
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            found = await asyncio.gather(*(redis.command("PING") for _ in range(10)), return_exceptions=True)
            assert {type(one) for one in found} == {StoreUnavailable}
            assert time.monotonic() - begun < PATIENCE + 1
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)

    tell(story, StoreAddress(url=redis_server.url(), connect_timeout=PATIENCE, socket_timeout=PATIENCE))


def test_a_server_that_accepts_nothing_keeps_nobody_long() -> None:
    """20 tasks ask at once: they wait for one attempt to connect, not for twenty in a row."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())

        async def story(redis: PipelinedConnection) -> None:
            begun = time.monotonic()
            found = await asyncio.gather(*(redis.command("PING") for _ in range(20)), return_exceptions=True)
            assert {type(one) for one in found} == {StoreUnavailable}
            assert time.monotonic() - begun < 4 * PATIENCE

        url = f"redis://127.0.0.1:{full.getsockname()[1]}/0"
        tell(story, StoreAddress(url=url, connect_timeout=PATIENCE, socket_timeout=5))


def test_a_wrong_password_is_an_error_that_does_not_repeat_it(redis_server: RedisServer, raw: Redis) -> None:
    """And leaves no connection behind."""
    before = len(raw.client_list())

    async def story(redis: PipelinedConnection) -> None:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="refuses") as caught:
                await redis.command("PING")
            assert "s3cr3t" not in f"{caught.value!r} {caught.value.__cause__!r}"

    tell(story, StoreAddress(url=f"unix://nobody:s3cr3t@{redis_server.socket}"))
    wait_until(lambda: len(raw.client_list()) == before, description="they are closed")


def test_closing_tells_whoever_waits(hasty: StoreAddress, proxy: TcpProxy, client: Client) -> None:
    """And one that was never used can be closed."""

    async def story(redis: PipelinedConnection) -> None:
        await redis.command("PING")
        proxy.delay = 5
        waiting = asyncio.create_task(redis.command("PING"))
        await asyncio.sleep(0.02)
        await redis.aclose()
        proxy.delay = 0
        with pytest.raises(StoreUnavailable):
            await waiting

    tell(story, hasty)
    asyncio.run(PipelinedConnection(hasty).aclose())
