"""The circuits of tools in Redis: looked at and set by operators, asked and told by calls.

Operators use :class:`Circuits`. Calls have no client of their own here: the functions below say which script to run
with what, and read its answer, so that the web program can ask and the worker can tell on the connections they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from common.domain.circuit import (
    Circuit,
    CircuitState,
    CircuitStatus,
    Outcome,
    Passage,
    Refusal,
    RefusalReason,
    Transition,
    TransitionReason,
    open_ms,
    status_of,
)
from common.domain.errors import InvalidRequest
from common.domain.ids import InvocationId, ToolId
from common.domain.rules import CircuitRules
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import Arg, run

MAX_REASON = 500
"""Longest reason of a trip, in characters: it is kept in Redis and shown in lists."""
PERMIT_GRACE = 12_000
"""Milliseconds that a permit outlives the deadline of its call: by then the call has its end, whatever died."""


class ScriptCall(NamedTuple):
    """A script by name with its keys and arguments, as the store's ``run`` takes them."""

    name: str
    keys: list[str]
    args: list[Arg]


class Circuits:
    """The circuits of one gateway, for operators.

    Fails closed: without Redis every method raises ``StoreUnavailable``. Whether there is such a tool is for the
    registry to say; one without a circuit of its own has a closed one.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def status(self, tool: ToolId) -> CircuitStatus:
        """The circuit at this moment. Looking changes nothing."""
        with store_errors("reading a circuit"), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._keys.circuit(tool))
            pipe.zrange(self._keys.circuit_permits(tool), 0, -1, withscores=True)
            pipe.time()
            fields, permits, (seconds, micros) = pipe.execute()
        return status_of(circuit_from_redis(fields, permits), now=seconds * 1000 + micros // 1000)

    def reset(self, tool: ToolId) -> Transition | None:
        """Close the circuit; failures and permits are forgotten, and calls under way say nothing any more.

        None if it was closed and without failures: then nothing is changed.
        """
        return self._control(tool, "reset", "")

    def trip(self, tool: ToolId, reason: str) -> Transition | None:
        """Open the circuit until it is :meth:`reset`; it is not tried again by itself.

        ``reason`` is for other operators. None if it was tripped before: then only the reason is changed. Raises
        :class:`InvalidRequest` for a reason that says nothing or cannot be kept.
        """
        return self._control(tool, "trip", _checked_reason(reason))

    def _control(self, tool: ToolId, action: str, reason: str) -> Transition | None:
        keys = _keys_of(self._keys, tool)
        with store_errors("setting a circuit"):
            return transition_of(run(self._client, "circuit_control", keys, [action, reason]))


def admit_call(
    keys: Keys, tool: ToolId, invocation: InvocationId, rules: CircuitRules, *, deadline: int
) -> ScriptCall:
    """Ask whether a call may go to its backend; :func:`verdict_of` reads the answer.

    ``deadline`` is in Redis ms. Asked again with the same invocation, a call keeps the permit it has.
    """
    return ScriptCall(
        "circuit_admit", _keys_of(keys, tool), [invocation, rules.probes, deadline + PERMIT_GRACE]
    )


def report_call(
    keys: Keys,
    tool: ToolId,
    invocation: InvocationId,
    generation: int,
    outcome: Outcome,
    rules: CircuitRules,
) -> ScriptCall:
    """Tell how a call ended that was admitted under ``generation``; :func:`transition_of` reads the answer.

    Every admitted call is told of once, or its permit is missing until it ends; a success need not be if
    :func:`unsettled_command` says no. Degrades: a report that is lost costs no more than one failure of a row, or the
    wait for a permit's end. Sent again after its answer was lost it may count twice in a row of failures; a half-open
    circuit hears it once.
    """
    return ScriptCall(
        "circuit_report",
        _keys_of(keys, tool),
        [invocation, generation, outcome.value, rules.failures, open_ms(rules)],
    )


def unsettled_command(keys: Keys, tool: ToolId) -> tuple[str, str, str]:
    """The Redis command that answers 1 if successes of the tool are to be reported, 0 if they change nothing."""
    return "HEXISTS", keys.circuit(tool), "state"


def transition_of(answer: Sequence[Any] | None) -> Transition | None:
    """What ``circuit_report``, ``circuit_control`` and, within its answer, ``circuit_admit`` say of a change."""
    if answer is None:
        return None
    before, after, reason, generation = answer
    return Transition(
        before=CircuitState(before.decode()),
        after=CircuitState(after.decode()),
        reason=TransitionReason(reason.decode()),
        generation=generation,
    )


def verdict_of(answer: Sequence[Any]) -> Passage | Refusal:
    """The answer of ``circuit_admit``."""
    verdict, generation, detail, *transition = answer
    if verdict == b"admitted":
        change = transition_of(transition[0] if transition else None)
        return Passage(generation=generation, permit=detail == 1, transition=change)
    wait = None if detail < 0 else detail
    return Refusal(reason=RefusalReason(verdict.decode()), generation=generation, wait=wait)


def circuit_from_redis(fields: Mapping[bytes, bytes], permits: Sequence[tuple[bytes, float]]) -> Circuit:
    """The circuit that the scripts keep: what is not in its hash is as in one that never failed."""
    reason, note = fields.get(b"reason"), fields.get(b"note")
    return Circuit(
        state=CircuitState(fields.get(b"state", b"closed").decode()),
        failures=int(fields.get(b"failures", 0)),
        generation=int(fields.get(b"generation", 0)),
        opened_at=_time(fields, b"opened_at"),
        until=_time(fields, b"until"),
        reason=None if reason is None else TransitionReason(reason.decode()),
        note=None if note is None else note.decode(),
        permits={InvocationId(holder.decode()): int(ends) for holder, ends in permits},
    )


def _time(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    return int(fields[name]) if name in fields else None


def _keys_of(keys: Keys, tool: ToolId) -> list[str]:
    return [keys.circuit(tool), keys.circuit_permits(tool)]


def _checked_reason(reason: str) -> str:
    if not reason.strip():
        raise InvalidRequest("reason must not be empty: say why the circuit is opened", field="reason")
    if len(reason) > MAX_REASON:
        raise InvalidRequest(f"reason is longer than {MAX_REASON} characters; shorten it", field="reason")
    try:
        reason.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest("reason holds a lone surrogate and has no UTF-8 form", field="reason") from error
    return reason
