"""The judge of the audit journal: a complete one passes, and each event that is missing or too many is named."""

from __future__ import annotations

import pytest

from tests.support.history import Ended, History
from tests.support.planted import ended
from tests.support.told import complete, trace_of

Event = dict[str, str]


def event(kind: str, call: str = "c1", **more: str) -> Event:
    """An event of the call whose invocation is named as it is."""
    return {"kind": kind, "invocation": f"i-{call}", "trace_id": trace_of(call), **more}


ACCEPTED = event("policy_decision", outcome="allow")
BEGUN = event("invocation_start")
COMPLETE = event("invocation_complete", outcome="success")
FAILED = event("invocation_failed", error_code="TRANSPORT_FAILURE")
LOST = event("invocation_lost", error_code="WORKER_LOST")
WHOLE = [ACCEPTED, BEGUN, COMPLETE]


def named(events: list[Event], *ends: Ended) -> list[str]:
    """What is breached."""
    return [breach.invariant for breach in complete(History(ended=list(ends)), events)]


@pytest.mark.parametrize(
    ("events", "end"),
    [
        (WHOLE, ended("c1", 1.0, "answered")),
        ([{"kind": "session_created"}, *WHOLE], ended("c1", 1.0, "left")),
        ([ACCEPTED, BEGUN, BEGUN, COMPLETE], ended("c1", 1.0, "answered")),
        ([ACCEPTED, BEGUN, FAILED], ended("c1", 1.0, "error", code="TRANSPORT_FAILURE")),
        ([ACCEPTED, LOST], ended("c1", 1.0, "error", code="WORKER_LOST")),
        (WHOLE, ended("c2", 1.0, "error", code="QUEUE_FULL")),
    ],
)
def test_a_complete_journal_passes(events: list[Event], end: Ended) -> None:
    """Also one that knows more than the caller, and one of a call that was given to a second worker."""
    assert named(events, end) == []


@pytest.mark.parametrize(
    ("events", "breached"),
    [
        ([], ["J1", "J2"]),
        ([BEGUN, COMPLETE], ["J1"]),
        ([ACCEPTED, *WHOLE], ["J1"]),
        ([ACCEPTED, COMPLETE], ["J1"]),
        ([ACCEPTED, BEGUN], ["J1", "J2"]),
        ([*WHOLE, COMPLETE], ["J1", "J2"]),
        ([*WHOLE, LOST], ["J1", "J2"]),
        ([ACCEPTED, BEGUN, LOST], ["J2"]),
        ([ACCEPTED, BEGUN, {**COMPLETE, "trace_id": trace_of("c2")}], ["J1"]),
        ([*WHOLE, *({**told, "invocation": "i-c1-again"} for told in WHOLE)], ["J2", "J2"]),
    ],
)
def test_what_is_missing_or_too_many_is_named(events: list[Event], breached: list[str]) -> None:
    """Of a call that was answered."""
    assert named(events, ended("c1", 1.0, "answered")) == breached


def test_another_error_than_the_caller_s_is_named() -> None:
    """Both are told of one end."""
    assert named([ACCEPTED, BEGUN, FAILED], ended("c1", 1.0, "error", code="PROTOCOL_ERROR")) == ["J2"]
