"""A worker's tool sessions: whose they are, when they begin and when they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any

import pytest

from common.domain.errors import GatewayError, InvocationTimeout, SessionLimit, TransportFailure
from common.domain.ids import ToolId
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker import sessions as sessions_module
from gateway_worker.conversation import Conversation
from gateway_worker.egress.link import RpcError
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.tool_session import ToolSession, usable
from gateway_worker.turns import Stay
from tests.support.aio import on_loop, until
from tests.support.backends import (
    EchoLog,
    echo_backend,
    entry_of,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
)
from tests.worker.session_desk import SessionDesk, session_desk, swept

LEGACY, MODERN = Era.LEGACY, Era.MODERN
PROFILE = '{"roots":{}}'


Desks = Callable[..., AbstractAsyncContextManager[SessionDesk]]


@pytest.fixture
def desks(guard: ProcessGuard, address: StoreAddress, client: Client, keys: Keys) -> Desks:
    """Makes desks; each is closed at its end."""
    return partial(session_desk, guard, address, keys)


def pid_of(session: ToolSession) -> int:
    """The child of a stdio session."""
    link = session._ready.result().link
    assert isinstance(link, StdioLink)
    return link.child.process.pid


# -- whose ----------------------------------------------------------------------------------------------


@on_loop
async def test_one_client_has_one_child(desks: Desks) -> None:
    """However many calls come at once, also while it starts."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(*(desk.ask(entry, invocation("pid")) for _ in range(20)))
        assert len(set(pids)) == 1
        assert await desk.ask(entry, invocation("pid")) == pids[0]
        assert len(desk) == 1


@on_loop
async def test_clients_and_tenants_share_nothing(desks: Desks) -> None:
    """Names whose parts run together in any way are still different callers."""
    callers = [("a", "b"), ("a", "c"), ("b", "a"), ("a-b", "c"), ("a", "b-c"), ("a\x1fb", "c")]
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(
            *(desk.ask(entry, invocation("pid", tenant=t, client=c)) for t, c in callers)
        )
        assert len(set(pids)) == len(callers)


@on_loop
async def test_the_eras_of_a_backend_that_speaks_both_are_two_sessions(desks: Desks) -> None:
    """Each caller's era is mirrored; a backend of one era serves all callers from one session."""
    async with desks() as desk:
        both = entry_of(stdio_tool(), eras=[LEGACY, MODERN])
        pids = {await desk.ask(both, invocation("pid", era=era)) for era in (LEGACY, MODERN, LEGACY)}
        assert {session.key.era for session in desk.all()} == {LEGACY, MODERN}
        assert len(pids) == 2
    async with desks() as desk:
        one = entry_of(stdio_tool("echo", "--era", "modern"), eras=[MODERN])
        pids = {await desk.ask(one, invocation("pid", era=era)) for era in (LEGACY, MODERN)}
        assert len(pids) == 1


# -- the start ------------------------------------------------------------------------------------------


@on_loop
async def test_a_failed_start_fails_all_who_wait_and_is_not_kept(desks: Desks, echo_log: EchoLog) -> None:
    """Both callers get its error; the next call starts a fresh child."""
    async with desks() as desk:
        entry = entry_of(misbehaving("bad_initialize", env=echo_log.env))
        outcomes = await asyncio.gather(
            *(desk.ask(entry, invocation("pid")) for _ in range(2)), return_exceptions=True
        )
        assert all(isinstance(outcome, TransportFailure) for outcome in outcomes), outcomes
        assert len(echo_log.pids()) == 1
        with pytest.raises(TransportFailure, match="protocol version"):
            await desk.ask(entry, invocation("pid"))
        assert len(echo_log.pids()) == 2


@on_loop
async def test_a_deadline_during_the_start(desks: Desks) -> None:
    """The caller is told in time; the start goes on, and serves the next."""
    async with desks() as desk:
        entry = entry_of(misbehaving("slow_start", "--seconds", "0.8"))
        session = desk.take(invocation("pid"), entry)
        begun = time.monotonic()
        with pytest.raises(InvocationTimeout, match="still starting"):
            await usable(session, 0.2)
        assert time.monotonic() - begun < 0.5
        desk.sessions.give(session)
        assert await desk.ask(entry, invocation("pid")) == str(pid_of(session))


@on_loop
async def test_one_callers_cancellation_leaves_the_start_to_the_others(desks: Desks) -> None:
    """The session belongs to no call."""
    async with desks() as desk:
        entry = entry_of(misbehaving("slow_start", "--seconds", "0.3"))
        first, second = (asyncio.create_task(desk.ask(entry, invocation("pid"))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).isdigit()
        assert first.cancelled()


@on_loop
async def test_a_start_beyond_its_bound(desks: Desks, echo_log: EchoLog) -> None:
    """``startup_timeout`` ends it, and the child with it."""
    async with desks() as desk:
        entry = entry_of(misbehaving("silent", env=echo_log.env, startup_timeout=0.5))
        with pytest.raises(TransportFailure, match="startup_timeout"):
            await desk.ask(entry, invocation("pid"))
        await until(lambda: not any(map(is_running, echo_log.pids())), description="the child to end")
        assert echo_log.pids()


# -- the end --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep looks often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.sessions.SWEEP_INTERVAL", 0.02)


@on_loop
async def test_a_changed_definition_is_a_new_session(desks: Desks) -> None:
    """Calls under way end on the old one, which then goes; new ones get the new one at once."""
    async with desks() as desk:
        old, new = entry_of(stdio_tool(), version=1), entry_of(stdio_tool(max_sessions=7), version=2)
        async with swept(desk):
            first = int(await desk.ask(old, invocation("pid")))
            slow = asyncio.create_task(desk.ask(old, invocation("sleep", {"seconds": 0.6})))
            await asyncio.sleep(0)
            second = int(await desk.ask(new, invocation("pid")))
            assert second != first
            assert await slow == "slept 0.6 s"
            await until(lambda: not is_running(first), description="the old child to end")
            assert is_running(second)
            assert len(desk) == 1


@on_loop
async def test_the_same_definition_is_the_same_session(desks: Desks) -> None:
    """A registry that was lost and written again counts its versions anew: that ends no session."""
    async with desks() as desk, swept(desk):
        old, new = entry_of(stdio_tool(), version=7), entry_of(stdio_tool(), version=1)
        first = await desk.ask(old, invocation("pid"))
        assert await desk.ask(new, invocation("pid")) == first


@on_loop
async def test_another_definition_of_the_same_version_is_another_session(desks: Desks) -> None:
    """Versions that began anew may meet those from before."""
    async with desks() as desk:
        old, new = entry_of(stdio_tool()), entry_of(stdio_tool(max_sessions=7))
        first = await desk.ask(old, invocation("pid"))
        assert await desk.ask(new, invocation("pid")) != first


@on_loop
async def test_a_lost_registry_ends_no_session(desks: Desks) -> None:
    """Its tools are missing until it is written again; what is missing then was removed."""
    async with desks() as desk:
        pid = int(await desk.ask(entry_of(stdio_tool()), invocation("pid")))
        desk.present.clear()
        desk.settled = False
        async with swept(desk):
            assert int(await desk.ask(entry_of(stdio_tool()), invocation("pid"))) == pid
            desk.present.clear()
            desk.settled = True
            await until(lambda: not is_running(pid), description="the child to end")


@on_loop
async def test_the_sessions_of_a_removed_tool_end(desks: Desks) -> None:
    """So do those of one that is registered no more."""
    async with desks() as desk:
        pid = int(await desk.ask(entry_of(stdio_tool()), invocation("pid")))
        desk.present.clear()
        async with swept(desk):
            await until(lambda: not is_running(pid), description="the child to end")
        assert len(desk) == 0


@on_loop
async def test_an_idle_session_ends_and_a_busy_one_does_not(desks: Desks) -> None:
    """A call that takes longer than ``idle_timeout`` is no idleness."""
    async with desks() as desk:
        entry = entry_of(stdio_tool(idle_timeout=0.2))
        async with swept(desk):
            pid = int(await desk.ask(entry, invocation("pid")))
            assert await desk.ask(entry, invocation("sleep", {"seconds": 0.6})) == "slept 0.6 s"
            assert is_running(pid)
            await until(lambda: not is_running(pid), description="the idle child to end")
        assert len(desk) == 0


@on_loop
async def test_a_dead_child_is_replaced_by_the_next_call(desks: Desks) -> None:
    """Nothing waits for the sweep."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        first = await desk.ask(entry, invocation("pid"))
        with pytest.raises(GatewayError):
            await desk.ask(entry, invocation("kill_me"))
        assert await desk.ask(entry, invocation("pid")) != first


@on_loop
async def test_a_retired_session_serves_its_calls_to_the_end(desks: Desks) -> None:
    """The next call gets another; the old one is closed when its last call ends, not before."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        slow = asyncio.create_task(desk.ask(entry, invocation("sleep", {"seconds": 0.5})))
        first = int(await desk.ask(entry, invocation("pid")))
        (session,) = desk.all()
        desk.sessions.retire(session)
        assert int(await desk.ask(entry, invocation("pid"))) != first
        assert await slow == "slept 0.5 s"
        await until(lambda: not is_running(first), description="the retired child to end")


@on_loop
async def test_closing_ends_all_children_together(desks: Desks) -> None:
    """Ten take no longer than one, and calls under way are told."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(*(desk.ask(entry, invocation("pid", client=f"c{n}")) for n in range(10)))
        stuck = asyncio.create_task(desk.ask(entry, invocation("cancel_log", client="c0")))
        await until(lambda: any(session.in_flight for session in desk.all()), description="the call")
        begun = time.monotonic()
        await desk.close()
        assert time.monotonic() - begun < 4.0
        assert not any(is_running(int(pid)) for pid in pids)
        with pytest.raises(TransportFailure):
            await stuck


@on_loop
async def test_closing_before_a_start_has_begun(desks: Desks) -> None:
    """Who waits is told, though not even the first step of the start was made."""
    async with desks() as desk:
        session = desk.take(invocation("pid"), entry_of(stdio_tool()))
        closing = asyncio.create_task(session.close())
        with pytest.raises(TransportFailure, match="while it started"):
            await usable(session, 5.0)
        await closing


@on_loop
async def test_closing_does_not_wait_for_a_start(desks: Desks, echo_log: EchoLog) -> None:
    """A silent child is ended at once, whatever its ``startup_timeout``; who waits for it is told."""
    async with desks() as desk:
        entry = entry_of(misbehaving("silent", env=echo_log.env, startup_timeout=60))
        waiting = asyncio.create_task(desk.ask(entry, invocation("pid")))
        await until(echo_log.received, description="the child to be asked")
        begun = time.monotonic()
        await desk.close()
        assert time.monotonic() - begun < 3.0
        with pytest.raises(TransportFailure, match="while it started"):
            await waiting
        assert not any(map(is_running, echo_log.pids()))


# -- how many, how old, and whose next ---------------------------------------------------------------------


@on_loop
async def test_the_idlest_ends_for_a_new_one(desks: Desks) -> None:
    """At ``max_sessions``; one with a call is never ended, and if all have calls the new one is refused."""
    async with desks(max_sessions=2) as desk:
        entry = entry_of(stdio_tool())
        pids = [int(await desk.ask(entry, invocation("pid", client=name))) for name in ("x", "y", "x")]
        await desk.ask(entry, invocation("pid", client="z"))
        await until(lambda: not is_running(pids[1]), description="the idlest child to end")
        assert is_running(pids[0])
        held = [desk.take(invocation("pid", client=name), entry) for name in ("x", "z")]
        with pytest.raises(SessionLimit, match=r"worker\.max_sessions"):
            desk.take(invocation("pid", client="w"), entry)
        for session in held:
            desk.sessions.give(session)


@on_loop
async def test_an_old_session_gets_no_further_call(desks: Desks) -> None:
    """``max_session_age``: a call under way ends on it, the next has another."""
    async with desks() as desk:
        entry = entry_of(stdio_tool(max_session_age=0.3, idle_timeout=0.3))
        first = int(await desk.ask(entry, invocation("pid")))
        slow = asyncio.create_task(desk.ask(entry, invocation("sleep", {"seconds": 0.6})))
        await until(lambda: desk.all()[0].too_old, description="its age")
        second = int(await desk.ask(entry, invocation("pid")))
        assert second != first
        assert await slow == "slept 0.6 s"
        await until(lambda: not is_running(first), description="the old child to end")


class Talk(Conversation):
    """One whose client answers everything by nothing."""

    def __init__(self) -> None:
        self.stay = Stay()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Nobody is asked."""
        return {}


async def given_up(session: ToolSession, group: str) -> None:
    """A call whose client can be asked is cancelled while the backend is at it."""
    with suppress(asyncio.CancelledError):
        async with session.talking(group, conversation := Talk()):
            with conversation.stay.sending():
                raise asyncio.CancelledError


@on_loop
async def test_a_session_in_doubt_gets_no_further_call(desks: Desks) -> None:
    """Only when a question was refused for a call that was given up; calls under way go on."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        session = desk.take(invocation("pid"), entry, PROFILE)
        await usable(session, 20)
        await given_up(session, "a")
        assert desk.take(invocation("pid"), entry, PROFILE) is session
        async with session.talking("b", Talk()):
            with pytest.raises(RpcError):
                await session._asked("roots/list", {})
            successor = desk.take(invocation("pid"), entry, PROFILE)
            assert successor is not session
            assert not session.ended
        for _ in range(2):
            desk.sessions.give(session)
        await until(lambda: session.ended, description="the old one to end")
        assert session.why == "in doubt"
        await usable(successor, 20)
        async with successor.talking("b", Talk()):
            assert await successor._asked("roots/list", {}) == {}
        desk.sessions.give(successor)


@on_loop
async def test_a_call_that_has_its_turn_but_is_not_there_yet_is_asked_nothing(desks: Desks) -> None:
    """What the backend asks at this moment is of the call before it."""
    async with desks() as desk:
        session = desk.take(invocation("pid"), entry_of(stdio_tool()), PROFILE)
        await usable(session, 20)
        assert session.turns is not None
        session.turns.one_at_a_time = True

        async def comes() -> None:
            async with session.talking("b", Talk()):
                pass

        async with session.talking("a", Talk()):
            task = asyncio.create_task(comes())
            await until(lambda: session.turns is not None and session.turns._waiting, description="the wait")
        with pytest.raises(RpcError, match="no call"):
            await session._asked("roots/list", {})
        await task
        desk.sessions.give(session)


@on_loop
async def test_leaving_hands_over_as_the_calls_end(desks: Desks) -> None:
    """What has no call at once, the others behind their last call."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        idle = int(await desk.ask(entry, invocation("pid", client="idle")))
        busy = int(await desk.ask(entry, invocation("pid", client="busy")))
        slow = asyncio.create_task(desk.ask(entry, invocation("sleep", {"seconds": 0.6}, client="busy")))
        await asyncio.sleep(0)
        desk.sessions.leave()
        await until(lambda: not is_running(idle), description="the idle child to end")
        assert is_running(busy)
        assert await slow == "slept 0.6 s"
        await until(lambda: not is_running(busy), description="the busy child to end")
        await until(lambda: not list(desk.claims), description="both to be free again")


@on_loop
async def test_a_claim_that_is_lost_takes_its_session_along(desks: Desks) -> None:
    """The next call, under another claim, has another child."""
    async with desks() as desk:
        entry = entry_of(stdio_tool())
        first = int(await desk.ask(entry, invocation("pid")))
        desk.claims.drop_all()
        assert desk.all()[0].ended
        assert int(await desk.ask(entry, invocation("pid"))) != first
        await until(lambda: not is_running(first), description="the old child to end")


@on_loop
async def test_a_caller_keeps_its_session_when_the_eras_become_known(desks: Desks) -> None:
    """A modern caller's session began before anybody knew what the backend speaks."""
    async with desks() as desk:
        unknown, known = entry_of(stdio_tool()), entry_of(stdio_tool(), eras=[LEGACY, MODERN])
        first = await desk.ask(unknown, invocation("pid", era=MODERN))
        assert await desk.ask(known, invocation("pid", era=MODERN)) == first


@on_loop
async def test_a_session_gives_as_many_turns_as_it_may(desks: Desks) -> None:
    """``max_in_flight_per_session``; without it there is nothing to wait for."""
    async with desks() as desk:
        bounded = desk.take(invocation("pid"), entry_of(stdio_tool(max_in_flight_per_session=2)))
        assert bounded.turn is not None
        assert bounded.turn._value == 2
        desk.sessions.give(bounded)
        free = desk.take(invocation("pid", client="other"), entry_of(stdio_tool()))
        assert free.turn is None
        desk.sessions.give(free)


# -- what is heard --------------------------------------------------------------------------------------


@on_loop
async def test_a_changed_list_is_announced(desks: Desks) -> None:
    """By a live session of either transport, for its own tool."""
    announced: list[tuple[ToolId, str]] = []
    with echo_backend() as server:
        async with desks(announced=announced) as desk:
            await desk.ask(entry_of(stdio_tool()), invocation("list_changed"))
            await until(lambda: announced == [("local", "tools")], description="the stdio announcement")
            remote = entry_of(http_tool(server.url), eras=[LEGACY])
            await desk.ask(remote, invocation("pid", tool="remote"))
            await until(lambda: server.by_verb("GET"), description="the standing stream")
            await desk.ask(remote, invocation("list_changed", tool="remote"))
            await until(
                lambda: announced == [("local", "tools"), ("remote", "tools")],
                description="the HTTP announcement",
            )


@on_loop
async def test_a_session_whose_watches_cannot_be_pruned_keeps_no_other_from_it(
    desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its backend answered."""
    monkeypatch.setattr(sessions_module, "PRUNE_INTERVAL", 0.01)
    pruned: list[str] = []

    async def prune(session: ToolSession) -> None:
        pruned.append(session.key.session)
        if session.key.session == "acme:alice":
            raise RecursionError

    monkeypatch.setattr(ToolSession, "prune_watches", prune)
    async with desks() as desk:
        for client in ("alice", "bob"):
            await desk.ask(entry_of(stdio_tool()), invocation("pid", client=client))
        task = asyncio.create_task(desk.sessions.prune_watches())
        await until(lambda: pruned.count("acme:alice") > 1 and "acme:bob" in pruned, description="two rounds")
        assert not task.done()
        task.cancel()
