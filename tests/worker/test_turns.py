"""Whose a backend's request is, where nothing tells: certain, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.domain.errors import GatewayError, ResponseTooLarge
from gateway_worker.egress.link import AnswerTooLarge, LinkLost, OnSettled, RpcError, StatusRefused
from gateway_worker.turns import MOST_GIVEN_UP, Turns
from tests.support.aio import on_loop


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def given_up(turns: Turns, group: str, error: BaseException | None = None) -> OnSettled:
    """A call that left while the backend was at it; gives what tells that it is not any more."""
    error = error or asyncio.CancelledError()
    with suppress(type(error)):
        async with turns.turn(group) as stay:
            with stay.sending() as settled:
                raise error
    return settled


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
        await given_up(turns, "a", error())
        async with turns.turn("b"):
            with pytest.raises(RpcError):
                turns.asker()
        async with turns.turn("a"):
            assert turns.asker() == "a"

    scenario()


@pytest.mark.parametrize("error", [LinkLost("gone", unsent=True), asyncio.CancelledError(), TimeoutError()])
def test_a_call_that_the_backend_never_had_is_over(error: BaseException) -> None:
    """It was still to be written, or nothing was begun: nobody can be asked for it."""

    @on_loop
    async def scenario() -> None:
        turns = Turns()
        with suppress(type(error)):
            async with turns.turn("a") as stay:
                if isinstance(error, LinkLost):
                    with stay.sending():
                        raise error
                raise error
        async with turns.turn("b"):
            assert turns.asker() == "b"

    scenario()


@on_loop
async def test_a_late_answer_ends_the_doubt() -> None:
    """Of each call of the group; that of one leaves the others."""
    turns = Turns()
    late = [await given_up(turns, "a") for _ in range(2)]
    async with turns.turn("b"):
        for settled in late:
            with pytest.raises(RpcError):
                turns.asker()
            assert turns.in_doubt
            settled()
            settled()
        assert turns.asker() == "b"
    assert not turns.in_doubt


@on_loop
async def test_only_a_refused_question_makes_a_doubt() -> None:
    """A call that was given up alone costs no session; nor does a question that two present calls could have."""
    turns = Turns()
    await given_up(turns, "a")
    async with turns.turn("b"), turns.turn("c"):
        assert not turns.in_doubt
        with pytest.raises(RpcError):
            turns.asker()
    assert not turns.in_doubt
    async with turns.turn("b"):
        with pytest.raises(RpcError):
            turns.asker()
    assert turns.in_doubt


@on_loop
async def test_the_memory_of_what_was_given_up_is_bounded() -> None:
    """Beyond it nobody's question is certain until the last of them is over."""
    turns = Turns()
    late = [await given_up(turns, f"g{n}") for n in range(MOST_GIVEN_UP + 10)]
    assert len(turns._given_up) == MOST_GIVEN_UP + 1
    for settled in late[:MOST_GIVEN_UP]:
        settled()
    async with turns.turn("a"):
        with pytest.raises(RpcError):
            turns.asker()
        for settled in late[MOST_GIVEN_UP:]:
            settled()
        assert turns.asker() == "a"


@on_loop
async def test_a_call_that_the_backend_ended_is_over() -> None:
    """By its result, or its error."""
    turns = Turns()
    await through(turns, "a")
    with suppress(RpcError):
        async with turns.turn("a") as stay:
            with stay.sending():
                raise RpcError({})
    async with turns.turn("b"):
        assert turns.asker() == "b"


@pytest.mark.parametrize(
    ("error", "over"),
    [
        (StatusRefused(500), True),
        (StatusRefused(502), False),
        (StatusRefused(504), False),
        (AnswerTooLarge("x"), True),
        (ResponseTooLarge("x"), False),
        (LinkLost("no JSON", answered=True), True),
        (LinkLost("broke"), False),
    ],
)
def test_an_answer_of_no_use_is_the_backends_word(error: GatewayError, over: bool) -> None:
    """What need not be its answer is not: a proxy's status, something else that was too large, a broken way."""

    @on_loop
    async def scenario() -> None:
        turns = Turns()
        await given_up(turns, "a", error)
        async with turns.turn("b"):
            if over:
                assert turns.asker() == "b"
            else:
                with pytest.raises(RpcError):
                    turns.asker()
        assert turns.in_doubt is not over

    scenario()


@on_loop
async def test_a_request_that_was_left_behind_counts_however_the_call_ends() -> None:
    """Also one that ends well; and what settles one request settles no other."""
    turns = Turns()
    async with turns.turn("a") as stay:
        with stay.sending() as first:
            pass
        with suppress(TimeoutError), stay.sending() as second:
            raise TimeoutError
        first()
    async with turns.turn("b"):
        with pytest.raises(RpcError):
            turns.asker()
        second()
        assert turns.asker() == "b"


@on_loop
async def test_a_doubt_that_has_ended_is_none_of_the_next_call_that_is_given_up() -> None:
    """That one has cost no question."""
    turns = Turns()
    settled = await given_up(turns, "a")
    async with turns.turn("b"):
        with pytest.raises(RpcError):
            turns.asker()
    settled()
    await given_up(turns, "a")
    assert not turns.in_doubt


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


@on_loop
async def test_a_wait_that_is_given_up_as_its_turn_comes_takes_nobodys_place() -> None:
    """Another call of its group is there; it is cancelled in the very turn of the loop in which the way is free."""
    turns = Turns()
    async with AsyncExitStack() as others:
        async with turns.turn("a"):
            await others.enter_async_context(turns.turn("b"))
            with pytest.raises(RpcError):
                turns.asker()
            late = asyncio.create_task(through(turns, "b"))
            await settle()
            late.cancel()
        await asyncio.wait([late])
        next_one = asyncio.create_task(through(turns, "a"))
        await settle()
        assert turns.asker() == "b"
        assert not next_one.done()
    await asyncio.wait_for(next_one, 1)


class Calls:
    """Calls that come, leave and are cancelled in any order, and what must hold at each moment."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.inside: dict[int, str] = {}
        self._calls: list[tuple[asyncio.Task[None], asyncio.Event]] = []
        self._alone = turns.one_at_a_time

    def step(self, what: str, which: int) -> None:
        """One step, without a turn of the loop."""
        if what == "come":
            leave = asyncio.Event()
            call = self._call(len(self._calls), "ab"[which % 2], leave)
            self._calls.append((asyncio.create_task(call), leave))
        elif what == "ask":
            self._ask()
        elif self._calls:
            task, leave = self._calls[-1 - which % len(self._calls)]
            if what == "leave":
                leave.set()
            else:
                task.cancel()

    async def end(self) -> None:
        """All leave: nobody is there, nobody waits, and whoever comes is let in."""
        for _, leave in self._calls:
            leave.set()
        if self._calls:
            _, left = await asyncio.wait([task for task, _ in self._calls], timeout=5)
            assert not left, "somebody waits for ever"
        assert not self.turns._present
        assert not self.turns._waiting
        await asyncio.wait_for(through(self.turns, "d"), 5)

    async def _call(self, number: int, group: str, leave: asyncio.Event) -> None:
        async with self.turns.turn(group):
            self.inside[number] = group
            try:
                await leave.wait()
            finally:
                del self.inside[number]

    def _ask(self) -> None:
        with suppress(RpcError):
            assert set(self.inside.values()) <= {self.turns.asker()}

    def check(self) -> None:
        """Whoever is there is counted; counts are of somebody; and groups that take turns do not meet."""
        present = self.turns._present
        assert all(count > 0 for count in present.values())
        for group in set(self.inside.values()):
            assert present[group] >= list(self.inside.values()).count(group)
        if self._alone:
            assert len(set(self.inside.values())) <= 1


STEP = st.tuples(st.sampled_from(["come", "come", "leave", "cancel", "ask"]), st.integers(0, 3))
AT_ONCE = st.tuples(st.lists(STEP, min_size=1, max_size=4), st.integers(0, 4))
"""Steps in one turn of the loop, and how often it turns before the next ones."""


TWO_GIVE_UP_AT_ONCE = [
    ([("come", 1), ("come", 0), ("come", 1)], 2),
    ([("cancel", 1), ("cancel", 0)], 3),
]


@settings(max_examples=200)
@example(one_at_a_time=True, steps=TWO_GIVE_UP_AT_ONCE)
@given(one_at_a_time=st.booleans(), steps=st.lists(AT_ONCE, min_size=2, max_size=10))
def test_whatever_comes_leaves_and_is_cancelled(
    one_at_a_time: bool, steps: Sequence[tuple[Sequence[tuple[str, int]], int]]
) -> None:
    """Counts are those of the calls that are there, groups that take turns never meet, and nobody waits for ever."""

    async def scenario() -> None:
        calls = Calls(Turns(one_at_a_time=one_at_a_time))
        for together, passes in steps:
            for what, which in together:
                calls.step(what, which)
                calls.check()
            for _ in range(passes):
                await asyncio.sleep(0)
                calls.check()
        await calls.end()

    asyncio.run(scenario())
