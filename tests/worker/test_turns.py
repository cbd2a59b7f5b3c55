"""Whose a backend's request is, where nothing tells: certain, or refused."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway_worker.egress.link import RpcError
from gateway_worker.turns import Turns
from tests.support.aio import on_loop


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@on_loop
async def test_with_one_group_there_it_is_that_one() -> None:
    """However many calls it has."""
    turns = Turns()
    async with turns.turn("a"), turns.turn("a"):
        assert await turns.asker() == "a"


@on_loop
async def test_a_request_waits_until_one_group_is_left() -> None:
    """The others end first; nobody new comes between."""
    turns = Turns()
    async with AsyncExitStack() as asking, AsyncExitStack() as other:
        await asking.enter_async_context(turns.turn("a"))
        await other.enter_async_context(turns.turn("b"))
        found = asyncio.create_task(turns.asker())
        third = asyncio.create_task(asyncio.wait_for(_through(turns, "c"), 10))
        await settle()
        assert not found.done()
        await other.aclose()
        assert await found == "a"
        assert not third.done()
        await asking.aclose()
        await third


async def _through(turns: Turns, group: str) -> None:
    async with turns.turn(group):
        pass


@on_loop
async def test_before_the_first_request_nobody_waits() -> None:
    """A backend that never asks costs nobody anything."""
    turns = Turns()
    async with turns.turn("a"):
        await asyncio.wait_for(_through(turns, "b"), 1)
    assert not turns.one_at_a_time


@on_loop
async def test_one_group_waits_for_no_other_of_its_own() -> None:
    """Calls of one client go side by side, also at a backend that asks."""
    turns = Turns(one_at_a_time=True)
    async with turns.turn("a"):
        await asyncio.wait_for(_through(turns, "a"), 1)


@on_loop
async def test_a_second_request_that_cannot_become_certain_is_refused() -> None:
    """Two groups, two requests: which is whose nobody can say. The refused one's call ends, and one is left."""
    turns = Turns()
    async with turns.turn("a"), AsyncExitStack() as other:
        await other.enter_async_context(turns.turn("b"))
        first = asyncio.create_task(turns.asker())
        await settle()
        with pytest.raises(RpcError, match="mcp_session"):
            await turns.asker()
        await settle()
        assert not first.done()
        await other.aclose()
        assert await first == "a"


@on_loop
async def test_a_request_when_nobody_is_there_is_refused() -> None:
    """A backend that asks between two calls."""
    with pytest.raises(RpcError):
        await Turns().asker()


@on_loop
async def test_a_wait_that_is_given_up_leaves_nothing() -> None:
    """The next one has its turn."""
    turns = Turns(one_at_a_time=True)
    async with turns.turn("a"):
        waiting = asyncio.create_task(_through(turns, "b"))
        await settle()
        waiting.cancel()
        await asyncio.wait([waiting])
    await asyncio.wait_for(_through(turns, "c"), 1)
