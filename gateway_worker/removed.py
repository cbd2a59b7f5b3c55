"""Queues of tools that were removed: served until nothing waits in them, so that each call there is told so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from common.domain.errors import StoreUnavailable
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection

log = structlog.get_logger(__name__)

SERVED_LEAST = 10.0
"""Seconds for which such a queue is served at least: web processes learn of the removal within seconds."""
LOOK_AGAIN = 1.0


class RemovedQueues:
    """Which queues are still served though their tools are gone. Belongs to the engine's loop."""

    def __init__(self, redis: PipelinedConnection, keys: Keys, *, on_forgotten: Callable[[], None]) -> None:
        """``on_forgotten`` is called when there are fewer."""
        self._redis = redis
        self._keys = keys
        self._on_forgotten = on_forgotten
        self._since: dict[str, float] = {}

    @property
    def names(self) -> frozenset[str]:
        """The queues."""
        return frozenset(self._since)

    def add(self, queues: Collection[str]) -> None:
        """Their tools were removed."""
        for queue in queues:
            self._since[queue] = time.monotonic()

    def discard(self, queues: Collection[str]) -> None:
        """Their tools are there again."""
        for queue in queues:
            self._since.pop(queue, None)

    async def run(self) -> None:
        """Forget, for ever, what is empty. Redis away: it is served on, and looked at again later."""
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            horizon = time.monotonic() - SERVED_LEAST
            for queue, since in list(self._since.items()):
                if since > horizon:
                    continue
                try:
                    await self._forget_if_empty(queue, since)
                except StoreUnavailable as error:
                    log.debug("removed_queue_not_looked_at", queue=queue, error=str(error))

    async def _forget_if_empty(self, queue: str, since: float) -> None:
        """Calls in direct lists and those that a node holds count: when it dies they come back to the queue."""
        with store_errors("looking at the queue of a removed tool"):
            answer = await self._redis.run("calls_of_tools", [self._keys.nodes], [self._keys.begin, queue])
        (_, waiting, in_flight) = answer[0]
        if not waiting and not in_flight and self._since.get(queue) == since:
            del self._since[queue]
            self._on_forgotten()
