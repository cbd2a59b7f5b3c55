"""HTTP backends that send too much: refused while it comes, and nothing of it becomes another's answer."""

from __future__ import annotations

import asyncio
import gc
import gzip
from collections.abc import Callable
from typing import Any

import orjson
import psutil
import pytest

from common.domain.errors import ResponseTooLarge
from common.mcp.revisions import Era
from gateway_worker.egress.link import AnswerTooLarge, LinkLost
from tests.support.aio import on_loop
from tests.support.servers.http_wire import Connection, Request
from tests.worker.egress.http_links import (
    call,
    connected,
    event,
    failure_of,
    raw_event,
    respond,
    served,
)

Answer = Callable[[Connection, Request], None]


# -- too much -------------------------------------------------------------------------------------------


def announced(connection: Connection, _: Request) -> None:
    """A body whose length is told."""
    connection.respond("200 OK", b'{"x":"' + b"x" * (4 << 20) + b'"}')


def chunked(connection: Connection, _: Request) -> None:
    """A JSON body that never ends, in chunks."""
    connection.sock.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while True:
        connection.sock.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


def endless_event(connection: Connection, _: Request) -> None:
    """An event that never ends."""
    connection.start_stream()
    raw_event(connection, "data: ")
    while True:
        raw_event(connection, "x" * 0x8000)


def endless_lines(connection: Connection, _: Request) -> None:
    """An event of ever more lines."""
    connection.start_stream()
    while True:
        raw_event(connection, "data: x\n" * 4096)


def endless_error(connection: Connection, _: Request) -> None:
    """An error body that never ends."""
    connection.sock.sendall(
        b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while True:
        connection.sock.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


@pytest.mark.parametrize("answer", [announced, chunked, endless_event, endless_lines, endless_error])
def test_an_answer_above_the_bound(answer: Answer) -> None:
    """Refused while it comes; the next call works, for the session is not at fault."""

    @on_loop
    async def scenario() -> None:
        us = psutil.Process()
        before = us.memory_info().rss
        with served(answer) as server:
            async with connected(server, max_bytes=1 << 20) as (backend, _):
                with pytest.raises(ResponseTooLarge, match="max_result_bytes") as caught:
                    await backend.request("tools/call", call("echo", text="x"))
                # What else is too large may have been a notification, with the answer still to come.
                assert isinstance(caught.value, AnswerTooLarge) is (answer in (announced, chunked))
                assert (await backend.request("ping", {})) == {}
        assert us.memory_info().rss - before < 24 << 20

    scenario()


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_an_answer_of_exactly_the_bound(kind: str) -> None:
    """It passes in both forms."""

    def exact(connection: Connection, request: Request) -> None:
        head = orjson.dumps(respond(request, {"x": ""}))
        message = head.replace(b'""', b'"' + b"x" * (100_000 - len(head)) + b'"')
        if kind == "application/json":
            connection.respond("200 OK", message)
        else:
            connection.start_stream()
            raw_event(connection, f"data: {message.decode()}\n\n")
            connection.end_stream()

    @on_loop
    async def scenario() -> None:
        with served(exact) as server:
            async with connected(server, max_bytes=100_000) as (backend, _):
                assert len((await backend.request("tools/call", call("x")))["x"]) > 99_900
            async with connected(server, max_bytes=99_999) as (backend, _):
                with pytest.raises(AnswerTooLarge):
                    await backend.request("tools/call", call("x"))

    scenario()


@pytest.mark.parametrize(
    ("begins", "is_answer"),
    [
        ('{"jsonrpc":"2.0","id":1,"result":{"x":"', True),
        ('{ "error": {"x":"', True),
        ('{"method":"notifications/message","params":{"result":{"x":"', False),
        ('{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"x":"', False),
    ],
)
@pytest.mark.parametrize("lines", [1, 2])
def test_whether_an_event_above_the_bound_is_the_answer(begins: str, is_answer: bool, lines: int) -> None:
    """Its first characters tell; the backend is at the request still if it is something else."""

    def large(connection: Connection, _: Request) -> None:
        connection.start_stream()
        raw_event(connection, "".join([f"data: {begins}", *["x" * 150_000 + "\ndata: "] * lines]))
        connection.end_stream()

    @on_loop
    async def scenario() -> None:
        with served(large) as server:
            async with connected(server, max_bytes=lines * 100_000) as (backend, _):
                with pytest.raises(ResponseTooLarge) as caught:
                    await backend.request("tools/call", call("x"))
                assert isinstance(caught.value, AnswerTooLarge) is is_answer

    scenario()


@on_loop
async def test_a_compressed_answer_is_not_unpacked() -> None:
    """None is asked for; a bomb costs nothing."""
    bomb = gzip.compress(b'{"x":"' + b"x" * (64 << 20) + b'"}', compresslevel=1)

    def explode(connection: Connection, _: Request) -> None:
        connection.respond("200 OK", bomb, headers={"Content-Encoding": "gzip"})

    us = psutil.Process()
    with served(explode) as server:
        before = us.memory_info().rss
        lost = await failure_of(server)
        assert us.memory_info().rss - before < 16 << 20
        assert {request.headers["accept-encoding"] for request in server.requests} == {"identity"}
    assert isinstance(lost, LinkLost)
    assert "encoding" in lost.message


@on_loop
async def test_a_request_that_is_nested_too_deeply_to_be_answered() -> None:
    """Its id would have to be sent back: it is passed over, and harms neither the call nor anything beside it."""
    deep = b'{"jsonrpc":"2.0","method":"ping","id":' + b"[" * 300 + b"]" * 300 + b"}"
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

    def handle(connection: Connection, request: Request) -> None:
        connection.start_stream()
        raw_event(connection, f"data: {deep.decode()}\n\n")
        event(connection, respond(request, {"right": True}))
        connection.end_stream()

    with served(handle) as server:
        async with connected(server) as (backend, _):
            for _ in range(2):
                assert await backend.request("tools/call", call("x")) == {"right": True}
    gc.collect()
    assert faults == []


@on_loop
async def test_an_answer_longer_than_it_says_is_nobodys_answer() -> None:
    """What follows a complete answer on its connection is not taken for the answer to the next request."""

    def smuggle(connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body)
        first = orjson.dumps(respond(request, {"of": message["params"]["name"]}))
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.sock.sendall((head % len(first) + first) * 2)

    with served(smuggle) as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            outcomes = [
                await asyncio.gather(backend.request("tools/call", call(name)), return_exceptions=True)
                for name in "abcd"
            ]
    for name, (outcome,) in zip("abcd", outcomes, strict=True):
        assert outcome == {"of": name} or (
            isinstance(outcome, LinkLost) and "another request" in outcome.message
        )


@pytest.mark.parametrize("request_id", [10**6, "2", True, 2.5, None])
def test_an_answer_with_another_id_is_no_answer(request_id: Any) -> None:
    """It may be that of another request on a connection that is out of step."""

    def wrong(connection: Connection, _: Request) -> None:
        connection.respond("200 OK", orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": {}}))

    @on_loop
    async def scenario() -> None:
        with served(wrong) as server:
            lost = await failure_of(server, era=Era.MODERN)
        assert isinstance(lost, LinkLost)
        assert "another request" in lost.message

    scenario()
