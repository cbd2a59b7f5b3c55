"""The gate of a link: asked right before each write, wherever the request has waited until then."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.domain.egress import Judge
from common.domain.errors import TransportFailure
from common.domain.rules import HealthRules
from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from common.processes import ProcessGuard
from gateway_worker.egress import http, http_pool
from gateway_worker.egress.backend import Backend, connect, make_link
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import GateShut, LinkLost
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.probe import ask
from tests.support.aio import on_loop, until
from tests.support.backends import MAX_BYTES, EchoLog, HttpBackend, echo_backend, stdio_tool, text_of
from tests.worker.egress.http_links import served
from tests.worker.egress.stdio_links import call
from tests.worker.egress.test_http_resume import Resumable


class Latch:
    """A gate that the test opens and shuts."""

    def __init__(self) -> None:
        self.open = True
        self.refused = 0

    def __call__(self) -> bool:
        self.refused += not self.open
        return self.open

    def shut(self) -> None:
        """Shut it."""
        self.open = False


@asynccontextmanager
async def stdio(guard: ProcessGuard, echo_log: EchoLog) -> AsyncIterator[tuple[Backend, StdioLink, Latch]]:
    """A child that has been spoken to, behind a gate."""
    latch = Latch()
    link = make_link(stdio_tool(env=echo_log.env), guard, max_bytes=MAX_BYTES, gate=latch)
    assert isinstance(link, StdioLink)
    try:
        yield await connect(link, [Era.LEGACY]), link, latch
    finally:
        await link.close()


@asynccontextmanager
async def remote(
    server: HttpBackend, era: Era = Era.MODERN
) -> AsyncIterator[tuple[Backend, HttpLink, Latch]]:
    """An HTTP backend that has been spoken to, behind a gate."""
    latch = Latch()
    link = HttpLink(
        HttpTransport(url=server.url, headers={}), connect_timeout=2.0, max_bytes=MAX_BYTES, gate=latch
    )
    try:
        yield await connect(link, [era]), link, latch
    finally:
        await link.close()


def texts(echo_log: EchoLog) -> list[str]:
    """What the echo tool was told, the first character of each."""
    return [m["params"]["arguments"]["text"][0] for m in echo_log.received("tools/call")]


# -- stdio ----------------------------------------------------------------------------------------------


@on_loop
async def test_no_child_starts_behind_a_shut_gate(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """A second one would live beside that of the session's next owner."""
    latch = Latch()
    latch.open = False
    link = make_link(stdio_tool(env=echo_log.env), guard, max_bytes=MAX_BYTES, gate=latch)
    with pytest.raises(GateShut):
        await connect(link, [Era.LEGACY, Era.MODERN])
    assert isinstance(link, StdioLink)
    with pytest.raises(TransportFailure, match="has not been started"):
        _ = link.child.process


@on_loop
async def test_what_was_asked_in_this_turn_of_the_loop_is_not_written(
    guard: ProcessGuard, echo_log: EchoLog
) -> None:
    """The write comes a moment later, and a process may stand still for long in between."""
    async with stdio(guard, echo_log) as (backend, _, latch):
        asked = asyncio.create_task(backend.request("tools/call", call("echo", text="x")))
        await asyncio.sleep(0)
        latch.open = False
        with pytest.raises(GateShut) as shut:
            await asked
        assert shut.value.unsent
        latch.open = True
        assert text_of(await backend.request("tools/call", call("echo", text="y"))) == "y"
        assert texts(echo_log) == ["y"]


@on_loop
async def test_what_waits_for_a_full_pipe_is_given_back(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """All but the line of which the pipe has a part: its rest waits for the gate, and it may count as sent."""
    async with stdio(guard, echo_log) as (backend, link, latch):
        pid = link.child.process.pid
        os.kill(pid, signal.SIGSTOP)
        begun = asyncio.create_task(backend.request("tools/call", call("echo", text="a" * 300_000)))
        await until(lambda: 0 < link.waiting_input < 300_000, description="the pipe to be full")
        behind = [
            asyncio.create_task(backend.request("tools/call", call("echo", text=t * 100))) for t in "bcd"
        ]
        await asyncio.sleep(0)
        given_up = behind.pop()
        given_up.cancel()
        latch.open = False
        os.kill(pid, signal.SIGCONT)
        for task in behind:
            with pytest.raises(GateShut):
                await task
        assert 0 < link.waiting_input < 300_000
        assert not begun.done()
        latch.open = True
        assert text_of(await begun) == "a" * 300_000
        assert texts(echo_log) == ["a"]
        assert echo_log.received("notifications/cancelled") == []


@on_loop
async def test_closing_gives_back_what_was_not_begun(
    guard: ProcessGuard, echo_log: EchoLog, quick_stop: None
) -> None:
    """Of the line that the pipe has a part of, nobody claims that it was not sent."""
    async with stdio(guard, echo_log) as (backend, link, _):
        os.kill(link.child.process.pid, signal.SIGSTOP)
        sent = [
            asyncio.create_task(backend.request("tools/call", call("echo", text=t * 300_000))) for t in "ab"
        ]
        await until(lambda: link.waiting_input > 300_000, description="both to wait")
        await link.close()
        found = await asyncio.gather(*sent, return_exceptions=True)
        assert [isinstance(error, LinkLost) and error.unsent for error in found] == [False, True]


@on_loop
async def test_a_probe_over_a_session_behind_a_shut_gate_finds_nothing_out(
    guard: ProcessGuard, echo_log: EchoLog
) -> None:
    """It is no sign that the tool is unavailable."""
    async with stdio(guard, echo_log) as (backend, _, latch):
        latch.open = False
        with pytest.raises(GateShut):
            await ask(backend, HealthRules())


# -- HTTP -----------------------------------------------------------------------------------------------


@on_loop
async def test_a_gate_that_shuts_while_the_connection_comes_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written on it; later it serves."""
    with echo_backend("modern") as server:
        async with remote(server) as (backend, link, latch):
            link._client._idle.clear()
            dial = http_pool.dial

            async def slow(host: str, port: int, judge: Judge) -> socket.socket:
                found = await dial(host, port, judge)
                latch.open = False
                return found

            monkeypatch.setattr(http_pool, "dial", slow)
            with pytest.raises(GateShut) as shut:
                await backend.request("tools/call", call("echo", text="x"))
            assert shut.value.unsent
            latch.open = True
            assert text_of(await backend.request("tools/call", call("echo", text="y"))) == "y"
        assert len(server.messages("tools/call")) == 1


@on_loop
async def test_a_kept_connection_behind_a_shut_gate_stays() -> None:
    """Nothing is written on it either, and the next request uses it."""
    with echo_backend("modern") as server:
        async with remote(server) as (backend, _, latch):
            latch.open = False
            with pytest.raises(GateShut):
                await backend.request("tools/call", call("echo", text="x"))
            latch.open = True
            await backend.request("tools/call", call("echo", text="y"))
        assert len(server.messages("tools/call")) == 1
        assert server.connections == 1


@on_loop
async def test_a_stream_is_not_resumed_behind_a_shut_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, without an attempt lost, and is resumed when the gate opens: the call was sent."""
    monkeypatch.setattr(http, "RESUME_DELAY_LEAST", 0.01)
    monkeypatch.setattr(http, "RESUME_ATTEMPTS", 1)
    backend_side = Resumable(1)
    with served(backend_side.handle, verbs=("GET",)) as server:
        async with remote(server, Era.LEGACY) as (backend, _, latch):
            waiting = asyncio.create_task(
                backend.request("tools/call", call("x"), on_notification=lambda *_: latch.shut())
            )
            await until(lambda: latch.refused >= 3, description="it to be held back")
            assert (waiting.done(), backend_side.last_ids) == (False, [])
            latch.open = True
            assert await waiting == {"steps": 1}
            assert backend_side.last_ids == ["1"]


@on_loop
async def test_a_stream_that_waits_for_the_gate_ends_with_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the call acted is unknown."""
    monkeypatch.setattr(http, "RESUME_DELAY_LEAST", 0.01)
    with served(Resumable(1).handle, verbs=("GET",)) as server:
        async with remote(server, Era.LEGACY) as (backend, link, latch):
            waiting = asyncio.create_task(
                backend.request("tools/call", call("x"), on_notification=lambda *_: latch.shut())
            )
            await until(lambda: latch.refused >= 3, description="it to be held back")
            await link.close()
            with pytest.raises(LinkLost) as lost:
                await waiting
            assert not lost.value.unsent


@on_loop
async def test_the_end_of_a_session_is_told_also_behind_a_shut_gate() -> None:
    """The backend's session is this link's alone: nobody else can end it."""
    with echo_backend("legacy") as server:
        async with remote(server, Era.LEGACY) as (_, _, latch):
            latch.open = False
        assert len(server.by_verb("DELETE")) == 1
