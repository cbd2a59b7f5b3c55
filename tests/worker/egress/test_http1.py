"""HTTP/1.1 responses, good and bad: what is one is read however it is cut, what is none becomes nobody's answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from common.domain.errors import ResponseTooLarge
from gateway_worker.egress.http1 import HIGH_WATER, MAX_HEAD, ConnectionLost
from tests.support.aio import on_loop, run, until
from tests.support.servers.raw_http import RawConnection, ok, raw_server
from tests.worker.egress.http_clients import client_to, fetched, saying, saying_once

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# -- good responses -------------------------------------------------------------------------------------

GOOD = {
    "length": (OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi"),
    "length with spaces": (OK + b"Content-Length:   2 \t\r\n\r\nhi", 200, b"hi"),
    "no body": (b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", 202, b""),
    "204 has none": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "chunks": (CHUNKED + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", 200, b"hi"),
    "chunks in capitals": (CHUNKED.upper() + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", 200, b"hi"),
    "extensions, trailers": (CHUNKED + b'2;a="b"\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n', 200, b"hi"),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi"),
    "after 103": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        200,
        b"hi",
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
    "kept 1.0": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
    "refusal": (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", 500, b"no"),
}
"""Whole responses after which the connection serves another request."""

UNTIL_CLOSED = {
    "1.0": b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhi",
    "1.1": OK + b"Connection: close\r\n\r\nhi",
    "1.1 unsaid": OK + b"\r\nhi",
}


@pytest.mark.parametrize("case", GOOD)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
def test_a_response_is_read_however_it_is_cut(case: str, cut: str) -> None:
    """In one piece or byte by byte; the connection is used for the next request."""
    raw, status, body = GOOD[case]
    pieces = [raw] if cut == "whole" else [raw[i : i + 1] for i in range(len(raw))]

    @on_loop
    async def scenario() -> None:
        async with raw_server(saying(*pieces)) as server, client_to(server.url) as client:
            assert [await fetched(client) for _ in range(3)] == [(status, body)] * 3
            assert server.connections == 1

    scenario()


@pytest.mark.parametrize("case", UNTIL_CLOSED)
def test_a_body_that_ends_with_its_connection(case: str) -> None:
    """Whole when the server closes; the next request has a connection of its own."""

    @on_loop
    async def scenario() -> None:
        async with raw_server(saying_once(UNTIL_CLOSED[case])) as server, client_to(server.url) as client:
            assert [await fetched(client) for _ in range(2)] == [(200, b"hi")] * 2
            assert server.connections == 2

    scenario()


@on_loop
async def test_headers_of_an_interim_response_are_not_those_of_the_response() -> None:
    """A session id in a 103 is none."""
    raw = b"HTTP/1.1 103 Early Hints\r\nMcp-Session-Id: early\r\nRetry-After: 5\r\n\r\n" + ok(b"{}")
    async with raw_server(saying(raw)) as server, client_to(server.url) as client:
        with await client.send("POST", client.fields, b"{}") as response:
            assert response.headers == {"content-type": "application/json", "content-length": "2"}


@on_loop
async def test_headers_said_twice_are_joined() -> None:
    """So that a second content encoding cannot hide behind a first; names are of any case."""
    raw = ok(b"{}", "CONTENT-ENCODING: identity", "content-encoding: gzip")
    async with raw_server(saying(raw)) as server, client_to(server.url) as client:
        with await client.send("POST", client.fields, b"{}") as response:
            assert response.headers["content-encoding"] == "identity, gzip"


# -- what is no response --------------------------------------------------------------------------------

BAD = {
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "a list of lengths": OK + b"Content-Length: 2, 3\r\n\r\nhi!",
    "signed length": OK + b"Content-Length: +2\r\n\r\nhi",
    "negative length": OK + b"Content-Length: -2\r\n\r\nhi",
    "empty length": OK + b"Content-Length:\r\n\r\nhi",
    "huge length": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhi",
    "space before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "folded field": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
    "bare LF": OK + b"X: a\nContent-Length: 2\r\n\r\nhi",
    "bare CR": OK + b"X: a\rContent-Length: 2\r\n\r\nhi",
    "NUL": OK + b"X: a\0\r\nContent-Length: 2\r\n\r\nhi",
    "no name": OK + b": x\r\nContent-Length: 2\r\n\r\nhi",
    "gzip as a transfer": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked not last": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\n" + CHUNKED[len(OK) :] + b"2\r\nhi\r\n0\r\n\r\n",
    "identity as a transfer": OK + b"Transfer-Encoding: identity\r\n\r\nhi",
    "chunk of 0x2": CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n",
    "chunk of -2": CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
    "chunk of too much": CHUNKED + b"fffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n",
    "chunk with LF": CHUNKED + b"2\nhi\n0\n\n",
    "length as a trailer": CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 2\r\n\r\n",
    "switched protocols": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhi",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "status 99": b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nhi",
    "status 20": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
    "no HTTP": b"220 smtp.example ESMTP\r\n\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
}
"""Refused as soon as it is seen: nobody waits for the server to close."""

CUT = {
    "cut in the head": OK + b"Content-Length: 2\r\n",
    "cut in the body": OK + b"Content-Length: 3\r\n\r\nhi",
    "cut in a chunk": CHUNKED + b"3\r\nhi",
    "cut between chunks": CHUNKED + b"2\r\nhi\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("case", [*BAD, *CUT])
def test_what_is_no_response_is_refused(case: str) -> None:
    """At once, with no claim that nothing was sent; its connection serves no other request."""
    script = saying(BAD[case]) if case in BAD else saying_once(CUT[case])

    @on_loop
    async def scenario() -> None:
        async with raw_server(script) as server, client_to(server.url) as client:
            for connections in (1, 2):
                with pytest.raises(ConnectionLost, match="broke") as lost:
                    async with asyncio.timeout(5):
                        await fetched(client)
                assert not lost.value.unsent
                assert server.connections == connections

    scenario()


def endless(start: bytes, piece: bytes) -> Iterator[bytes]:
    """Much more than any bound."""
    yield start
    for _ in range((MAX_HEAD * 8) // len(piece)):
        yield piece


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (OK, b"X-Pad: " + b"x" * 1000 + b"\r\n"),
        (OK + b"X: ", b"x" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 1000 + b"\r\n\r\n"),
        (CHUNKED + b"0\r\nX: ", b"x" * 1000),
        (CHUNKED + b"1;", b"x" * 1000),
        (b"", b"\r\n" * 500),
    ],
    ids=["fields", "a field", "interim responses", "a trailer", "a chunk extension", "blank lines"],
)
def test_heads_are_bounded(start: bytes, piece: bytes) -> None:
    """Whatever it is that does not end, it is refused after some ten thousand bytes, not collected."""

    @on_loop
    async def scenario() -> None:
        async with raw_server(saying(*endless(start, piece))) as server, client_to(server.url) as client:
            with pytest.raises(ConnectionLost, match="too large"):
                await fetched(client)

    scenario()


@on_loop
async def test_a_comment_a_second_for_hours_is_no_endless_head() -> None:
    """The bound is on what comes between bytes of the body, not on all the chunk heads of a long stream."""
    chunks = [b"1\r\nx\r\n"] * (MAX_HEAD // 2)
    raw = CHUNKED + b"".join(chunks) + b"0\r\n\r\n"
    async with raw_server(saying(raw)) as server, client_to(server.url) as client:
        assert await fetched(client) == (200, b"x" * len(chunks))


@on_loop
async def test_a_response_released_unread_leaves_a_connection_that_is_heard() -> None:
    """Its last bytes came above the bound on what waits, so reading was paused: the next response is read again."""
    large = ok(b"x" * (HIGH_WATER + 1))
    async with raw_server(saying(large)) as server, client_to(server.url) as client:
        for _ in range(2):
            async with asyncio.timeout(5):
                with await client.send("POST", client.fields, b"{}") as response:
                    await until(lambda r=response: r.complete, description="the whole response")
        assert server.connections == 1


# -- who speaks when ------------------------------------------------------------------------------------


@on_loop
async def test_what_follows_a_response_is_no_response() -> None:
    """A second one behind the first is dropped with its connection, also when it is only begun or garbage."""
    for more in (ok(b'{"stolen":1}'), b"H", b"garbage", OK):
        async with raw_server(saying(ok(b"mine") + more)) as server, client_to(server.url) as client:
            assert [await fetched(client) for _ in range(3)] == [(200, b"mine")] * 3
            assert server.connections == 3


@on_loop
async def test_what_comes_while_nobody_asks_is_no_response() -> None:
    """A server that says 408 to an idle connection, or anything else, has not answered the next request."""

    async def speak_up(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(ok(b"first"))
        await connection.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await connection.ended()

    async with raw_server(speak_up) as server, client_to(server.url) as client:
        for _ in range(2):
            assert await fetched(client) == (200, b"first")
            await until(lambda: not server.live, description="the connection to be closed")


@on_loop
async def test_a_server_that_speaks_first_was_sent_nothing() -> None:
    """It is no HTTP server; the error does not pretend to know more than that, and nothing hangs."""

    async def greet(connection: RawConnection) -> None:
        await connection.send(b"220 smtp.example ESMTP\r\n")
        await connection.ended()

    async with raw_server(greet) as server, client_to(server.url) as client:
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionLost):
                await fetched(client)


@on_loop
async def test_a_connection_closed_before_the_request_was_written() -> None:
    """Certainly nothing was sent, and the error says so instead of waiting for an answer."""

    async def hang_up(connection: RawConnection) -> None:
        connection.reset()

    async with raw_server(hang_up) as server, client_to(server.url) as client:
        connection = await client._connect()
        await until(lambda: not client._connections, description="the connection to be gone")
        with pytest.raises(ConnectionLost) as lost:
            connection.send(b"GET / HTTP/1.1\r\n\r\n")
        assert lost.value.unsent


@on_loop
async def test_an_answer_before_the_request_was_all_sent() -> None:
    """It counts; the connection, on which the rest of the request is still to come, serves no other."""

    async def impatient(connection: RawConnection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await connection.ended()

    async with raw_server(impatient) as server, client_to(server.url) as client:
        for connections in (1, 2):
            async with asyncio.timeout(5):
                assert await fetched(client, b"x" * (64 << 20)) == (413, b"no")
            assert server.connections == connections


@on_loop
async def test_a_peer_that_half_closes_before_it_answers() -> None:
    """No answer can come any more, and nobody waits for one."""
    closed = asyncio.Event()

    async def deaf(connection: RawConnection) -> None:
        await connection.request()
        connection.writer.write_eof()
        await connection.ended()
        closed.set()

    async with raw_server(deaf) as server, client_to(server.url) as client:
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionLost, match="closed before") as lost:
                await fetched(client)
            assert not lost.value.unsent
            await closed.wait()


@on_loop
async def test_a_peer_that_half_closes_behind_its_answer() -> None:
    """The answer counts; the connection is not used again."""

    async def last_words(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(ok(b"last"))
        connection.writer.write_eof()
        await connection.ended()

    async with raw_server(last_words) as server, client_to(server.url) as client:
        for connections in (1, 2):
            assert await fetched(client) == (200, b"last")
            assert server.connections == connections
            await until(lambda: not server.live, description="the connection to be closed")


@pytest.mark.parametrize("answer", [b"", OK + b"Content-Length: 9\r\n\r\nhalf"], ids=["nothing", "half"])
def test_a_reset(answer: bytes) -> None:
    """Before or in the middle of an answer: no claim that nothing was sent."""

    async def scenario() -> None:
        async def reset(connection: RawConnection) -> None:
            await connection.request()
            await connection.send(answer)
            connection.reset()

        async with raw_server(reset) as server, client_to(server.url) as client:
            with pytest.raises(ConnectionLost) as lost:
                await fetched(client)
            assert not lost.value.unsent

    run(scenario())


# -- much of it -----------------------------------------------------------------------------------------


@on_loop
async def test_a_body_that_nobody_reads_lets_the_server_wait() -> None:
    """What is received ahead is bounded; it goes on where it stopped."""
    total, sent = 64 << 20, 0
    piece = b"x" * (1 << 16)

    async def flood(connection: RawConnection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(OK + b"Content-Length: %d\r\n\r\n" % total)
        while sent < total:
            await connection.send(piece)
            sent += len(piece)

    async with raw_server(flood) as server, client_to(server.url) as client:
        with await client.send("POST", client.fields, b"{}") as response:
            await until(lambda: response._connection._paused, description="the server to be let wait")
            received = await response.read()
            assert HIGH_WATER < len(received) < HIGH_WATER + (1 << 20)
            left = total - len(received)
            while data := await response.read():
                assert len(data) < HIGH_WATER + (1 << 20)
                left -= len(data)
            assert left == 0
            assert response.complete


@on_loop
async def test_a_body_above_the_bound_is_refused_while_it_comes() -> None:
    """Exactly the bound passes."""
    async with raw_server(saying(ok(b"x" * 1000))) as server, client_to(server.url) as client:
        with await client.send("POST", client.fields, b"{}") as response:
            assert len(await response.body(1000)) == 1000
        with await client.send("POST", client.fields, b"{}") as response, pytest.raises(ResponseTooLarge):
            await response.body(999)
