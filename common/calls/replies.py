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
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import orjson
import structlog

from common.calls.contract import wire_of_record
from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, result_from_wire
from common.store.client import Client, Subscription, store_errors
from common.store.keys import Keys

log = structlog.get_logger(__name__)

HEARTBEAT = 1.0
"""Seconds between two looks at the connection (and at the registry, see ``on_tick``)."""
MISSED_HEARTBEATS = 3
"""So many pings without any word from Redis, and the connection is taken for dead."""
RETRY_FIRST, RETRY_MAX = 0.05, 1.0
HEAL_BATCH = 200


@dataclass(frozen=True, slots=True)
class Notification:
    """A JSON-RPC notification of the backend for one call."""

    message: Mapping[str, Any]


Frame = Notification | ExecutionResult


@dataclass(slots=True)
class Waiter:
    """The place where one call's frames arrive. Exactly one result is delivered; later ones are dropped."""

    id: InvocationId
    frames: SimpleQueue[Frame] = field(default_factory=SimpleQueue)
    done: bool = False

    def put(self, frame: Frame) -> None:
        """Deliver a frame."""
        if self.done:
            return
        self.done = isinstance(frame, ExecutionResult)
        self.frames.put(frame)

    def get(self, timeout: float) -> Frame | None:
        """The next frame, or None after ``timeout`` seconds."""
        try:
            return self.frames.get(timeout=max(0.0, timeout))
        except Empty:
            return None


class ReplyHub:
    """Listens on this process's channel and hands frames to their waiters."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        *,
        on_message: Mapping[str, Callable[[bytes], None]] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        """``on_message`` maps further channels to their readers; ``on_tick`` is called about once a second."""
        self.channel = keys.reply_prefix + uuid4().hex
        self.heals = 0
        self._client = client
        self._keys = keys
        self._others = dict(on_message or {})
        self._on_tick = on_tick
        self._waiters: dict[InvocationId, Waiter] = {}
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
        """Register a waiter. Must happen before the call is enqueued."""
        waiter = Waiter(invocation_id)
        self._waiters[invocation_id] = waiter
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Deregister a waiter: later frames for it are dropped."""
        self._waiters.pop(waiter.id, None)

    def recover(self, waiter: Waiter) -> None:
        """Read the call's result key, in case its reply was lost. Degrades: without Redis nothing is found."""
        try:
            self._heal([waiter])
        except StoreUnavailable as error:
            log.warning("reply_not_recovered", invocation=waiter.id, error=str(error))

    def _run(self) -> None:
        delay = RETRY_FIRST
        while not self._stop.is_set():
            subscription = self._client.pubsub(ignore_subscribe_messages=False)  # type: ignore[no-untyped-call]
            try:
                with store_errors("listening for replies"):
                    subscription.subscribe(self.channel, *self._others)
                    self._listen(subscription)
                    delay = RETRY_FIRST
            except StoreUnavailable as error:
                if self._subscribed.is_set():
                    delay = RETRY_FIRST
                self._subscribed.clear()
                log.warning("replies_disconnected", error=str(error), cause=str(error.__cause__))
                self._stop.wait(delay)
                delay = min(delay * 2, RETRY_MAX)
            finally:
                _close_quietly(subscription)
        self._subscribed.clear()

    def _listen(self, subscription: Subscription) -> None:
        """Read until told to stop; any fault of the connection is raised."""
        heard = time.monotonic()
        next_tick = heard + HEARTBEAT
        while not self._stop.is_set():
            message = subscription.get_message(timeout=max(0.0, next_tick - time.monotonic()))
            if message is not None:
                heard = time.monotonic()
            if time.monotonic() >= next_tick:
                # A connection may die without a word (a firewall forgets it): then no ping is answered.
                if time.monotonic() - heard > MISSED_HEARTBEATS * HEARTBEAT:
                    raise StoreUnavailable("Redis does not answer the pings of the reply subscription")
                subscription.ping()
                self._tick()
                next_tick = time.monotonic() + HEARTBEAT
            if message is None:
                continue
            if message["type"] == "message":
                self._dispatch(message["channel"].decode(), message["data"])
            elif message["type"] == "subscribe" and message["channel"].decode() == self.channel:
                self._subscribed.set()
                self._heal(list(self._waiters.values()))
                self._tick()

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
                waiter.put(_frame(orjson.loads(frame)))

    def _heal(self, waiters: list[Waiter]) -> None:
        """Read the result keys of ``waiters`` and deliver what is there."""
        for start in range(0, len(waiters), HEAL_BATCH):
            batch = waiters[start : start + HEAL_BATCH]
            with store_errors("recovering replies"):
                records = self._client.mget([self._keys.result(waiter.id) for waiter in batch])
            for waiter, record in zip(batch, records, strict=True):
                if record is not None and not waiter.done:
                    with _contained("result_unreadable", invocation=waiter.id):
                        waiter.put(result_from_wire(wire_of_record(orjson.loads(record))))
                        self.heals += 1


def _frame(frame: dict[str, Any]) -> Frame:
    if "result" in frame:
        return result_from_wire(frame["result"])
    return Notification(frame["notification"])


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


def _close_quietly(subscription: Subscription) -> None:
    """Closing a broken connection may fail once more; there is nobody left to tell."""
    try:
        with store_errors("closing a subscription"):
            subscription.close()
    except StoreUnavailable as error:
        log.debug("subscription_not_closed", error=str(error))
