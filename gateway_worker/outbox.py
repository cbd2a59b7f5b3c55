"""What the worker tells Redis about its calls, in order, as few writes as possible, and never lost.

What one turn of the loop produced goes out in one write, without waiting for the answer to the write before it. Ends
of calls are one script a write (``finish.lua``), which does nothing the second time, so after a fault they are sent
again. Notifications are not, since progress must never run backwards: those of a broken write are gone. That holds for
those of a call whose client can come back as well; its log is of what was sent.

Ends that Redis has taken are kept for some seconds, and sent once more to a Redis that may have forgotten its last
writes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from common.domain.errors import StoreUnavailable
from common.domain.ids import NodeId
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import CommandRefused, PipelinedConnection
from common.store.scripts import script
from gateway_worker.delivery import BareEnd, End

log = structlog.get_logger(__name__)

MAX_BATCH = 500
MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_UNDER_WAY = 4
"""Writes whose answers have not come. It bounds what a slow Redis makes us keep outside the queue."""
MAX_NOTIFICATIONS, MAX_NOTIFICATION_BYTES = 10_000, 64 * 1024 * 1024
RETRY_FIRST, RETRY_MAX = 0.05, 1.0
KEPT_FOR = 5.0
"""Seconds before the last confirmed beat for which ends that Redis has taken are kept."""
MOST_KEPT, MOST_KEPT_BYTES = 20_000, 64 * 1024 * 1024
"""Beyond that the oldest go first. The call of one that Redis forgets is answered WORKER_LOST then."""

TRANSIENT = (
    *("NOSCRIPT", "MISCONF", "CLUSTERDOWN", "NOPERM", "NOAUTH", "LOADING", "READONLY"),
    *("OOM", "BUSY", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS"),
)

Command = tuple[Any, ...]
"""Words of a Redis command, or an end."""
Answers = asyncio.Future[list[Any]]


class _Notification(tuple[str | bytes | int, ...]):
    """A command that is sent once at most."""

    __slots__ = ()


class _Question(_Notification):
    """A publication whose number of receivers somebody waits for."""

    receivers: asyncio.Future[int | None]


class InPlace(tuple[str | bytes | int, ...]):  # noqa: SLOT001 - a tuple of any length has no slots
    """A command that keeps its place among those about its key, also if it looks like an acknowledgement."""

    taken: asyncio.Future[None] | None = None
    """Done when Redis has taken it, if somebody waits for that."""


class _Finish(tuple[str | bytes | int, ...]):  # noqa: SLOT001 - a tuple of any length has no slots
    """One ``finish.lua`` for several calls of one incarnation of the node."""

    ends: list[End | BareEnd]


OnFinished = Callable[[End, bool, bool], None]
"""Told of each end that Redis has decided on: whether it came too late, and whether the circuit wants to know."""


class Outbox:
    """Belongs to the worker's event loop. Nothing is written before :meth:`run` has found Redis."""

    def __init__(self, redis: PipelinedConnection, keys: Keys, *, result_ttl: float) -> None:
        """``result_ttl`` is in seconds."""
        self.bounded: Callable[[str], object] = lambda _queue: True
        """Whether a queue's tool has a bound on its calls in flight, so that others may wait for the end of one."""
        self.on_finished: OnFinished = lambda _end, _late, _circuit: None
        self._redis = redis
        self._keys = keys
        self._result_ttl_ms = int(result_ttl * 1000)
        self._commands: deque[Command] = deque()
        self._under_way: deque[list[Command]] = deque()
        self._open = False
        self._scheduled = False
        self._fault = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._notification_bytes = 0
        self._dropping = False
        self._kept: deque[tuple[float, BareEnd]] = deque()
        """Ends that Redis has taken, and when (monotonic seconds)."""
        self._kept_bytes = 0
        self.dropped_notifications = 0

    def put(self, *commands: Command) -> None:
        """Queue commands. They are bounded by the calls in flight, as a call is only finished once."""
        self._commands.extend(commands)
        self._empty.clear()
        if self._open and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write)

    async def written(self, command: Command) -> None:
        """Queue a command, in its place, and wait until Redis has taken it. Whoever gives up takes nothing back.

        Raises :class:`StoreUnavailable` if Redis never will.
        """
        waited_for = InPlace(command)
        waited_for.taken = asyncio.get_running_loop().create_future()
        self.put(waited_for)
        await waited_for.taken

    def put_notification(self, command: Command) -> None:
        """Queue a notification frame; beyond the bounds it is dropped and counted: a result never is."""
        self._notify(_Notification(command))

    def put_question(self, publication: Command) -> asyncio.Future[int | None]:
        """Queue a publication as a notification; how many received it, None if nobody knows."""
        question = _Question(publication)
        question.receivers = asyncio.get_running_loop().create_future()
        self._notify(question)
        return question.receivers

    def _notify(self, command: _Notification) -> None:
        size = _size(command)
        if (
            len(self._commands) >= MAX_NOTIFICATIONS
            or self._notification_bytes + size > MAX_NOTIFICATION_BYTES
        ):
            self._drop()
            _tell_receivers(command, None)
            return
        self._notification_bytes += size
        self.put(command)

    async def run(self) -> None:
        """Write, for ever. Redis away, or unable to take a command: it is tried again after a growing pause."""
        delay = RETRY_FIRST
        while True:
            try:
                with store_errors("writing replies"):
                    for name in ("finish", "call_frame"):
                        await self._redis.command("SCRIPT", "LOAD", script(name).source)
            except StoreUnavailable as error:
                log.warning("replies_wait", waiting=len(self._commands), cause=repr(error.__cause__))
            else:
                self._fault.clear()
                self._open = True
                self._write()
                if await self._settled():
                    delay = 0.0  # a connection that worked and broke is opened again at once
                await self._fault.wait()
            await asyncio.sleep(delay)
            delay = min(max(delay * 2, RETRY_FIRST), RETRY_MAX)

    def confirmed(self, moment: float) -> None:
        """Redis was not restarted before then (monotonic seconds): ends that it took long before are safe."""
        while self._kept and self._kept[0][0] < moment - KEPT_FOR:
            self._drop_kept()

    def repeat_ends(self) -> None:
        """Redis may have forgotten the ends it took last: write them again. Where it has them that changes nothing."""
        ends = [end for _, end in self._kept]
        self._kept.clear()
        self._kept_bytes = 0
        if ends:
            log.info("ends_repeated", count=len(ends))
            self.put(*ends)

    def tags(self, node: NodeId) -> set[str]:
        """The delivery tags of this node whose end or acknowledgement is known here."""
        found = {end.parts[0] for _, end in self._kept if end.node == node}
        unacked = self._keys.unacked(node)
        for command in (*self._commands, *(command for batch in self._under_way for command in batch)):
            if isinstance(command, _Finish):
                found.update(end.arguments()[0] for end in command.ends if end.node == node)
            elif isinstance(command, End | BareEnd):
                if command.node == node:
                    found.add(command.arguments()[0])
            elif command[0] == "HDEL" and command[1] == unacked:
                found.update(command[2:])
        return found

    async def flushed(self, timeout: float) -> bool:
        """Wait until everything is written; False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _drop(self) -> None:
        """Count a notification that is dropped; the first one until all is written is logged."""
        self.dropped_notifications += 1
        if not self._dropping:
            self._dropping = True
            log.warning("notifications_dropped", waiting=len(self._commands), bytes=self._notification_bytes)

    def _emptied(self) -> None:
        self._dropping = False
        self._empty.set()

    async def _settled(self) -> bool:
        """Wait for the first sign of whether Redis takes what waited: all of it written, or a fault."""
        signs = [asyncio.ensure_future(event.wait()) for event in (self._empty, self._fault)]
        try:
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for sign in signs:
                sign.cancel()
        return not self._fault.is_set()

    def _write(self) -> None:
        """Send what has collected."""
        self._scheduled = False
        while self._open and self._commands and len(self._under_way) < MAX_UNDER_WAY:
            batch = self._batch()
            self._under_way.append(batch)
            answers = self._redis.submit(batch)
            if answers is None:
                self._broken()
                return
            answers.add_done_callback(partial(self._written, batch))

    def _batch(self) -> list[Command]:
        """The next commands, bounded in number and bytes; ends and acknowledgements are one command each, last."""
        batch: list[Command] = []
        acknowledged: dict[Any, list[str | bytes | int]] = {}
        ends: dict[NodeId, list[End | BareEnd]] = {}
        size = taken = 0
        while self._commands and taken < MAX_BATCH and size < MAX_BATCH_BYTES:
            command = self._commands.popleft()
            taken += 1
            if _acknowledges(command):
                acknowledged.setdefault(command[1], []).extend(command[2:])
                continue
            if isinstance(command, End | BareEnd):
                ends.setdefault(command.node, []).append(command)
                size += command.size
                continue
            own = _size(command)
            size += own
            if isinstance(command, _Notification):
                self._notification_bytes -= own
            batch.append(command)
        batch.extend(("HDEL", key, *tags) for key, tags in acknowledged.items())
        batch.extend(self._finish(node, own_ends) for node, own_ends in ends.items())
        return batch

    def _finish(self, node: NodeId, ends: list[End | BareEnd]) -> _Finish:
        arguments = (part for end in ends for part in end.arguments())
        head = ("EVALSHA", script("finish").sha, 1, self._keys.unacked(node))
        bounded = " ".join(filter(self.bounded, {end.queue for end in ends}))
        finish = _Finish((*head, self._keys.begin, node, self._result_ttl_ms, f" {bounded} ", *arguments))
        finish.ends = ends
        return finish

    def _tell(self, finish: _Finish, answer: tuple[list[int], list[bytes]]) -> None:
        refused, circuits = answer
        late, now = set(refused), time.monotonic()
        for number, end in enumerate(finish.ends, start=1):
            if number not in late:
                self._keep(end, now)
            if isinstance(end, End):
                self.on_finished(end, number in late, end.held.head.queue.encode() in circuits)

    def _keep(self, end: End | BareEnd, now: float) -> None:
        """Keep an end that Redis has taken."""
        self._kept.append((now, end.bare() if isinstance(end, End) else end))
        self._kept_bytes += end.size
        while len(self._kept) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES:
            self._drop_kept()

    def _drop_kept(self) -> None:
        _, end = self._kept.popleft()
        self._kept_bytes -= end.size

    def _written(self, batch: list[Command], answers: Answers) -> None:
        if not self._under_way or self._under_way[0] is not batch:
            return  # it was taken back with one that broke before it
        if answers.cancelled() or answers.exception() is not None:
            self._broken()
            return
        self._under_way.popleft()
        again = self._refused(batch, answers.result())
        if again:
            # Ends stay in front: Redis may take them, whatever else it refuses. So does what has its place.
            self._commands.extend(command for command in again if not _in_front(command))
            self._commands.extendleft(command for command in reversed(again) if _in_front(command))
            self._notification_bytes += sum(_size(c) for c in again if isinstance(c, _Notification))
            self._pause()
        elif self._commands:
            self._write()
        elif not self._under_way:
            self._emptied()

    def _refused(self, batch: list[Command], answers: list[Any]) -> list[Command]:
        """What Redis could not take now; what it never will is said."""
        again = []
        for command, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, CommandRefused):
                if isinstance(command, _Finish):
                    self._tell(command, answer)
                elif isinstance(command, InPlace):
                    _settle(command, None)
                else:
                    _tell_receivers(command, answer)
                continue
            if str(answer).startswith(TRANSIENT):
                again.append(command)
            else:
                log.error("reply_refused", command=str(command[0]), error=str(answer))
                _tell_receivers(command, None)
                if isinstance(command, InPlace):
                    _settle(command, StoreUnavailable("Redis refused what was to be recorded"))
        return again

    def _broken(self) -> None:
        """The connection is gone: what was under way is sent again, in its order, but for notifications."""
        sent = [command for batch in self._under_way for command in batch]
        again = [command for command in sent if not isinstance(command, _Notification)]
        for command in sent:
            _tell_receivers(command, None)
        self._under_way.clear()
        self._commands.extendleft(reversed(again))
        log.warning("replies_wait", waiting=len(self._commands))
        if not self._commands:
            self._emptied()
        self._pause()

    def _pause(self) -> None:
        self._open = False
        self._fault.set()


def _is_end(command: Command) -> bool:
    """Whether it ends calls, or acknowledges messages."""
    return isinstance(command, _Finish) or _acknowledges(command)


def _in_front(command: Command) -> bool:
    return _is_end(command) or isinstance(command, InPlace)


def _acknowledges(command: Command) -> bool:
    return command[0] == "HDEL" and not isinstance(command, InPlace)


def _settle(command: InPlace, error: StoreUnavailable | None) -> None:
    """Tell whoever waits for it, if somebody still does."""
    if command.taken is None or command.taken.done():
        return
    if error is None:
        command.taken.set_result(None)
    else:
        command.taken.set_exception(error)


def _tell_receivers(command: Command, receivers: int | None) -> None:
    """Tell whoever asked how many received a publication, if somebody did."""
    if isinstance(command, _Question) and not command.receivers.done():
        command.receivers.set_result(receivers)


def _size(command: Command) -> int:
    """Bytes of what a command carries; names and numbers do not count."""
    return sum(len(part) for part in command if isinstance(part, bytes))
