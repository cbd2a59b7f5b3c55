"""A worker's tool sessions: whose they are, when they begin and when they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.domain.errors import GatewayError, InvocationTimeout, TransportFailure
from common.domain.ids import ToolId
from common.domain.invocation import Invocation
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.registry.records import Entry
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.sessions import Sessions, ToolSession, era_order, usable
from tests.support.aio import on_loop, until
from tests.support.backends import (
    MAX_BYTES,
    EchoLog,
    echo_backend,
    entry_of,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
    text_of,
)

LEGACY, MODERN = Era.LEGACY, Era.MODERN


@asynccontextmanager
async def sessions_of(guard: ProcessGuard, announced: list[ToolId] | None = None) -> AsyncIterator[Sessions]:
    """A worker's sessions, closed at the end."""
    heard = announced if announced is not None else []
    sessions = Sessions(guard, max_bytes=MAX_BYTES, on_list_changed=heard.append)
    try:
        yield sessions
    finally:
        await sessions.close()


async def ask(sessions: Sessions, entry: Entry, call: Invocation) -> str:
    """Make a call, as the executor does, and return its text."""
    session = sessions.take(call, entry)
    try:
        backend = await usable(session, 20.0)
        return text_of(await backend.call(call))
    finally:
        sessions.give(session)


def pid_of(session: ToolSession) -> int:
    """The child of a stdio session."""
    link = session._ready.result().link
    assert isinstance(link, StdioLink)
    return link.child.process.pid


# -- whose ----------------------------------------------------------------------------------------------


@on_loop
async def test_one_client_has_one_child(guard: ProcessGuard) -> None:
    """However many calls come at once, also while it starts."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(*(ask(sessions, entry, invocation("pid")) for _ in range(20)))
        assert len(set(pids)) == 1
        assert await ask(sessions, entry, invocation("pid")) == pids[0]
        assert len(sessions) == 1


@on_loop
async def test_clients_and_tenants_share_nothing(guard: ProcessGuard) -> None:
    """Names whose parts run together in any way are still different callers."""
    callers = [("a", "b"), ("a", "c"), ("b", "a"), ("a-b", "c"), ("a", "b-c"), ("a\x1fb", "c")]
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(
            *(ask(sessions, entry, invocation("pid", tenant=t, client=c)) for t, c in callers)
        )
        assert len(set(pids)) == len(callers)


@on_loop
async def test_the_eras_of_a_backend_that_speaks_both_are_two_sessions(guard: ProcessGuard) -> None:
    """Each caller's era is mirrored; a backend of one era serves all callers from one session."""
    async with sessions_of(guard) as sessions:
        both = entry_of(stdio_tool(), eras=[LEGACY, MODERN])
        pids = {await ask(sessions, both, invocation("pid", era=era)) for era in (LEGACY, MODERN, LEGACY)}
        assert {session.key.era for session in sessions.all()} == {LEGACY, MODERN}
        assert len(pids) == 2
    async with sessions_of(guard) as sessions:
        one = entry_of(stdio_tool("echo", "--era", "modern"), eras=[MODERN])
        pids = {await ask(sessions, one, invocation("pid", era=era)) for era in (LEGACY, MODERN)}
        assert len(pids) == 1


@pytest.mark.parametrize(
    ("known", "preferred", "order"),
    [
        (None, LEGACY, [LEGACY, MODERN]),
        (None, MODERN, [LEGACY, MODERN]),
        ([LEGACY], MODERN, [LEGACY]),
        ([MODERN], LEGACY, [MODERN]),
        ([LEGACY, MODERN], LEGACY, [LEGACY, MODERN]),
        ([LEGACY, MODERN], MODERN, [MODERN, LEGACY]),
        ([], MODERN, [LEGACY, MODERN]),
    ],
)
def test_the_order_of_eras(known: list[Era] | None, preferred: Era, order: list[Era]) -> None:
    """The caller's first if it is spoken; an unknown backend is asked legacy first."""
    assert era_order(entry_of(stdio_tool(), eras=known), preferred) == order


# -- the start ------------------------------------------------------------------------------------------


@on_loop
async def test_a_failed_start_fails_all_who_wait_and_is_not_kept(
    guard: ProcessGuard, echo_log: EchoLog
) -> None:
    """Both callers get its error; the next call starts a fresh child."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(misbehaving("bad_initialize", env=echo_log.env))
        outcomes = await asyncio.gather(
            *(ask(sessions, entry, invocation("pid")) for _ in range(2)), return_exceptions=True
        )
        assert all(isinstance(outcome, TransportFailure) for outcome in outcomes), outcomes
        assert len(echo_log.pids()) == 1
        with pytest.raises(TransportFailure, match="protocol version"):
            await ask(sessions, entry, invocation("pid"))
        assert len(echo_log.pids()) == 2


@on_loop
async def test_a_deadline_during_the_start(guard: ProcessGuard) -> None:
    """The caller is told in time; the start goes on, and serves the next."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(misbehaving("slow_start", "--seconds", "0.8"))
        session = sessions.take(invocation("pid"), entry)
        begun = time.monotonic()
        with pytest.raises(InvocationTimeout, match="still starting"):
            await usable(session, 0.2)
        assert time.monotonic() - begun < 0.5
        sessions.give(session)
        assert await ask(sessions, entry, invocation("pid")) == str(pid_of(session))


@on_loop
async def test_one_callers_cancellation_leaves_the_start_to_the_others(guard: ProcessGuard) -> None:
    """The session belongs to no call."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(misbehaving("slow_start", "--seconds", "0.3"))
        first, second = (asyncio.create_task(ask(sessions, entry, invocation("pid"))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).isdigit()
        assert first.cancelled()


@on_loop
async def test_a_start_beyond_its_bound(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """``startup_timeout`` ends it, and the child with it."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(misbehaving("silent", env=echo_log.env, startup_timeout=0.5))
        with pytest.raises(TransportFailure, match="startup_timeout"):
            await ask(sessions, entry, invocation("pid"))
        await until(lambda: not any(map(is_running, echo_log.pids())), description="the child to end")
        assert echo_log.pids()


# -- the end --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep looks often, so that the tests end soon."""
    monkeypatch.setattr("gateway_worker.sessions.SWEEP_INTERVAL", 0.02)


@asynccontextmanager
async def swept(sessions: Sessions, versions: dict[str, int | None]) -> AsyncIterator[None]:
    """The sweep running over these versions of the tools."""
    sweep = asyncio.create_task(sessions.sweep(versions.get))
    try:
        yield
    finally:
        sweep.cancel()
        await asyncio.wait([sweep])


@on_loop
async def test_a_changed_definition_is_a_new_session(guard: ProcessGuard) -> None:
    """Calls under way end on the old one, which then goes; new ones get the new one at once."""
    async with sessions_of(guard) as sessions:
        old, new = entry_of(stdio_tool(), version=1), entry_of(stdio_tool(), version=2)
        versions: dict[str, int | None] = {"local": 1}
        async with swept(sessions, versions):
            first = int(await ask(sessions, old, invocation("pid")))
            slow = asyncio.create_task(ask(sessions, old, invocation("sleep", {"seconds": 0.6})))
            await asyncio.sleep(0)
            versions["local"] = 2
            second = int(await ask(sessions, new, invocation("pid")))
            assert second != first
            assert await slow == "slept 0.6 s"
            await until(lambda: not is_running(first), description="the old child to end")
            assert is_running(second)
            assert len(sessions) == 1


@on_loop
async def test_the_sessions_of_a_removed_tool_end(guard: ProcessGuard) -> None:
    """So do those of one that is registered no more."""
    async with sessions_of(guard) as sessions:
        pid = int(await ask(sessions, entry_of(stdio_tool()), invocation("pid")))
        async with swept(sessions, {}):
            await until(lambda: not is_running(pid), description="the child to end")
        assert len(sessions) == 0


@on_loop
async def test_an_idle_session_ends_and_a_busy_one_does_not(guard: ProcessGuard) -> None:
    """A call that takes longer than ``idle_timeout`` is no idleness."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool(idle_timeout=0.2))
        async with swept(sessions, {"local": 1}):
            pid = int(await ask(sessions, entry, invocation("pid")))
            assert await ask(sessions, entry, invocation("sleep", {"seconds": 0.6})) == "slept 0.6 s"
            assert is_running(pid)
            await until(lambda: not is_running(pid), description="the idle child to end")
        assert len(sessions) == 0


@on_loop
async def test_a_dead_child_is_replaced_by_the_next_call(guard: ProcessGuard) -> None:
    """Nothing waits for the sweep."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool())
        first = await ask(sessions, entry, invocation("pid"))
        with pytest.raises(GatewayError):
            await ask(sessions, entry, invocation("kill_me"))
        assert await ask(sessions, entry, invocation("pid")) != first


@on_loop
async def test_a_retired_session_serves_its_calls_to_the_end(guard: ProcessGuard) -> None:
    """The next call gets another; the old one is closed when its last call ends, not before."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool())
        slow = asyncio.create_task(ask(sessions, entry, invocation("sleep", {"seconds": 0.5})))
        first = int(await ask(sessions, entry, invocation("pid")))
        (session,) = sessions.all()
        sessions.retire(session)
        assert int(await ask(sessions, entry, invocation("pid"))) != first
        assert await slow == "slept 0.5 s"
        await until(lambda: not is_running(first), description="the retired child to end")


@on_loop
async def test_closing_ends_all_children_together(guard: ProcessGuard) -> None:
    """Ten take no longer than one, and calls under way are told."""
    async with sessions_of(guard) as sessions:
        entry = entry_of(stdio_tool())
        pids = await asyncio.gather(
            *(ask(sessions, entry, invocation("pid", client=f"c{n}")) for n in range(10))
        )
        stuck = asyncio.create_task(ask(sessions, entry, invocation("cancel_log", client="c0")))
        await until(lambda: any(session.in_flight for session in sessions.all()), description="the call")
        begun = time.monotonic()
        await sessions.close()
        assert time.monotonic() - begun < 4.0
        assert not any(is_running(int(pid)) for pid in pids)
        with pytest.raises(TransportFailure):
            await stuck


@on_loop
async def test_closing_before_a_start_has_begun(guard: ProcessGuard) -> None:
    """Who waits is told, though not even the first step of the start was made."""
    sessions = Sessions(guard, max_bytes=MAX_BYTES, on_list_changed=lambda _: None)
    session = sessions.take(invocation("pid"), entry_of(stdio_tool()))
    closing = asyncio.create_task(session.close())
    with pytest.raises(TransportFailure, match="while it started"):
        await usable(session, 5.0)
    await closing
    await sessions.close()


@on_loop
async def test_closing_does_not_wait_for_a_start(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """A silent child is ended at once, whatever its ``startup_timeout``; who waits for it is told."""
    sessions = Sessions(guard, max_bytes=MAX_BYTES, on_list_changed=lambda _: None)
    entry = entry_of(misbehaving("silent", env=echo_log.env, startup_timeout=60))
    waiting = asyncio.create_task(ask(sessions, entry, invocation("pid")))
    await until(echo_log.received, description="the child to be asked")
    begun = time.monotonic()
    await sessions.close()
    assert time.monotonic() - begun < 3.0
    with pytest.raises(TransportFailure, match="while it started"):
        await waiting
    assert not any(map(is_running, echo_log.pids()))


# -- what is heard --------------------------------------------------------------------------------------


@on_loop
async def test_a_changed_list_is_announced(guard: ProcessGuard) -> None:
    """By a live session of either transport, for its own tool."""
    announced: list[ToolId] = []
    with echo_backend() as server:
        async with sessions_of(guard, announced) as sessions:
            await ask(sessions, entry_of(stdio_tool()), invocation("list_changed"))
            await until(lambda: announced == ["local"], description="the stdio announcement")
            remote = entry_of(http_tool(server.url))
            await ask(sessions, remote, invocation("pid", tool="remote"))
            await until(lambda: server.by_verb("GET"), description="the standing stream")
            await ask(sessions, remote, invocation("list_changed", tool="remote"))
            await until(lambda: announced == ["local", "remote"], description="the HTTP announcement")
