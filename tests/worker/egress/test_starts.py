"""A few children start at once; whoever hangs or fails keeps no turn."""

from __future__ import annotations

import asyncio
import time

import pytest

from common.domain.errors import TransportFailure
from common.domain.tool import StdioTransport, Tool
from common.processes import ProcessGuard
from gateway_worker.egress import starts
from gateway_worker.egress.starts import start_slot
from gateway_worker.egress.stdio import StdioLink
from tests.support.aio import on_loop, until
from tests.worker.egress.stdio_links import link_to, scripted

ECHO = "if 'id' in m: say(id=m['id'], result={})"
SILENT = "pass"


@pytest.fixture(autouse=True)
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with one processor."""
    monkeypatch.setattr(starts, "STARTS_AT_ONCE", 2)


def started(links: list[StdioLink]) -> int:
    """How many have a process."""
    return sum(link.child._process is not None for link in links)


async def opened(links: list[StdioLink]) -> list[asyncio.Task[None]]:
    """Open them all at once, and let those start that may."""
    tasks = [asyncio.create_task(link.open()) for link in links]
    await until(lambda: started(links) >= 2, description="two children")
    return tasks


@on_loop
async def test_a_child_that_has_spoken_makes_room(
    guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third one waits until one of the first two has said something."""
    monkeypatch.setattr(starts, "SLOT_TIME", 60.0)
    links = [link_to(scripted(ECHO), guard) for _ in range(3)]
    tasks = await opened(links)
    await asyncio.sleep(0)
    assert started(links) == 2
    first = next(link for link in links if link.child._process is not None)
    await first.request("anything", {})
    await asyncio.gather(*tasks)
    assert started(links) == 3
    await asyncio.gather(*(link.close() for link in links))


@on_loop
async def test_one_that_hangs_makes_room_soon(guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not say anything for the others to start."""
    monkeypatch.setattr(starts, "SLOT_TIME", 0.2)
    links = [link_to(scripted(SILENT), guard) for _ in range(5)]
    begun = time.monotonic()
    await asyncio.gather(*(link.open() for link in links))
    assert 0.4 <= time.monotonic() - begun < 2.0, "two, two more, and the last"
    await asyncio.gather(*(link.close() for link in links))


@on_loop
async def test_a_start_that_fails_keeps_no_turn(guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one whose caller gave up, or whose child ended without a word."""
    monkeypatch.setattr(starts, "SLOT_TIME", 60.0)
    missing = Tool(id="missing", transport=StdioTransport(command="/no/such/file"))  # type: ignore[arg-type]
    for _ in range(5):
        with pytest.raises(TransportFailure):
            await link_to(missing, guard).open()
    dying = Tool(id="dying", transport=StdioTransport(command="/bin/true"))  # type: ignore[arg-type]
    for _ in range(5):
        link = link_to(dying, guard)
        await link.open()
        await link.closed.wait()
        await link.close()
    held = [await start_slot() for _ in range(2)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await link_to(scripted(ECHO), guard).open()
    for slot in held:
        slot.release()
        slot.release()
    async with asyncio.timeout(1.0):
        again = [await start_slot() for _ in range(2)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(start_slot(), 0.05)
    for slot in again:
        slot.release()
