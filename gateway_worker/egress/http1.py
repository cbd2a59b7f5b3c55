"""A lean HTTP/1.1 client for one origin: kept connections, one request on each at a time.

It does what a relay needs and nothing else: no redirects, no cookies, no decompression (none is asked for), no proxies.
RFC 9112 (messages), RFC 9110 (semantics).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from gateway_worker.egress.link import LinkLost

MAX_HEAD = 64 * 1024
READ_SIZE = 64 * 1024
IDLE_EXPIRY = 30.0
MAX_IDLE = 128
NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a URL leads, and what its requests say of it."""

    host: str
    port: int
    secure: bool
    target: str
    host_header: str
    authorization: str | None


def origin_of(url: str) -> Origin:
    """Take a URL apart. Raises :class:`LinkLost` for one that leads nowhere."""
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host = (parts.hostname or "").encode("idna").decode("ascii") if parts.hostname else ""
        port = parts.port or (443 if secure else 80)
    except ValueError as error:
        raise LinkLost("the tool's URL is not a valid URL", unsent=True) from error
    if not host or parts.scheme not in {"http", "https"}:
        raise LinkLost("the tool's URL is not a valid URL", unsent=True)
    shown = f"[{host}]" if ":" in host else host
    credentials = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = "Basic " + b64encode(pair.encode()).decode()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    default = port == (443 if secure else 80)
    return Origin(host, port, secure, target, shown if default else f"{shown}:{port}", credentials)


class Connection:
    """One connection; ``reused`` once it has carried a request."""

    __slots__ = ("idle_since", "reader", "reused", "writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.reused = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """False once the other side has hung up, or sent what nobody asked for."""
        return not (self.writer.is_closing() or self.reader.at_eof()) and (
            time.monotonic() - self.idle_since < IDLE_EXPIRY
        )


class Response:
    """A status, headers (lower-case names) and a body that is read as it comes."""

    def __init__(
        self, connection: Connection, status: int, headers: dict[str, str], *, bodiless: bool
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = connection.reader
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._length = int(length) if length is not None and length.isdigit() else None
        self.complete = bodiless or status in NO_BODY or (self._length == 0 and not self._chunked)
        self.kept = "close" not in headers.get("connection", "").lower() and (
            self._chunked or self._length is not None or self.complete
        )

    @property
    def success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body. Raises :class:`LinkLost` if it breaks off."""
        if self.complete:
            return
        if self._chunked:
            async for chunk in self._chunked_body():
                yield chunk
        elif self._length is not None:
            left = self._length
            while left > 0:
                data = await self._reader.read(min(READ_SIZE, left))
                if not data:
                    _broken("the tool's answer broke off")
                left -= len(data)
                # Known complete before it is handed out: whoever stops reading here leaves a clean connection.
                self.complete = left == 0
                yield data
        else:
            while data := await self._reader.read(READ_SIZE):
                yield data
            self.complete = True

    async def _chunked_body(self) -> AsyncIterator[bytes]:
        reader = self._reader
        while True:
            line = await _line(reader)
            try:
                size = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                _broken("the tool's answer is not valid HTTP")
            if size == 0:
                while await _line(reader):
                    pass  # trailers say nothing to us
                self.complete = True
                return
            while size > 0:
                data = await reader.read(min(READ_SIZE, size))
                if not data:
                    _broken("the tool's answer broke off")
                size -= len(data)
                yield data
            await _line(reader)


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\r\n"))[:-2]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        _broken("the tool's answer broke off")


def _broken(message: str) -> NoReturn:
    raise LinkLost(message)


class HttpClient:
    """Requests to one URL. Belongs to one event loop."""

    def __init__(self, url: str, *, connect_timeout: float) -> None:
        self._url = url
        self._connect_timeout = connect_timeout
        self._origin: Origin | None = None
        self._idle: deque[Connection] = deque()
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self.connections = 0

    @asynccontextmanager
    async def request(
        self, method: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[Response]:
        """Send a request; the connection is kept if the body was read to its end.

        Raises :class:`LinkLost`, ``unsent`` if no connection came about.
        """
        origin = self._origin or origin_of(self._url)
        self._origin = origin
        packed = _head(origin, method, headers, len(body)) + body
        connection = await self._take(origin)
        response: Response | None = None
        try:
            try:
                connection.writer.write(packed)
                await connection.writer.drain()
                response = await _read_head(connection, bodiless=method == "HEAD")
                yield response
            except (OSError, ssl.SSLError) as error:
                raise LinkLost(f"the connection to the tool broke: {type(error).__name__}") from error
        finally:
            if response is not None and response.complete and response.kept and not self._closed:
                self._give(connection)
            else:
                connection.writer.transport.abort()

    def close(self) -> None:
        """Close the connections nobody uses; the others close when their request ends."""
        self._closed = True
        while self._idle:
            self._idle.pop().writer.close()

    async def _take(self, origin: Origin) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.writer.transport.abort()
        return await self._connect(origin)

    def _give(self, connection: Connection) -> None:
        connection.reused = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if len(self._idle) > MAX_IDLE:
            self._idle.popleft().writer.transport.abort()

    async def _connect(self, origin: Origin) -> Connection:
        if origin.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_timeout):
                reader, writer = await asyncio.open_connection(
                    origin.host,
                    origin.port,
                    ssl=self._tls,
                    server_hostname=origin.host if origin.secure else None,
                    limit=MAX_HEAD,
                )
        except (OSError, TimeoutError) as error:
            reason = "TLS failed" if isinstance(error, ssl.SSLError) else "connection failed"
            raise LinkLost(f"the tool's URL cannot be reached: {reason}", unsent=True) from error
        self.connections += 1
        connection = Connection(reader, writer)
        connection.idle_since = time.monotonic()
        return connection


def _head(origin: Origin, method: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {origin.target} HTTP/1.1", f"host: {origin.host_header}", "accept-encoding: identity"]
    if method == "POST":
        lines.append(f"content-length: {length}")
    if origin.authorization is not None:
        lines.append(f"authorization: {origin.authorization}")
    for name, value in headers.items():
        if "\r" in value or "\n" in value or "\0" in value:
            raise LinkLost(f"the header {name} holds a line break", unsent=True)
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


async def _read_head(connection: Connection, *, bodiless: bool) -> Response:
    while True:
        try:
            head = await connection.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise LinkLost("the tool closed the connection without an answer") from error
        except asyncio.LimitOverrunError as error:
            raise LinkLost("the head of the tool's answer is too large") from error
        status, headers = _parse_head(head)
        if status >= 200 or status == 101:
            return Response(connection, status, headers, bodiless=bodiless)


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        _broken("the tool's answer is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            _broken("the tool's answer is not valid HTTP")
        key = name.strip().lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    if version == "HTTP/1.0" and "keep-alive" not in headers.get("connection", "").lower():
        headers["connection"] = "close"
    return int(rest[:3]), headers
