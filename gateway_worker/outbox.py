"""What the worker tells Redis about its calls, in order, as few writes as possible, and never lost.

Everything that collects while one write is under way goes out in the next. All of it is idempotent (SET of a
result, PUBLISH of a frame, HDEL of an acknowledged message), so after a fault the whole batch is sent again:
a waiter ignores what comes twice.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from common.domain.errors import StoreUnavailable
from common.store.client import AsyncClient, store_errors

log = structlog.get_logger(__name__)

MAX_BATCH = 500
MAX_NOTIFICATIONS = 10_000
RETRY_FIRST, RETRY_MAX = 0.05, 1.0

Command = tuple[str | bytes | int, ...]


class Outbox:
    """Belongs to the worker's event loop."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._commands: deque[Command] = deque()
        self._some = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.dropped_notifications = 0

    def put(self, *commands: Command) -> None:
        """Queue commands. They are bounded by the calls in flight, as a call is only finished once."""
        self._commands.extend(commands)
        self._empty.clear()
        self._some.set()

    def put_notification(self, command: Command) -> None:
        """Queue a notification frame; beyond the bound it is dropped and counted: a result never is."""
        if len(self._commands) >= MAX_NOTIFICATIONS:
            self.dropped_notifications += 1
            return
        self.put(command)

    async def run(self) -> None:
        """Write, for ever. Redis away: the batch waits and is sent again."""
        delay = RETRY_FIRST
        while True:
            await self._some.wait()
            batch = [self._commands.popleft() for _ in range(min(MAX_BATCH, len(self._commands)))]
            try:
                await self._write(batch)
                delay = RETRY_FIRST
            except StoreUnavailable as error:
                log.warning("replies_wait", waiting=len(batch), cause=repr(error.__cause__))
                self._commands.extendleft(reversed(batch))
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX)
            if not self._commands:
                self._some.clear()
                self._empty.set()

    async def flushed(self, timeout: float) -> bool:
        """Wait until everything is written; False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def _write(self, batch: list[Command]) -> None:
        with store_errors("writing replies"):
            pipe = self._client.pipeline(transaction=False)
            for command in batch:
                pipe.execute_command(*command)
            await pipe.execute()
