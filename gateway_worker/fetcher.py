"""Taking messages from the tool queues: as many as there are free slots, and not one more.

What a worker cannot start at once stays in its queue, for other workers and for whoever measures the backlog.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog

from common.calls.dead_letters import KEPT_BYTES
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
        largest: int,
        free: Callable[[], int],
        start: Callable[[Tag, bytes, str], None],
    ) -> None:
        """Of a message above ``largest`` bytes only its beginning and its end are fetched."""
        self._unacked = keys.unacked(node)
        self._largest = largest
        self._drain_prefix = keys.drain_prefix
        self._redis = redis
        self._free = free
        self._start = start
        self._queues: list[str] = []
        self._next_tag = 1
        self._names: dict[bytes, str] = {}
        self._look = asyncio.Event()
        self._ripe: dict[str, None] = {}
        self._looked_at = float("-inf")
        self._paused = False
        self._uncertain: list[tuple[range, float]] = []
        self._look_at = 0.0

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on."""
        self._queues = sorted(queues)
        self._names = {queue.encode(): queue for queue in queues}
        self.wake()

    @property
    def queues(self) -> list[str]:
        return list(self._queues)

    def pause(self) -> None:
        """Fetch nothing more."""
        self._paused = True
        self._look.set()

    def wake(self, queue: bytes = b"") -> None:
        """Look again: this queue got a message, or (no name) any may have got one."""
        name = self._names.get(queue)
        if name is not None:
            self._ripe[name] = None
        elif not queue:
            self._ripe |= dict.fromkeys(self._queues)
        if self._ripe:
            self._look.set()

    def freed(self) -> None:
        """A slot became free: look again, if there may be more than the last look could take.

        It need not be looked otherwise. A fetch that brought less than it asked for has seen its queues empty, and
        whoever fills an empty queue calls :meth:`wake`.
        """
        if self._ripe:
            self._look.set()

    async def run(self) -> None:
        """Fetch until paused. Redis away: again after a growing pause, until it is there."""
        delay = RETRY_FIRST
        self._polling = asyncio.get_running_loop().call_later(POLL, self._poll)
        try:
            while not self._paused:
                await self._look.wait()
                self._look.clear()
                try:
                    await self._fetch_all()
                    delay = RETRY_FIRST
                except StoreUnavailable as error:
                    log.warning("fetch_waits", cause=repr(error.__cause__))
                    self.wake()
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_MAX)
                if self._uncertain and time.monotonic() >= self._look_at:
                    await self._recover()
        finally:
            self._polling.cancel()

    def _poll(self) -> None:
        """Look into all queues without having been called."""
        loop = asyncio.get_running_loop()
        self._polling = loop.call_later(POLL, self._poll)
        if loop.time() - self._looked_at >= POLL / 2:
            self.wake()

    async def _fetch_all(self) -> None:
        """Fetch until the queues are empty or the slots are taken."""
        while self._ripe and self._free() > 0 and not self._paused:
            await self._fetch()

    async def _fetch(self) -> None:
        """One script call, for the queues that may hold something; ``_ripe`` are afterwards those that may hold more.

        With hundreds of queues, looking into all of them for each call would cost more than the call.
        """
        everywhere, queues = self._queues, [queue for queue in self._ripe if queue.encode() in self._names]
        # Whoever calls from now on may mean a message that this fetch does not see.
        self._ripe = {}
        if not queues:
            return
        most = min(self._free(), BATCH)
        tags = range(self._next_tag, self._next_tag + most)
        self._next_tag += most
        if len(queues) == len(everywhere):
            self._looked_at = asyncio.get_running_loop().time()
        try:
            with store_errors("fetching calls"):
                flat = await self._redis.run(
                    "fetch",
                    [self._unacked, *queues],
                    [most, tags.start, UNACKED_TTL, self._largest, KEPT_BYTES, self._drain_prefix],
                )
        except StoreUnavailable:
            self._uncertain.append((tags, time.monotonic() + UNCERTAIN_FOR))
            raise
        for index, tag, message in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self._start(tag.decode(), message, queues[index - 1])
        if not flat:
            return
        # Who was served goes to the end of the line.
        line = queues[flat[0] :] + queues[: flat[0]]
        if len(flat) == 3 * most:
            self._ripe = dict.fromkeys(line) | self._ripe
        if everywhere is self._queues and len(queues) == len(everywhere):
            self._queues = line

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
