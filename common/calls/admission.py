"""The one round trip in which Redis decides on a call, and queues it.

Everything that only Redis can decide is decided by ``admit.lua`` in one step with the queueing: nothing that was
checked can change in between, and a refused call has taken nothing. Each refusal has a class of its own. Whoever adds
a check (a limit, a circuit, an owner) adds its arguments to :class:`Order` and its refusal to :data:`Verdict`, and the
type checker names every place that has to answer for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from common.domain.circuit import Refusal, RefusalReason
from common.domain.errors import (
    AuditUnavailable,
    CircuitOpen,
    ConcurrencyLimit,
    GatewayError,
    QueueFull,
    SessionLimit,
    ToolDraining,
)
from common.domain.session import SessionClaim
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.scripts import Arg
from common.store.shared import SharedConnection
from common.tenants.rates import Buckets, rate_args

RETRY_LEAST, RETRY_MOST = 1.0, 60.0
"""Bounds of ``retry_after``, in seconds; the upper one is said as well where nothing is drained at all."""
FULL_RETRY = 5.0
"""``retry_after`` in seconds while the journal is full: nobody knows how long its sink is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """How much may wait for one tool: messages, and seconds the oldest of them may have waited."""

    max_length: int
    max_age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call that asks to be queued. ``session`` is the MCP session it relies on, None if it has none.

    ``may_create`` is False while the tool is being drained: then only calls of tool sessions that live are taken.
    ``circuit_probes`` is how many calls at a time may try a half-open circuit, ``most_events`` how many events the
    journal may hold before calls are refused (0: any number). ``buckets`` are those of the rates that the call counts
    for.
    """

    queue: str
    message: bytes = field(repr=False)
    bounds: QueueBounds
    session: SessionClaim | None = None
    may_create: bool = True
    circuit_probes: int = 1
    most_events: int = 0
    buckets: Buckets = ()


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


@dataclass(frozen=True, slots=True)
class JournalFull:
    """The journal holds as many events as it may: a sink has not taken them."""

    now: int

    def error(self, _tool: str) -> AuditUnavailable:
        """As the caller sees it."""
        return AuditUnavailable(
            "the audit journal is full, and no call goes unrecorded; try again later", retry_after=FULL_RETRY
        )


@dataclass(frozen=True, slots=True)
class Draining:
    """The tool is being drained, and the call would need a new tool session."""

    now: int

    def error(self, tool: str) -> ToolDraining:
        """As the caller sees it."""
        return ToolDraining(
            f"tool {tool!r} is being drained and takes no new sessions", retry_after=RETRY_LEAST
        )


@dataclass(frozen=True, slots=True)
class SessionsAtBound:
    """The call would need a new tool session, and the tool or the tenant has as many as it may."""

    now: int
    whose: Literal["tool", "tenant"]

    def error(self, tool: str) -> SessionLimit:
        """As the caller sees it."""
        return session_limit(tool, self.whose)


@dataclass(frozen=True, slots=True)
class CallsAtBound:
    """The tenant or the client has as many calls under way as it may."""

    now: int
    whose: Literal["tenant", "client"]

    def error(self, _tool: str) -> ConcurrencyLimit:
        """As the caller sees it."""
        return ConcurrencyLimit(
            f"the {self.whose} has as many calls under way as it may; try again when one of them has ended",
            reason=f"{self.whose}_calls",
            retry_after=RETRY_LEAST,
        )


@dataclass(frozen=True, slots=True)
class RateExceeded:
    """A bucket of a rate is full: the one at place ``which`` (from 0) of the order, for ``wait`` microseconds."""

    now: int
    which: int
    wait: int


@dataclass(frozen=True, slots=True)
class CircuitRefuses:
    """The tool failed too often in a row, or was taken out of service."""

    now: int
    refusal: Refusal

    def error(self, tool: str) -> CircuitOpen:
        """As the caller sees it."""
        return self.refusal.error(tool)


def session_limit(tool: str, whose: Literal["tool", "tenant"]) -> SessionLimit:
    """The refusal of a session above a bound."""
    bound = f"tool {tool!r} has" if whose == "tool" else "the tenant has"
    return SessionLimit(
        f"{bound} as many tool sessions as max_sessions allows; calls of those that live go on",
        reason=whose,
        retry_after=RETRY_LEAST,
    )


Refused = (
    QueueAtBound | JournalFull | Draining | SessionsAtBound | CallsAtBound | RateExceeded | CircuitRefuses
)
Verdict = Admitted | SessionGone | SessionChanged | Refused


def refusal_of(verdict: Refused, tool: str, bounds: QueueBounds, buckets: Buckets = ()) -> GatewayError:
    """What the caller of a refused call is told. ``buckets`` are those of its order."""
    match verdict:
        case QueueAtBound():
            return verdict.error(tool, bounds)
        case RateExceeded():
            return buckets[verdict.which].full(verdict.wait / 1e6)
    return verdict.error(tool)


class Admission:
    """Asks Redis. Fails closed: without an answer no call is admitted."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def admit(self, order: Order) -> Verdict:
        """Queue the call, or say why not.

        Raises :class:`StoreUnavailable`; its data says ``outcome: unknown`` where the call may be queued all the same.
        """
        keys, args = admit_script(self._keys, order)
        with store_errors("queueing the call"):
            return verdict_of(self._connection.run("admit", keys, args))


def admit_script(keys: Keys, order: Order) -> tuple[list[str], list[Arg]]:
    """Keys and arguments of ``admit.lua``; :func:`verdict_of` reads its answer."""
    named = [order.queue, keys.drain(order.queue), keys.head(order.queue)]
    bounds = order.bounds
    args: list[Arg] = [
        *(order.message, keys.begin),
        *(bounds.max_length, int(bounds.max_age * 1000)),
        *(int(order.may_create), order.circuit_probes, order.most_events),
    ]
    if order.session is not None:
        named.append(keys.mcp_session(order.session.id))
        args += [order.session.idle_ms, order.session.digest]
        if order.session.counted_in is not None:
            named.append(order.session.counted_in)
    elif order.buckets:
        args += ["", ""]
    args += rate_args(order.buckets)
    return named, args


def verdict_of(answer: list[Any]) -> Verdict:
    """What ``admit.lua`` answered."""
    kind, now, *rest = answer
    match kind:
        case b"admitted":
            return Admitted(now, rest[0])
        case b"session_gone":
            return SessionGone(now)
        case b"session_changed":
            return SessionChanged(now, rest[0])
    return refused_of(answer)


def refused_of(answer: list[Any]) -> Refused:
    """The refusals of ``admit.lua``, of which ``call_adopt.lua`` has some as well."""
    kind, now, *rest = answer
    match kind:
        case b"queue_full":
            return QueueAtBound(now, rest[0], rest[1], float(rest[2]))
        case b"open" | b"probes_taken":
            wait = None if rest[0] < 0 else rest[0]
            return CircuitRefuses(now, Refusal(reason=RefusalReason(kind.decode()), generation=0, wait=wait))
        case b"journal_full":
            return JournalFull(now)
        case b"draining":
            return Draining(now)
        case b"calls_at_bound":
            return CallsAtBound(now, rest[0].decode())
        case b"rate":
            return RateExceeded(now, rest[0] - 1, rest[1])
        case b"tool_limit":
            return SessionsAtBound(now, "tool")
        case b"tenant_limit":
            return SessionsAtBound(now, "tenant")
    raise AssertionError(f"a script of admission answered {kind!r}")
