"""One HTTP exchange on a connection of its own, so that it is plain what was sent and what broke."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Json = dict[str, Any]
LINGER_RESET = struct.pack("ii", 1, 0)


class NotConnected(Exception):
    """Nobody took the connection: nothing was sent."""


class StreamClosed(Exception):
    """The connection ended after the request was sent and before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``messages`` are the JSON-RPC messages in it, one or an event stream's."""

    status: int
    headers: Mapping[str, str]
    messages: tuple[Json, ...]

    @property
    def last(self) -> Json:
        """The message that ends the exchange; empty if there is none."""
        return self.messages[-1] if self.messages else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A web process: where it listens."""

    host: str
    port: int


async def exchange(
    place: Place,
    path: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str = "POST",
    sent: Callable[[], None] = lambda: None,
    leave_after: float | None = None,
    reset: bool = False,
) -> Answer | None:
    """Send one request and read its answer; ``sent`` is called once it is written.

    With ``leave_after`` the connection is closed after so many seconds, with ``reset`` by a reset: None then.

    Raises:
        NotConnected, StreamClosed: see there.
    """
    try:
        reader, writer = await asyncio.open_connection(place.host, place.port)
    except OSError as error:
        raise NotConnected from error
    try:
        writer.write(_request(place, method, path, headers, body))
        sent()
        async with asyncio.timeout(leave_after):
            await writer.drain()
            return await _answer(reader)
    except TimeoutError:
        if reset:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        return None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise StreamClosed from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _request(place: Place, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {place.host}:{place.port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    status = int(first.split(" ", 2)[1])
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _chunked(reader)
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(status, headers, messages_in(headers.get("content-type", ""), body))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


def messages_in(kind: str, body: bytes) -> tuple[Json, ...]:
    """The JSON-RPC messages in a body of a content type."""
    if kind.startswith("text/event-stream"):
        events = body.replace(b"\r\n", b"\n").split(b"\n\n")
        lines = (line for event in events for line in event.split(b"\n"))
        pieces = [line[5:].strip() for line in lines if line.startswith(b"data:")]
    else:
        pieces = [body] if kind.startswith("application/json") and body else []
    found = []
    for piece in pieces:
        with contextlib.suppress(orjson.JSONDecodeError):  # a priming event has no data
            value = orjson.loads(piece)
            if isinstance(value, dict):
                found.append(value)
    return tuple(found)
