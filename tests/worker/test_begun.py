"""What a worker remembers of the calls that it has begun."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from common.domain.ids import InvocationId, NodeId
from gateway_worker import begun
from gateway_worker.begun import LATELY, Begun
from gateway_worker.delivery import Taken

A = NodeId("a:1")
START = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The monotonic clock; the test sets ``now``."""
    hands = SimpleNamespace(now=START)
    hands.monotonic = lambda: hands.now
    monkeypatch.setattr(begun, "time", hands)
    return hands


def taken(tag: int) -> Taken:
    """What was fetched under this tag."""
    return Taken(node=A, tag=str(tag), raw=b"", queue="tool.a", verdict=b"held", token=1)


def begin(of: Begun, tag: int, *, ends: bool = True) -> Taken:
    """A call begins, and ends at once if it does not run on."""
    of.begin(taken(tag), InvocationId(f"i{tag}"))
    if ends:
        of.end(taken(tag))
    return taken(tag)


def test_calls_are_remembered_from_before_the_last_confirmed_beat(clock: SimpleNamespace) -> None:
    """However long ago that is: Redis may be away for long, and come back without what it was told last."""
    calls = Begun()
    for tag, moment in ((1, -LATELY - 0.1), (2, -LATELY), (3, 1.0)):
        clock.now = START + moment
        begin(calls, tag)
    calls.confirmed(START)
    clock.now = START + 3600
    assert calls.lately() == {"i2", "i3"}


def test_what_runs_is_remembered_however_long_it_runs(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond the bound on what is remembered."""
    monkeypatch.setattr(begun, "LATELY_MOST", 1)
    calls = Begun()
    begin(calls, 1, ends=False)
    begin(calls, 2)
    calls.confirmed(START + 3600)
    assert (calls.lately(), calls.running(InvocationId("i1"))) == ({"i1"}, True)
    calls.end(taken(1))
    assert (calls.lately(), calls.running(InvocationId("i1"))) == (set(), False)


def test_a_call_that_went_back_was_not_begun(clock: SimpleNamespace) -> None:
    """Whoever takes it next must not be told that it was."""
    calls = Begun()
    calls.undo(begin(calls, 1))
    assert (calls.lately(), calls.never((A, "1"))) == (set(), True)


def test_what_was_forgotten_may_have_been_begun(clock: SimpleNamespace) -> None:
    """Certainty that nothing was sent needs a memory that reaches back to it."""
    calls = Begun()
    begin(calls, 2)
    calls.confirmed(START + LATELY + 1)
    begin(calls, 4)
    found = {tag: calls.never((A, str(tag))) for tag in range(1, 6)}
    assert found == {1: False, 2: False, 3: True, 4: False, 5: True}


def test_what_was_abandoned_is_others_business(clock: SimpleNamespace) -> None:
    """They are declared no more, or whoever got them would drop them; but they may have been sent."""
    calls = Begun()
    begin(calls, 7, ends=False)
    begin(calls, 8)
    calls.abandon()
    assert (calls.lately(), calls.held(A)) == (set(), [])
    assert not calls.never((A, "8"))
    assert calls.never((A, "9"))
