"""Taking messages from the tool queues: as many as there are free slots, and not one more.

What a worker cannot start at once stays in its queue, for other workers and for whoever measures the backlog.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence

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
UNUSABLE_AGAIN = 60.0
"""Seconds until it is said again that a queue is none."""

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
        self._uncertain: list[tuple[Sequence[int], float]] = []
        """Tags of fetches without an answer, and until when (monotonic seconds) their script may still run."""
        self._look_at = 0.0
        self._unusable: dict[str, float] = {}

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

        It need not be looked otherwise. A fetch tells which of its queues it has not seen empty, and whoever fills an
        empty queue calls :meth:`wake`.
        """
        if self._ripe or self._uncertain:
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
        finally:
            self._polling.cancel()

    def _poll(self) -> None:
        """Look into all queues without having been called."""
        loop = asyncio.get_running_loop()
        self._polling = loop.call_later(POLL, self._poll)
        if loop.time() - self._looked_at >= POLL / 2:
            self.wake()
        if self._uncertain:
            self._look.set()

    async def _fetch_all(self) -> None:
        """Fetch until the queues are empty or the slots are taken; first what was fetched already, and got lost."""
        while self._free() > 0 and not self._paused:
            if self._uncertain and time.monotonic() >= self._look_at:
                await self._recover()
            elif self._ripe:
                await self._fetch()
            else:
                return

    async def _fetch(self) -> None:
        """One script call, for the queues that may hold something; ``_ripe`` are afterwards those that may hold more.

        With hundreds of queues, looking into all of them for each call would cost more than the call.
        """
        queues = [queue for queue in self._ripe if queue.encode() in self._names]
        # Whoever calls from now on may mean a message that this fetch does not see.
        self._ripe = {}
        if not queues:
            return
        most = min(self._free(), BATCH)
        tags = range(self._next_tag, self._next_tag + most)
        self._next_tag += most
        if len(queues) == len(self._queues):
            self._looked_at = asyncio.get_running_loop().time()
        try:
            with store_errors("fetching calls"):
                flat, more, unusable = await self._redis.run(
                    "fetch",
                    [self._unacked, *queues],
                    [most, tags.start, UNACKED_TTL, self._largest, KEPT_BYTES, self._drain_prefix],
                )
        except StoreUnavailable:
            self._uncertain.append((tags, time.monotonic() + UNCERTAIN_FOR))
            raise
        for index, tag, message in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            self._start(tag.decode(), message, queues[index - 1])
        self._ripe = dict.fromkeys(queues[index - 1] for index in more) | self._ripe
        if unusable:
            self._report(queues[index - 1] for index in unusable)

    def _report(self, unusable: Iterable[str]) -> None:
        """Say which queues cannot be served, each of them once in a while."""
        now = time.monotonic()
        for queue in unusable:
            if now >= self._unusable.get(queue, now):
                self._unusable[queue] = now + UNUSABLE_AGAIN
                log.error("queue_unusable", queue=queue, cause="its key in Redis is no list; delete it")

    async def _recover(self) -> None:
        """Start what a fetch has recorded whose answer was lost, as far as there are free slots.

        The tags of such a fetch are known, and none of them was ever started. Redis may run a script after its
        client gave up (it was paused, say), so one look is not enough. What finds no slot stays, and is first in
        line for the next.
        """
        self._look_at = time.monotonic() + LOOK_AGAIN
        wanted = [tag for tags, _ in self._uncertain for tag in tags]
        with store_errors("recovering calls"):
            found: list[bytes | None] = await self._redis.command("HMGET", self._unacked, *wanted)
        now = time.monotonic()
        recorded = {tag: message for tag, message in zip(wanted, found, strict=True) if message is not None}
        unanswered, self._uncertain = self._uncertain, []
        for tags, until in unanswered:
            # A script records all that it takes at once: where some are recorded, the others never will be.
            mine = [tag for tag in tags if tag in recorded]
            if not mine and until > now:
                self._uncertain.append((tags, until))
            while mine and self._free() > 0:
                tag = mine.pop(0)
                log.info("call_recovered", tag=tag)
                self._start(str(tag), recorded[tag], "")
            if mine:
                self._uncertain.append((mine, now + UNCERTAIN_FOR))
                self._look_at = now
