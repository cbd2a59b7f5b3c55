"""circuit_admit, circuit_report, circuit_control: one circuit for the whole cluster, and what it costs the healthy."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from common.circuit.breaker import (
    MAX_REASON,
    PERMIT_GRACE,
    Circuits,
    admit_call,
    report_call,
    transition_of,
    unsettled_command,
    verdict_of,
)
from common.domain.circuit import (
    CircuitState,
    Outcome,
    Passage,
    Refusal,
    RefusalReason,
    Transition,
    TransitionReason,
)
from common.domain.errors import InvalidRequest, StoreUnavailable
from common.domain.ids import InvocationId, ToolId
from common.domain.rules import CircuitRules
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

TOOL, OTHER = ToolId("a/b"), ToolId("other")
A, B, C = (InvocationId(name) for name in "abc")
RULES = CircuitRules(failures=2, open_for=60.0, probes=1)
AT_ONCE = replace(RULES, open_for=0.001)
RACERS, ROUNDS = 20, 60
ROOT = Path(__file__).resolve().parents[3]
READY, HELD = "test:ready", "test:held"


def redis_ms(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def ask(
    client: Client,
    keys: Keys,
    holder: InvocationId,
    rules: CircuitRules = RULES,
    *,
    tool: ToolId = TOOL,
    ends_in: int = 60_000,
) -> Passage | Refusal:
    """One call asks; its permit would end in so many ms."""
    deadline = redis_ms(client) + ends_in - PERMIT_GRACE
    return verdict_of(run(client, *admit_call(keys, tool, holder, rules, deadline=deadline)))


def end(
    client: Client,
    keys: Keys,
    holder: InvocationId,
    generation: int,
    outcome: Outcome,
    rules: CircuitRules = RULES,
) -> Transition | None:
    return transition_of(run(client, *report_call(keys, TOOL, holder, generation, outcome, rules)))


def call(
    client: Client, keys: Keys, outcome: Outcome, rules: CircuitRules = RULES, holder: InvocationId = A
) -> Transition | None:
    """One call from its beginning to its end."""
    passage = ask(client, keys, holder, rules)
    assert isinstance(passage, Passage)
    return end(client, keys, holder, passage.generation, outcome, rules)


def break_down(client: Client, keys: Keys, rules: CircuitRules = RULES) -> Transition:
    """As many failures as open it."""
    found = [call(client, keys, Outcome.FAILURE, rules) for _ in range(rules.failures)]
    assert found[:-1] == [None] * (rules.failures - 1)
    assert found[-1] is not None
    return found[-1]


def half_open(client: Client, keys: Keys, rules: CircuitRules = AT_ONCE, *, ends_in: int = 60_000) -> Passage:
    """Broken, and asked by A once its time is over."""
    break_down(client, keys, rules)

    def passed() -> Passage | None:
        verdict = ask(client, keys, A, rules, ends_in=ends_in)
        return verdict if isinstance(verdict, Passage) else None

    found = wait_until(passed, description="the open time is over", interval=0.001)
    assert found is not None
    return found


def everything(client: Client) -> dict[bytes, Any]:
    """The whole database."""
    return {key: client.dump(key) for key in client.scan_iter()}


def test_failures_in_a_row_open_it_for_all(client: Client, keys: Keys) -> None:
    """Whoever asks next is refused, with the time that is left; another tool's calls are not."""
    transition = break_down(client, keys)
    assert (transition.before, transition.after) == (CircuitState.CLOSED, CircuitState.OPEN)
    refused = ask(client, keys, B)
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.OPEN
    assert refused.wait is not None
    assert 55_000 < refused.wait <= 60_000
    assert ask(client, keys, B, tool=OTHER) == Passage(generation=0)


def test_a_refused_call_has_written_nothing(client: Client, keys: Keys) -> None:
    """Neither to an open circuit nor to one that has no permit left."""
    break_down(client, keys)
    before = everything(client)
    assert isinstance(ask(client, keys, B), Refusal)
    assert everything(client) == before
    client.flushdb()
    half_open(client, keys)
    before = everything(client)
    refused = ask(client, keys, B)
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.PROBES_TAKEN
    assert refused.wait is not None
    assert 55_000 < refused.wait <= 60_000
    assert everything(client) == before


def test_a_success_of_the_holder_closes_it(client: Client, keys: Keys) -> None:
    """And leaves nothing but the generation, so that what began before the trip is known for what it is."""
    late = ask(client, keys, C)
    passage = half_open(client, keys)
    assert passage.permit
    transition = end(client, keys, A, passage.generation, Outcome.SUCCESS)
    assert transition is not None
    assert transition.reason is TransitionReason.HALF_OPEN_PROBE_SUCCESS
    generation = transition.generation
    assert generation > passage.generation > late.generation
    assert client.hgetall(keys.circuit(TOOL)) == {
        b"generation": b"%d" % generation,
        b"reason": b"half_open_probe_success",
    }
    assert client.exists(keys.circuit_permits(TOOL)) == 0
    for _ in range(RULES.failures):
        assert end(client, keys, C, late.generation, Outcome.FAILURE) is None
    assert ask(client, keys, B) == Passage(generation=generation)


def test_a_failure_of_the_holder_opens_it_anew(client: Client, keys: Keys) -> None:
    """Its permit is gone with it."""
    passage = half_open(client, keys)
    before = redis_ms(client)
    transition = end(client, keys, A, passage.generation, Outcome.FAILURE, RULES)
    assert transition is not None
    assert transition.reason is TransitionReason.HALF_OPEN_PROBE_FAILED
    status = Circuits(client, keys).status(TOOL)
    assert status.state is CircuitState.OPEN
    assert status.failures == RULES.failures + 1
    assert status.opened_at is not None
    assert before <= status.opened_at <= redis_ms(client)
    assert status.permits == ()


def test_a_neutral_end_gives_the_permit_back(client: Client, keys: Keys) -> None:
    """The next call tries."""
    passage = half_open(client, keys)
    assert end(client, keys, A, passage.generation, Outcome.NEUTRAL) is None
    assert ask(client, keys, B) == Passage(generation=passage.generation, permit=True)


def test_a_healthy_tool_costs_one_command(client: Client, keys: Keys) -> None:
    """At the admission, also after it was broken once; and its successes need not be reported."""
    for broken_before in (False, True):
        if broken_before:
            break_down(client, keys)
            Circuits(client, keys).reset(TOOL)
        call_args = admit_call(keys, TOOL, A, RULES, deadline=redis_ms(client))
        run(client, *call_args)
        client.config_resetstat()
        run(client, *call_args)
        stats = client.info("commandstats")
        del stats["cmdstat_config|resetstat"]
        assert {name: found["calls"] for name, found in stats.items()} == {
            "cmdstat_evalsha": 1,
            "cmdstat_time": 1,
            "cmdstat_hmget": 1,
        }
        assert client.execute_command(*unsettled_command(keys, TOOL)) == 0


def test_a_success_leaves_no_hash_of_a_tool_that_was_never_broken(client: Client, keys: Keys) -> None:
    """While there are failures, successes are asked for: one ends the row."""
    unsettled = unsettled_command(keys, TOOL)
    call(client, keys, Outcome.FAILURE)
    assert client.execute_command(*unsettled) == 1
    call(client, keys, Outcome.SUCCESS)
    assert client.execute_command(*unsettled) == 0
    assert client.keys() == []
    assert Circuits(client, keys).status(TOOL).state is CircuitState.CLOSED


def test_operators_see_what_a_circuit_does(client: Client, keys: Keys) -> None:
    """Looking does not make it half-open, though its time is over."""
    circuits = Circuits(client, keys)
    break_down(client, keys)
    status = circuits.status(TOOL)
    assert (status.state, status.failures, status.forced) == (CircuitState.OPEN, RULES.failures, False)
    assert status.reason is TransitionReason.FAILURE_THRESHOLD_EXCEEDED
    assert status.retry_after is not None
    assert 55 < status.retry_after <= 60
    client.flushdb()
    transition = break_down(client, keys, AT_ONCE)
    wait_until(
        lambda: circuits.status(TOOL).state is CircuitState.HALF_OPEN, description="the open time is over"
    )
    assert circuits.status(TOOL).generation == transition.generation
    ask(client, keys, B, AT_ONCE, ends_in=50_000)
    status = circuits.status(TOOL)
    assert status.generation > transition.generation
    (permit,) = status.permits
    assert permit.holder == B
    assert 45_000 < permit.ends - redis_ms(client) <= 50_000


def test_an_operator_trips_and_resets(client: Client, keys: Keys) -> None:
    """Tripped, it stays open however long; each says what it changed."""
    circuits = Circuits(client, keys)
    assert circuits.reset(TOOL) is None
    transition = circuits.trip(TOOL, "änderung")
    assert transition is not None
    assert (transition.before, transition.after, transition.reason) == (
        CircuitState.CLOSED,
        CircuitState.OPEN,
        TransitionReason.MANUAL_TRIP,
    )
    assert ask(client, keys, A) == Refusal(
        reason=RefusalReason.OPEN, generation=transition.generation, wait=None
    )
    assert circuits.trip(TOOL, "still") is None
    status = circuits.status(TOOL)
    assert (status.forced, status.note, status.retry_after) == (True, "still", None)
    closed = circuits.reset(TOOL)
    assert closed is not None
    assert closed.generation > transition.generation
    assert (closed.before, closed.after) == (CircuitState.OPEN, CircuitState.CLOSED)
    assert circuits.status(TOOL).note is None
    assert isinstance(ask(client, keys, A), Passage)


def test_a_trip_ends_what_tries(client: Client, keys: Keys) -> None:
    """The holder's success does not close what an operator opened."""
    passage = half_open(client, keys)
    circuits = Circuits(client, keys)
    circuits.trip(TOOL, "x")
    assert end(client, keys, A, passage.generation, Outcome.SUCCESS) is None
    status = circuits.status(TOOL)
    assert (status.state, status.permits) == (CircuitState.OPEN, ())


@pytest.mark.parametrize("reason", ["", " \n", "x" * (MAX_REASON + 1), "\ud800"])
def test_a_reason_that_says_nothing_is_refused(client: Client, keys: Keys, reason: str) -> None:
    """Before anything is opened."""
    with pytest.raises(InvalidRequest) as caught:
        Circuits(client, keys).trip(TOOL, reason)
    assert caught.value.data["field"] == "reason"
    assert client.keys() == []


def test_an_unknown_action_is_our_own_mistake(client: Client, keys: Keys) -> None:
    """It changes nothing."""
    break_down(client, keys)
    before = everything(client)
    with pytest.raises(ResponseError, match="reset and trip"):
        run(client, "circuit_control", [keys.circuit(TOOL), keys.circuit_permits(TOOL)], ["open", ""])
    assert everything(client) == before


def test_without_redis_operators_are_told(proxy: TcpProxy, keys: Keys) -> None:
    """Nothing is invented: neither a state nor a success."""
    proxy.refuse()
    away = connect(StoreAddress(url=proxy.url))
    circuits = Circuits(away, keys)
    with pytest.raises(StoreUnavailable):
        circuits.status(TOOL)
    with pytest.raises(StoreUnavailable):
        circuits.reset(TOOL)
    with pytest.raises(StoreUnavailable):
        circuits.trip(TOOL, "x")
    away.close()


def elsewhere(work: str) -> subprocess.CompletedProcess[str]:
    """Call a function of this module in a process of its own, which takes all that it started with it."""
    program = f"from {__name__} import *; {work}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=50, check=False
    )


def race(url: str, racer: int, probes: int) -> tuple[int, int, int]:
    """Ask again and again, hold each permit for a moment, and give it back.

    Returns how often it was let through, the most permits that were held at such a moment in the whole cluster, and
    how many transitions it caused.
    """
    client, keys = connect(StoreAddress(url=url)), Keys("test")
    rules = replace(AT_ONCE, probes=probes)
    passed = most = transitions = 0
    client.incr(READY)
    wait_until(
        lambda: int(client.get(READY) or 0) >= RACERS, description="all racers are there", interval=0.001
    )
    for turn in range(ROUNDS):
        holder = InvocationId(f"{racer}-{turn}")
        verdict = ask(client, keys, holder, rules)
        if isinstance(verdict, Passage):
            passed += 1
            transitions += verdict.transition is not None
            most = max(most, int(client.incr(HELD)))
            client.ping()
            client.decr(HELD)
            end(client, keys, holder, verdict.generation, Outcome.NEUTRAL, rules)
    client.close()
    return passed, most, transitions


def race_of_all(url: str, probes: int) -> None:
    """Print what :func:`race` found in each of so many processes."""
    with ProcessPoolExecutor(RACERS, mp_context=multiprocessing.get_context("fork")) as pool:
        print(json.dumps(list(pool.map(race, [url] * RACERS, range(RACERS), [probes] * RACERS))))


@pytest.mark.parametrize("probes", [1, 3])
def test_of_many_processes_no_more_try_than_there_are_permits(
    client: Client, keys: Keys, redis_url: str, probes: int
) -> None:
    """At any moment, in the whole cluster; and one of them alone makes it half-open."""
    break_down(client, keys, AT_ONCE)
    wait_until(
        lambda: Circuits(client, keys).status(TOOL).state is CircuitState.HALF_OPEN,
        description="the open time is over",
    )
    done = elsewhere(f"race_of_all({redis_url!r}, {probes})")
    assert done.returncode == 0, done.stderr
    client.delete(READY, HELD)
    found = json.JSONDecoder().decode(done.stdout)
    assert len(found) == RACERS
    assert max(most for _, most, _ in found) == probes
    assert sum(transitions for _, _, transitions in found) == 1
    passed = sum(passed for passed, _, _ in found)
    assert RACERS < passed < RACERS * ROUNDS


def take_and_die(url: str, ends_in: int) -> None:
    """Take the permit, and end without a word."""
    client = connect(StoreAddress(url=url))
    verdict = ask(client, Keys("test"), B, AT_ONCE, ends_in=ends_in)
    assert isinstance(verdict, Passage)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_permit_whose_holder_was_killed_comes_back_at_its_end(
    client: Client, keys: Keys, redis_url: str
) -> None:
    """Not before; then the next call tries, and nothing that is said for the dead one counts."""
    passage = half_open(client, keys)
    end(client, keys, A, passage.generation, Outcome.NEUTRAL)
    done = elsewhere(f"take_and_die({redis_url!r}, 1000)")
    assert done.returncode == -signal.SIGKILL, done.stderr
    (permit,) = Circuits(client, keys).status(TOOL).permits
    assert permit.holder == B
    wait_until(
        lambda: isinstance(ask(client, keys, C), Passage), description="the permit comes back", interval=0.005
    )
    assert redis_ms(client) >= permit.ends
    assert [held.holder for held in Circuits(client, keys).status(TOOL).permits] == [C]
    assert end(client, keys, B, passage.generation, Outcome.SUCCESS) is None
