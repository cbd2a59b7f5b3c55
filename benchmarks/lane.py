"""One lane of load: a keep-alive HTTP/1.1 connection on a raw asyncio transport, with one call in flight.

The loop is closed: a lane sends its next call when the last was answered. Calls in flight when the time is up
are waited for and counted, so a slow target does not lose its slowest calls from the figures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from benchmarks.figures import Window
from benchmarks.http1 import BadHttpError, Response, ResponseParser, last_message
from benchmarks.recorder import Recorder
from benchmarks.wire import Calls, Endpoint

CALL_TIMEOUT = 20.0  # seconds
_CONNECT_TIMEOUT = 5.0
_WATCH_INTERVAL = 0.25
_RECONNECT_PAUSE = 0.05


class _Connection(asyncio.Protocol):
    """One connection of a lane. Once the lane has dropped it, nothing it still says is heard."""

    def __init__(self, lane: Lane) -> None:
        self._lane: Lane | None = lane
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def drop(self) -> None:
        self._lane = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._lane is None:
            return
        try:
            response = self._parser.feed(data)
        except BadHttpError as error:
            self._lane.failed(error)
        else:
            if response is not None:
                self._lane.answered(response)

    def connection_lost(self, exc: Exception | None) -> None:
        lane, self._lane = self._lane, None
        if lane is None:
            return
        if response := self._parser.end():
            lane.answered(response)
        lane.lost(exc)


class Lane:
    """A kept-alive connection with at most one call in flight; reconnects when it must."""

    def __init__(self, endpoint: Endpoint, calls: Calls) -> None:
        self._endpoint = endpoint
        self._calls = calls
        self._connection: _Connection | None = None
        self._recorder: Recorder | None = None
        self._done: asyncio.Future[None] | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._call_id: int | None = None
        self._sent_at = 0.0

    async def connect(self) -> None:
        """Open the connection.

        Raises:
            OSError: nobody listens. TimeoutError: nobody accepts.
        """
        connection = _Connection(self)
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, "127.0.0.1", self._endpoint.port)
        self._connection = connection

    def begin(self, recorder: Recorder) -> asyncio.Future[None]:
        """Start calling; the future is done when the time is up and the last call has ended."""
        self._recorder = recorder
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        return self._done

    def close(self) -> None:
        """Drop the connection."""
        self._call_id = None
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop()

    def expire(self, now: float) -> None:
        """Give up the call in flight if it has been for longer than `CALL_TIMEOUT`."""
        if self._call_id is not None and now - self._sent_at > CALL_TIMEOUT:
            self.failed(f"no answer within {CALL_TIMEOUT:g} s")

    def answered(self, response: Response) -> None:
        """The connection has read a whole response."""
        call_id, self._call_id = self._call_id, None
        if response.closes:
            self._drop()
        if call_id is None or self._recorder is None:
            return
        try:
            self._recorder.answer(call_id, last_message(response), self._sent_at)
        except BadHttpError as error:
            self._recorder.failure(error)
        self._next()

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connection = None
        if self._call_id is not None and self._connecting is None:
            self.failed(f"connection lost ({exc!r})")

    def failed(self, error: BadHttpError | str) -> None:
        """The call in flight came to nothing."""
        assert self._recorder is not None
        self._call_id = None
        self._drop()
        self._recorder.failure(error)
        self._next()

    def _next(self) -> None:
        assert self._recorder is not None
        assert self._done is not None
        self._call_id = self._recorder.next_call()
        if self._call_id is None:
            if not self._done.done():
                self._done.set_result(None)
            return
        self._sent_at = time.perf_counter()
        if self._connection is None:
            self._connecting = asyncio.create_task(self._reconnect())
        else:
            self._connection.write(self._calls.render(self._call_id))

    async def _reconnect(self) -> None:
        try:
            await self.connect()
        except (OSError, TimeoutError) as error:
            await asyncio.sleep(_RECONNECT_PAUSE)  # a target that is gone must not make the client spin
            self._connecting = None
            self.failed(f"cannot connect ({error!r})")
            return
        self._connecting = None
        if self._call_id is not None and self._connection is not None:
            self._connection.write(self._calls.render(self._call_id))

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()


async def run_lanes(lanes: Sequence[Lane], recorder: Recorder, *, ramp: float = 0.0) -> Window:
    """Run all lanes until the recorder's time is up and every call has ended.

    The lanes begin together, or evenly spread over ``ramp`` seconds.
    """
    pending = set()
    for number, lane in enumerate(lanes):
        if ramp:
            await asyncio.sleep(recorder.seconds_until(ramp * number / len(lanes)))
        pending.add(lane.begin(recorder))
    while pending:
        _, pending = await asyncio.wait(pending, timeout=_WATCH_INTERVAL)
        now = time.perf_counter()
        for lane in lanes:
            lane.expire(now)
    return recorder.window()
