"""HTTP backends that fail: the error says what happened, and whether the request can have been seen."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Any

import orjson
import psutil
import pytest

from common.domain.errors import ResponseTooLarge
from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.backend import connect
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import LinkLost, RpcError
from tests.support.aio import on_loop, until
from tests.support.backends import ERAS, HttpBackend, http_backend, text_of
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.support.servers.misbehaving_http import ELSEWHERE, MisbehavingHttp
from tests.support.servers.process import free_port
from tests.worker.egress.http_links import call, connected, event, notification, raw_event, respond, served

Answer = Callable[[Connection, Request], None]


def misbehaving(mode: str, only: str | None = "tools/call") -> MisbehavingHttp:
    """``misbehaving_http`` in this process; only the calls misbehave."""
    era = "legacy" if mode == "session_expired" else "both"
    return MisbehavingHttp(HttpServer(EchoServer(era=era)), mode=mode, only=only, location=ELSEWHERE)


async def failure_of(server: HttpBackend, *, era: Era = Era.LEGACY, max_bytes: int = 1 << 20) -> Exception:
    """What a call raises; the link must still be of use, or closed and saying so, afterwards."""
    async with connected(server, era=era, max_bytes=max_bytes) as (backend, _):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the callers look at it
            await backend.request("tools/call", call("echo", text="x"))
    return caught.value


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

    def stand(connection: Connection, _: Request) -> None:
        connection.start_stream()
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
                with pytest.raises(ResponseTooLarge, match="max_result_bytes"):
                    await backend.request("tools/call", call("echo", text="x"))
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
                with pytest.raises(ResponseTooLarge):
                    await backend.request("tools/call", call("x"))

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


# -- resumption -----------------------------------------------------------------------------------------


class Resumable:
    """A backend that hangs up after every event of a call and goes on when asked by number."""

    def __init__(self, steps: int, *, numbered: bool = True, retry: str = "retry: 1\n") -> None:
        self.steps = steps
        self.numbered = numbered
        self.retry = retry
        self.last_ids: list[str] = []
        self._request: Request | None = None

    def handle(self, connection: Connection, request: Request) -> None:
        """The call, and the GETs that resume it."""
        last = request.headers.get("last-event-id")
        if request.method == "GET" and last is None:
            connection.respond("405 Method Not Allowed")
            return
        if last is None:
            self._request = request
        else:
            self.last_ids.append(last)
        assert self._request is not None
        step = int(last or 0) + 1
        done = step > self.steps
        notice = notification("notifications/message", level="info", data=step)
        message = respond(self._request, {"steps": self.steps}) if done else notice
        connection.start_stream()
        number = f"id: {step}\n" if self.numbered else ""
        raw_event(connection, f"{number}{self.retry}data: {orjson.dumps(message).decode()}\n\n")
        if step % 2:
            connection.end_stream()
        else:
            connection.abort()


@on_loop
async def test_a_stream_is_resumed_where_it_broke() -> None:
    """As often as the backend hangs up, by the id of the last event; nothing is lost or told twice."""
    backend_side = Resumable(9)
    heard: list[int] = []
    with served(backend_side.handle, verbs=("GET",)) as server:
        async with connected(server) as (backend, _):
            answer = await backend.request(
                "tools/call", call("x"), on_notification=lambda _, p: heard.append(p["data"])
            )
        resumptions = [request for request in server.by_verb("GET") if "last-event-id" in request.headers]
    assert answer == {"steps": 9}
    assert heard == list(range(1, 10))
    assert backend_side.last_ids == [str(n) for n in range(1, 10)]
    assert all("mcp-session-id" in request.headers for request in resumptions)


@on_loop
async def test_a_stream_without_numbers_is_not_resumed() -> None:
    """Where it broke is not known then."""
    with served(Resumable(3, numbered=False).handle, verbs=("GET",)) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert "without an answer" in lost.message


@on_loop
async def test_the_modern_era_knows_no_resumption() -> None:
    """There is no GET."""
    with served(Resumable(3).handle, verbs=("GET",)) as server:
        lost = await failure_of(server, era=Era.MODERN)
        assert server.by_verb("GET") == []
    assert isinstance(lost, LinkLost)


@on_loop
async def test_a_stream_that_gives_nothing_more_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that only hangs up is not asked for ever."""

    def hang_up(connection: Connection, request: Request) -> None:
        if request.method == "GET" and "last-event-id" not in request.headers:
            connection.respond("405 Method Not Allowed")
            return
        connection.start_stream()
        if request.method == "POST":
            raw_event(connection, "id: 1\nretry: 1\ndata:\n\n")
        connection.end_stream()

    with served(hang_up, verbs=("GET",)) as server:
        lost = await failure_of(server)
        resumptions = [request for request in server.by_verb("GET") if "last-event-id" in request.headers]
    assert isinstance(lost, LinkLost)
    assert 2 <= len(resumptions) <= 10


@on_loop
async def test_a_refused_resumption() -> None:
    """The call fails and says why."""

    def refuse(connection: Connection, request: Request) -> None:
        if request.method == "GET":
            connection.respond("405 Method Not Allowed")
            return
        connection.start_stream()
        raw_event(connection, "id: 1\nretry: 1\ndata:\n\n")
        connection.end_stream()

    with served(refuse, verbs=("GET",)) as server:
        lost = await failure_of(server)
    assert isinstance(lost, LinkLost)
    assert "resume" in lost.message
    assert "405" in lost.message
    assert not lost.unsent
