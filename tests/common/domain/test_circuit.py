"""The circuit breaker as a pure machine: when it opens, who may try, whose outcome counts, and what people see."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.circuit import (
    Circuit,
    CircuitState,
    Outcome,
    Passage,
    Permit,
    Refusal,
    RefusalReason,
    Transition,
    TransitionReason,
    admit,
    open_ms,
    report,
    reset,
    status_of,
    trip,
)
from common.domain.ids import InvocationId
from common.domain.rules import CircuitRules

RULES = CircuitRules(failures=3, open_for=30.0, probes=2)
A, B, C = (InvocationId(name) for name in "abc")
T = 1_800_000_000_000
LIFE = 42_000


class Course:
    """A circuit, and a time that passes."""

    def __init__(self, rules: CircuitRules = RULES) -> None:
        self.circuit = Circuit()
        self.rules = rules
        self.now = T
        self.generation: dict[InvocationId, int] = {}

    def ask(self, holder: InvocationId, *, life: int = LIFE) -> Passage | Refusal:
        self.circuit, verdict = admit(
            self.circuit,
            now=self.now,
            holder=holder,
            probes=self.rules.probes,
            permit_end=self.now + life,
        )
        if isinstance(verdict, Passage):
            self.generation[holder] = verdict.generation
        return verdict

    def end(self, holder: InvocationId, outcome: Outcome) -> Transition | None:
        self.circuit, transition = report(
            self.circuit,
            now=self.now,
            holder=holder,
            generation=self.generation[holder],
            outcome=outcome,
            rules=self.rules,
        )
        return transition

    def call(self, outcome: Outcome, holder: InvocationId = A) -> Transition | None:
        assert isinstance(self.ask(holder), Passage)
        return self.end(holder, outcome)

    def reset(self) -> Transition | None:
        self.circuit, transition = reset(self.circuit, now=self.now)
        return transition

    def trip(self, note: str = "n") -> Transition | None:
        self.circuit, transition = trip(self.circuit, now=self.now, note=note)
        return transition


def opened(rules: CircuitRules = RULES) -> Course:
    course = Course(rules)
    for _ in range(rules.failures):
        course.call(Outcome.FAILURE)
    assert course.circuit.state is CircuitState.OPEN
    return course


def half_open(rules: CircuitRules = RULES, *, holder: InvocationId = A) -> Course:
    """Its open time is over, and ``holder`` has the first permit."""
    course = opened(rules)
    course.now += open_ms(rules)
    assert isinstance(course.ask(holder), Passage)
    return course


def test_as_many_failures_in_a_row_as_the_rules_say_open_it() -> None:
    """Not one fewer."""
    course = Course()
    assert course.call(Outcome.FAILURE) is None
    assert course.call(Outcome.FAILURE) is None
    assert course.circuit == Circuit(failures=2)
    assert course.call(Outcome.FAILURE) == Transition(
        before=CircuitState.CLOSED,
        after=CircuitState.OPEN,
        reason=TransitionReason.FAILURE_THRESHOLD_EXCEEDED,
        generation=T,
    )
    assert (course.circuit.opened_at, course.circuit.until) == (T, T + 30_000)


def test_a_success_ends_the_row() -> None:
    """Failures far apart open nothing; and nothing is left of them."""
    course = Course()
    for _ in range(5):
        course.call(Outcome.FAILURE)
        course.call(Outcome.FAILURE)
        assert course.circuit.unsettled
        course.call(Outcome.SUCCESS)
        assert course.circuit == Circuit()
        assert not course.circuit.unsettled


def test_what_is_neutral_changes_nothing() -> None:
    """It neither counts nor ends the row."""
    course = Course()
    course.call(Outcome.FAILURE)
    before = course.circuit
    course.call(Outcome.NEUTRAL)
    assert course.circuit == before


def test_an_open_circuit_refuses_all_until_its_time_is_over() -> None:
    """And says how long that takes; refused calls change nothing."""
    course = opened()
    before = course.circuit
    course.now += 29_999
    refused = course.ask(B)
    assert refused == Refusal(reason=RefusalReason.OPEN, generation=T, wait=1)
    assert course.circuit == before


def test_the_first_call_after_its_time_makes_it_half_open() -> None:
    """It has a permit, of the new generation."""
    course = opened()
    course.now += 30_000
    passage = course.ask(B)
    assert passage == Passage(
        generation=T + 30_000,
        permit=True,
        transition=Transition(
            before=CircuitState.OPEN,
            after=CircuitState.HALF_OPEN,
            reason=TransitionReason.OPEN_DURATION_ELAPSED,
            generation=T + 30_000,
        ),
    )
    assert course.circuit.permits == {B: T + 30_000 + LIFE}


def test_no_more_try_at_a_time_than_there_are_permits() -> None:
    """Who comes later is told when the first permit ends at the latest; the next has one when one is given back."""
    course = half_open()
    course.now += 10
    assert isinstance(course.ask(B), Passage)
    course.now += 10
    before = course.circuit
    assert course.ask(C) == Refusal(
        reason=RefusalReason.PROBES_TAKEN, generation=before.generation, wait=LIFE - 20
    )
    assert course.circuit == before
    assert course.end(A, Outcome.NEUTRAL) is None
    assert course.ask(C) == Passage(generation=before.generation, permit=True)


def test_who_asks_again_keeps_the_permit() -> None:
    """The answer was lost, and the call is sent once more: it does not take a second place."""
    course = half_open(replace(RULES, probes=1))
    course.now += 5
    assert course.ask(A, life=7) == Passage(generation=course.circuit.generation, permit=True)
    assert course.circuit.permits == {A: course.now + 7}


def test_a_permit_ends_though_its_holder_died() -> None:
    """At its end it counts no more, and its holder is not heard any more."""
    course = half_open(replace(RULES, probes=1))
    course.now += LIFE - 1
    assert isinstance(course.ask(B), Refusal)
    course.now += 1
    assert course.end(A, Outcome.SUCCESS) is None
    assert course.circuit.state is CircuitState.HALF_OPEN
    assert isinstance(course.ask(B), Passage)
    assert set(course.circuit.permits) == {B}


def test_the_first_success_closes_it() -> None:
    """Failures and permits are forgotten; what the others found says nothing any more."""
    course = half_open()
    course.ask(B)
    course.now += 50
    transition = course.end(A, Outcome.SUCCESS)
    assert transition is not None
    assert transition.reason is TransitionReason.HALF_OPEN_PROBE_SUCCESS
    closed = course.circuit
    assert closed == Circuit(generation=course.now, reason=TransitionReason.HALF_OPEN_PROBE_SUCCESS)
    assert not closed.unsettled
    assert course.end(B, Outcome.FAILURE) is None
    assert course.circuit == closed


def test_a_failure_of_a_holder_opens_it_anew() -> None:
    """For the full time, from then on."""
    course = half_open()
    course.ask(B)
    course.now += 50
    transition = course.end(B, Outcome.FAILURE)
    assert transition is not None
    assert transition.reason is TransitionReason.HALF_OPEN_PROBE_FAILED
    assert (course.circuit.opened_at, course.circuit.until) == (course.now, course.now + 30_000)
    assert (course.circuit.failures, course.circuit.permits) == (4, {})


@pytest.mark.parametrize("outcome", Outcome)
def test_what_began_before_the_trip_says_nothing_after_it(outcome: Outcome) -> None:
    """A late success does not close it, a late failure opens nothing: open, half-open, and closed again."""
    course = Course()
    course.ask(B)
    for _ in range(3):
        course.call(Outcome.FAILURE)
    tried = half_open(holder=A)
    tried.generation[B] = course.generation[B]
    closed = half_open()
    closed.end(A, Outcome.SUCCESS)
    closed.generation[B] = course.generation[B]
    for late in (course, tried, closed):
        before = late.circuit
        for _ in range(5):
            assert late.end(B, outcome) is None
        assert late.circuit == before


def test_a_stranger_is_not_heard_by_a_half_open_circuit() -> None:
    """Only who holds a permit."""
    course = half_open()
    course.generation[C] = course.circuit.generation
    before = course.circuit
    for outcome in Outcome:
        assert course.end(C, outcome) is None
    assert course.circuit == before


def test_a_circuit_tripped_by_hand_is_never_tried_by_itself() -> None:
    """However long; a reset closes it."""
    course = Course()
    transition = course.trip("on fire")
    assert transition is not None
    assert transition.reason is TransitionReason.MANUAL_TRIP
    course.now += 10**12
    assert course.ask(A) == Refusal(reason=RefusalReason.OPEN, generation=T, wait=None)
    assert course.circuit.forced
    assert course.trip("still") is None
    assert (course.circuit.note, course.circuit.generation) == ("still", T)
    transition = course.reset()
    assert transition is not None
    assert (transition.before, transition.after) == (CircuitState.OPEN, CircuitState.CLOSED)
    assert course.circuit == Circuit(generation=course.now, reason=TransitionReason.MANUAL_RESET)
    assert isinstance(course.ask(A), Passage)


def test_a_trip_takes_over_what_opened_by_itself() -> None:
    """Then its time no longer runs, and permits end."""
    for course in (opened(), half_open()):
        assert course.trip() is not None
        assert course.circuit.forced
        assert course.circuit.permits == {}


def test_a_reset_forgets_failures_and_permits() -> None:
    """In every state; calls under way say nothing any more."""
    failing = Course()
    failing.ask(B)
    failing.call(Outcome.FAILURE)
    opened_one = opened()
    opened_one.generation[B] = 0
    tried = half_open(holder=B)
    for course in (failing, opened_one, tried):
        transition = course.reset()
        assert transition is not None
        assert transition.reason is TransitionReason.MANUAL_RESET
        closed = course.circuit
        assert closed == Circuit(generation=transition.generation, reason=TransitionReason.MANUAL_RESET)
        assert course.end(B, Outcome.FAILURE) is None
        assert course.circuit == closed


def test_a_reset_of_what_is_well_is_none() -> None:
    """There is nothing to announce."""
    course = Course()
    assert course.reset() is None
    assert course.circuit == Circuit()


def test_generations_grow_though_the_clock_is_set_back() -> None:
    """And though many transitions fall in one millisecond."""
    course = Course()
    found = []
    for _ in range(5):
        for step in (course.trip, course.reset):
            transition = step()
            assert transition is not None
            found.append(transition.generation)
        course.now -= 10_000
    assert found == list(range(T, T + 10))


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sampled_from([None, *Outcome]), st.integers(0, 40_000)),
        max_size=60,
    ),
    st.integers(1, 3),
)
def test_never_more_permits_than_the_rules_say(
    steps: list[tuple[InvocationId, Outcome | None, int]], probes: int
) -> None:
    """Whatever calls do: ask, end, or never come back."""
    course = half_open(replace(RULES, probes=probes, failures=1))
    for holder, outcome, passes in steps:
        course.now += passes
        if outcome is None or holder not in course.generation:
            course.ask(holder)
        else:
            course.end(holder, outcome)
        status = status_of(course.circuit, now=course.now)
        assert len(status.permits) <= probes
        assert course.circuit.state is CircuitState.HALF_OPEN or not status.permits


def test_looking_changes_nothing() -> None:
    """An open circuit whose time is over is shown half-open; it is the next call that makes it so."""
    course = opened()
    before = course.circuit
    status = status_of(course.circuit, now=course.now + 29_500)
    assert (status.state, status.retry_after, status.failures) == (CircuitState.OPEN, 0.5, 3)
    status = status_of(course.circuit, now=course.now + 30_000)
    assert (status.state, status.retry_after, status.permits) == (CircuitState.HALF_OPEN, None, ())
    assert course.circuit == before


def test_people_see_who_tries_and_who_tripped() -> None:
    """Only permits that count, the first to end first."""
    course = half_open()
    course.ask(B, life=100)
    status = status_of(course.circuit, now=course.now)
    assert status.permits == (
        Permit(holder=B, ends=course.now + 100),
        Permit(holder=A, ends=course.now + LIFE),
    )
    assert [held.holder for held in status_of(course.circuit, now=course.now + 100).permits] == [A]
    course.trip("on fire")
    status = status_of(course.circuit, now=course.now)
    assert (status.state, status.forced, status.note, status.retry_after) == (
        CircuitState.OPEN,
        True,
        "on fire",
        None,
    )


def test_a_circuit_stays_open_for_a_millisecond_at_least() -> None:
    """Whatever small time the rules say."""
    assert open_ms(CircuitRules(open_for=0.00001)) == 1
    assert open_ms(CircuitRules(open_for=0.07)) == 70
