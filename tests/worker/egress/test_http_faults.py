"""HTTP backends that fail: the error says what happened, and whether the request can have been seen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.backend import connect
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import LinkLost, RpcError
from tests.support.aio import on_loop, until
from tests.support.backends import ERAS, http_backend, text_of
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.misbehaving_http import ELSEWHERE, MisbehavingHttp
from tests.support.servers.process import free_port
from tests.worker.egress.http_links import (
    call,
    connected,
    event,
    failure_of,
    notification,
    raw_event,
    respond,
    served,
)

Answer = Callable[[Connection, Request], None]


def misbehaving(mode: str, only: str | None = "tools/call") -> MisbehavingHttp:
    """``misbehaving_http`` in this process; only the calls misbehave."""
    era = "legacy" if mode == "session_expired" else "both"
    return MisbehavingHttp(HttpServer(EchoServer(era=era)), mode=mode, only=only, location=ELSEWHERE)


# -- no answer ------------------------------------------------------------------------------------------


@on_loop
async def test_a_refused_connection() -> None:
    """Nothing was sent, and the error says so."""
    link = HttpLink(
        HttpTransport(url=f"http://127.0.0.1:{free_port()}/mcp"), connect_timeout=2, max_bytes=100
    )
    with pytest.raises(LinkLost, match="cannot be reached") as lost:
        await connect(link, [Era.LEGACY])
    assert lost.value.unsent


@on_loop
async def test_a_name_that_does_not_resolve() -> None:
    """The same: nothing was sent."""
    link = HttpLink(HttpTransport(url="http://no-such-host.invalid/mcp"), connect_timeout=2, max_bytes=100)
    with pytest.raises(LinkLost) as lost:
        await connect(link, [Era.MODERN])
    assert lost.value.unsent


@on_loop
async def test_a_server_that_speaks_no_tls() -> None:
    """The handshake fails before any byte of the request."""
    with http_backend(lambda connection, _: connection.abort()) as server:
        url = server.url.replace("http:", "https:")
        link = HttpLink(HttpTransport(url=url), connect_timeout=0.3, max_bytes=100)
        with pytest.raises(LinkLost, match="cannot be reached") as lost:
            await connect(link, [Era.MODERN])
        assert lost.value.unsent
        assert server.requests == []


@on_loop
async def test_a_connection_closed_without_an_answer() -> None:
    """The request may have been seen: no claim that it was not."""
    with served(lambda connection, _: connection.abort()) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert not lost.unsent


@on_loop
async def test_what_is_no_http() -> None:
    """A typed error, not a traceback."""
    with served(
        lambda connection, _: connection.sock.sendall(b"220 smtp.example ESMTP\r\n\r\n" * 3)
    ) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert not lost.unsent


@pytest.mark.parametrize("era", ERAS)
def test_a_backend_that_hangs_is_left_at_the_deadline(era: Era) -> None:
    """The caller's own deadline bounds the wait, to a quarter of a second."""

    @on_loop
    async def scenario() -> None:
        with http_backend(misbehaving("hang").handle) as server:
            async with connected(server, era=era) as (backend, _):
                begun = time.monotonic()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await backend.request("tools/call", call("echo", text="x"))
                assert time.monotonic() - begun < 0.55

    scenario()


@on_loop
async def test_a_backend_that_trickles_is_left_at_the_deadline() -> None:
    """Bytes that keep coming do not put the deadline off."""

    def trickle(connection: Connection, _: Request) -> None:
        connection.start_stream()
        while not connection.hung_up(0.02):
            raw_event(connection, ":")
        connection.abort()

    with served(trickle) as server:
        async with connected(server) as (backend, _):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await backend.request("tools/call", call("echo", text="x"))


# -- a wrong answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("html", "answered with text/html, which is no MCP"),
        ("redirect", "redirects with status 307; give its final URL"),
        ("status_500", "status 500"),
        ("status_401", "status 401"),
        ("status_429", "status 429"),
        ("cut_sse", "broke"),
    ],
)
@pytest.mark.parametrize("era", ERAS)
def test_a_wrong_answer(mode: str, words: str, era: Era) -> None:
    """Each is told apart; none claims that nothing was sent; the session stays, for the next call may work."""

    @on_loop
    async def scenario() -> None:
        with http_backend(misbehaving(mode).handle) as server:
            async with connected(server, era=era) as (backend, link):
                with pytest.raises(LinkLost, match=words) as lost:
                    await backend.request("tools/call", call("echo", text="x"))
                assert not lost.value.unsent
                assert lost.value.data.get("retry_after") == (7 if mode == "status_429" else None)
                assert not link.closed.is_set()
                assert len((await backend.request("tools/list", {}))["tools"]) > 5
            assert ELSEWHERE not in {request.path for request in server.requests}

    scenario()


@on_loop
async def test_a_wrong_answer_at_the_start() -> None:
    """A URL that leads elsewhere is told apart from a backend that speaks an unknown revision."""
    for mode, words in (("html", "text/html"), ("status_401", "status 401"), ("status_500", "status 500")):
        with (
            http_backend(misbehaving(mode, only=None).handle) as server,
            pytest.raises(LinkLost, match=words),
        ):
            async with connected(server):
                pass


def body(status: str, content: bytes, kind: str = "application/json") -> Answer:
    """An answer with this body."""
    return lambda connection, _: connection.respond(status, content, kind)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (body("200 OK", b"{"), "no JSON"),
        (body("200 OK", b""), "no MCP|no JSON"),
        (body("202 Accepted", b""), "no content type"),
        (body("200 OK", b"[]"), "no JSON-RPC"),
        (body("200 OK", b'{"jsonrpc":"2.0","id":2}'), "neither a result nor an error"),
        (body("200 OK", b'{"jsonrpc":"2.0","id":2,"result":[1]}'), "neither a result nor an error"),
        (body("200 OK", b'{"result":{"x":NaN}}'), "no JSON"),
        (body("200 OK", b'{"result":{"x":"\xff"}}'), "no JSON"),
        (body("200 OK", b"[" * 100_000), "no JSON"),
        (body("400 Bad Request", b"{"), "status 400"),
        (body("400 Bad Request", b'{"error":"text"}'), "status 400"),
        (body("503 Service Unavailable", b'["x"]'), "status 503"),
    ],
)
def test_a_body_that_is_no_answer(answer: Answer, words: str) -> None:
    """A typed error each."""

    @on_loop
    async def scenario() -> None:
        with served(answer) as server:
            lost = await failure_of(server, era=Era.MODERN)
        assert isinstance(lost, LinkLost), lost
        assert any(part in lost.message for part in words.split("|")), lost.message

    scenario()


@pytest.mark.parametrize(
    "status", ["200 OK", "400 Bad Request", "404 Not Found", "500 Internal Server Error"]
)
def test_a_json_rpc_error_is_an_answer_whatever_the_status(status: str) -> None:
    """It comes through unchanged."""

    @on_loop
    async def scenario() -> None:
        error = {"code": -32602, "message": "no", "data": {"kept": [1, None]}}
        answer = body(status, orjson.dumps({"jsonrpc": "2.0", "id": 2, "error": error}))
        with served(answer) as server:
            refusal = await failure_of(server, era=Era.MODERN)
        assert isinstance(refusal, RpcError)
        assert refusal.error == error

    scenario()


NONSENSE: list[Any] = [
    {"method": "notifications/progress", "params": [1]},
    {"method": "notifications/progress", "params": {"progressToken": {}}},
    {"method": "notifications/progress"},
    {"method": "notifications/message", "params": "x"},
    {"method": None},
    {"id": None, "method": 5},
    {"id": 10**9, "result": {"wrong": True}},
    {"id": "1", "result": {"wrong": True}},
    {"result": {"wrong": True}},
    {},
]


@on_loop
async def test_no_nonsense_on_a_stream_ends_it_or_answers_a_call() -> None:
    """Only an answer with the call's own id is the call's answer."""

    def confuse(connection: Connection, request: Request) -> None:
        connection.start_stream()
        for nonsense in NONSENSE:
            event(connection, nonsense)
        raw_event(connection, ": comment\n\nevent: ping\ndata:\n\nretry: 5\n\nid: \n\n")
        event(connection, respond(request, {"right": True}))
        connection.end_stream()

    heard: list[Any] = []
    with served(confuse) as server:
        async with connected(server) as (backend, _):
            answer = await backend.request(
                "tools/call", call("x", "t"), on_notification=lambda *m: heard.append(m)
            )
    assert answer == {"right": True}
    assert all(isinstance(params, dict) for _, params in heard)


@on_loop
async def test_nonsense_on_the_standing_stream_does_not_end_it() -> None:
    """What comes after it is heard."""

    listens = threading.Event()

    def stand(connection: Connection, _: Request) -> None:
        connection.start_stream()
        assert listens.wait(10)
        for nonsense in NONSENSE:
            event(connection, nonsense)
        event(connection, notification("notifications/tools/list_changed"))
        while not connection.hung_up(0.1):
            pass
        connection.abort()

    heard: list[str] = []
    with served(stand, verbs=("GET",)) as server:
        async with connected(server) as (_, link):
            link.on_notification = lambda method, _: heard.append(method)
            listens.set()
            await until(lambda: "notifications/tools/list_changed" in heard, description="the announcement")
        assert len(server.by_verb("GET")) == 1


# -- sessions -------------------------------------------------------------------------------------------


@on_loop
async def test_an_expired_session() -> None:
    """404 to its id: the request was not handled, and the link is of no use any more."""
    with http_backend(misbehaving("session_expired", only=None).handle) as server:
        async with connected(server) as (backend, link):
            assert text_of(await backend.request("tools/call", call("echo", text="once"))) == "once"
            with pytest.raises(LinkLost, match="session has ended") as lost:
                await backend.request("tools/call", call("echo", text="x"))
            assert lost.value.unsent
            assert link.closed.is_set()


@on_loop
async def test_a_404_without_a_session_is_no_expired_one() -> None:
    """In the modern era, and for a server without sessions, it is a wrong URL or an unknown method."""
    with served(body("404 Not Found", b"nope", "text/plain")) as server:
        async with connected(server, era=Era.MODERN) as (backend, link):
            with pytest.raises(LinkLost, match="status 404") as lost:
                await backend.request("tools/call", call("x"))
            assert not lost.value.unsent
            assert not link.closed.is_set()
