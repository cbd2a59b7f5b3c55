"""A thousand idle clients on one web process: what each costs, and that nobody beside them waits.

``make scale`` runs it at full size, for ten minutes, and looks at the times too; else it is small, and looks only at
what does not depend on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.aio import until
from tests.support.crowd import Crowd, crowd, deaf, many, ping_times
from tests.support.mcp import RawClient, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

FULL = bool(os.environ.get("SCALE_FULL"))
STREAMS = int(os.environ.get("SCALE_STREAMS") or (1000 if FULL else 150))
WEBSOCKETS = int(os.environ.get("SCALE_WEBSOCKETS") or (500 if FULL else 50))
SECONDS = float(os.environ.get("SCALE_SECONDS") or (600.0 if FULL else 3.0))
"""How long they stand."""
PINGS = 1000 if FULL else 50
SLOWEST = 0.020
MOST_BYTES = 64 * 1024
WRITE_TIMEOUT = 2.0
SETTINGS = {"web": {"write_timeout": WRITE_TIMEOUT, "ping_interval": 15.0 if FULL else 1.0}}
HOT = 20
"""Clients before the first measurement: what is made once is not theirs."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(int(300 + 2 * SECONDS))]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One web process, one worker, one stdio tool."""
    command, *args = server_command("echo")
    with running_gateway(
        {"local": {"command": command, "args": args}},
        directory=tmp_path_factory.mktemp("scale"),
        settings=SETTINGS,
    ) as found:
        assert modern(found.tool_url("local")).text("echo", {"text": "warm"}) == "warm"
        yield found


@pytest.fixture(scope="module")
def web(gateway: RunningGateway) -> psutil.Process:
    """The process that serves: the child of gunicorn's master."""
    found = [one for one in gateway.process.descendants() if "gunicorn" in " ".join(one.cmdline())]
    return next(one for one in found if one.ppid() in {other.pid for other in found})


def big_call(gateway: RunningGateway) -> bytes:
    """A request whose answer no buffer takes."""
    client = modern(gateway.tool_url("local"))
    return client.wire("tools/call", {"name": "big", "arguments": {"bytes": 7_500_000}})


@pytest.mark.parametrize("kind", ["streams", "websockets"])
def test_idle_clients_cost_little_and_nobody_waits(
    gateway: RunningGateway, web: psutil.Process, kind: str
) -> None:
    """So many bytes each at most; beside them 99 of 100 pings take 20 ms or less; all of them stand, and hear pings."""
    count = STREAMS if kind == "streams" else WEBSOCKETS

    async def scenario() -> None:
        alone = web.num_fds()
        async with crowd(RawClient(gateway.tool_url("local")), gateway.port) as found:
            opens = found.open_stream if kind == "streams" else found.open_websocket
            await many(HOT, opens)
            quiet = await ping_times(found, PINGS)
            before, files = web.memory_info().rss, web.num_fds()
            begun = time.monotonic()
            await many(count, opens)
            opened = time.monotonic() - begun
            each = (web.memory_info().rss - before) / count
            took = await standing(found, begun)
            each = max(each, (web.memory_info().rss - before) / count)
            print(f"\n{count} {kind}, {each / 1024:.1f} KiB each, opened in {opened:.1f} s")
            print(f"pings: {shown(took)}; before: {shown(quiet)}")
            assert [member for member in found.members if not member.stands] == []
            assert web.num_fds() - files > count - 5
            assert each <= MOST_BYTES
            await left_alone_beside_the_deaf(gateway, found)
            if FULL:
                assert p99(took) <= SLOWEST
        await until(
            lambda: web.num_fds() <= alone + 2, timeout=60, description="the connections to be let go of"
        )

    asyncio.run(scenario())


async def standing(found: Crowd, begun: float) -> list[float]:
    """Let them stand, and ping beside them all the time; the pings' times, the shortest first."""
    took = await ping_times(found, PINGS)
    while time.monotonic() - begun < SECONDS:
        took += await ping_times(found, 20)
        await asyncio.sleep(0.5)
    await until(
        lambda: all(member.heard for member in found.members), timeout=60, description="a word for each"
    )
    return sorted(took)


async def left_alone_beside_the_deaf(gateway: RunningGateway, found: Crowd) -> None:
    """A client that never reads is cut off within the time set; all others stand, and are answered meanwhile."""
    sock = await asyncio.to_thread(deaf, gateway.port, big_call(gateway))
    with contextlib.closing(sock):
        cut = asyncio.create_task(asyncio.to_thread(until_cut, sock))
        pings = 0
        while not cut.done():
            pings += len(await ping_times(found, 10))
        assert await cut <= WRITE_TIMEOUT + 20
        assert pings
    assert all(member.stands for member in found.members)


def until_cut(sock: socket.socket) -> float:
    """Wait until the other side has reset the connection, without reading a byte; returns how long that took."""
    begun = time.monotonic()
    wait_until(
        lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0, timeout=60, description="the reset"
    )
    return time.monotonic() - begun


def shown(times: list[float]) -> str:
    """The middle and the tail of sorted times."""
    return f"p50 {times[len(times) // 2] * 1000:.1f} ms, p99 {p99(times) * 1000:.1f} ms ({len(times)})"


def p99(times: list[float]) -> float:
    """Of sorted times."""
    return times[int(len(times) * 0.99)]
