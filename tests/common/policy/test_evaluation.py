"""Whatever is wrong with an evaluator denies the call, is counted, and tells nobody what the call holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from common.domain.policy import Decision, Ground, Question
from common.policy import evaluation
from common.policy.bulkhead import Bulkhead
from common.policy.evaluation import Asked, PolicyCounts, TooMuch
from common.policy.testing import question
from common.ports import PolicyAnswer

SECRET = "hunter2"
CALL = question(arguments={"password": SECRET})


class Scripted:
    """Does as it is told."""

    def __init__(self, do: Callable[[Question], Any]) -> None:
        self._do = do

    def evaluate(self, asked: Question) -> Any:
        """Whatever it is."""
        return self._do(asked)


def asking(do: Callable[[Question], Any], counts: PolicyCounts, bulkhead: Bulkhead | None = None) -> Asked:
    return Asked("mine", Scripted(do), counts, timeout=0.1, bulkhead=bulkhead, counters=False)


def raises(error: BaseException) -> Callable[[Question], Any]:
    def do(_: Question) -> Any:
        raise error

    return do


class Panic(BaseException):
    """As a library in Rust raises it."""


Panic.__module__ = "pyo3_runtime"
FAULTS: dict[str, list[Callable[[Question], Any]]] = {
    "raised": [
        raises(ValueError(SECRET)),
        raises(PermissionError()),
        raises(Panic(SECRET)),
        lambda asked: asked.arguments["nothing of the kind"],
    ],
    "nonsense": [
        lambda _: None,
        lambda _: True,
        lambda _: "allow",
        lambda _: {"allow": True},
        lambda _: PolicyAnswer(allow=1),  # type: ignore[arg-type]
        lambda _: PolicyAnswer(allow="yes"),  # type: ignore[arg-type]
        lambda _: PolicyAnswer(allow=True, reason=None),  # type: ignore[arg-type]
        lambda _: PolicyAnswer(allow=True, rule=5),  # type: ignore[arg-type]
    ],
    "too_large": [raises(TooMuch())],
}


@pytest.mark.parametrize("bulkhead", [False, True])
@pytest.mark.parametrize(("fault", "do"), [(fault, do) for fault, all_of in FAULTS.items() for do in all_of])
def test_a_fault_denies(fault: str, do: Callable[[Question], Any], bulkhead: bool) -> None:
    """It is named, counted and told once, without anything of the call."""
    counts = PolicyCounts()
    asked = asking(do, counts, Bulkhead(8, native=False) if bulkhead else None)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            found = asked.decide(CALL, left=30)
    assert found == Decision(allowed=False, ground=Ground.EVALUATOR_ERROR, evaluator="mine", reason=fault)
    assert counts.evaluations == {("mine", fault): 3}
    assert [(log["event"], log["fault"]) for log in logs] == [("policy_evaluator_failed", fault)]
    assert SECRET not in repr(logs)
    error = found.error()
    assert error.data == {"reason": "evaluator_error"}
    assert SECRET not in error.message
    assert error.note == f"evaluator mine, fault {fault}"


@pytest.fixture
def hanging() -> Iterator[Callable[[Question], Any]]:
    go_on = threading.Event()
    yield lambda _: go_on.wait(30)
    go_on.set()


def test_one_that_hangs_denies_in_time(hanging: Callable[[Question], Any]) -> None:
    """After its own time, or the call's if that is shorter; then there is no room."""
    counts = PolicyCounts()
    asked = asking(hanging, counts, Bulkhead(2, native=False))
    began = time.monotonic()
    assert asked.decide(CALL, left=30).reason == "timeout"
    assert asked.decide(CALL, left=30).reason == "busy"
    assert asked.decide(question(tenant="other"), left=0.01).reason == "timeout"
    assert time.monotonic() - began < 5
    assert counts.evaluations == {("mine", "timeout"): 2, ("mine", "busy"): 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_end_of_the_process_is_no_fault(error: type[BaseException]) -> None:
    """It goes on its way."""
    with pytest.raises(error):
        asking(raises(error()), PolicyCounts()).decide(CALL, left=1)


def test_an_answer_is_passed_on_within_bounds() -> None:
    """Its reason to the caller, its rule to the records."""
    counts = PolicyCounts()
    found = asking(lambda _: PolicyAnswer(allow=False, reason="no" * 500, rule="r"), counts).decide(
        CALL, left=1
    )
    assert (found.ground, found.rule, len(found.reason)) == (Ground.EVALUATOR, "r", evaluation.LONGEST_REASON)
    assert found.error().message.startswith("policy denies this call: nono")
    assert asking(lambda _: PolicyAnswer(allow=True), counts).decide(CALL, left=1).allowed
    assert counts.evaluations == {("mine", "deny"): 1, ("mine", "allow"): 1}


def test_what_it_holds_is_let_go_of() -> None:
    """If it has a way to."""

    class Holding(Scripted):
        closed = False

        def close(self) -> None:
            """Let go."""
            self.closed = True

    held = Holding(lambda _: None)
    Asked("mine", held, PolicyCounts(), timeout=1, bulkhead=None, counters=False).close()
    assert held.closed
    asking(lambda _: None, PolicyCounts()).close()
