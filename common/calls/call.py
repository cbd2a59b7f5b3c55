"""A call as whoever waits for it sees it."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import structlog

from common.calls.call_stream import CallStreams, HeldStream, Holder, Logged
from common.calls.cancellation import BY_CALLER, Cancellations
from common.calls.replies import (
    Frame,
    Moved,
    Notification,
    ReplyHub,
    ServerRequest,
    Waiter,
)
from common.calls.request_state import RequestStates
from common.calls.unread import SharedBound
from common.domain.errors import InvocationCancelled, InvocationTimeout, StoreUnavailable
from common.domain.invocation import ExecutionResult, Invocation, failed
from common.domain.policy import ALLOWED, Decision
from common.domain.rules import MOST_WAITS
from common.domain.session import McpSession
from common.store.clock import RedisClock

log = structlog.get_logger(__name__)

LATE = 60.0
"""Seconds beyond ``input_timeout`` in which a client may still come back and learn how its call ended."""
ANSWER_GRACE = 2.0
"""Seconds beyond the deadline in which the worker's own word on the timeout may still arrive."""


class CallPlace(NamedTuple):
    """What a call needs of the process that waits for it."""

    clock: RedisClock
    hub: ReplyHub
    cancellations: Cancellations
    request_states: RequestStates
    streams: CallStreams


class Call:
    """A call on its way. Read :meth:`next` until it gives an :class:`ExecutionResult`, then :meth:`close`.

    If its client may come back to its stream (``resumable_until``), frames have places, and none is left out or given
    twice: what publish/subscribe lost, or was dropped because too much lay unread, is read from the log, the last of it
    before the result. From :meth:`hold` on it can be taken over. Of any other call what was dropped stays out.
    """

    def __init__(
        self,
        place: CallPlace,
        invocation: Invocation,
        waiter: Waiter,
        session: McpSession | None,
        *,
        input_timeout: float,
        decision: Decision = ALLOWED,
    ) -> None:
        """``input_timeout`` is how long the client has for each answer to what the backend asks, in seconds.

        ``decision`` is what policy said of the call, with the rule and the evaluator that let it pass.
        """
        self.session = session
        self.decision = decision
        self._input_timeout = input_timeout
        self._for_input = 0.0
        self._asked: set[str] = set()
        self._last = 0
        self._holder: str | None = None
        self._back = False
        self._waiting: deque[Frame] = deque()
        self._heard = place.hub.subscriptions
        self._dropped = 0
        self._place = place
        self._waiter = waiter
        self._begun = time.monotonic()
        self.invocation = invocation

    @property
    def age_ms(self) -> float:
        """Milliseconds since the call was accepted."""
        return (time.monotonic() - self._begun) * 1000

    def next(self, timeout: float) -> Frame | None:
        """The next frame, or None after ``timeout`` seconds. Past the deadline it is always a result.

        Raises :class:`StoreUnavailable` if it would leave something out of a stream that can be resumed.
        """
        if self._waiting:
            return self._waiting.popleft()
        frame = self._take(min(timeout, self.left))
        if frame is not None or self.left > 0:
            return frame
        self._place.hub.recover(self._waiter)
        frame = self._take(0)
        if frame is not None:
            return frame
        self._place.cancellations.tell_workers([self.invocation.id])
        return failed(InvocationTimeout("no worker answered within the deadline"))

    @property
    def left(self) -> float:
        """Seconds until :meth:`next` gives a result in any case; below 0 it looks in Redis for the last time."""
        return self._place.clock.left(self.invocation.deadline) + self._for_input + ANSWER_GRACE

    def _take(self, timeout: float) -> Frame | None:
        frame = self._waiter.get(timeout)
        if self.invocation.resumable_until is not None:
            return self._in_place(frame)
        return frame if frame is not None and self._is_new(frame) else None

    def _is_new(self, frame: Frame) -> bool:
        """The worker sends requests that were not answered again: nobody need see that."""
        if not isinstance(frame, ServerRequest):
            return True
        if frame.id in self._asked:
            return False
        self._asked.add(frame.id)
        self._for_input = min(self._for_input + self._input_timeout, MOST_WAITS * self._input_timeout)
        return True

    # -- a stream that can be resumed -------------------------------------------------------------------

    def hold(self) -> bool:
        """Hand the stream out, so that its client may come back to it; False if it cannot. Degrades without Redis."""
        if self.invocation.resumable_until is None:
            return False
        self._holder = secrets.token_hex(8)
        holder = Holder(self._place.hub.channel, self._holder)
        try:
            self._place.streams.hold(HeldStream(self.invocation, self._input_timeout, holder))
        except StoreUnavailable as error:
            self._holder = None
            log.warning("call_stream_not_held", invocation=self.invocation.id, error=str(error))
            return False
        return True

    def rejoin(self, after: int) -> None:
        """Take the stream over, and go on behind a place. Raises :class:`StoreUnavailable`."""
        self._back = True
        self._holder = secrets.token_hex(8)
        holder = Holder(self._place.hub.channel, self._holder)
        self._place.streams.hold(HeldStream(self.invocation, self._input_timeout, holder))
        # The result first: when it is there, every frame is in the log.
        self._place.hub.recover(self._waiter)
        logged = self._place.streams.read(self.invocation.id, 0)
        for entry in logged:
            if entry.place <= after and entry.payload:
                self._is_new(self._place.hub.frame(self.invocation.id, entry.payload))
        self._last = after
        self._follow(entry for entry in logged if entry.place > after)

    def _in_place(self, frame: Frame | None) -> Frame | None:
        """The next frame in order: this one, or one that was missed."""
        if isinstance(frame, Moved):
            return None if frame.holder == self._holder else frame
        place = frame.place if isinstance(frame, Notification | ServerRequest) else None
        if place is not None and place <= self._last:
            return None
        if self._may_miss(frame, place):
            if frame is None and self._back:
                # How the call ends is told where it was begun.
                self._place.hub.recover(self._waiter)
            if not self._catch_up(frame):
                return None
        if frame is not None:
            self._append(frame)
        return self._waiting.popleft() if self._waiting else None

    def _may_miss(self, frame: Frame | None, place: int | None) -> bool:
        """Whether frames may stand in the log that have not come."""
        if self._heard != self._place.hub.subscriptions:
            return True
        if place is not None:
            return place > self._last + 1
        if self._back or self._dropped != self._waiter.dropped:
            return True
        # A request without a place is sent again: its first time may be in the log.
        return isinstance(frame, ServerRequest) and frame.id not in self._asked

    def _catch_up(self, frame: Frame | None) -> bool:
        """Read what was missed; False if that has to wait. ``frame`` comes behind it."""
        heard, dropped = self._place.hub.subscriptions, self._waiter.dropped
        try:
            logged = self._place.streams.read(self.invocation.id, self._last)
            if heard != self._heard and not logged:
                # A Redis that was restarted may have forgotten some: then their places are given again.
                self._last = min(self._last, self._place.streams.last(self.invocation.id))
        except StoreUnavailable:
            if frame is None:
                return False
            if self._holder is not None:
                raise
            return True  # nothing was handed out yet that it could be missing from
        self._heard, self._dropped = heard, dropped
        self._follow(logged)
        if logged and isinstance(frame, ExecutionResult):
            self._give_up(logged[-1].place)
        return True

    def _follow(self, logged: Iterable[Logged]) -> None:
        for entry in logged:
            if entry.payload:
                self._append(self._place.hub.frame(self.invocation.id, entry.payload, entry.place))

    def _append(self, frame: Frame) -> None:
        place = frame.place if isinstance(frame, Notification | ServerRequest) else None
        if place is not None:
            if place <= self._last:
                return
            self._give_up(place - 1)
            self._last = place
        if self._is_new(frame):
            self._waiting.append(frame)

    def _give_up(self, place: int) -> None:
        """What is missing up to a place will not come any more: its client is told, if it was given anything."""
        if place > self._last:
            if self._holder is not None:
                self._waiting.append(self._lost(place - self._last))
            self._last = place

    def _lost(self, count: int) -> Notification:
        """What its client is told of frames that are not kept any more."""
        log.warning("call_frames_lost", invocation=self.invocation.id, count=count)
        words = f"{count} earlier messages of this call are no longer kept"
        params = {"level": "warning", "logger": "canalgate", "data": words}
        return Notification({"jsonrpc": "2.0", "method": "notifications/message", "params": params})

    # -- its end ----------------------------------------------------------------------------------------

    def request_state(self, requests: Sequence[str]) -> str:
        """What its client is given while the call waits for answers to these requests (``Gateway.resume``)."""
        expires = self._place.clock.now() + int((self._input_timeout + LATE) * 1000)
        return self._place.request_states.seal(self.invocation, requests, expires=expires)

    def cancel(self) -> None:
        """Take the call back: the worker is told, and this side gets its result at once."""
        self.abandon(InvocationCancelled(BY_CALLER))
        # A client that repeats its retry lets go of one of two requests, and wants the other's answer.
        if self._place.hub.is_alone(self._waiter):
            self._place.cancellations.tell_workers([self.invocation.id])

    def recover(self) -> bool:
        """Look whether it has ended meanwhile, when nobody was there to be told; True if it has."""
        self._place.hub.recover(self._waiter)
        return self._waiter.done

    def abandon(self, error: InvocationCancelled) -> None:
        """Give this side its end; the worker is not told."""
        self._waiter.put(failed(error))

    def wake(self, woken: Callable[[], None]) -> None:
        """Have this called whenever :meth:`next` has something, from another thread: it must not block or raise."""
        self._waiter.woken = woken

    def share(self, bound: SharedBound) -> None:
        """What lies unread of this call counts against this bound as well, until it is closed."""
        self._waiter.share(bound)

    def leave(self) -> None:
        """The caller hung up and has not taken the call back: until its deadline its session may still do that."""
        self._place.cancellations.leave(self)

    def close(self) -> None:
        """Stop listening for this call."""
        self._place.hub.forget(self._waiter)
        self._place.cancellations.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
