"""Many clients of one gateway on one event loop: standing streams, WebSockets, and one that pings beside them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from tests.support.mcp import RawClient

T = TypeVar("T")
AT_ONCE = 20
"""Clients that open at the same time."""
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "crowd", "version": "0"},
}


@dataclass(slots=True)
class Standing:
    """A connection on which the server speaks when it likes: ``heard`` counts its words."""

    writer: asyncio.StreamWriter
    reading: asyncio.Task[None]
    heard: int = 0

    @property
    def stands(self) -> bool:
        """Whether neither side has ended it."""
        return not self.reading.done()


@dataclass(slots=True)
class Crowd:
    """Clients of ``client``'s endpoint; all of them leave with it."""

    client: RawClient
    port: int
    members: list[Standing] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def session(self) -> str:
        """A legacy session."""
        reader, writer = await self.connect()
        try:
            headers, _ = await asked(reader, writer, self.client.wire("initialize", INITIALIZE))
            return headers["mcp-session-id"]
        finally:
            writer.close()

    async def open_stream(self) -> None:
        """A session with its standing stream, which is read."""
        session = await self.session()
        reader, writer = await self.connect()
        path = self.client.url.partition("//")[2].partition("/")[2]
        writer.write(
            f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        member = Standing(writer, asyncio.create_task(asyncio.sleep(0)))
        member.reading = asyncio.create_task(self._read(reader, member))
        self.members.append(member)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, member: Standing) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                member.heard += 1

    async def open_websocket(self) -> None:
        """A WebSocket with its session, whose pings are answered."""
        reader, writer = await self.connect()
        protocol = WSConnection(ConnectionType.CLIENT)
        path = self.client.url.partition("//")[2].partition("/")[2].removesuffix("mcp") + "ws"
        writer.write(protocol.send(Request(host="localhost", target=f"/{path}", subprotocols=["mcp"])))
        member = Standing(writer, asyncio.create_task(asyncio.sleep(0)))
        opened = asyncio.Event()
        member.reading = asyncio.create_task(self._talk(reader, writer, protocol, member, opened))
        await asyncio.wait_for(opened.wait(), 30)
        self.members.append(member)

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: WSConnection,
        member: Standing,
        opened: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                protocol.receive_data(data)
                for event in protocol.events():
                    match event:
                        case AcceptConnection():
                            text = orjson.dumps(self.client.message("initialize", INITIALIZE)).decode()
                            writer.write(protocol.send(Message(data=text)))
                        case TextMessage():
                            opened.set()
                        case Ping():
                            member.heard += 1
                            writer.write(protocol.send(event.response()))
                        case RejectConnection() | CloseConnection():
                            return
                        case Pong():
                            pass

    async def leave(self) -> None:
        """All hang up."""
        for member in self.members:
            member.writer.close()
            member.reading.cancel()
        await asyncio.gather(*(member.reading for member in self.members), return_exceptions=True)
        self.members.clear()


@contextlib.asynccontextmanager
async def crowd(client: RawClient, port: int) -> AsyncIterator[Crowd]:
    """A crowd that leaves at the end."""
    found = Crowd(client, port)
    try:
        yield found
    finally:
        await found.leave()


async def many(count: int, do: Callable[[], Awaitable[None]]) -> None:
    """Do it so many times, some at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            await do()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


async def asked(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: bytes
) -> tuple[Mapping[str, str], Any]:
    """Send a request whose answer is a JSON message; headers and message."""
    writer.write(wire)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields = (line.partition(":") for line in head.split("\r\n")[1:])
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers["content-length"]))
    assert head.startswith("HTTP/1.1 200 "), (head, body)
    return headers, orjson.loads(body)


async def ping_times(crowd: Crowd, count: int) -> list[float]:
    """Seconds that each of some pings takes, one after the other, on a connection of its own; the shortest first."""
    session = await crowd.session()
    client = RawClient(crowd.client.url, session=session)
    reader, writer = await crowd.connect()
    took = []
    try:
        for _ in range(count):
            begun = time.monotonic()
            _, answer = await asked(reader, writer, client.wire("ping"))
            took.append(time.monotonic() - begun)
            assert answer["result"] == {}
    finally:
        writer.close()
    return sorted(took)


def deaf(port: int, wire: bytes) -> socket.socket:
    """A client that asks and never reads: its side takes little, the rest has to wait at the server."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.sendall(wire)
    return sock
