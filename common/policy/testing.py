"""What every evaluator must do, for the tests of whoever writes one.

Make a class of tests of :class:`PolicyEvaluatorContract`, and give it an evaluator; pytest finds its methods::

    class TestMine(PolicyEvaluatorContract):
        def evaluator(self) -> PolicyEvaluator:
            return Mine({"limit": 100})

        allowed = question(arguments={"amount": 1})
        denied = question(arguments={"amount": 1000})
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import Capability, CapabilityKind, Counters, Question
from common.ports import PolicyAnswer, PolicyEvaluator
from common.settings.policy import DEFAULT_TIMEOUT


def question(
    *,
    tenant: str = "acme",
    client: str = "ci",
    subject: str = "",
    scopes: Iterable[str] = (),
    tool: str = "tool",
    method: str = "tools/call",
    kind: CapabilityKind = CapabilityKind.TOOL,
    name: str = "read",
    arguments: Mapping[str, Any] | None = None,
    counters: Counters | None = None,
) -> Question:
    """A question with whatever is not given filled in."""
    return Question(
        caller=Caller(
            tenant=TenantId(tenant), client=ClientId(client), subject=subject, scopes=frozenset(scopes)
        ),
        tool=ToolId(tool),
        method=method,
        capability=Capability(kind, name),
        arguments=arguments or {},
        request_id=1,
        counters=counters,
    )


_NESTED: dict[str, Any] = {
    "a": [{"b": [1, 2.5, None, True, -(2**53)]}],
    "": "",
    "ü": "\N{SNOWMAN}",
    "s": "x" * 1000,
}
ODD: tuple[Question, ...] = (
    question(),
    question(arguments=_NESTED),
    question(tenant='a"/b', client="c\\d", subject="me@x", scopes=("a", "b:c"), tool="it's/a b%c", name=""),
    question(arguments={f"k{number}": number for number in range(500)}),
    question(method="resources/read", kind=CapabilityKind.RESOURCE, name="note://a/b?c#d"),
    question(method="completion/complete", kind=CapabilityKind.PROMPT, name="p", arguments={"name": "a"}),
    question(counters=Counters(tool_calls=3, tool_waiting=0, tenant_sessions=1)),
)
"""Questions that real callers may ask: none of them may break an evaluator."""


class PolicyEvaluatorContract:
    """The tests. Give :meth:`evaluator`, and :attr:`allowed` and :attr:`denied` where there are such questions."""

    allowed: Question | None = None
    denied: Question | None = None
    timeout: float = DEFAULT_TIMEOUT
    """Seconds in which each question must be answered, as the settings will say."""

    def evaluator(self) -> PolicyEvaluator:
        """A new evaluator."""
        raise NotImplementedError

    def test_it_answers_every_question(self) -> None:
        """With an answer, in time, and without an error."""
        evaluator = self.evaluator()
        for asked in ODD:
            began = time.monotonic()
            answer = evaluator.evaluate(asked)
            _require(isinstance(answer, PolicyAnswer), f"{asked}: {answer!r} is no PolicyAnswer")
            for value, kind in ((answer.allow, bool), (answer.reason, str), (answer.rule, str)):
                _require(isinstance(value, kind), f"{asked}: {value!r} is no {kind.__name__}")
            _require(
                time.monotonic() - began < self.timeout, f"{asked}: it took longer than {self.timeout} s"
            )

    def test_it_allows_and_denies(self) -> None:
        """What it is said to allow and to deny."""
        for asked, allow in ((self.allowed, True), (self.denied, False)):
            if asked is not None:
                answer = self.evaluator().evaluate(asked)
                _require(answer.allow is allow, f"{asked}: {answer}")

    def test_it_leaves_the_question_as_it_is(self) -> None:
        """What it is asked about goes on to the tool."""
        for asked in ODD:
            before = copy.deepcopy(asked.as_json())
            self.evaluator().evaluate(asked)
            _require(asked.as_json() == before, f"{asked}: the question is another one now")

    def test_it_answers_several_at_a_time(self) -> None:
        """Each as if it were the only one."""
        evaluator = self.evaluator()
        asked = [found for found in (self.allowed, self.denied) if found is not None] or [ODD[0]]
        alone = [evaluator.evaluate(found).allow for found in asked]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(evaluator.evaluate, asked * 20))
        _require([answer.allow for answer in together] == alone * 20, "answers differ under load")


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise AssertionError(otherwise)
