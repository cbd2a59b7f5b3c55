"""The circuit breaker of a tool as a pure state machine: no IO, no clock; the time (Redis ms) is an argument.

::

    closed     --failures in a row reach circuit_failures-->  open
    open       --circuit_open_for has passed, a call asks-->  half_open
    half_open  --a permit holder's call succeeds----------->  closed
    half_open  --a permit holder's call fails-------------->  open, for the full time again
    any        --an operator trips it---------------------->  open, until an operator resets it
    any        --an operator resets it--------------------->  closed

Every transition begins a new generation. A call carries the generation it was admitted under, and its outcome counts
in that one only: what began before a trip neither closes nor opens anything after it.

``circuit_admit.lua``, ``circuit_report.lua`` and ``circuit_control.lua`` are the twins of :func:`admit`,
:func:`report`, :func:`reset` and :func:`trip`; ``tests/lua/test_circuit_twin.py`` holds them equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from common.domain.errors import ERROR_TABLE, CircuitOpen, ErrorCode
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult
from common.domain.rules import CircuitRules

OUR_STAGES = frozenset({"queue", "credentials", "turn", "input"})
"""``failure.data["stage"]`` where a call has not asked anything of the backend: it waited in its queue, for
credentials, or for its turn in a session that was busy with others. (While a session starts, the backend is asked.)"""
PROBE_WAIT = 1.0
"""Most seconds a caller is told to wait for the calls that try a half-open circuit: they are answered soon."""


class CircuitState(StrEnum):
    """What a circuit does with calls."""

    CLOSED = "closed"
    """Lets all through."""
    OPEN = "open"
    """Refuses all."""
    HALF_OPEN = "half_open"
    """Lets a few through, each with a permit, to see whether the backend works again."""


class TransitionReason(StrEnum):
    """Why a circuit changed its state."""

    FAILURE_THRESHOLD_EXCEEDED = "failure_threshold_exceeded"
    OPEN_DURATION_ELAPSED = "open_duration_elapsed"
    HALF_OPEN_PROBE_SUCCESS = "half_open_probe_success"
    HALF_OPEN_PROBE_FAILED = "half_open_probe_failed"
    MANUAL_RESET = "manual_reset"
    MANUAL_TRIP = "manual_trip"


class Outcome(StrEnum):
    """What the end of a call says about its backend."""

    SUCCESS = "success"
    """The backend answered."""
    FAILURE = "failure"
    """The backend could not be reached, or was silent."""
    NEUTRAL = "neutral"
    """Nothing: the call only gives its permit back."""


class RefusalReason(StrEnum):
    """Why a circuit refuses a call."""

    OPEN = "open"
    PROBES_TAKEN = "probes_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of a circuit, once it has happened. ``generation`` is the one that begins with it.

    A reset that only cleared failures goes from closed to closed.
    """

    before: CircuitState
    after: CircuitState
    reason: TransitionReason
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """A circuit. Times are Redis ms; ``failures`` are those in a row; ``reason`` is of the last transition.

    ``until`` is when an open circuit is tried again, None if an operator tripped it; ``note`` is what he said.
    ``permits`` are calls that try a half-open circuit, each with the time at which its permit ends.
    """

    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    generation: int = 0
    opened_at: int | None = None
    until: int | None = None
    reason: TransitionReason | None = None
    note: str | None = None
    permits: Mapping[InvocationId, int] = field(default_factory=dict)

    @property
    def forced(self) -> bool:
        """Whether it stays open until an operator resets it."""
        return self.state is CircuitState.OPEN and self.until is None

    @property
    def unsettled(self) -> bool:
        """Whether a success changes anything: in a closed circuit without failures it need not be reported."""
        return self.state is not CircuitState.CLOSED or self.failures > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """The call is let through, under ``generation``; with a ``permit`` that its outcome has to give back.

    ``transition`` is set if the call found the open time over and so made the circuit half-open.
    """

    generation: int
    permit: bool = False
    transition: Transition | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The call is not let through.

    ``wait`` is in ms: until an open circuit is tried again (None if that is for an operator to say), or until the
    first permit of a half-open one ends at the latest.
    """

    reason: RefusalReason
    generation: int
    wait: int | None

    def error(self, tool: str) -> CircuitOpen:
        """As the caller sees it."""
        if self.wait is None:
            return CircuitOpen(
                f"the circuit of tool {tool!r} was opened by an operator, until it is reset",
                reason=self.reason.value,
            )
        seconds = self.wait / 1000
        if self.reason is RefusalReason.PROBES_TAKEN:
            seconds = min(seconds, PROBE_WAIT)
            what = "a few calls are finding out whether it works again"
        else:
            what = f"it is tried again in {seconds:.1f} s"
        return CircuitOpen(
            f"tool {tool!r} failed too often in a row: {what}",
            reason=self.reason.value,
            retry_after=round(seconds, 3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """A call that tries a half-open circuit. ``ends`` is in Redis ms: from then on it counts no more."""

    holder: InvocationId
    ends: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitStatus:
    """A circuit as people see it at one moment. An open one whose time is over is shown half-open.

    ``retry_after`` is in seconds, and only of an open circuit that opens by itself again.
    """

    state: CircuitState
    failures: int
    generation: int
    opened_at: int | None
    retry_after: float | None
    forced: bool
    reason: TransitionReason | None
    note: str | None
    permits: tuple[Permit, ...]


def admit(
    circuit: Circuit, *, now: int, holder: InvocationId, probes: int, permit_end: int
) -> tuple[Circuit, Passage | Refusal]:
    """Whether one call may go to the backend. A refused call changes nothing.

    A call that asks again while its permit counts keeps it, with the new end: no second one is taken.
    """
    if circuit.state is CircuitState.CLOSED:
        return circuit, Passage(generation=circuit.generation)
    if circuit.state is CircuitState.HALF_OPEN:
        held = _held(circuit, now)
        if holder not in held and len(held) >= probes:
            wait = min(held.values()) - now
            return circuit, _refusal(circuit, RefusalReason.PROBES_TAKEN, wait)
        return _permitted(circuit, now, holder, permit_end), Passage(
            generation=circuit.generation, permit=True
        )
    if circuit.until is None:
        return circuit, _refusal(circuit, RefusalReason.OPEN, None)
    if circuit.until > now:
        return circuit, _refusal(circuit, RefusalReason.OPEN, circuit.until - now)
    reason = TransitionReason.OPEN_DURATION_ELAPSED
    tried = replace(_changed(circuit, now, CircuitState.HALF_OPEN, reason), until=None)
    passage = Passage(
        generation=tried.generation, permit=True, transition=_transition(circuit, tried, reason)
    )
    return _permitted(tried, now, holder, permit_end), passage


def report(
    circuit: Circuit,
    *,
    now: int,
    holder: InvocationId,
    generation: int,
    outcome: Outcome,
    rules: CircuitRules,
) -> tuple[Circuit, Transition | None]:
    """The end of one call that was admitted under ``generation``.

    Nothing comes of an outcome of another generation, nor of one without a permit that counts in a half-open circuit.
    """
    if generation != circuit.generation or circuit.state is CircuitState.OPEN:
        return circuit, None
    if circuit.state is CircuitState.HALF_OPEN:
        return _probe_ended(circuit, now, holder, outcome, rules)
    if outcome is Outcome.NEUTRAL:
        return circuit, None
    if outcome is Outcome.SUCCESS:
        return replace(circuit, failures=0), None
    if circuit.failures + 1 < rules.failures:
        return replace(circuit, failures=circuit.failures + 1), None
    return _open(circuit, now, rules, TransitionReason.FAILURE_THRESHOLD_EXCEEDED)


def reset(circuit: Circuit, *, now: int) -> tuple[Circuit, Transition | None]:
    """Close it by hand: failures and permits are forgotten. One that is closed without failures stays as it is."""
    return _close(circuit, now, TransitionReason.MANUAL_RESET) if circuit.unsettled else (circuit, None)


def trip(circuit: Circuit, *, now: int, note: str) -> tuple[Circuit, Transition | None]:
    """Open it by hand, until :func:`reset`. One that was tripped before only gets the new ``note``."""
    if circuit.forced:
        return replace(circuit, note=note), None
    opened = _changed(circuit, now, CircuitState.OPEN, TransitionReason.MANUAL_TRIP)
    opened = replace(opened, opened_at=now, until=None, note=note)
    return opened, _transition(circuit, opened, TransitionReason.MANUAL_TRIP)


def status_of(circuit: Circuit, *, now: int) -> CircuitStatus:
    """The circuit as people see it. Only a call changes an open circuit whose time is over; looking does not."""
    left = None if circuit.until is None else circuit.until - now
    ready = left is not None and left <= 0
    return CircuitStatus(
        state=CircuitState.HALF_OPEN if ready else circuit.state,
        failures=circuit.failures,
        generation=circuit.generation,
        opened_at=circuit.opened_at,
        retry_after=None if left is None or ready else left / 1000,
        forced=circuit.forced,
        reason=circuit.reason,
        note=circuit.note,
        permits=tuple(
            Permit(holder=holder, ends=ends)
            for holder, ends in sorted(_held(circuit, now).items(), key=lambda held: (held[1], held[0]))
        ),
    )


def open_ms(rules: CircuitRules) -> int:
    """How long a circuit stays open, in ms, at least one."""
    return max(1, round(rules.open_for * 1000))


def outcome_of(result: ExecutionResult) -> Outcome:
    """What a call's result says about its backend.

    An answer proves that the backend can be reached, also one that is an error (``isError``, a JSON-RPC error): it is
    a success here, and ends a row of failures as any other answer does. Failures are those that the error table says
    trip the breaker: the way to the backend broke or never came about, or the backend was silent until the deadline.
    Of these do not count: what ended before the backend was asked (``data.stage`` is one of :data:`OUR_STAGES`), and a
    refusal by the backend with an HTTP status 4xx (``data.http_status``), which is about the request and proves
    nothing. All else is neutral: cancelled, refused before the backend was asked, our own fault.
    """
    if result.answered or result.failure is None:
        return Outcome.SUCCESS
    failure = result.failure
    if not ERROR_TABLE[failure.code].trips_breaker:
        return Outcome.NEUTRAL
    if failure.data.get("stage") in OUR_STAGES:
        return Outcome.NEUTRAL
    status = failure.data.get("http_status")
    if failure.code is ErrorCode.TRANSPORT_FAILURE and isinstance(status, int) and 400 <= status < 500:
        return Outcome.NEUTRAL
    return Outcome.FAILURE


def _probe_ended(
    circuit: Circuit, now: int, holder: InvocationId, outcome: Outcome, rules: CircuitRules
) -> tuple[Circuit, Transition | None]:
    if holder not in _held(circuit, now):
        return circuit, None
    if outcome is Outcome.NEUTRAL:
        left = {other: ends for other, ends in circuit.permits.items() if other != holder}
        return replace(circuit, permits=left), None
    if outcome is Outcome.SUCCESS:
        return _close(circuit, now, TransitionReason.HALF_OPEN_PROBE_SUCCESS)
    return _open(circuit, now, rules, TransitionReason.HALF_OPEN_PROBE_FAILED)


def _held(circuit: Circuit, now: int) -> dict[InvocationId, int]:
    """The permits that count."""
    return {holder: ends for holder, ends in circuit.permits.items() if ends > now}


def _permitted(circuit: Circuit, now: int, holder: InvocationId, ends: int) -> Circuit:
    return replace(circuit, permits=_held(replace(circuit, permits={**circuit.permits, holder: ends}), now))


def _refusal(circuit: Circuit, reason: RefusalReason, wait: int | None) -> Refusal:
    return Refusal(reason=reason, generation=circuit.generation, wait=wait)


def _close(circuit: Circuit, now: int, reason: TransitionReason) -> tuple[Circuit, Transition]:
    closed = _changed(circuit, now, CircuitState.CLOSED, reason)
    closed = replace(closed, failures=0, opened_at=None, until=None, note=None)
    return closed, _transition(circuit, closed, reason)


def _open(
    circuit: Circuit, now: int, rules: CircuitRules, reason: TransitionReason
) -> tuple[Circuit, Transition]:
    opened = _changed(circuit, now, CircuitState.OPEN, reason)
    opened = replace(opened, failures=circuit.failures + 1, opened_at=now, until=now + open_ms(rules))
    return opened, _transition(circuit, opened, reason)


def _changed(circuit: Circuit, now: int, state: CircuitState, reason: TransitionReason) -> Circuit:
    """In another state, without permits. The generation also grows over a store that forgot the last one."""
    generation = max(circuit.generation + 1, now)
    return replace(circuit, state=state, generation=generation, reason=reason, permits={})


def _transition(before: Circuit, after: Circuit, reason: TransitionReason) -> Transition:
    return Transition(before=before.state, after=after.state, reason=reason, generation=after.generation)
