"""One HTTP/1.1 connection: a request at a time, and its response as it comes (RFC 9112).

llhttp, the parser of Node.js, reads the bytes: strictly, so that nobody can hide a second response in the first.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import httptools

from common.domain.errors import ResponseTooLarge
from gateway_worker.egress.link import LinkLost

MAX_HEAD = 64 * 1024
"""Bytes that may come without one of the body among them: heads, trailers, chunk extensions."""
HIGH_WATER = 256 * 1024
"""Bytes of a body that may wait for their reader before the server is let wait."""
REST_TIMEOUT, REST_BYTES = 1.0, 64 * 1024
"""How much of a response is read on after what was wanted of it, so that its connection can be used again."""
WANTED = frozenset(
    {b"content-type", b"content-encoding", b"content-length", b"transfer-encoding", b"keep-alive"}
    | {b"mcp-session-id", b"retry-after"}
)
"""The header fields that anybody asks for; the others are dropped as they come."""

_PATIENCE = re.compile(r"(?:^|[,\s])timeout=(\d{1,5})(?:$|[,\s])", re.IGNORECASE)


class ConnectionLost(LinkLost):
    """The connection broke, or what came over it was no HTTP/1.1."""


class Response:
    """Status, headers (names in lower case) and a body that is read as it comes.

    A context manager that lets go of the connection: after an orderly end, or an :class:`Exception`, what is left of
    the body is read in the background, within bounds, and the connection used again; a cancellation closes it.
    """

    __slots__ = ("_body", "_connection", "_error", "_waiter", "complete", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._connection = connection
        self._body = bytearray()
        self._error: LinkLost | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.release(self, cancelled=kind is not None and not issubclass(kind, Exception))

    @property
    def success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    async def head(self) -> None:
        """Wait for status and headers. Raises :class:`ConnectionLost`."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news()

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; nothing at its end. Raises :class:`ConnectionLost`."""
        while not self._body:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._news()
        data = bytes(self._body)
        self._body.clear()
        self._connection.resume()
        return data

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises :class:`ResponseTooLarge` above ``limit`` bytes, :class:`ConnectionLost`."""
        whole = await self.read()
        if not self.complete:
            parts = bytearray(whole)
            while len(parts) <= limit and (more := await self.read()):
                parts += more
            whole = bytes(parts)
        if len(whole) > limit:
            raise ResponseTooLarge("the tool's answer is above the bound (runtime.max_result_bytes)")
        return whole

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # -- what the connection tells ----------------------------------------------------------------------

    def wake(self) -> None:
        """Something came."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def add(self, data: bytes) -> int:
        """A piece of the body came; returns how much waits to be read."""
        self._body += data
        return len(self._body)

    def fail(self, reason: str) -> None:
        """Nothing more will come."""
        if not self.complete and self._error is None:
            self._error = ConnectionLost(f"the connection to the tool broke: {reason}")
            self.wake()


class Connection(asyncio.BufferedProtocol):
    """One connection. It belongs to a pool, which is told when it is free for another request and when it is gone.

    ``patience`` is how many seconds the server says it keeps an idle connection; None if it does not say.
    """

    # fmt: off
    __slots__ = (
        "_buffer", "_draining", "_fault", "_kept", "_on_free", "_on_gone", "_parser", "_paused", "_poll",
        "_response", "_rest", "_transport", "_unframed", "idle_until", "patience",
    )
    # fmt: on

    def __init__(
        self,
        buffer: memoryview,
        *,
        on_free: Callable[[Connection], None],
        on_gone: Callable[[Connection], None],
    ) -> None:
        """``buffer`` is what bytes are received in; connections of one loop may share it."""
        self.patience: float | None = None
        self.idle_until = 0.0
        self._buffer = buffer
        self._on_free = on_free
        self._on_gone = on_gone
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._response: Response | None = None
        self._draining: asyncio.TimerHandle | None = None
        self._rest = 0
        self._kept = self._paused = False
        self._unframed = 0
        self._fault = ""

    # -- for the pool -----------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether the server has neither hung up nor said anything while nobody was asking.

        The kernel is asked, for the loop may not have looked yet: a request written to a closed connection is lost, and
        cannot be repeated since nobody knows how far it came.
        """
        return self._transport is not None and not self._transport.is_closing() and not self._poll.poll(0)

    def send(self, request: bytes) -> Response:
        """Write a request; the response is still to come. Raises :class:`ConnectionLost` if nothing was written."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLost("the tool closed the connection at once", unsent=True)
        self._response = response = Response(self)
        self._kept = False
        self._unframed = 0
        transport.write(request)
        return response

    def release(self, response: Response, *, cancelled: bool = False) -> None:
        """Nobody wants more of this response."""
        if response is not self._response or self._draining is not None:
            return
        if response.complete:
            self._finish()
        elif cancelled or not self._kept:
            self.abort("given up")
        else:
            self._rest = REST_BYTES
            self._draining = asyncio.get_running_loop().call_later(REST_TIMEOUT, self.abort, "held open")
            self.resume()

    def resume(self) -> None:
        """Room has been made for more of the body."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self, reason: str) -> None:
        """Close at once; a response under way fails."""
        if self._response is not None:
            self._response.fail(reason)
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        """The response is complete and released."""
        self._response = None
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # A response may overtake its request: the rest of that would be read as the start of the next.
        if self._kept and not transport.get_write_buffer_size():
            # It may have been released unread, with more waiting than the bound: the next request must be heard.
            self.resume()
            self._on_free(self)
        else:
            self.abort("")

    # -- asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by their class
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's signature
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        response = self._response
        if response is None:
            self.abort("")  # Unasked for: it must not become the response to the next request.
            return
        self._unframed += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserUpgrade:
            pass  # on_headers_complete has refused it.
        except httptools.HttpParserError as error:
            self._fault = self._fault or f"its answer is not valid HTTP/1.1 ({error})"
        if self._unframed > MAX_HEAD:
            self._fault = self._fault or "the head of its answer is too large"
        self._kept = self._kept and not self._fault
        if response.complete:
            if self._draining is not None:
                self._finish()
        elif self._fault:
            self.abort(self._fault)
        response.wake()

    def eof_received(self) -> None:
        response = self._response
        if response is not None and response.status and self._until_closed(response):
            response.complete = True
            response.wake()
        self.abort("closed before its answer was complete")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None:
            self._response.fail("closed" if exc is None else type(exc).__name__)
        if self._draining is not None:
            self._draining.cancel()
        self._on_gone(self)

    # -- llhttp -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Also called for interim responses, and for one more than was asked for."""
        if self._response is not None and self._response.complete:
            self._kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        response, lower = self._response, name.lower()
        if lower in WANTED and response is not None and not response.status:
            key, text = lower.decode("ascii"), value.decode("latin-1").strip()
            known = response.headers.get(key)
            response.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        response, status = self._response, self._parser.get_status_code()
        if response is None or response.status or self._fault:
            return
        if self._parser.get_http_version() not in {"1.1", "1.0"} or status < 100 or status == 101:
            self._fault = "its answer is not HTTP/1.1"
        elif response.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fault = "its answer has a transfer coding that was not asked for"
        elif status < 200:
            response.headers.clear()
        else:
            response.status = status
            self._kept = self._parser.should_keep_alive()
            if "keep-alive" in response.headers:
                self._hear_patience(response.headers["keep-alive"])

    def on_body(self, data: bytes) -> None:
        response = self._response
        self._unframed = 0
        if response is None or response.complete or self._fault:
            return
        if self._draining is not None:
            self._rest -= len(data)
            self._fault = self._fault if self._rest >= 0 else "too much is left of its answer"
        elif response.add(data) > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response = self._response
        if response is not None and response.status and not self._fault:
            response.complete = True

    def _hear_patience(self, value: str) -> None:
        found = _PATIENCE.search(value)
        self.patience = float(found[1]) if found else None

    @staticmethod
    def _until_closed(response: Response) -> bool:
        """Whether the body ends with the connection: neither a length nor chunks were announced."""
        return not response.headers.keys() & {"content-length", "transfer-encoding"}
