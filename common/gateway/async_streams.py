"""A call as a coroutine sees it. What blocks is done in threads; the waiting itself needs none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Self, TypeVar

from common.calls.call import Call
from common.calls.replies import Frame
from common.domain.errors import GatewayError, InternalError
from common.domain.invocation import ExecutionResult, failed
from common.gateway.streams import Collected, Event, event_of

T = TypeVar("T")


class AsyncCallStream:
    """:class:`~common.gateway.streams.CallStream` for asyncio. The call begins with the first thing that is awaited.

    Belongs to one task. If that is cancelled while it waits here, the call is taken back.
    """

    def __init__(
        self, begin: Callable[[], Call], ended: Callable[[AsyncCallStream], None], threads: Executor
    ) -> None:
        """``begin`` is called in one of ``threads``; ``ended`` is told when nobody listens any more."""
        self._begin: Callable[[], Call] | None = begin
        self._ended = ended
        self._threads = threads
        self._call: Call | None = None
        self._result: ExecutionResult | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await self._started()
        try:
            while self._result is None and self._call is not None:
                frame = await self._next(self._call)
                if isinstance(frame, ExecutionResult):
                    self._result = frame
                    await self.aclose()
                elif (event := event_of(frame)) is not None:
                    return event
        except asyncio.CancelledError:
            self._take_back()
            raise
        raise StopAsyncIteration

    async def result(self) -> ExecutionResult:
        """The one result; waits for it, and leaves out the events that were not read. Asked again it is the same."""
        async for _ in self:
            pass
        return self._result or failed(InternalError("the stream was closed before its call had ended"))

    async def collect(self) -> Collected:
        """All events that were not read yet, and the result."""
        events = tuple([event async for event in self])
        return Collected(events=events, result=await self.result())

    async def cancel(self) -> None:
        """Take the call back: its result is INVOCATION_CANCELLED, unless it has one already."""
        call = self._call
        if call is not None and self._result is None:
            await self._in_thread(call.cancel)

    def abandon(self) -> None:
        """The same from any thread that may block."""
        call = self._call
        if call is not None and self._result is None:
            call.cancel()

    async def aclose(self) -> None:
        """Listen no longer. A call that has not ended is taken back."""
        self._begin = None
        call, self._call = self._call, None
        self._ended(self)
        if call is not None:
            if self._result is None:
                await self._in_thread(call.cancel)
            call.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _started(self) -> None:
        begin, self._begin = self._begin, None
        if begin is None:
            return
        self._loop = asyncio.get_running_loop()
        beginning = self._loop.run_in_executor(self._threads, begin)
        try:
            self._call = await asyncio.shield(beginning)
        except GatewayError as error:
            self._result = failed(error)
            self._ended(self)
            return
        except asyncio.CancelledError:
            # It may be on its way already, and nobody will wait for it.
            beginning.add_done_callback(self._begun_in_vain)
            raise
        self._call.wake(self._wake)
        self._news.set()

    def _begun_in_vain(self, beginning: asyncio.Future[Call]) -> None:
        if not beginning.cancelled() and beginning.exception() is None:
            self._call = beginning.result()
        self._take_back()

    def _take_back(self) -> None:
        """Cancel the call without waiting for that: this task is to end now."""
        call, self._call = self._call, None
        self._ended(self)
        if call is None:
            return

        def cancel() -> None:
            call.cancel()
            call.close()

        # After the gateway was closed it has cancelled its calls already.
        with suppress(RuntimeError):
            self._threads.submit(cancel)

    async def _next(self, call: Call) -> Frame | None:
        """The next frame; None for nothing yet."""
        self._news.clear()
        left = call.left
        if left <= 0:
            return await self._in_thread(lambda: call.next(0))
        frame = call.next(0)
        if frame is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)
        return frame

    def _wake(self) -> None:
        # A loop that has ended waits for nothing.
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._news.set)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
