"""What the worker tells Redis about its calls, in order, as few writes as possible, and never lost.

Everything that collects while one write is under way goes out in the next. Ends of calls are idempotent (SET of a
result, PUBLISH of its frame, HDEL of the acknowledged message: a waiter ignores what comes twice), so after a fault
they are sent again. Notifications are not, since progress must never run backwards: those of a broken write are gone.
"""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from common.domain.errors import StoreUnavailable
from common.store.client import store_errors
from common.store.pipelined import CommandRefused, PipelinedConnection

log = structlog.get_logger(__name__)

MAX_BATCH = 500
MAX_NOTIFICATIONS = 10_000
RETRY_FIRST, RETRY_MAX = 0.05, 1.0

TRANSIENT = ("LOADING", "READONLY", "OOM", "BUSY", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS")
MAX_BATCH_BYTES = 4 * 1024 * 1024

Command = tuple[str | bytes | int, ...]


class _Notification(tuple[str | bytes | int, ...]):
    """A command that is sent once at most."""

    __slots__ = ()


class Outbox:
    """Belongs to the worker's event loop."""

    def __init__(self, redis: PipelinedConnection) -> None:
        self._redis = redis
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
        self.put(_Notification(command))

    def _batch(self) -> list[Command]:
        """The next commands, bounded in number and bytes."""
        batch: list[Command] = []
        size = 0
        while self._commands and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            command = self._commands.popleft()
            size += sum(len(part) for part in command if isinstance(part, bytes))
            batch.append(command)
        return batch

    async def run(self) -> None:
        """Write, for ever. Redis away: the batch waits and is sent again."""
        delay = RETRY_FIRST
        while True:
            await self._some.wait()
            batch = self._batch()
            try:
                again = await self._write(batch)
            except StoreUnavailable as error:
                log.warning("replies_wait", waiting=len(batch), cause=repr(error.__cause__))
                again = [command for command in batch if not isinstance(command, _Notification)]
            if not again:
                delay = RETRY_FIRST
            else:
                self._commands.extendleft(reversed(again))
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

    async def _write(self, batch: list[Command]) -> list[Command]:
        """Write a batch; return what Redis could not take now, and say what it never will."""
        with store_errors("writing replies"):
            answers = await self._redis.commands(batch)
        again = []
        for command, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, CommandRefused):
                continue
            if str(answer).startswith(TRANSIENT):
                again.append(command)
            else:
                log.error("reply_refused", command=str(command[0]), error=str(answer))
        return again
