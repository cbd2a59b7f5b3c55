"""Asking an evaluator: whatever is wrong with it or its answer denies the call."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeGuard

import structlog

from common.domain.policy import Decision, Ground, Question
from common.policy.bulkhead import Bulkhead, NoRoom
from common.ports import PolicyAnswer, PolicyEvaluator

log = structlog.get_logger(__name__)

LONGEST_REASON = 200
"""Characters of a reason, and of a rule's name, that are passed on."""
TELL_EVERY = 10.0
"""Seconds between two lines in the log about the same fault of an evaluator."""


class TooMuch(Exception):
    """The question is larger than the evaluator can answer in a bounded time."""


class PolicyCounts:
    """What happened in this process, for metrics and tests. Only grows; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._denied: Counter[str] = Counter()
        self.timed: Callable[[str, float], None] | None = None
        """Told of each answer of an evaluator, with its name and how many seconds it took; from any thread."""

    def asked(self, evaluator: str, outcome: str) -> None:
        """An evaluator was asked. ``outcome``: allow, deny, or a fault (raised, timeout, busy, too_large, nonsense)."""
        with self._lock:
            self._asked[evaluator, outcome] += 1

    def denied(self, ground: Ground) -> None:
        """A call was denied."""
        with self._lock:
            self._denied[ground.value] += 1

    @property
    def evaluations(self) -> dict[tuple[str, str], int]:
        """Evaluator and outcome -> how often."""
        with self._lock:
            return dict(self._asked)

    @property
    def denials(self) -> dict[str, int]:
        """Ground (:class:`~common.domain.policy.Ground`) -> how often."""
        with self._lock:
            return dict(self._denied)


class Asked:
    """One evaluator of the settings, and how it is asked."""

    def __init__(
        self,
        name: str,
        evaluator: PolicyEvaluator,
        counts: PolicyCounts,
        *,
        timeout: float,
        bulkhead: Bulkhead | None,
        counters: bool,
    ) -> None:
        """``timeout`` is in seconds. Without a ``bulkhead`` it runs where it is asked, and must wait for nothing."""
        self.name = name
        self.counters = counters
        self._evaluator = evaluator
        self._counts = counts
        self._timeout = timeout
        self._bulkhead = bulkhead
        self._told: dict[str, float] = {}

    def decide(self, question: Question, *, left: float) -> Decision:
        """The evaluator's word, or a denial if there is none within ``left`` seconds. Never raises (fails closed)."""
        fault, cause = "nonsense", ""
        answer: object = None
        begun = time.monotonic()
        try:
            answer = self._answer(question, min(self._timeout, left))
        except TimeoutError:
            fault = "timeout"
        except NoRoom:
            fault = "busy"
        except TooMuch:
            fault = "too_large"
        except Exception as error:  # noqa: BLE001 - of whatever kind
            fault, cause = "raised", type(error).__name__
        except BaseException as error:
            # A panic of a library in Rust is none of Python's own exceptions; an end of this greenlet is.
            if type(error).__module__ != "pyo3_runtime":
                raise
            fault, cause = "raised", type(error).__name__
        if self._counts.timed is not None:
            self._counts.timed(self.name, time.monotonic() - begun)
        if not _is_answer(answer):
            return self._failed(fault, cause)
        return self._decision(answer)

    def close(self) -> None:
        """Let go of what the evaluator holds, if it has a way to."""
        close = getattr(self._evaluator, "close", None)
        if callable(close):
            close()

    def _answer(self, question: Question, timeout: float) -> object:
        if self._bulkhead is None:
            return self._evaluator.evaluate(question)
        return self._bulkhead.run(
            lambda: self._evaluator.evaluate(question), timeout=timeout, tenant=question.caller.tenant
        )

    def _decision(self, answer: PolicyAnswer) -> Decision:
        self._counts.asked(self.name, "allow" if answer.allow else "deny")
        rule = answer.rule[:LONGEST_REASON]
        if answer.allow:
            return Decision(allowed=True, evaluator=self.name, rule=rule)
        return Decision(
            allowed=False,
            ground=Ground.EVALUATOR,
            evaluator=self.name,
            rule=rule,
            reason=answer.reason[:LONGEST_REASON],
        )

    def _failed(self, fault: str, cause: str) -> Decision:
        self._counts.asked(self.name, fault)
        now = time.monotonic()
        if now - self._told.get(fault, float("-inf")) >= TELL_EVERY:
            self._told[fault] = now
            # Neither its text nor a traceback: both may hold arguments of the call.
            log.warning("policy_evaluator_failed", evaluator=self.name, fault=fault, cause=cause)
        return Decision(allowed=False, ground=Ground.EVALUATOR_ERROR, evaluator=self.name, reason=fault)


def _is_answer(answer: object) -> TypeGuard[PolicyAnswer]:
    return (
        isinstance(answer, PolicyAnswer)
        and isinstance(answer.allow, bool)
        and isinstance(answer.reason, str)
        and isinstance(answer.rule, str)
    )
