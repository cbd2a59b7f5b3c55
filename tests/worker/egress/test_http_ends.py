"""How HTTP calls and links end early: cancelled, with their backend, or at the close."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.mcp.revisions import Era
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    EchoLog,
    HttpBackend,
    echo_backend,
    http_backend,
    open_files,
    text_of,
)
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.process import running_http
from tests.worker.egress.http_links import call, connected, served

# -- cancellation and death -----------------------------------------------------------------------------


async def cancelled_in_the_middle(server: HttpBackend, era: Era) -> None:
    """Start a call that never ends by itself, and give it up once the backend has it."""
    async with connected(server, era=era) as (backend, _):
        task = asyncio.create_task(backend.request("tools/call", call("cancel_log")))
        await until(lambda: server.messages("tools/call"), description="the call at the backend")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It has to have arrived before the session ends.
        if era is Era.LEGACY:
            await until(lambda: server.messages("notifications/cancelled"), description="the cancellation")
        assert text_of(await backend.request("tools/call", call("echo", text="on"))) == "on"


@on_loop
async def test_a_cancelled_legacy_call() -> None:
    """A notification names the id the backend knows: a closed stream would mean nothing to it."""
    with echo_backend() as server:
        await cancelled_in_the_middle(server, Era.LEGACY)
        (sent,) = [m for m in server.messages("tools/call") if m["params"]["name"] == "cancel_log"]
        (cancelled,) = server.messages("notifications/cancelled")
        assert cancelled["params"]["requestId"] == sent["id"]


@on_loop
async def test_a_cancelled_modern_call(echo_env: EchoLog) -> None:
    """The closed stream is the cancellation; there is no notification."""
    with echo_backend() as server:
        await cancelled_in_the_middle(server, Era.MODERN)
        assert server.messages("notifications/cancelled") == []
        await until(lambda: any("cancelled" in e for e in echo_env.entries()), description="cancelled")
        assert any("disconnected" in entry for entry in echo_env.entries())


@pytest.fixture
def echo_env(echo_log: EchoLog, monkeypatch: pytest.MonkeyPatch) -> EchoLog:
    """The log of backends that run in this process."""
    monkeypatch.setenv("ECHO_LOG", str(echo_log.path))
    return echo_log


@pytest.mark.parametrize("era", ERAS)
def test_a_backend_that_dies_in_the_middle_of_a_call(era: Era, tmp_path: Path) -> None:
    """The call fails at once, with no claim that nothing was sent."""

    @on_loop
    async def scenario() -> None:
        with running_http("echo_http", log=tmp_path / "log") as url:
            async with connected(HttpBackend(url), era=era) as (backend, _):
                with pytest.raises(LinkLost, match="broke") as lost:
                    await backend.request("tools/call", call("kill_me"))
                assert not lost.value.unsent
                # A kept connection may still stand for a moment; after it nothing can be sent any more.
                for _ in range(3):
                    with pytest.raises(LinkLost) as gone:
                        await backend.request("tools/call", call("echo", text="x"))
                assert gone.value.unsent

    scenario()


@on_loop
async def test_calls_under_way_fail_when_the_link_is_closed() -> None:
    """They are told so, and closing once more is harmless."""
    with echo_backend() as server:
        async with connected(server) as (backend, link):
            task = asyncio.create_task(backend.request("tools/call", call("cancel_log")))
            await until(lambda: server.messages("tools/call"), description="the call at the backend")
            await link.close()
            with pytest.raises(LinkLost):
                await task
            with pytest.raises(LinkLost) as later:
                await backend.request("tools/call", call("echo", text="x"))
            assert later.value.unsent
        assert len(server.by_verb("DELETE")) == 1


@on_loop
async def test_a_close_waits_for_no_backend(short_goodbye: None) -> None:
    """One that does not answer the end of the session is left after a while."""

    def deaf_to_delete(connection: Connection, request: Request) -> None:
        while not connection.hung_up(0.1):
            pass

    with served(deaf_to_delete, verbs=("DELETE",)) as server:
        async with connected(server) as (_, link):
            async with asyncio.timeout(1.0):
                await link.close()


@pytest.fixture
def short_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with backends that do not answer it."""
    monkeypatch.setattr("gateway_worker.egress.http.CLOSE_TIMEOUT", 0.2)


@on_loop
async def test_nothing_piles_up() -> None:
    """After 30 sessions with calls, cancelled ones among them, all connections are closed."""
    with echo_backend(sse=True) as server:
        files = open_files()
        for n in range(1, 31):
            async with connected(server) as (backend, _):
                await backend.request("tools/call", call("echo", text="x"))
                task = asyncio.create_task(backend.request("tools/call", call("sleep", seconds=0.1)))
                await until(lambda n=n: len(server.messages("tools/call")) == 2 * n, description="the call")
                task.cancel()
        # The server's ends are in this process too, and close when it notices.
        await until(lambda: open_files() <= files + 1, description="files back", shown=open_files)


def test_the_backend_helper_counts_connections() -> None:
    """The tests above stand on it."""
    import httpx

    with http_backend(lambda connection, _: connection.respond("200 OK", b"{}")) as server:
        for _ in range(2):
            httpx.post(server.url, content=b"{}")
        with httpx.Client() as client:
            for _ in range(3):
                client.post(server.url, content=b"{}")
        assert server.connections == 3
        assert len(server.requests) == 5
