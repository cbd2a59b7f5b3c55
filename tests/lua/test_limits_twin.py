"""Rates and permits: pure machines and Lua scripts, driven by the same steps, are equal after each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from common.calls.admission import CallsAtBound, Order, QueueBounds, RateExceeded, admit_script, verdict_of
from common.domain import limits
from common.domain.ids import ClientId, InvocationId, NodeId, TenantId, encode_part
from common.domain.limits import Bucket, Rate
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.rates import RateBucket, rate_args
from tests.lua.twin import EXAMPLES, TIME_PASSES, TWIN_TIMEOUT, ForcedTime, twin_settings
from tests.support.messages import QUEUE, head, unstamped

T, C, D = TenantId("t|ü"), ClientId("c"), ClientId("d:1")
NODE = NodeId("n@1:a")
KEYS = Keys("test")
PLACES = (KEYS.tenant_rate(T), KEYS.client_rate(T, C), KEYS.client_rate(T, D))
RATES = st.integers(1, 1_000_000).flatmap(
    lambda per_minute: st.builds(Rate, st.just(per_minute), st.integers(1, min(4, per_minute)))
) | st.builds(Rate, st.sampled_from([7, 60_000]), st.integers(1, 5))
BUCKETS = st.dictionaries(st.sampled_from(PLACES), RATES, max_size=3)
REACHED = {"passes", "rate", "tenant", "client"}


class LimitsTwins(RuleBasedStateMachine):
    """Calls that are admitted under changing bounds, end, end twice or never; requests that are no calls."""

    def __init__(self, client: Client, seen: set[str]) -> None:
        super().__init__()
        self.client = client
        self.time = ForcedTime(client)
        self.buckets: dict[str, Bucket] = {}
        self.permits: dict[str, limits.Permits] = {KEYS.tenant_calls(T): {}}
        self.permits |= {KEYS.client_calls(T, client_id): {} for client_id in (C, D)}
        self.heads: dict[str, str] = {}
        self.answers = 0
        self.seen = seen

    @initialize(rates=BUCKETS)
    def it_begins(self, rates: Mapping[str, Rate]) -> None:
        """Some requests of one moment."""
        for number in range(4):
            self.a_call_comes(f"i{number}", C, 3, 2, 0, rates)

    @rule(ms=TIME_PASSES)
    def time_passes(self, ms: int) -> None:
        self.time.pass_by(ms)

    @rule(rates=BUCKETS.filter(bool))
    def a_request_comes(self, rates: Mapping[str, Rate]) -> None:
        expected = self._asked(rates)
        which, wait = self.time.run("rate_take", [], rate_args(_order(rates)))
        assert (which or None, wait) == (
            None if expected.which is None else expected.which + 1,
            expected.wait,
        )
        self._fill(rates, expected)

    @rule(
        name=st.sampled_from(["i0", "i1", "i2", "i3", "i|ü"]),
        client=st.sampled_from([C, D]),
        most=st.integers(0, 3),
        client_most=st.integers(0, 2),
        life=st.sampled_from([0, 1, 500, 5_000]),
        rates=BUCKETS,
    )
    def a_call_comes(
        self, name: str, client: ClientId, most: int, client_most: int, life: int, rates: Mapping[str, Rate]
    ) -> None:
        ends = self.time.now + life
        text = f"{ends}:{most}:{client_most}:{encode_part(T)}:{encode_part(client)}"
        message = unstamped(head(name, permits=text))
        order = Order(
            queue=QUEUE,
            message=message,
            bounds=QueueBounds(max_length=0, max_age=0),
            buckets=_order(rates),
        )
        verdict = verdict_of(self.time.run("admit", *admit_script(KEYS, order)))
        counted = {KEYS.tenant_calls(T): most, KEYS.client_calls(T, client): client_most}
        for whose, (key, bound) in zip(("tenant", "client"), counted.items(), strict=True):
            if bound and not limits.room(self.permits[key], name, most=bound, now=self.time.now):
                assert verdict == CallsAtBound(self.time.now, whose)
                self.seen.add(whose)
                return
        expected = self._asked(rates)
        if expected.which is not None:
            assert verdict == RateExceeded(self.time.now, expected.which, expected.wait)
            self.seen.add("rate")
            return
        assert type(verdict).__name__ == "Admitted"
        self.seen.add("passes")
        self._fill(rates, expected)
        self.heads[name] = text
        for key, bound in counted.items():
            if bound:
                self.permits[key] = limits.take(self.permits[key], name, ends=ends, now=self.time.now)

    @rule(which=st.integers(0, 9))
    def a_call_ends(self, which: int) -> None:
        """By the text of its head: what it counted for, whatever the bounds are by now."""
        if not self.heads:
            return
        name = sorted(self.heads)[which % len(self.heads)]
        text = self.heads.pop(name)
        self.answers += 1
        of = ["7", name, QUEUE, "t:c", "", f"answer {self.answers}", "", 0, "", text]
        self.client.delete(KEYS.result(InvocationId(name)))
        self.time.run("finish", [KEYS.unacked(NODE)], ["test:", NODE, 10_000_000, "", *of], clock_reads=0)
        _, most, client_most, _, client = text.split(":", 4)
        if int(most):
            key = KEYS.tenant_calls(T)
            self.permits[key] = limits.give_back(self.permits[key], name)
        if int(client_most):
            key = f"{KEYS.tenant_calls(T)}:{client}"
            self.permits[key] = limits.give_back(self.permits[key], name)

    def _asked(self, rates: Mapping[str, Rate]) -> limits.Asked:
        held = [(self.buckets.get(key, Bucket()), rate) for key, rate in rates.items()]
        seconds, ms = divmod(self.time.now, 1000)
        self.now_us = seconds * 1_000_000 + ms * 1000 + self.time.now * 7919 % 1000
        return limits.ask(held, self.now_us)

    def _fill(self, rates: Mapping[str, Rate], asked: limits.Asked) -> None:
        if asked.which is None:
            self.buckets |= dict(zip(rates, asked.buckets, strict=True))

    @invariant()
    def they_are_equal(self) -> None:
        found: dict[str, Bucket] = {}
        for key, raw in zip(PLACES, self.client.mget(PLACES), strict=True):
            if raw is not None:
                level, at = raw.split()
                found[key] = Bucket(int(level), int(at))
        assert found == self.buckets
        for key, permits in self.permits.items():
            kept: Any = self.client.zrange(key, 0, -1, withscores=True)
            assert {name.decode(): int(ends) for name, ends in kept} == permits


def _order(rates: Mapping[str, Rate]) -> list[RateBucket]:
    return [RateBucket(key, rate, "tenant") for key, rate in rates.items()]


@pytest.mark.timeout(TWIN_TIMEOUT)
def test_pure_machines_and_scripts_are_equal(client: Client) -> None:
    """After each step of any course; and the courses lead to every refusal there is."""
    seen: set[str] = set()
    run_state_machine_as_test(lambda: LimitsTwins(client, seen), settings=twin_settings())
    if EXAMPLES >= 100:
        assert seen == REACHED


@pytest.mark.parametrize("per_minute", [1, 7, 59, 60, 999, 999_983, 1_000_000])
@pytest.mark.parametrize("burst", [1, 3, 100])
def test_exactly_the_burst_passes_at_once(per_minute: int, burst: int, client: Client) -> None:
    """Whatever the rate, also one that divides no minute."""
    time, rate = ForcedTime(client), Rate(per_minute, burst)
    answers = [time.run("rate_take", [], [PLACES[0], rate.per_minute, rate.burst]) for _ in range(burst + 1)]
    assert answers[:-1] == [[0, 0]] * burst
    assert answers[-1] == [1, -(-60_000_000 // per_minute)]


def test_a_clock_that_was_set_back_adds_nothing(client: Client) -> None:
    """Whoever has a request left has it still, and no more than that."""
    time, bucket = ForcedTime(client), [PLACES[0], 60, 2]
    assert time.run("rate_take", [], bucket) == [0, 0]
    time.now -= 600_000
    assert time.run("rate_take", [], bucket) == [0, 0]
    assert time.run("rate_take", [], bucket) == [1, 1_000_000]


def test_the_wait_that_was_told_is_exact(client: Client) -> None:
    """A request a microsecond early is refused, one on time passes."""
    pure, rate = Bucket(), Rate(7, 2)
    for _ in range(2):
        (pure,) = limits.ask([(pure, rate)], 1_000).buckets
    wait = limits.ask([(pure, rate)], 1_000).wait
    assert limits.ask([(pure, rate)], 1_000 + wait - 1).wait == 1
    assert limits.ask([(pure, rate)], 1_000 + wait).wait == 0
    assert (pure.left(1_000, rate), pure.left(1_000 + wait, rate), Bucket().left(5, rate)) == (0, 1, 2)
