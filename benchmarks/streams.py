"""Event streams held open: calls to a slow tool that tells of its progress meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from benchmarks.load import close_session, open_session
from benchmarks.wire import Endpoint, Era, call_ids, http_calls


class Streams:
    """Many calls, each on a connection of its own, that are answered by event streams."""

    def __init__(self) -> None:
        self.opened = 0
        self.completed = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, target: Endpoint, session_id: str | None, count: int) -> None:
        """Make ``count`` calls."""
        calls, ids = http_calls(target, Era.LEGACY, session_id), call_ids()
        self._tasks = [
            asyncio.create_task(self._hold(target.port, calls.render(next(ids)))) for _ in range(count)
        ]

    async def wait_opened(self, timeout: float) -> None:
        """Wait until all streams have begun, or for ``timeout`` seconds."""
        await self._wait(lambda: self.opened == len(self._tasks), timeout)

    async def wait_completed(self, timeout: float) -> None:
        """Wait until every stream that has begun has had its answer, or for ``timeout`` seconds."""
        await self._wait(lambda: self.completed >= self.opened, timeout)

    async def drop(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hold(self, port: int, request: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b"text/event-stream" not in head.lower():
                return
            self.opened += 1
            self._changed.set()
            seen = b""
            while data := await reader.read(1 << 16):
                seen = (seen + data)[-(1 << 12) :]
                if b'"result"' in seen:
                    self.completed += 1
                    self._changed.set()
                    return
        except (OSError, asyncio.IncompleteReadError):
            return  # it counts as neither opened nor completed
        finally:
            writer.close()

    async def _wait(self, holds: Callable[[], bool], timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()


@asynccontextmanager
async def streams(target: Endpoint, count: int) -> AsyncIterator[Streams]:
    """Hold ``count`` streams while the block runs."""
    session_id = await open_session(target)
    held = Streams()
    held.begin(target, session_id, count)
    try:
        yield held
    finally:
        await held.drop()
        if session_id is not None:
            await close_session(target, session_id)
