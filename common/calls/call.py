"""A call as whoever waits for it sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Self

from common.calls.cancellation import BY_CALLER, Cancellations
from common.calls.replies import Frame, ReplyHub, ServerRequest, Waiter
from common.calls.request_state import RequestStates
from common.domain.errors import InvocationCancelled, InvocationTimeout
from common.domain.invocation import Invocation, failed
from common.domain.session import McpSession
from common.store.clock import RedisClock

MOST_WAITS = 4
"""So many times ``input_timeout`` a call may wait for its client altogether; the worker counts alike."""
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


class Call:
    """A call on its way. Read :meth:`next` until it gives an :class:`ExecutionResult`, then :meth:`close`."""

    def __init__(
        self,
        place: CallPlace,
        invocation: Invocation,
        waiter: Waiter,
        session: McpSession | None,
        *,
        input_timeout: float,
    ) -> None:
        """``input_timeout`` is how long the client has for each answer to what the backend asks, in seconds."""
        self.session = session
        self._input_timeout = input_timeout
        self._for_input = 0.0
        self._asked: set[str] = set()
        self._place = place
        self._waiter = waiter
        self._begun = time.monotonic()
        self.invocation = invocation

    @property
    def age_ms(self) -> float:
        """Milliseconds since the call was accepted."""
        return (time.monotonic() - self._begun) * 1000

    def next(self, timeout: float) -> Frame | None:
        """The next frame, or None after ``timeout`` seconds. Past the deadline it is always a result."""
        left = self._place.clock.left(self.invocation.deadline) + self._for_input + ANSWER_GRACE
        frame = self._waiter.get(min(timeout, left))
        if isinstance(frame, ServerRequest):
            # The worker sends what was not answered again: nobody need see that.
            if frame.id in self._asked:
                return None
            self._asked.add(frame.id)
            self._for_input = min(self._for_input + self._input_timeout, MOST_WAITS * self._input_timeout)
        if frame is not None or left > timeout:
            return frame
        self._place.hub.recover(self._waiter)
        frame = self._waiter.get(0)
        if frame is not None:
            return frame
        self._place.cancellations.tell_workers([self.invocation.id])
        return failed(InvocationTimeout("no worker answered within the deadline"))

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
