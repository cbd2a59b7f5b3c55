"""Whose a backend's request is, where nothing tells: certain, or refused."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from gateway_worker.egress.link import RpcError
from gateway_worker.turns import Turns
from tests.support.aio import on_loop


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def through(turns: Turns, group: str) -> None:
    """Come and go."""
    async with turns.turn(group):
        await asyncio.sleep(0)


@on_loop
async def test_with_one_group_there_it_is_that_one() -> None:
    """However many calls it has."""
    turns = Turns()
    async with turns.turn("a"), turns.turn("a"):
        assert turns.asker() == "a"


@on_loop
async def test_with_two_groups_there_it_is_refused() -> None:
    """It would be a guess; from then on they take turns, and the next is certain."""
    turns = Turns()
    async with turns.turn("a"), turns.turn("b"):
        with pytest.raises(RpcError, match="mcp_session"):
            turns.asker()
    async with turns.turn("a"):
        other = asyncio.create_task(through(turns, "b"))
        await settle()
        assert turns.asker() == "a"
        assert not other.done()
    await other


@on_loop
async def test_with_nobody_there_it_is_refused() -> None:
    """A backend that asks between two calls."""
    with pytest.raises(RpcError):
        Turns().asker()


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError, RuntimeError])
def test_what_a_call_that_was_given_up_may_ask_goes_to_nobody_else(error: type[BaseException]) -> None:
    """The backend may still be at it; its own group may be asked, for it is the same client."""

    @on_loop
    async def scenario() -> None:
        turns = Turns()
        with suppress(error):
            async with turns.turn("a"):
                raise error
        async with turns.turn("b"):
            with pytest.raises(RpcError):
                turns.asker()
        async with turns.turn("a"):
            assert turns.asker() == "a"

    scenario()


@on_loop
async def test_a_call_that_the_backend_ended_is_over() -> None:
    """By its result, or its error."""
    turns = Turns()
    await through(turns, "a")
    with suppress(RpcError):
        async with turns.turn("a"):
            raise RpcError({})
    async with turns.turn("b"):
        assert turns.asker() == "b"


@on_loop
async def test_before_the_first_request_nobody_waits() -> None:
    """A backend that never asks costs nobody anything."""
    turns = Turns()
    async with turns.turn("a"):
        await asyncio.wait_for(through(turns, "b"), 1)
    assert not turns.one_at_a_time


@on_loop
async def test_turns_are_in_order() -> None:
    """A group that comes again and again keeps nobody out; one alone waits for none of its own."""
    turns = Turns(one_at_a_time=True)
    order: list[str] = []

    async def noted(group: str) -> None:
        async with turns.turn(group):
            order.append(group)
            await asyncio.sleep(0)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(turns.turn("a"))
        await asyncio.wait_for(through(turns, "a"), 1)
        tasks = [asyncio.create_task(noted(group)) for group in ("b", "a", "c", "c")]
        await settle()
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["b", "a", "c", "c"]


@on_loop
async def test_a_wait_that_is_given_up_leaves_nothing() -> None:
    """Before its turn, and in the very moment that it came."""
    turns = Turns(one_at_a_time=True)
    async with turns.turn("a"):
        waiting = asyncio.create_task(through(turns, "b"))
        late = asyncio.create_task(through(turns, "c"))
        await settle()
        waiting.cancel()
        await asyncio.wait([waiting])
    late.cancel()
    await asyncio.wait([late])
    await asyncio.wait_for(through(turns, "d"), 1)
    async with turns.turn("e"):
        assert turns.asker() == "e"
