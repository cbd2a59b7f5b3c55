"""An HTTP server in the test's own loop that says byte for byte what its script tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class RawConnection:
    """One client connection; ``number`` counts from 1."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[str, bytes]:
        """Read one request: its head in latin-1, and its body. Raises EOFError when the client has closed."""
        head = await self.head()
        _, _, length = head.lower().partition("\r\ncontent-length: ")
        return head, await self.reader.readexactly(int(length.partition("\r\n")[0] or 0))

    async def head(self) -> str:
        """Read only the head."""
        return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def send(self, *pieces: bytes) -> None:
        """Write the pieces, each by itself as far as the kernel allows."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def ended(self) -> bytes:
        """Wait for the client to close; returns what came before."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def reset(self) -> None:
        """Close with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[RawConnection], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """``live`` are the connections that neither side has closed."""

    port: int = 0
    url: str = ""
    connections: int = 0
    live: set[int] = field(default_factory=set)


@asynccontextmanager
async def raw_server(
    script: Script, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, name: str | None = None
) -> AsyncIterator[RawServer]:
    """Run ``script`` on each connection and close it after; ``name`` is the host in the URL."""
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        number = server.connections
        server.live.add(number)
        try:
            await script(RawConnection(number, reader, writer))
        except (EOFError, ConnectionError):
            pass  # The client left, which is its right.
        finally:
            server.live.discard(number)
            writer.close()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accepted, host, 0, ssl=tls, limit=1 << 24, backlog=1024)
    server.port = listener.sockets[0].getsockname()[1]
    scheme, shown = "https" if tls else "http", name or (f"[{host}]" if ":" in host else host)
    server.url = f"{scheme}://{shown}:{server.port}/mcp"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ok(body: bytes, *fields: str, kind: str = "application/json") -> bytes:
    """A whole response with a length."""
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
