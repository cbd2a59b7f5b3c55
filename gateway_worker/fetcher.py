"""Taking messages from the tool queues: as many as there are free slots, and not one more.

What a worker cannot start at once stays in its queue, for other workers and for whoever measures the backlog.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from common.domain.errors import StoreUnavailable
from common.domain.ids import NodeId
from common.store.client import store_errors
from common.store.keys import UNACKED_TTL, Keys
from common.store.pipelined import PipelinedConnection

log = structlog.get_logger(__name__)

BATCH = 32
POLL = 0.1
"""Seconds between looks without a wake-up: only messages of stock producers, who do not call out, wait so long."""
RETRY_FIRST, RETRY_MAX = 0.05, 1.0
UNCERTAIN_FOR, LOOK_AGAIN = 60.0, 1.0

Tag = str


class Fetcher:
    """Belongs to the worker's event loop. ``start`` is called with tag, message and queue ("" if unknown)."""

    def __init__(
        self,
        node: NodeId,
        redis: PipelinedConnection,
        keys: Keys,
        *,
        free: Callable[[], int],
        start: Callable[[Tag, bytes, str], None],
    ) -> None:
        self._unacked = keys.unacked(node)
        self._redis = redis
        self._free = free
        self._start = start
        self._queues: list[str] = []
        self._next_tag = 1
        self._wake = asyncio.Event()
        self._paused = False
        self._uncertain: list[tuple[range, float]] = []
        self._look_at = 0.0

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on."""
        self._queues = sorted(queues)
        self._wake.set()

    @property
    def queues(self) -> list[str]:
        return list(self._queues)

    def pause(self) -> None:
        """Fetch nothing more."""
        self._paused = True

    def wake(self, queue: bytes = b"") -> None:
        """Look again: a queue got a message, or a slot became free."""
        if not queue or queue.decode() in self._queues:
            self._wake.set()

    async def run(self) -> None:
        """Fetch, for ever."""
        delay = RETRY_FIRST
        while not self._paused:
            self._wake.clear()
            try:
                await self._fetch_all()
                delay = RETRY_FIRST
            except StoreUnavailable as error:
                log.warning("fetch_waits", cause=repr(error.__cause__))
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX)
            else:
                await self._sleep()
            if self._uncertain and time.monotonic() >= self._look_at:
                await self._recover()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _fetch_all(self) -> None:
        """Fetch until the queues are empty or the slots are taken."""
        more = True
        while more and self._free() > 0 and self._queues and not self._paused:
            more = await self._fetch()

    async def _fetch(self) -> bool:
        """One script call; True if something came."""
        queues = self._queues
        most = min(self._free(), BATCH)
        tags = range(self._next_tag, self._next_tag + most)
        self._next_tag += most
        try:
            with store_errors("fetching calls"):
                flat = await self._redis.run(
                    "fetch", [self._unacked, *queues], [most, tags.start, UNACKED_TTL]
                )
        except StoreUnavailable:
            self._uncertain.append((tags, time.monotonic() + UNCERTAIN_FOR))
            raise
        for index, tag, message in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self._start(tag.decode(), message, queues[index - 1])
        # Who was served goes to the end of the line.
        if flat and queues is self._queues:
            self._queues = queues[flat[0] :] + queues[: flat[0]]
        return bool(flat)

    async def _recover(self) -> None:
        """Start what a fetch has recorded whose answer was lost.

        The tags of such a fetch are known, and none of them was ever started. Redis may run a script after its
        client gave up (it was paused, say), so one look is not enough.
        """
        now = time.monotonic()
        self._look_at = now + LOOK_AGAIN
        try:
            with store_errors("recovering calls"):
                flat: list[bytes] = await self._redis.command("HGETALL", self._unacked)
        except StoreUnavailable:
            return
        recorded = dict(zip(flat[::2], flat[1::2], strict=True))
        found = set()
        for tags, _ in self._uncertain:
            for tag in tags:
                message = recorded.get(str(tag).encode())
                if message is not None:
                    log.info("call_recovered", tag=tag)
                    found.add(tags)
                    self._start(str(tag), message, "")
        self._uncertain = [
            (tags, until) for tags, until in self._uncertain if tags not in found and until > now
        ]
