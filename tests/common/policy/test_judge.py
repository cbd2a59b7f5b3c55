"""Rules first, then the tenant's evaluator; and how evaluators are found."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from common import plugins
from common.domain.egress import STRICT
from common.domain.errors import ConfigurationError, PolicyDenied
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import ALLOWED, Counters, Ground, Question
from common.policy.judge import Judge
from common.policy.loading import evaluator_problems
from common.policy.testing import PolicyEvaluatorContract, question
from common.ports import PolicyAnswer, PolicyEvaluator
from common.settings import PolicySettings
from examples.policy_evaluator import SmallPayments

TOOL = ToolId("bank")
COUNTERS = Counters(tool_calls=1, tool_waiting=2, tenant_sessions=3)


class Noting:
    """Notes what it is asked, and allows what is not called `no`."""

    asked: list[Question]

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        type(self).asked = []

    def evaluate(self, asked: Question) -> PolicyAnswer:
        """By its name alone."""
        self.asked.append(asked)
        return PolicyAnswer(
            allow=asked.capability is not None and asked.capability.name != "no", rule="noted"
        )


HERE = "tests.common.policy.test_judge"
NOTING = {"id": "n", "type": "custom", "implementation": f"{HERE}:Noting"}
NEVER = {"id": "never", "type": "cel", "expression": "false"}


def judge(reads: list[object] | None = None, **settings: Any) -> Judge:
    def read(tenant: str, tool: str) -> Counters:
        assert reads is not None, "nobody wants counters"
        reads.append((tenant, tool))
        return COUNTERS

    return Judge(PolicySettings.model_validate(settings), STRICT, read)


def call(made: Judge, name: str = "x", tenant: str = "t", **options: Any) -> Any:
    who = Caller(tenant=TenantId(tenant), client=ClientId("c"))
    return made.judge(who, TOOL, "tools/call", {"name": name, "arguments": {"a": 1}}, **options)


class TestExample(PolicyEvaluatorContract):
    """The evaluator that stands among the examples."""

    allowed = question(arguments={"amount": 100})
    denied = question(arguments={"amount": 100.5})

    def evaluator(self) -> PolicyEvaluator:
        return SmallPayments({"limit": 100})


def test_without_policy_nothing_is_looked_at() -> None:
    """Whatever the params are."""
    assert judge().judge(Caller(tenant=TenantId("t"), client=ClientId("c")), TOOL, "any", {}) is ALLOWED


def test_what_a_rule_denies_the_evaluator_is_not_asked_about() -> None:
    """And what it lets pass, it is."""
    made = judge(rules=[{"effect": "deny", "mcp_tools": ["x"]}], evaluators=[NOTING], evaluator="n")
    assert call(made).ground is Ground.RULE
    assert Noting.asked == []
    found = call(made, "y", request_id=7)
    assert (found.allowed, found.evaluator, found.rule) == (True, "n", "noted")
    assert call(made, "no").ground is Ground.EVALUATOR
    assert [asked.capability and asked.capability.name for asked in Noting.asked] == ["y", "no"]
    assert (Noting.asked[0].request_id, Noting.asked[0].arguments) == (7, {"a": 1})
    assert made.counts.denials == {"rule": 1, "evaluator": 1}


def test_a_tenant_may_have_its_own_evaluator() -> None:
    """The others have the common one, or none."""
    own = judge(evaluators=[NEVER, NOTING], evaluator="n", tenants={"strict": "never"})
    assert call(own).evaluator == "n"
    assert call(own, tenant="strict").evaluator == "never"
    assert not call(own, tenant="strict").allowed
    only = judge(evaluators=[NEVER], tenants={"strict": "never"})
    assert call(only) is ALLOWED
    assert not call(only, tenant="strict").allowed


def test_counters_are_read_for_whoever_wants_them() -> None:
    """Only then, and only for calls that the rules let pass."""
    rules = [{"effect": "deny", "mcp_tools": ["denied"]}]
    reads: list[object] = []
    wanting = judge(reads, rules=rules, evaluators=[{**NOTING, "counters": True}], evaluator="n")
    call(wanting, "denied")
    assert reads == []
    call(wanting)
    assert reads == [("t", TOOL)]
    assert Noting.asked[-1].counters == COUNTERS
    call(judge(evaluators=[NOTING], evaluator="n"))
    assert Noting.asked[-1].counters is None


def test_a_denied_call_is_refused() -> None:
    """With the error of the table."""
    made = judge(evaluators=[NEVER], evaluator="never")
    who = Caller(tenant=TenantId("t"), client=ClientId("c"))
    with pytest.raises(PolicyDenied) as caught:
        made.authorise(who, TOOL, "tools/call", {"name": "x"}, left=1)
    assert caught.value.data == {"reason": "evaluator"}


def breaking(_options: object) -> None:
    raise ValueError("hunter2")


@pytest.mark.parametrize(
    ("implementation", "said"),
    [
        ("no.such.module:Class", "ModuleNotFoundError"),
        (f"{HERE}:Nothing", "AttributeError"),
        (f"{HERE}:breaking", "ValueError"),
        ("builtins:dict", "has no method evaluate(question)"),
        ("no_such_entry_point", "is unknown"),
    ],
)
def test_a_class_that_cannot_be_made_keeps_the_process_from_starting(implementation: str, said: str) -> None:
    """It is named, and the fault; what it was given is not."""
    settings = {"evaluators": [{"id": "mine", "type": "custom", "implementation": implementation}]}
    with pytest.raises(ConfigurationError) as caught:
        judge(**settings)
    assert "'mine'" in caught.value.message
    assert said in caught.value.message
    assert "hunter2" not in caught.value.message
    assert evaluator_problems(PolicySettings.model_validate(settings)) == [caught.value.message]


def test_a_class_may_be_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the group for such; it is made with its options."""

    def points(*, group: str, name: str) -> list[EntryPoint]:
        assert (group, name) == ("canalgate.policy", "noting")
        return [EntryPoint(name=name, group=group, value=f"{HERE}:Noting")]

    monkeypatch.setattr(plugins, "entry_points", points)
    entry = {"id": "n", "type": "custom", "implementation": "noting", "options": {"k": [1]}}
    made = judge(evaluators=[entry], evaluator="n")
    assert call(made).allowed
    asked = made.evaluator_of("t")
    assert asked is not None
    assert asked._evaluator.options == {"k": [1]}  # type: ignore[attr-defined]
