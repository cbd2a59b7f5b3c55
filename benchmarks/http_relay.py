"""CPU per call of HTTP clients that could relay to a backend: our link, httpx, aiohttp; and of response parsers.

``python -m benchmarks.http_relay [--uvloop]`` prints two tables and writes ``build/bench-http-relay.json``. The server
is a child process, so the CPU counted is the client's alone. All clients do the same work: a ``tools/call`` is
serialised, POSTed with the headers of a legacy session, and its answer parsed and matched. Rounds are interleaved,
figures are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import httptools
import httpx
import orjson

from common.domain.tool import HttpTransport
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.sse import EventParser

CALLS = 480
PARSES = 5000
FORMS = ("json", "sse")
RESULT_FILE = Path("build/bench-http-relay.json")
HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "accept-encoding": "identity",
    "mcp-session-id": "0123456789abcdef0123456789abcdef",
    "mcp-protocol-version": "2025-11-25",
}
PARAMS = {"name": "echo", "arguments": {"text": "hello"}}
RESULT = {"content": [{"type": "text", "text": "hello"}], "isError": False}
HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\ncache-control: no-cache\r\n"
    b"content-type: application/json\r\nmcp-session-id: 0123456789abcdef0123456789abcdef\r\n"
)
Call = Callable[[], Awaitable[object]]
Row = dict[str, str | int | float]


# -- the server, in a process of its own ----------------------------------------------------------------


class Server(asyncio.Protocol):
    """Answers each POST with ``RESULT``: as JSON on ``/json``, as a stream of one event on ``/sse``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport
        self._pending = b""

    def data_received(self, data: bytes) -> None:
        """Answer what is complete; one request at a time comes on a connection."""
        self._pending += data
        head, found, body = self._pending.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(length or 0):
            return
        self._pending = b""
        message = orjson.loads(body)
        answer = orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "result": RESULT})
        streamed = head.startswith(b"POST /sse")
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(as_stream(answer) if streamed else as_json(answer))


def as_json(body: bytes) -> bytes:
    """A response with a body of known length."""
    return HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def as_stream(body: bytes) -> bytes:
    """A response of one event, in chunks."""
    head = HEAD.replace(b"application/json", b"text/event-stream")
    event = b"event: message\r\ndata: %b\r\n\r\n" % body
    return head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)


async def serve() -> None:
    """Print the port and serve until killed."""
    listener = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


# -- the clients ----------------------------------------------------------------------------------------


def message_of(request_id: int) -> bytes:
    """One request."""
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": PARAMS})


def result_of(raw: bytes, request_id: int, *, streamed: bool) -> Any:
    """The result in a body."""
    if streamed:
        (event,) = EventParser(limit=1 << 20).feed(raw)
        raw = event.data.encode()
    message = orjson.loads(raw)
    assert message["id"] == request_id
    return message["result"]


@asynccontextmanager
async def link_client(url: str, _form: str) -> AsyncIterator[Call]:
    """The worker's link."""
    link = HttpLink(HttpTransport(url=url), connect_timeout=5.0, max_bytes=1 << 20)
    link._fields = link._fields.extended(HEADERS)
    try:
        yield lambda: link.request("tools/call", PARAMS)
    finally:
        await link.close()


@asynccontextmanager
async def httpx_client(url: str, form: str) -> AsyncIterator[Call]:
    """httpx, its answers read as streams."""
    ids = itertools.count(1)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(trust_env=False, timeout=None, limits=limits) as client:  # noqa: S113 - the load is bounded

        async def call() -> Any:
            number = next(ids)
            request = client.build_request("POST", url, content=message_of(number), headers=HEADERS)
            response = await client.send(request, stream=True)
            raw = b"".join([chunk async for chunk in response.aiter_raw()])
            return result_of(raw, number, streamed=form == "sse")

        yield call


@asynccontextmanager
async def aiohttp_client(url: str, form: str) -> AsyncIterator[Call]:
    """aiohttp, which is no dependency of ours: measured where it is installed."""
    import aiohttp  # type: ignore[import-not-found,unused-ignore]

    ids = itertools.count(1)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> Any:
            number = next(ids)
            async with session.post(url, data=message_of(number), headers=HEADERS) as response:
                return result_of(await response.read(), number, streamed=form == "sse")

        yield call


CLIENTS = {"link": link_client, "httpx": httpx_client, "aiohttp": aiohttp_client}


def installed() -> list[str]:
    """The clients that can be measured here."""
    try:
        import aiohttp  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        print("aiohttp is not installed: left out (pip install aiohttp)")
        return ["link", "httpx"]
    return list(CLIENTS)


async def cost(call: Call, concurrency: int) -> float:
    """CPU microseconds per call, with ``concurrency`` lanes."""

    async def lane() -> None:
        for _ in range(CALLS // concurrency):
            await call()

    await asyncio.gather(*(call() for _ in range(concurrency)))
    begun = time.process_time()
    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return (time.process_time() - begun) / CALLS * 1e6


async def client_rows(port: int, rounds: int) -> list[Row]:
    """All clients, in interleaved rounds."""
    names, costs = installed(), dict[tuple[str, int, str], list[float]]()
    async with AsyncExitStack() as stack:
        calls = {
            (name, form): await stack.enter_async_context(
                CLIENTS[name](f"http://127.0.0.1:{port}/{form}", form)
            )
            for name in names
            for form in FORMS
        }
        for number in range(rounds):
            turn = number % len(names)
            for form, concurrency in itertools.product(FORMS, (1, 16)):
                for name in names[turn:] + names[:turn]:
                    spent = costs.setdefault((form, concurrency, name), [])
                    spent.append(await cost(calls[name, form], concurrency))
    medians = {key: statistics.median(found) for key, found in costs.items()}
    return [
        {
            "form": form,
            "under_way": concurrency,
            "client": name,
            "cpu_us": round(median, 1),
            "times_ours": round(median / medians[form, concurrency, "link"], 1),
        }
        for (form, concurrency, name), median in medians.items()
    ]


# -- the parsers ----------------------------------------------------------------------------------------


class Collector:
    """What llhttp calls: the least that a client must do."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.fields: dict[bytes, bytes] = {}
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field."""
        self.fields[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """A piece."""
        self.body += data


def by_httptools(raw: bytes, collector: Collector) -> bytes:
    """llhttp through httptools; one parser serves all responses of its connection."""
    collector.fields, collector.body = {}, b""
    collector.parser.feed_data(raw)
    return collector.body


def by_hand(raw: bytes, _: Collector) -> bytes:
    """The least that can be called parsing: no check of names, values, line ends or double lengths."""
    head, _found, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    assert status.startswith("HTTP/1.")
    fields = {}
    for line in lines:
        name, _colon, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return body[: int(fields["content-length"])]


def by_h11(raw: bytes, _: Collector) -> bytes:
    """h11, which httpx uses; it insists on a connection that has sent a request."""
    connection = h11.Connection(our_role=h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
    return body


def parser_rows(rounds: int) -> list[Row]:
    """CPU per response of each parser."""
    raw = as_json(orjson.dumps({"jsonrpc": "2.0", "id": 1, "result": RESULT}))
    collector, costs = Collector(), dict[str, list[float]]()
    for parse in [by_httptools, by_hand, by_h11] * rounds:
        times = PARSES if parse is not by_h11 else PARSES // 10
        begun = time.process_time()
        for _ in range(times):
            assert parse(raw, collector)
        spent = costs.setdefault(parse.__name__.removeprefix("by_"), [])
        spent.append((time.process_time() - begun) / times * 1e6)
    return [{"parser": name, "cpu_us": round(statistics.median(found), 1)} for name, found in costs.items()]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--serve", action="store_true", help="be the server")
    options.add_argument("--uvloop", action="store_true", help="run the clients on uvloop")
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    if chosen.serve:
        asyncio.run(serve())
        return
    run = asyncio.run
    if chosen.uvloop:
        try:
            import uvloop
        except ImportError:
            options.error("uvloop is no dependency of ours: pip install uvloop")
        run = uvloop.run
    command = [sys.executable, "-m", "benchmarks.http_relay", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            clients = run(client_rows(int(server.stdout.readline()), chosen.rounds))
        finally:
            server.kill()
    parsers = parser_rows(chosen.rounds)
    for row in [*clients, *parsers]:
        print("  ".join(f"{value!s:>8}" for value in row.values()))
    RESULT_FILE.parent.mkdir(exist_ok=True)
    found = {"loop": "uvloop" if chosen.uvloop else "asyncio", "clients": clients, "parsers": parsers}
    RESULT_FILE.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
