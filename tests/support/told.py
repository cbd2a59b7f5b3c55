"""Whether the audit journal is complete: what its file says, held against what callers saw. Pure, as the invariants.

====  ==================================================================================================
J1    each call in the journal was accepted once, was taken by a worker before it was answered, and has one end
J2    each answer, and each error that a worker made, stands in the journal as the caller saw it
====  ==================================================================================================

That records are numbered without a gap and linked is asked of :mod:`common.audit.verify`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.history import Ended, History
from tests.support.invariants import NOT_RUN
from tests.support.verdict import Violation

ACCEPTED, BEGUN = "policy_decision", "invocation_start"
ENDS = frozenset({"invocation_complete", "invocation_failed", "invocation_lost"})
BY_WEB = NOT_RUN | {"INVOCATION_TIMEOUT", "INVOCATION_CANCELLED"}
"""Codes that a web process may tell a caller by itself, whatever becomes of the call."""

Event = Mapping[str, str]


@dataclass(slots=True)
class Told:
    """What the journal says of one call."""

    accepted: int = 0
    begun: int = 0
    ends: list[Event] = field(default_factory=list)
    traces: set[str] = field(default_factory=set)


def trace_of(call: str) -> str:
    """The W3C trace id that a caller gives the call of this name."""
    return hashlib.md5(call.encode(), usedforsecurity=False).hexdigest()


def of_calls(events: Iterable[Event]) -> Mapping[str, Told]:
    """What is told of each call, by its id."""
    calls: defaultdict[str, Told] = defaultdict(Told)
    for event in events:
        if not (invocation := event.get("invocation")):
            continue
        told, kind = calls[invocation], event["kind"]
        if kind == ACCEPTED and event.get("outcome") == "allow":
            told.accepted += 1
        elif kind == BEGUN:
            told.begun += 1
        elif kind in ENDS:
            told.ends.append(event)
        told.traces.add(event.get("trace_id", ""))
    return calls


def complete(history: History, events: Sequence[Event]) -> list[Violation]:
    """All breaches of J1 and J2."""
    calls = of_calls(events)
    return [*_each_has_all(calls), *_as_seen(history, calls)]


def _each_has_all(calls: Mapping[str, Told]) -> Iterator[Violation]:
    if not calls:
        yield Violation(invariant="J1", text="the journal tells of no call")
    for invocation, told in calls.items():
        if told.accepted != 1:
            yield Violation(invariant="J1", text=f"was accepted {told.accepted} times", call=invocation)
        if len(told.ends) != 1:
            kinds = [event["kind"] for event in told.ends]
            yield Violation(invariant="J1", text=f"has {len(told.ends)} ends: {kinds}", call=invocation)
        if any(end["kind"] == "invocation_complete" for end in told.ends) and not told.begun:
            yield Violation(invariant="J1", text="was answered and never begun", call=invocation)
        if len(told.traces) != 1:
            yield Violation(invariant="J1", text=f"is of several traces: {told.traces}", call=invocation)


def _as_seen(history: History, calls: Mapping[str, Told]) -> Iterator[Violation]:
    by_trace: defaultdict[str, list[Told]] = defaultdict(list)
    for told in calls.values():
        for trace in told.traces:
            by_trace[trace].append(told)
    for end in history.ended:
        found = by_trace.get(trace_of(end.call), [])
        if len(found) > 1:
            yield Violation(invariant="J2", text=f"is {len(found)} calls in the journal", call=end.call)
        wanted = _wanted(end)
        if wanted is None:
            continue
        seen = [(event["kind"], event.get("error_code", "")) for told in found for event in told.ends]
        if seen != [wanted]:
            yield Violation(
                invariant="J2",
                text=f"ended as {wanted} for its caller, as {seen} in the journal",
                call=end.call,
            )


def _wanted(end: Ended) -> tuple[str, str] | None:
    """Kind and code of the only end that the journal may have; None where the caller cannot know."""
    if end.outcome == "answered":
        return "invocation_complete", ""
    if end.outcome != "error" or end.code is None or end.code in BY_WEB:
        return None
    return ("invocation_lost" if end.code == "WORKER_LOST" else "invocation_failed"), end.code
