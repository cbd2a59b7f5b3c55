"""Kept connections: used again while they are good, never when they are not, and not kept for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from common.mcp.revisions import Era
from gateway_worker.egress import http_pool
from gateway_worker.egress.http1 import REST_BYTES, ConnectionLost
from gateway_worker.egress.http_pool import OWN_FILE, HttpClient, dial
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop, until
from tests.support.backends import echo_backend, text_of
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.process import free_port
from tests.support.servers.raw_http import RawConnection, ok, raw_server
from tests.worker.egress.http_clients import (
    client_to,
    fetched,
    held,
    open_sockets,
    saying,
    saying_once,
)
from tests.worker.egress.http_links import call, connected, served

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

# -- used again, or not ---------------------------------------------------------------------------------


@on_loop
async def test_a_connection_closed_while_the_loop_was_busy_is_not_used() -> None:
    """The kernel knows of the end before the loop does; a request written then would be lost for good."""
    with echo_backend() as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            for n in range(5):
                assert text_of(await backend.request("tools/call", call("echo", text=str(n)))) == str(n)
                # Not a step of the loop between here and the next request.
                for sock in list(server.live):
                    with contextlib.suppress(OSError):  # one that the client has left meanwhile
                        sock.shutdown(socket.SHUT_RDWR)


@on_loop
async def test_a_request_lost_with_its_kept_connection_is_not_repeated() -> None:
    """The server may have begun it: the error claims nothing, and the server sees it once."""
    seen: list[str] = []

    def answer_once(connection: Connection, request: Request) -> None:
        seen.append(request.method)
        if len(seen) == 2:
            connection.abort()
        else:
            connection.respond("202 Accepted")

    with served(answer_once, also=lambda message: message.get("method") == "x") as server:
        async with connected(server, era=Era.MODERN) as (backend, link):
            await link.notify("x", {})
            with pytest.raises(LinkLost, match="broke") as lost:
                await backend.request("tools/call", call("x"))
            assert not lost.value.unsent
    assert len(seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
def test_a_server_that_will_close_is_not_asked_again(answer: bytes) -> None:
    """Not even if it is slow to do so; the client closes."""

    @on_loop
    async def scenario() -> None:
        async with raw_server(saying(answer)) as server, client_to(server.url) as client:
            assert [await fetched(client) for _ in range(2)] == [(200, b"hi")] * 2
            assert server.connections == 2
            await until(lambda: not server.live, description="the connections to be closed")

    scenario()


@on_loop
async def test_the_rest_of_an_answer_is_read_on_for_a_while() -> None:
    """A short rest frees the connection for the next request, a long one costs the connection."""
    for rest, connections in ((REST_BYTES // 2, 1), (REST_BYTES * 8, 3)):
        more = CHUNKED + b"2\r\nhi\r\n", b"%x\r\n%b\r\n" % (rest, b"x" * rest), b"0\r\n\r\n"
        async with raw_server(saying(*more)) as server, client_to(server.url) as client:
            for _ in range(3):
                with await client.send("POST", client.fields, b"{}") as response:
                    assert (await response.read()).startswith(b"hi")
                await until(
                    lambda client=client, server=server: client._idle or not server.live,
                    description="the connection to be idle or closed",
                )
            assert server.connections == connections


@on_loop
async def test_an_answer_given_up_costs_its_connection() -> None:
    """Cancelled before or in the middle of the answer: closed at once, which is how the modern era says so."""
    for begun in (b"", CHUNKED + b"2\r\nhi\r\n"):
        asked, gone = asyncio.Event(), asyncio.Event()

        async def begin(
            connection: RawConnection,
            begun: bytes = begun,
            asked: asyncio.Event = asked,
            gone: asyncio.Event = gone,
        ) -> None:
            await connection.request()
            await connection.send(begun)
            asked.set()
            await connection.ended()
            gone.set()

        async with raw_server(begin) as server, client_to(server.url) as client:
            task = asyncio.create_task(fetched(client))
            await asked.wait()
            await until(
                lambda client=client, begun=begun: not begun or in_its_body(client),
                description="the begin of the answer",
            )
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            async with asyncio.timeout(5):
                await gone.wait()


def in_its_body(client: HttpClient) -> bool:
    """Whether a response has begun."""
    return any(it._response is not None and it._response.status for it in client._connections)


@on_loop
async def test_many_at_once_and_the_last_used_first() -> None:
    """Nothing bounds the connections in use; of the idle ones the freshest serves, so that the others age."""
    gate, arrived = asyncio.Event(), 0

    def count() -> None:
        nonlocal arrived
        arrived += 1

    async with raw_server(held(gate, count)) as server, client_to(server.url) as client:
        bodies = [b"%d" % n for n in range(400)]
        tasks = [asyncio.create_task(fetched(client, body)) for body in bodies]
        await until(lambda: arrived == len(bodies), description="all requests to be there together")
        gate.set()
        assert await asyncio.gather(*tasks) == [(200, body) for body in bodies]
        assert server.connections == len(bodies)
        assert len(client._idle) <= http_pool.MAX_IDLE
        await until(lambda: len(server.live) == http_pool.MAX_IDLE, description="the surplus to be closed")
        freshest = client._idle[-1]
        for _ in range(20):
            await fetched(client)
            assert client._idle[-1] is freshest
        assert server.connections == len(bodies)


@on_loop
async def test_idle_connections_are_closed_after_a_while(short_expiry: None) -> None:
    """Also if no request comes any more, and before the server's own patience ends."""
    async with raw_server(saying(ok(b"hi"))) as server, client_to(server.url) as client:
        await asyncio.gather(*(fetched(client) for _ in range(5)))
        await until(lambda: not server.live, timeout=3, description="idle connections to be closed")
        assert not client._connections
        assert await fetched(client) == (200, b"hi")


@pytest.fixture
def short_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little time for idle connections."""
    monkeypatch.setattr(http_pool, "IDLE_EXPIRY", 0.05)


@pytest.mark.parametrize(
    ("said", "connections"),
    [("timeout=0", 3), ("max=5, timeout=0", 3), ("timeout=1", 1), ("timeout=60, max=5", 1), ("odd", 1)],
)
def test_the_servers_patience_is_heeded(said: str, connections: int) -> None:
    """Whoever says how long it keeps an idle connection is believed, less some time for the way."""
    kept = {
        "timeout=0": 0.0,
        "max=5, timeout=0": 0.0,
        "timeout=1": 0.5,
        "timeout=60, max=5": 30.0,
        "odd": 4.0,
    }

    @on_loop
    async def scenario() -> None:
        answer = saying(ok(b"hi", f"Keep-Alive: {said}"))
        async with raw_server(answer) as server, client_to(server.url) as client:
            for _ in range(3):
                assert await fetched(client) == (200, b"hi")
            assert server.connections == connections
            left = client._idle[-1].idle_until - asyncio.get_running_loop().time()
            assert kept[said] - 0.4 < left <= kept[said]

    scenario()


@on_loop
async def test_a_close_ends_everything() -> None:
    """Requests under way, idle connections, and those that are just being made."""
    gate, arrived = asyncio.Event(), asyncio.Event()
    before = open_sockets()
    async with raw_server(held(gate, arrived.set)) as server:
        async with client_to(server.url) as client:
            waiting = asyncio.create_task(fetched(client))
            await arrived.wait()
            connecting = asyncio.create_task(fetched(client))
            await asyncio.sleep(0)
            client.close()
            with pytest.raises(ConnectionLost, match="session was closed") as lost:
                await waiting
            assert not lost.value.unsent
            with pytest.raises(ConnectionLost) as unsent:
                await connecting
            assert unsent.value.unsent
        gate.set()
        await until(lambda: not server.live, description="all connections to be closed")
    await until(lambda: open_sockets() <= before, description="sockets back", shown=open_sockets)


# -- new connections ------------------------------------------------------------------------------------


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port at which nobody answers the connection: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(("127.0.0.1", port))
            yield port


@on_loop
async def test_a_connection_that_takes_too_long() -> None:
    """Given up at its own time limit; nothing was sent, nothing is left behind."""
    before = open_sockets()
    with deaf_port() as port:
        async with client_to(f"http://127.0.0.1:{port}/", connect_timeout=0.2) as client:
            begun = time.monotonic()
            with pytest.raises(ConnectionLost, match="cannot be reached") as lost:
                await fetched(client)
            assert lost.value.unsent
            assert 0.15 < time.monotonic() - begun < 1.0
    await until(lambda: open_sockets() <= before, description="sockets back", shown=open_sockets)


@on_loop
async def test_a_connection_given_up() -> None:
    """A call cancelled while its connection is being made leaves nothing behind."""
    before = open_sockets()
    with deaf_port() as port:
        async with client_to(f"http://127.0.0.1:{port}/") as client:
            task = asyncio.create_task(fetched(client))
            await until(lambda: open_sockets() > before + 5, description="the attempt", shown=open_sockets)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
    await until(lambda: open_sockets() <= before, description="sockets back", shown=open_sockets)


@pytest.mark.parametrize("host", ["a..b", ".example.com", "x" * 64])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_can_be_no_name(scheme: str, host: str) -> None:
    """Not reached, like one that nobody knows; nothing was sent."""

    @on_loop
    async def scenario() -> None:
        async with client_to(f"{scheme}://{host}/") as client:
            with pytest.raises(ConnectionLost, match="cannot be reached") as lost:
                await fetched(client)
            assert lost.value.unsent

    scenario()


@on_loop
async def test_an_address_in_brackets() -> None:
    """IPv6, with the brackets in Host."""
    heads: list[str] = []

    async def look(connection: RawConnection) -> None:
        heads.append(await connection.head())
        await connection.send(ok(b"six"))

    try:
        async with raw_server(look, host="::1") as server, client_to(server.url) as client:
            assert await fetched(client, None, "GET") == (200, b"six")
            assert f"\r\nhost: [::1]:{server.port}\r\n" in heads[0]
    except OSError:
        pytest.skip("no IPv6 here")


def resolved(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have one loopback address for each of the ports."""

    async def addresses(_host: str, _port: int) -> list[object]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(http_pool, "_addresses", addresses)


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once if one refuses, after a moment if one is silent: a broken IPv6 does not cost the whole timeout."""

    @on_loop
    async def scenario() -> None:
        with deaf_port() as deaf:
            async with raw_server(saying_once(ok(b"hi"))) as server:
                for first, patience in ((free_port(), 0.2), (deaf, 2.0)):
                    resolved(monkeypatch, first, server.port)
                    begun = time.monotonic()
                    (await dial("two.example", 80, OWN_FILE)).close()
                    assert time.monotonic() - begun < patience
                resolved(monkeypatch, free_port(), free_port())
                with pytest.raises(ConnectionRefusedError):
                    await dial("two.example", 80, OWN_FILE)

    scenario()


def test_the_families_take_turns() -> None:
    """The first address stays the first."""
    addresses = [(6, "a"), (6, "b"), (4, "c"), (4, "d"), (6, "e")]
    assert http_pool._interleaved(addresses) == [(6, "a"), (4, "c"), (6, "b"), (4, "d"), (6, "e")]
