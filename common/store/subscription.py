"""One asyncio connection that listens to channels: a publication is handed on in the turn in which it arrives.

Publications are hints. One that is published while the connection is away is lost, so whoever listens is told of
every (re)subscription and looks for itself then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import hiredis
import structlog

from common.domain.errors import StoreUnavailable
from common.store.client import StoreAddress
from common.store.endpoint import endpoint_of, pack
from common.store.pipelined import CommandRefused, open_connection

log = structlog.get_logger(__name__)

QUIET = 5.0
"""Seconds of silence after which a connection is asked for a sign of life."""
RETRY = 0.1

OnPublication = Callable[[bytes, bytes], None]


class _Ear(asyncio.Protocol):
    """The connection itself."""

    def __init__(self, greetings: int, channels: int, on_publication: OnPublication) -> None:
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=CommandRefused)
        self._greetings = greetings
        self._missing = channels
        self._on_publication = on_publication
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, packed: bytes) -> None:
        if self._transport is not None:
            self._transport.write(packed)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except ConnectionError:
                self.close()
                return
            if reply is False:
                return
            self._take(reply)

    def _take(self, reply: object) -> None:
        if isinstance(reply, CommandRefused):
            self._fail(reply)
            self.close()
        elif self._greetings:
            self._greetings -= 1
        elif isinstance(reply, list) and len(reply) == 3:
            if reply[0] == b"message":
                self._on_publication(reply[1], reply[2])
            elif reply[0] == b"subscribe":
                self._missing -= 1
                if not self._missing and not self.subscribed.done():
                    self.subscribed.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._fail(ConnectionError("the connection broke"))
        if not self.lost.done():
            self.lost.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.subscribed.done():
            self.subscribed.set_exception(error)
            self.subscribed.exception()


class Subscription:
    """Belongs to one event loop."""

    def __init__(
        self,
        address: StoreAddress,
        channels: Sequence[str],
        *,
        on_publication: OnPublication,
        on_subscribed: Callable[[], None],
    ) -> None:
        """``on_publication`` gets channel and data. Neither callback may block or raise."""
        self._endpoint = endpoint_of(address)
        self._timeout = address.connect_timeout
        self._patience = address.socket_timeout
        self._channels = tuple(channels)
        self._on_publication = on_publication
        self._on_subscribed = on_subscribed

    async def run(self) -> None:
        """Listen, for ever; after a lost connection, again. Degrades: while Redis is away nothing is heard."""
        while True:
            try:
                await self._listen()
            except StoreUnavailable as error:
                log.debug("subscription_lost", cause=repr(error.__cause__))
            await asyncio.sleep(RETRY)

    async def _listen(self) -> None:
        ear: _Ear | None = None
        try:
            async with asyncio.timeout(self._timeout):
                ear = await open_connection(self._endpoint, self._ear)
                ear.send(self._endpoint.opening() + pack(("SUBSCRIBE", *self._channels)))
                await ear.subscribed
            self._on_subscribed()
            await self._watch(ear)
        except (OSError, TimeoutError, CommandRefused) as error:
            raise StoreUnavailable("Redis cannot be listened to") from error
        finally:
            if ear is not None:
                ear.close()

    def _ear(self) -> _Ear:
        return _Ear(len(self._endpoint.greeting), len(self._channels), self._on_publication)

    async def _watch(self, ear: _Ear) -> None:
        """Until the connection is lost. One that died silently answers no PING: it fails here instead of never."""
        asked = False
        while not ear.lost.done():
            ear.heard = False
            await asyncio.wait([ear.lost], timeout=self._patience if asked else QUIET)
            if not ear.heard and asked:
                raise TimeoutError
            asked = not ear.heard
            if asked:
                ear.send(pack(("PING",)))
