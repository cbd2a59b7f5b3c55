"""The one round trip in which Redis decides on a call, and queues it.

Everything that only Redis can decide is decided by ``admit.lua`` in one step with the queueing: nothing that was
checked can change in between, and a refused call has taken nothing. Each refusal has a class of its own. Whoever adds
a check (a limit, a circuit, an owner) adds its arguments to :class:`Order` and its refusal to :data:`Verdict`, and the
type checker names every place that has to answer for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import QueueFull
from common.domain.session import SessionClaim
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.scripts import Arg
from common.store.shared import SharedConnection

RETRY_LEAST, RETRY_MOST = 1.0, 60.0
"""Bounds of ``retry_after``, in seconds; the upper one is said as well where nothing is drained at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How much may wait for one tool: messages, and seconds the oldest of them may have waited."""

    max_length: int
    max_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call that asks to be queued. ``session`` is the MCP session it relies on, None if it has none."""

    queue: str
    message: bytes = field(repr=False)
    bounds: QueueBounds
    session: SessionClaim | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The call is on the queue. ``now`` is Redis' time in ms, ``length`` the queue's with this call."""

    now: int
    length: int


@dataclass(frozen=True, slots=True)
class SessionGone:
    """The MCP session has ended or expired."""

    now: int


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """The MCP session's record is another one than the caller knows; ``record`` is the present one."""

    now: int
    record: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class QueueAtBound:
    """The queue is at its bound in length or age (``age`` of the oldest in ms, -1 if not known)."""

    now: int
    length: int
    age: int
    drained: float
    """Messages that workers take from the queue in a second, lately."""

    def error(self, tool: str, bounds: QueueBounds) -> QueueFull:
        """As the caller sees it, with the time in which half of what waits will be served."""
        full = self.length >= bounds.max_length
        reason = (
            f"{self.length} calls wait (bound: {bounds.max_length})"
            if full
            else f"its oldest call has waited {self.age / 1000:.1f} s (bound: {bounds.max_age:g})"
        )
        return QueueFull(
            f"the queue of tool {tool!r} is full: {reason}; try again in {math.ceil(self.retry_after)} s",
            reason="length" if full else "age",
            retry_after=round(self.retry_after, 2),
        )

    @property
    def retry_after(self) -> float:
        """Seconds."""
        served = self.length / 2 / self.drained if self.drained > 0 else RETRY_MOST
        return min(max(served, RETRY_LEAST), RETRY_MOST)


Verdict = Admitted | SessionGone | SessionChanged | QueueAtBound


class Admission:
    """Asks Redis. Fails closed: without an answer no call is admitted."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def admit(self, order: Order) -> Verdict:
        """Queue the call, or say why not.

        Raises :class:`StoreUnavailable`; its data says ``outcome: unknown`` where the call may be queued all the same.
        """
        keys = [order.queue, self._keys.drain(order.queue), self._keys.head(order.queue)]
        bounds = order.bounds
        args: list[Arg] = [
            *(order.message, self._keys.wake_channel),
            *(bounds.max_length, int(bounds.max_age * 1000)),
        ]
        if order.session is not None:
            keys.append(self._keys.mcp_session(order.session.id))
            args += [order.session.idle_ms, order.session.digest]
        with store_errors("queueing the call"):
            return _verdict(self._connection.run("admit", keys, args))


def _verdict(answer: list[Any]) -> Verdict:
    kind, now, *rest = answer
    match kind:
        case b"admitted":
            return Admitted(now, rest[0])
        case b"session_gone":
            return SessionGone(now)
        case b"session_changed":
            return SessionChanged(now, rest[0])
        case b"queue_full":
            return QueueAtBound(now, rest[0], rest[1], float(rest[2]))
    raise AssertionError(f"admit.lua answered {kind!r}")
