"""Taking messages off the tools' queues and this node's direct lists: as many as there are free slots, not one more.

What a worker cannot start at once stays in its queue, for other workers and for whoever measures the backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from common.calls.dead_letters import KEPT_BYTES
from common.domain.errors import StoreUnavailable
from common.domain.ids import NodeId
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.delivery import Taken
from gateway_worker.message import head_in
from gateway_worker.node import Node

log = structlog.get_logger(__name__)

BATCH = 32
POLL = 0.1
"""Seconds between looks without a wake-up: only messages of stock producers, who do not call out, wait so long."""
EVERYWHERE = 1.0
"""Seconds between looks into all direct lists."""
RETRY_FIRST, RETRY_MAX = 0.05, 1.0
UNCERTAIN_FOR, LOOK_AGAIN = 60.0, 1.0
UNUSABLE_AGAIN = 60.0
"""Seconds until it is said again that a queue is none."""


class Desk(Protocol):
    """What the fetcher needs of the worker around it."""

    def free(self) -> int:
        """Free slots now."""

    def start(self, taken: Taken) -> None:
        """Begin with a message."""

    def most_in_flight(self, queue: str) -> int:
        """The most calls of a queue's tool in flight in the whole cluster; 0: any number."""

    def owns_sessions(self, queue: str) -> bool:
        """Whether this node owns a session of the queue's tool, so that calls may wait on its direct list."""

    def fetch_epoch(self) -> int | None:
        """The connection to fetch over; None while nothing may be fetched."""


class Fetcher:
    """Belongs to the worker's event loop."""

    def __init__(
        self, node: Node, redis: PipelinedConnection, keys: Keys, desk: Desk, *, largest: int
    ) -> None:
        """Of a message above ``largest`` bytes only its beginning and its end are fetched."""
        self._node = node
        self._keys = keys
        self._largest = largest
        self._redis = redis
        self._desk = desk
        self._queues: list[str] = []
        self._next_tag = 1
        self._names: dict[bytes, str] = {}
        self._look = asyncio.Event()
        self._allowed = asyncio.Event()
        self._ripe: dict[str, str] = {}
        """Lists that may hold a message, each with the queue whose tool it is for."""
        self._looked_at = self._everywhere_at = float("-inf")
        self._paused = False
        self._uncertain: list[tuple[NodeId, Sequence[int], float]] = []
        """Node and tags of fetches without an answer, and until when (monotonic seconds) their script may still run."""
        self._look_at = 0.0
        self._unusable: dict[str, float] = {}

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on."""
        self._queues = sorted(queues)
        self._names = {queue.encode(): queue for queue in queues}
        self.wake()

    def reset(self) -> None:
        """The node has another incarnation: what the last one fetched is no longer its own."""
        self._uncertain.clear()
        self._ripe.clear()
        self.wake()

    def uncertain(self, node: NodeId) -> set[str]:
        """The node's delivery tags of fetches whose answers were lost: what is recorded under them is started yet."""
        return {str(tag) for owner, tags, _ in self._uncertain if owner == node for tag in tags}

    async def take_over(self, owner: NodeId, tag: str, message: bytes) -> bool:
        """Start a message without a head that a dead node held; False if another has it, or this node is dead too.

        Raises :class:`StoreUnavailable`.
        """
        node, own = self._node.id, self._next_tag
        self._next_tag += 1
        keys = [self._keys.unacked(owner), self._keys.unacked(node)]
        try:
            with store_errors("taking over a message"):
                taken = await self._redis.run("record_take", keys, [self._keys.begin, node, tag, own])
        except StoreUnavailable:
            self._uncertain.append((node, [own], time.monotonic() + UNCERTAIN_FOR))
            raise
        if taken:
            self._desk.start(
                Taken(node=node, tag=str(own), raw=message, queue="", verdict=b"headless", token=None)
            )
        return bool(taken)

    @property
    def queues(self) -> list[str]:
        return list(self._queues)

    def pause(self) -> None:
        """Fetch nothing more."""
        self._paused = True
        self._look.set()

    def wake(self, queue: bytes = b"") -> None:
        """Look again: this queue got a message, or (no name) any list may have got one."""
        name = self._names.get(queue)
        if name is not None:
            self._ripe[name] = name
            if self._desk.owns_sessions(name):
                self._ripe[self._direct(name)] = name
        elif not queue:
            self._ripe |= {name: name for name in self._queues}
            self._ripe |= {
                self._direct(name): name for name in self._queues if self._desk.owns_sessions(name)
            }
        if self._ripe:
            self._look.set()

    def look_everywhere(self) -> None:
        """Look into all lists, the direct ones too of tools of which this node knows no session of its own.

        Redis may have made it an owner in a fetch whose answer was lost.
        """
        self._everywhere_at = asyncio.get_running_loop().time()
        self._ripe |= {name: name for name in self._queues}
        self._ripe |= {self._direct(name): name for name in self._queues}
        if self._ripe:
            self._look.set()

    def wake_direct(self, queue: bytes) -> None:
        """The node's direct list of this queue got a message."""
        name = self._names.get(queue)
        if name is not None:
            self._ripe[self._direct(name)] = name
            self._look.set()

    def _direct(self, queue: str) -> str:
        return self._keys.direct(self._node.id, queue)

    def freed(self) -> None:
        """A slot became free: look again, if there may be more than the last look could take.

        It need not be looked otherwise. A fetch tells which of its queues it has not seen empty, and whoever fills an
        empty queue calls :meth:`wake`.
        """
        if self._ripe or self._uncertain:
            self._look.set()

    def allow(self) -> None:
        """What kept the fetches away is over: a pause ends at once."""
        self._allowed.set()

    async def run(self) -> None:
        """Fetch until paused. Redis away: again after a growing pause, until it is there."""
        delay = RETRY_FIRST
        self._polling = asyncio.get_running_loop().call_later(POLL, self._poll)
        try:
            while not self._paused:
                await self._look.wait()
                self._look.clear()
                self._allowed.clear()
                try:
                    await self._fetch_all()
                    delay = RETRY_FIRST
                except StoreUnavailable as error:
                    log.warning("fetch_waits", cause=repr(error.__cause__))
                    self.wake()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await self._allowed.wait()
                    delay = min(delay * 2, RETRY_MAX)
        finally:
            self._polling.cancel()

    def _poll(self) -> None:
        """Look into all queues without having been called."""
        loop = asyncio.get_running_loop()
        self._polling = loop.call_later(POLL, self._poll)
        if loop.time() - self._everywhere_at >= EVERYWHERE:
            self.look_everywhere()
        elif loop.time() - self._looked_at >= POLL / 2:
            self.wake()
        if self._uncertain:
            self._look.set()

    async def _fetch_all(self) -> None:
        """Fetch until the queues are empty or the slots are taken; first what was fetched already, and got lost."""
        while self._desk.free() > 0 and not self._paused:
            if self._uncertain and time.monotonic() >= self._look_at:
                await self._recover()
            elif self._ripe:
                await self._fetch()
            else:
                return

    async def _fetch(self) -> None:
        """One script call, for the lists that may hold something; ``_ripe`` are afterwards those that may hold more.

        With hundreds of queues, looking into all of them for each call would cost more than the call.
        """
        epoch = self._desk.fetch_epoch()
        if epoch is None:
            raise StoreUnavailable("the node's standing is not clear yet")
        lists = {name: queue for name, queue in self._ripe.items() if queue.encode() in self._names}
        # Whoever calls from now on may mean a message that this fetch does not see.
        self._ripe = {}
        if not lists:
            return
        most = min(self._desk.free(), BATCH)
        tags = range(self._next_tag, self._next_tag + most)
        self._next_tag += most
        if sum(name == queue for name, queue in lists.items()) == len(self._queues):
            self._looked_at = asyncio.get_running_loop().time()
        node = self._node.id
        try:
            with store_errors("fetching calls"):
                answer = await self._redis.run(
                    "fetch", [self._keys.unacked(node), *lists], self._arguments(tags, lists), epoch=epoch
                )
        except StoreUnavailable:
            self._ripe |= lists
            self._uncertain.append((node, tags, time.monotonic() + UNCERTAIN_FOR))
            raise
        self._take_up(node, list(lists), lists, answer)

    def _arguments(self, tags: range, lists: Mapping[str, str]) -> list[str | int]:
        named = (part for queue in lists.values() for part in (queue, self._desk.most_in_flight(queue)))
        fixed = [len(tags), tags.start, self._largest, KEPT_BYTES]
        return [*fixed, self._keys.begin, self._node.id, *named]

    def _take_up(self, node: NodeId, names: list[str], lists: Mapping[str, str], answer: Any) -> None:
        """Start what was fetched."""
        status, flat, more, unusable, dropped = answer
        if status == b"lapsed":
            self._ripe = dict(lists) | self._ripe
            raise StoreUnavailable("the node's lease has ended")
        for index, tag, message, verdict, token in zip(*[iter(flat)] * 5, strict=True):
            self._desk.start(
                Taken(
                    node=node,
                    tag=tag.decode(),
                    raw=message,
                    queue=lists[names[index - 1]],
                    verdict=verdict,
                    token=int(token),
                )
            )
        self._ripe = {names[index - 1]: lists[names[index - 1]] for index in more} | self._ripe
        for invocation in dropped:
            log.warning("duplicate_dropped", invocation=invocation.decode(errors="replace"))
        if unusable:
            self._report(names[index - 1] for index in unusable)

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
        node = self._node.id
        wanted = [tag for owner, tags, _ in self._uncertain for tag in tags if owner == node]
        with store_errors("recovering calls"):
            found: list[bytes | None] = (
                await self._redis.command("HMGET", self._keys.unacked(node), *wanted) if wanted else []
            )
        now = time.monotonic()
        recorded = {tag: message for tag, message in zip(wanted, found, strict=True) if message is not None}
        unanswered, self._uncertain = self._uncertain, []
        for owner, tags, until in unanswered:
            if owner != node:
                continue
            # A script records all that it takes at once: where some are recorded, the others never will be.
            mine = [tag for tag in tags if tag in recorded]
            if not mine and until > now:
                self._uncertain.append((node, tags, until))
            while mine and self._desk.free() > 0:
                tag = mine.pop(0)
                log.info("call_recovered", tag=tag)
                self._desk.start(recovered(node, tag, recorded[tag]))
            if mine:
                self._uncertain.append((node, mine, now + UNCERTAIN_FOR))
                self._look_at = now


def recovered(node: NodeId, tag: int, message: bytes) -> Taken:
    """A message whose fetch had no answer: nobody has heard the verdict on it, so its session has to be asked for."""
    verdict = b"headless" if head_in(message) is None else b"recovered"
    return Taken(node=node, tag=str(tag), raw=message, queue="", verdict=verdict, token=None)
