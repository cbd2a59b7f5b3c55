"""One reply channel per process, and everybody in it who waits for a call.

A publish/subscribe message that nobody hears is lost, so the channel alone is not trusted: after every
(re)subscription the result keys of all waiting calls are read, and a waiter whose deadline has come looks at
its key once more before it gives up. So no reply is lost while Redis holds it.

Works with threads and, patched, with gevent's greenlets: waiting is a ``queue.SimpleQueue``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import orjson
import structlog

from common.calls.contract import FRAME, SEALED, result_of_wire, wire_of_record
from common.calls.unread import SharedBound
from common.domain.errors import FormatTooNew, PayloadUnreadable, StoreUnavailable
from common.domain.formats import check_format
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, failed
from common.store.blocking_subscription import Published, Subscribed
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

log = structlog.get_logger(__name__)

HEARTBEAT = 1.0
"""Seconds between two looks at the connection (and at the registry, see ``on_tick``)."""
MISSED_HEARTBEATS = 3
"""So many pings without any word from Redis, and the connection is taken for dead."""
RETRY_FIRST, RETRY_MAX = 0.05, 1.0
HEAL_BATCH = 200
MOST_UNREAD, MOST_UNREAD_BYTES = 10_000, 4 * 1024 * 1024
"""Frames that lie unread for one waiter, and bytes of notifications among them; beyond that notifications are dropped,
never requests or the result."""
_PLAIN, _NOBODY = Keys(), InvocationId("")
LEAST_WAIT = 0.001
"""A socket takes no wait of no length: that would be "do not block"."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A JSON-RPC notification of the backend for one call; ``place`` is where it stands in the call's log, if there.

    ``size`` is that of its frame, in bytes; 0 for our own.
    """

    message: Mapping[str, Any]
    place: int | None = None
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request of the backend that the call's client is to answer; ``id`` is ours, ``place`` and ``size`` as above."""

    id: str
    method: str
    params: Mapping[str, Any]
    place: int | None = None
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Moved:
    """Somebody else hands the call's stream out from now on: the holder of that name."""

    holder: str


Frame = Notification | ServerRequest | Moved | ExecutionResult


@dataclass(slots=True, eq=False)
class Waiter:
    """The place where one call's frames arrive. Exactly one result is delivered; later ones are dropped.

    Notifications are put by one thread, and one reads: each has a count of its own, which no other writes. What was
    read last counts as unread until the next is read: it may still be on its way to the client.
    """

    id: InvocationId
    frames: SimpleQueue[Frame] = field(default_factory=SimpleQueue)
    done: bool = False
    dropped: int = 0
    """Notifications that did not come because too much lay unread. None of them came behind the result."""
    shared: SharedBound | None = None
    """What its call's client may leave unread of all its calls."""
    woken: Callable[[], None] | None = None
    """Called after each frame by whoever put it: for one that waits elsewhere than in :meth:`get`."""
    _asked: set[str] = field(default_factory=set)
    _bytes_put: int = 0
    _bytes_read: int = 0
    _others_put: int = 0
    """Bytes of requests and of the result, which count for ``shared`` alone."""
    _others_read: int = 0
    _in_hand: int = 0
    _result_size: int = 0

    @property
    def unread_bytes(self) -> int:
        """Of all frames, with the one that was read last."""
        unread = self._bytes_put - self._bytes_read + self._others_put - self._others_read
        return unread + self._in_hand

    def share(self, bound: SharedBound) -> None:
        """From now on what lies here counts against this bound as well; until :meth:`ReplyHub.forget`."""
        self.shared = bound
        bound.add(self)

    def put(self, frame: Frame, size: int = 0) -> None:
        """Deliver a frame. A request that is sent again is not delivered again, so repetitions do not pile up.

        ``size`` is that of a result, in bytes.
        """
        if self.done:
            return
        if isinstance(frame, ExecutionResult):
            self.done = True
            self._result_size = size
            if size:
                self._others_put += size
        elif not self._takes(frame):
            return
        self.frames.put(frame)
        if self.woken is not None:
            self.woken()

    def get(self, timeout: float) -> Frame | None:
        """The next frame, or None after ``timeout`` seconds."""
        self._in_hand = 0
        try:
            frame = self.frames.get(timeout=max(0.0, timeout))
        except Empty:
            return None
        if isinstance(frame, Notification):
            # In this order: for a moment it counts for nothing, and not twice.
            self._bytes_read += frame.size
            self._in_hand = frame.size
        elif not isinstance(frame, Moved):
            size = self._result_size if isinstance(frame, ExecutionResult) else frame.size
            self._others_read += size
            self._in_hand = size
        return frame

    def _takes(self, frame: Notification | ServerRequest | Moved) -> bool:
        """Count a frame in, if it is to be delivered."""
        if isinstance(frame, ServerRequest):
            if frame.id in self._asked or (self.shared is not None and self.shared.full):
                return False
            self._asked.add(frame.id)
            self._others_put += frame.size
        elif isinstance(frame, Notification):
            # Its own size does not count: a large one has room where nothing else waits.
            unread = self._bytes_put - self._bytes_read
            full = self.frames.qsize() >= MOST_UNREAD or unread >= MOST_UNREAD_BYTES
            if full or (self.shared is not None and self.shared.full):
                self.dropped += 1
                return False
            self._bytes_put += frame.size
        return True


class ReplyHub:
    """Listens on this process's channel and hands frames to their waiters."""

    def __init__(
        self,
        connection: SharedConnection,
        keys: Keys,
        *,
        on_message: Mapping[str, Callable[[bytes], None]] | None = None,
        on_tick: Callable[[], None] | None = None,
        on_subscribed: Callable[[], None] | None = None,
    ) -> None:
        """``on_message`` maps further channels to their readers; ``on_tick`` is called about once a second.

        ``on_subscribed`` is called whenever the channels are heard anew: what was said before may have been missed.
        """
        self.channel = keys.reply_prefix + uuid4().hex
        self.heals = 0
        self.subscriptions = 0
        """Times that the channels were heard anew."""
        self._connection = connection
        self._keys = keys
        self._others = dict(on_message or {})
        self._on_tick = on_tick
        self._on_subscribed = on_subscribed
        self._waiters: dict[InvocationId, Waiter] = {}
        self._more: dict[InvocationId, list[Waiter]] = {}
        self._stop = threading.Event()
        self._subscribed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replies", daemon=True)

    def start(self) -> None:
        """Begin to listen. A Redis that is away is waited for in the background."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening. Comes before the client is closed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3.0)

    @property
    def listening(self) -> bool:
        """True while the subscription stands."""
        return self._subscribed.is_set()

    def wait_listening(self, timeout: float) -> bool:
        """Wait for the subscription; False after ``timeout`` seconds."""
        return self._subscribed.wait(timeout)

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return len(self._waiters)

    def expect(self, invocation_id: InvocationId) -> Waiter:
        """Register a waiter. Must happen before the call is enqueued, or taken over.

        Of several for one call (a client that repeats its retry) each hears what comes.
        """
        waiter = Waiter(invocation_id)
        first = self._waiters.setdefault(invocation_id, waiter)
        if first is not waiter:
            self._more.setdefault(invocation_id, []).append(waiter)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Deregister a waiter: later frames for it are dropped. Other waiters of its call stay."""
        if waiter.shared is not None:
            waiter.shared.remove(waiter)
        more = self._more.get(waiter.id, [])
        if self._waiters.get(waiter.id) is waiter:
            if more:
                self._waiters[waiter.id] = more.pop(0)
            else:
                del self._waiters[waiter.id]
        elif waiter in more:
            more.remove(waiter)
        if not more:
            self._more.pop(waiter.id, None)

    def is_alone(self, waiter: Waiter) -> bool:
        """Whether nobody else in this process waits for the same call."""
        return waiter.id not in self._more

    def recover(self, waiter: Waiter) -> None:
        """Read the call's result key, in case its reply was lost. Degrades: without Redis nothing is found.

        What lost the reply may have made the connection deaf too, so that it is noticed only now: a second try is over
        another one.
        """
        for _ in range(2):
            try:
                self._heal([waiter])
            except StoreUnavailable as error:
                log.warning("reply_not_recovered", invocation=waiter.id, error=str(error))
            else:
                return

    def _run(self) -> None:
        delay = RETRY_FIRST
        while not self._stop.is_set():
            try:
                self._listen()
                delay = RETRY_FIRST
            except Exception as error:
                if self._subscribed.is_set():
                    delay = RETRY_FIRST
                self._subscribed.clear()
                if isinstance(error, StoreUnavailable):
                    log.warning("replies_disconnected", error=str(error), cause=str(error.__cause__))
                else:
                    # Nobody foresaw it, and without this thread the process would hear no reply any more.
                    log.exception("replies_disconnected")
                self._stop.wait(delay)
                delay = min(delay * 2, RETRY_MAX)
        self._subscribed.clear()

    def _listen(self) -> None:
        """Read until told to stop; any fault of the connection is raised."""
        with closing(self._connection.listen(self.channel, *self._others)) as subscription:
            heard = time.monotonic()
            next_tick = heard + HEARTBEAT
            while not self._stop.is_set():
                found = subscription.read(LEAST_WAIT + max(0.0, next_tick - time.monotonic()))
                now = time.monotonic()
                if found is not None:
                    heard = now
                if now >= next_tick:
                    # A connection may die without a word (a firewall forgets it): then no ping is answered.
                    if now - heard > MISSED_HEARTBEATS * HEARTBEAT:
                        raise StoreUnavailable("Redis does not answer the pings of the reply subscription")
                    subscription.ping()
                    self._tick()
                    next_tick = time.monotonic() + HEARTBEAT
                for message in found or ():
                    self._hear(message)

    def _hear(self, message: Published | Subscribed) -> None:
        if isinstance(message, Published):
            self._dispatch(message.channel, message.data)
        elif message.channel == self.channel:
            self.subscriptions += 1
            self._subscribed.set()
            self._heal(
                [*self._waiters.values(), *(waiter for more in self._more.values() for waiter in more)]
            )
            self._tick()
            if self._on_subscribed is not None:
                with _contained("subscribed_broke"):
                    self._on_subscribed()

    def _tick(self) -> None:
        if self._on_tick is not None:
            with _contained("tick_broke"):
                self._on_tick()

    def _dispatch(self, channel: str, data: bytes) -> None:
        with _contained("message_unreadable", channel=channel):
            if channel != self.channel:
                self._others[channel](data)
                return
            name, _, frame = data.partition(b" ")
            waiter = self._waiters.get(InvocationId(name.decode()))
            if waiter is not None:
                found = self.frame(waiter.id, frame)
                waiter.put(found, len(frame))
                for other in self._more.get(waiter.id, ()):
                    other.put(found, len(frame))

    def frame(self, invocation: InvocationId, data: bytes, place: int | None = None) -> Frame:
        """The frame in a message of a call, or in an entry of its log; one that cannot be opened ends the call here."""
        try:
            return frame_from(data, place, self._keys, invocation)
        except (FormatTooNew, PayloadUnreadable) as error:
            log.error("frame_unreadable", invocation=invocation, error=error.message)
            return failed(error)

    def _heal(self, waiters: list[Waiter]) -> None:
        """Read the result keys of ``waiters`` and deliver what is there."""
        for start in range(0, len(waiters), HEAL_BATCH):
            batch = waiters[start : start + HEAL_BATCH]
            with store_errors("recovering replies"):
                records = self._connection.command(
                    "MGET", *(self._keys.result(waiter.id) for waiter in batch)
                )
            for waiter, record in zip(batch, records, strict=True):
                if record is not None and not waiter.done:
                    with _contained("result_unreadable", invocation=waiter.id):
                        wire = wire_of_record(orjson.loads(record))
                        waiter.put(result_of_wire(wire, waiter.id, self._keys), len(record))
                        self.heals += 1


def frame_from(
    data: bytes, place: int | None = None, keys: Keys = _PLAIN, invocation: InvocationId = _NOBODY
) -> Frame:
    """The frame in a message of a call, behind the call's id, or in an entry of its log, which has the ``place``.

    Raises :class:`PayloadUnreadable`, :class:`FormatTooNew`.
    """
    if not data.startswith(b"{"):
        number, _, data = data.partition(b" ")
        place = int(number)
    size = len(data)
    frame: dict[str, Any] = orjson.loads(data)
    if "result" in frame:
        return result_of_wire(frame["result"], invocation, keys)
    if "moved" in frame:
        return Moved(frame["moved"])
    if keys.seals is not None or SEALED in frame:
        frame = orjson.loads(keys.opened(data, FRAME, invocation))
    check_format(frame, what="what was sent along during a call")
    if "request" in frame:
        return ServerRequest(**frame["request"], place=place, size=size)
    return Notification(frame["notification"], place, size)


@contextmanager
def _contained(event: str, **facts: str) -> Iterator[None]:
    """What one frame or one reader breaks is logged: it must not end the listening for everybody.

    Only a Redis that is away ends it, for a while.
    """
    try:
        yield
    except StoreUnavailable:
        raise
    except Exception:
        log.exception(event, **facts)
