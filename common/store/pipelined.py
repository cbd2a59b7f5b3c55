"""One asyncio connection shared by everybody, on which commands are never waited for one by one.

All commands of one turn of the event loop leave in one write, and their answers come back in order: a tenth of what a
pooled client costs per command. Nothing is repeated: a command whose answer does not come fails with
:class:`StoreUnavailable`, and whether it ran is not known.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, TypeVar

import hiredis
from redis.exceptions import RedisError

from common.domain.errors import StoreUnavailable
from common.store.client import StoreAddress
from common.store.endpoint import Endpoint, endpoint_of, pack
from common.store.scripts import Arg, script

Answer = asyncio.Future[Any]
P = TypeVar("P", bound=asyncio.Protocol)


class CommandRefused(RedisError):
    """Redis answered with an error: the command was wrong, or the server cannot do it now."""


async def open_connection(place: Endpoint, protocol: Callable[[], P]) -> P:
    """Open a connection, without the greeting. Raises :class:`OSError`."""
    loop = asyncio.get_running_loop()
    if place.path is not None:
        _, made = await loop.create_unix_connection(protocol, place.path)
    else:
        tls = None if place.tls is None else place.tls.now()
        _, made = await loop.create_connection(protocol, place.host, place.port, ssl=tls)
    return made


class _Asked:
    """One command, or several that are waited for together; ``found`` collects the answers of several."""

    __slots__ = ("answer", "count", "found", "since")

    def __init__(self, answer: Answer, count: int, since: float) -> None:
        self.answer = answer
        self.count = count
        self.found: list[Any] = []
        self.since = since


class _Wire(asyncio.Protocol):
    """The connection itself: bytes in and out, answers in order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=CommandRefused)
        self._waiting: deque[_Asked] = deque()
        self._out: list[bytes] = []
        self._flushing = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, packed: bytes, count: int = 0) -> Answer:
        """Queue a command for the write at the end of this turn.

        With a ``count`` it is so many commands, answered by one list, Redis' errors among them as values.
        """
        answer: Answer = self._loop.create_future()
        self._waiting.append(_Asked(answer, count, self._loop.time()))
        self._out.append(packed)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return answer

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        """Hand each answer to the oldest that waits."""
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except ConnectionError:
                self.close()
                return
            if reply is False:
                return
            asked = self._waiting[0]
            if asked.count:
                asked.found.append(reply)
                if len(asked.found) < asked.count:
                    continue
                reply = asked.found
            self._waiting.popleft()
            self._give(asked.answer, reply)

    @staticmethod
    def _give(answer: Answer, reply: Any) -> None:
        if answer.done():
            return
        if isinstance(reply, CommandRefused):
            answer.set_exception(reply)
            answer.exception()  # fire-and-forget commands have nobody who would look
        else:
            answer.set_result(reply)

    @property
    def oldest(self) -> float:
        """Seconds for which the oldest command waits; 0 if none does."""
        return self._loop.time() - self._waiting[0].since if self._waiting else 0.0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Everybody who waits is told."""
        self._transport = None
        for asked in self._waiting:
            if not asked.answer.done():
                asked.answer.set_exception(StoreUnavailable("the connection to Redis broke"))
                asked.answer.exception()
        self._waiting.clear()
        if not self.lost.done():
            self.lost.set_result(None)


class PipelinedConnection:
    """Connects on first use, and again after a loss. Belongs to one event loop."""

    def __init__(self, address: StoreAddress) -> None:
        self._endpoint: Endpoint = endpoint_of(address)
        self._connect_timeout = address.connect_timeout
        self._answer_timeout = address.socket_timeout
        self._wire: _Wire | None = None
        self._connecting: asyncio.Lock = asyncio.Lock()
        self._failed_at = float("-inf")
        self._watch: asyncio.Task[None] | None = None
        self.epoch = 0
        """Counts the connections: who has to know that Redis was not replaced in between remembers it."""

    async def command(self, *args: Arg) -> Any:
        """Run one command and return Redis' answer, strings as bytes.

        Raises :class:`StoreUnavailable` if no answer came, :class:`CommandRefused` for Redis' own error.
        """
        return await (await self._ready()).send(pack(args))

    async def commands(self, batch: Sequence[Sequence[Arg]]) -> list[Any]:
        """Run several in one write; the answers in order, Redis' errors among them as values.

        Raises :class:`StoreUnavailable` if the connection broke before the last answer.
        """
        if not batch:
            return []
        wire = await self._ready()
        found: list[Any] = await wire.send(b"".join(map(pack, batch)), len(batch))
        return found

    def submit(self, batch: Sequence[Sequence[Arg]]) -> asyncio.Future[list[Any]] | None:
        """:meth:`commands` for whoever waits by a callback; None if there is no connection at this moment.

        Then nothing was sent: any awaited command opens one. ``batch`` must not be empty.
        """
        wire = self._wire
        if wire is None or wire.lost.done():
            return None
        return wire.send(b"".join(map(pack, batch)), len(batch))

    async def run(
        self, name: str, keys: Sequence[str], args: Sequence[Arg] = (), *, epoch: int | None = None
    ) -> Any:
        """Run a script by name; see :mod:`common.store.scripts`.

        With an ``epoch`` only over that connection: over a later one it is not sent, and :class:`StoreUnavailable` is
        raised.
        """
        wanted = script(name)
        try:
            return await self._send(pack(("EVALSHA", wanted.sha, len(keys), *keys, *args)), epoch)
        except CommandRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await self._send(pack(("EVAL", wanted.source, len(keys), *keys, *args)), epoch)

    async def _send(self, packed: bytes, epoch: int | None) -> Any:
        wire = await self._ready()
        if epoch is not None and epoch != self.epoch:
            raise StoreUnavailable("the connection to Redis is another one by now")
        return await wire.send(packed)

    async def aclose(self) -> None:
        """Close; commands under way fail."""
        if self._watch is not None:
            self._watch.cancel()
        if self._wire is not None:
            self._wire.close()
            await self._wire.lost

    async def _ready(self) -> _Wire:
        wire = self._wire
        if wire is not None and not wire.lost.done():
            return wire
        asked = time.monotonic()
        async with self._connecting:
            if self._wire is None or self._wire.lost.done():
                if self._failed_at >= asked:
                    # Who waited while another one tried in vain has waited long enough.
                    raise StoreUnavailable("Redis cannot be reached")
                try:
                    self._wire = await self._connect()
                except StoreUnavailable:
                    self._failed_at = time.monotonic()
                    raise
            return self._wire

    async def _connect(self) -> _Wire:
        try:
            async with asyncio.timeout(self._connect_timeout):
                wire = await open_connection(self._endpoint, _Wire)
                try:
                    for command in self._endpoint.greeting:
                        await wire.send(pack(command))
                except BaseException:
                    wire.close()
                    raise
        except (OSError, TimeoutError) as error:
            raise StoreUnavailable("Redis cannot be reached") from error
        except CommandRefused as error:
            raise StoreUnavailable("Redis refuses this connection") from error
        self.epoch += 1
        if self._watch is None or self._watch.done():
            # In no call's context, although one may have opened the connection.
            self._watch = asyncio.create_task(self._watch_answers(), name="redis-watch", context=Context())
        return wire

    async def _watch_answers(self) -> None:
        """Close a connection on which an answer does not come: a dead peer says nothing by itself."""
        while True:
            await asyncio.sleep(min(1.0, self._answer_timeout / 2))
            wire = self._wire
            if wire is not None and wire.oldest > self._answer_timeout:
                wire.close()
