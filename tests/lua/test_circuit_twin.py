"""The circuit breaker: pure machine and Lua scripts, driven by the same steps, are equal after each."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from common.circuit.breaker import (
    admit_call,
    circuit_from_redis,
    report_call,
    transition_of,
    unsettled_command,
    verdict_of,
)
from common.domain.circuit import (
    Circuit,
    CircuitState,
    Outcome,
    Passage,
    RefusalReason,
    Transition,
    TransitionReason,
    admit,
    report,
    reset,
    trip,
)
from common.domain.ids import InvocationId, ToolId
from common.domain.rules import CircuitRules
from common.store.client import Client
from common.store.keys import Keys
from tests.lua.twin import EXAMPLES, TIME_PASSES, TWIN_TIMEOUT, ForcedTime, at_forced_time, twin_settings

TOOL = ToolId("a tool/ü")
RULES = st.builds(
    CircuitRules, failures=st.integers(1, 3), open_for=st.floats(0.001, 1.0), probes=st.integers(1, 2)
)
HOLDERS = st.sampled_from([InvocationId(name) for name in ("a", "b", "c", "d", "ü:1")])
OUTCOMES = st.sampled_from([Outcome.FAILURE, *Outcome])


class CircuitTwins(RuleBasedStateMachine):
    """Calls that ask and end in any order, operators, outcomes of strangers, and time that passes or is set back."""

    def __init__(self, client: Client, seen: set[TransitionReason | RefusalReason]) -> None:
        super().__init__()
        self.client = client
        self.keys = Keys("test")
        self.time = ForcedTime(client)
        self.pure = Circuit()
        self.rules = CircuitRules()
        self.admitted: list[tuple[InvocationId, int]] = []
        self.generation = 0
        self.seen = seen

    @initialize(rules=RULES, first=st.sampled_from(["half_open", "closed", "half_open"]))
    def it_begins(self, rules: CircuitRules, first: str) -> None:
        self.rules = rules
        if first == "half_open":
            self.the_backend_breaks()
            self.an_open_circuit_is_asked_at_its_end(0, InvocationId("b"))

    @rule(ms=TIME_PASSES)
    def time_passes(self, ms: int) -> None:
        self.time.pass_by(ms)

    @precondition(lambda self: self.pure.until is not None)
    @rule(more=st.sampled_from([0, 0, 1, -1]), holder=HOLDERS)
    def an_open_circuit_is_asked_at_its_end(self, more: int, holder: InvocationId) -> None:
        assert self.pure.until is not None
        self.time.now = self.pure.until + more
        self.a_call_asks(holder, -11_000)

    @precondition(lambda self: self.pure.permits)
    @rule(more=st.sampled_from([0, 0, -1, 1]), who=st.none() | HOLDERS, outcome=OUTCOMES, rules=RULES)
    def a_permit_reaches_its_end(
        self, more: int, who: InvocationId | None, outcome: Outcome, rules: CircuitRules
    ) -> None:
        """Its holder ends or asks again, or somebody else asks; under other rules perhaps."""
        self.rules = rules
        first = min(self.pure.permits, key=lambda held: self.pure.permits[held])
        self.time.now = self.pure.permits[first] + more
        if who is None:
            self.reported(first, self.pure.generation, outcome)
        else:
            self.a_call_asks(first if who == "a" else who, -11_000)

    @precondition(lambda self: self.pure.state is CircuitState.CLOSED)
    @rule(ends=st.lists(st.sampled_from([Outcome.FAILURE, Outcome.SUCCESS, Outcome.FAILURE]), max_size=4))
    def calls_come_and_end(self, ends: list[Outcome]) -> None:
        for outcome in ends:
            self.reported(InvocationId("e"), self.pure.generation, outcome)

    @precondition(lambda self: self.pure.state is CircuitState.CLOSED)
    @rule()
    def the_backend_breaks(self) -> None:
        while self.pure.state is CircuitState.CLOSED:
            self.a_call_asks(InvocationId("a"), 0)
            self.reported(InvocationId("a"), self.pure.generation, Outcome.FAILURE)

    @precondition(lambda self: self.pure.permits)
    @rule(outcome=st.sampled_from(Outcome), place=st.integers(0, 1), rules=st.none() | RULES)
    def a_permit_holder_ends(self, outcome: Outcome, place: int, rules: CircuitRules | None) -> None:
        self.rules = rules or self.rules
        holders = sorted(self.pure.permits)
        self.reported(holders[place % len(holders)], self.pure.generation, outcome)

    @rule(holder=HOLDERS, life=st.sampled_from([-12_000, -11_999, -11_900, -11_000, 0]))
    def a_call_asks(self, holder: InvocationId, life: int) -> None:
        asked = admit_call(self.keys, TOOL, holder, self.rules, deadline=self.time.now + life)
        ends = int(asked.args[-1])
        self.pure, expected = admit(
            self.pure, now=self.time.now, holder=holder, probes=self.rules.probes, permit_end=ends
        )
        assert verdict_of(self.time.run(*asked)) == expected
        if isinstance(expected, Passage):
            self.admitted.append((holder, expected.generation))
            self.transition(expected.transition)
        else:
            self.seen.add(expected.reason)

    @precondition(lambda self: self.admitted)
    @rule(place=st.integers(0, 100), outcome=OUTCOMES, again=st.booleans())
    def a_call_ends(self, place: int, outcome: Outcome, again: bool) -> None:
        place %= len(self.admitted)
        holder, generation = self.admitted[-1 - place]
        if not again:
            del self.admitted[-1 - place]
        self.reported(holder, generation, outcome)

    @rule(holder=HOLDERS, generation=st.integers(-1, 1), outcome=OUTCOMES)
    def a_stranger_reports(self, holder: InvocationId, generation: int, outcome: Outcome) -> None:
        self.reported(holder, self.pure.generation + generation, outcome)

    @rule(action=st.sampled_from(["reset", "trip", "rules", "rules"]), note=st.text(max_size=5), rules=RULES)
    def an_operator_acts(self, action: str, note: str, rules: CircuitRules) -> None:
        if action == "rules":
            self.rules = rules
        elif action == "reset":
            self.pure, expected = reset(self.pure, now=self.time.now)
            self.controlled(expected, "reset", "")
        else:
            self.pure, expected = trip(self.pure, now=self.time.now, note=note)
            self.controlled(expected, "trip", note)

    def reported(self, holder: InvocationId, generation: int, outcome: Outcome) -> None:
        told = report_call(self.keys, TOOL, holder, generation, outcome, self.rules)
        self.pure, expected = report(
            self.pure,
            now=self.time.now,
            holder=holder,
            generation=generation,
            outcome=outcome,
            rules=self.rules,
        )
        assert transition_of(self.time.run(*told)) == expected
        self.transition(expected)

    def controlled(self, expected: Transition | None, action: str, note: str) -> None:
        keys = [self.keys.circuit(TOOL), self.keys.circuit_permits(TOOL)]
        assert transition_of(self.time.run("circuit_control", keys, [action, note])) == expected
        self.transition(expected)

    def transition(self, found: Transition | None) -> None:
        """Each begins a generation above all before it."""
        if found is not None:
            assert found.generation > self.generation
            self.generation = found.generation
            self.seen.add(found.reason)

    @invariant()
    def they_are_equal(self) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.circuit(TOOL))
            pipe.zrange(self.keys.circuit_permits(TOOL), 0, -1, withscores=True)
            pipe.execute_command(*unsettled_command(self.keys, TOOL))
            fields, permits, unsettled = pipe.execute()
        assert circuit_from_redis(fields, permits) == self.pure
        assert unsettled == self.pure.unsettled
        assert self.pure.generation == self.generation
        if self.pure == Circuit():
            assert not fields


@pytest.mark.timeout(TWIN_TIMEOUT)
def test_pure_machine_and_scripts_are_equal(client: Client) -> None:
    """After each step of any course; and the courses lead through every transition and refusal there is."""
    seen: set[TransitionReason | RefusalReason] = set()
    run_state_machine_as_test(lambda: CircuitTwins(client, seen), settings=twin_settings())
    if EXAMPLES >= 100:
        assert seen == {*TransitionReason, *RefusalReason}


def test_rules_that_change_while_it_is_half_open(client: Client) -> None:
    """A course that chance seldom takes: fewer permits than are held, at the very end of one; a higher threshold."""
    twins = CircuitTwins(client, set())
    twins.it_begins(CircuitRules(failures=1, probes=2), "half_open")
    first, ends = next(iter(twins.pure.permits.items()))
    twins.time_passes(1)
    twins.a_call_asks(InvocationId("c"), -11_000)
    assert len(twins.pure.permits) == 2
    twins.rules = CircuitRules(failures=3, probes=1)
    twins.time.now = ends
    twins.a_call_asks(first, -11_000)
    assert twins.seen >= {RefusalReason.PROBES_TAKEN}
    twins.they_are_equal()
    twins.reported(InvocationId("c"), twins.pure.generation, Outcome.FAILURE)
    assert twins.seen >= {TransitionReason.HALF_OPEN_PROBE_FAILED}
    twins.they_are_equal()


def test_the_admission_is_written_once() -> None:
    """Whoever decides on calls within a greater script decides as the script that is tested here."""
    folder = resources.files("common.store").joinpath("lua")
    for name in ("circuit_admit", "circuit_report"):
        begin, end = f"local function {name}(", "\nend\n"
        sources = [
            file.read_text(encoding="utf-8")
            for place in (folder, folder.joinpath("lib"))
            if place.is_dir()
            for file in place.iterdir()
            if file.name.endswith(".lua")
        ]
        written = [source.partition(begin)[2].partition(end)[0] for source in sources if begin in source]
        assert len(written) >= 1
        assert set(written) == {written[0]}


def test_a_clock_that_cannot_be_forced_is_noticed() -> None:
    """A script that reads the time more often than the test knows would run partly at the real time."""
    with pytest.raises(AssertionError, match="reads the clock in 1 places, not in 2"):
        at_forced_time("circuit_admit", 2)
