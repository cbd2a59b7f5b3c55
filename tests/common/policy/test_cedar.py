"""The evaluator ``cedar``."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from common.domain.errors import ConfigurationError
from common.domain.policy import Counters, Ground
from common.policy.cedar import CedarEvaluator
from common.policy.evaluation import Asked, PolicyCounts
from common.policy.testing import PolicyEvaluatorContract, question
from common.ports import PolicyEvaluator

PERMIT = "permit(principal, action, resource);\n"


class TestContract(PolicyEvaluatorContract):
    """As any evaluator."""

    allowed = question(scopes=("write",))
    denied = question(name="delete")

    def evaluator(self) -> PolicyEvaluator:
        text = PERMIT + 'forbid(principal, action, resource) when { context.name == "delete" };'
        return CedarEvaluator("e", text)


def allows(policies: str, **parts: Any) -> bool:
    return CedarEvaluator("e", policies).evaluate(question(**parts)).allow


@pytest.mark.parametrize(
    ("condition", "parts"),
    [
        ('principal == Client::"acme/ci"', {}),
        ('principal == Client::"a%2Fb/c"', {"tenant": "a/b", "client": "c"}),
        ('principal in Tenant::"acme"', {}),
        ('principal.tenant == "acme" && principal.client == "ci"', {}),
        ('action == Action::"tools/call"', {}),
        ('resource == Tool::"tool"', {}),
        ('context.kind == "tool" && context.name == "read" && context.subject == ""', {}),
        ('context.scopes.contains("a")', {"scopes": ("a",)}),
        (
            "context.arguments.n == 5 && context.arguments.ok",
            {"arguments": {"n": 5, "ok": True, "none": None}},
        ),
        ('context.arguments.f.lessThan(decimal("1.6"))', {"arguments": {"f": 1.5}}),
        ('context.arguments.f == "0.123456"', {"arguments": {"f": 0.123456}}),
        ('context.arguments.big == "18446744073709551616"', {"arguments": {"big": 2**64}}),
        ("!(context has counters)", {}),
        (
            "context.counters.tool_calls == 1",
            {"counters": Counters(tool_calls=1, tool_waiting=0, tenant_sessions=0)},
        ),
    ],
)
def test_policies_see_the_question(condition: str, parts: dict[str, Any]) -> None:
    """All of it."""
    policy = "permit(principal, action, resource) when { %s };"
    assert allows(policy % condition, **parts)
    assert not allows(policy % f"!({condition})", **parts)


def test_without_a_permission_nothing_is_allowed() -> None:
    """And a rule that decided is named."""
    assert not allows("")
    assert CedarEvaluator("e", PERMIT).evaluate(question()).rule == "policy0"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"amount": "many"},
        {"amount": None},
        {"amount": {"__entity": {"type": "A", "id": "b"}}},
        {"__extn": 1},
    ],
)
def test_a_policy_that_fails_denies(arguments: dict[str, Any]) -> None:
    """Cedar itself passes over it: a forbid that cannot be worked out would forbid nothing."""
    text = PERMIT + "forbid(principal, action, resource) when { context.arguments.amount > 100 };"
    counts = PolicyCounts()
    asked = Asked("e", CedarEvaluator("e", text), counts, timeout=1, bulkhead=None, counters=False)
    found = asked.decide(question(arguments=arguments), left=1)
    assert (found.allowed, found.ground) == (False, Ground.EVALUATOR_ERROR)
    assert counts.evaluations == {("e", "raised"): 1}
    assert allows(text, arguments={"amount": 5})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("permit(principal, action, resource)\n when { context.x == };", "line 1, column 1"),
        (
            PERMIT + '// a; comment "\n  forbid(principal, action, resource) when { context.x == };',
            "line 3, column 3",
        ),
        (
            PERMIT + 'permit(principal, action, resource) when { context.name == "a;b" };\nnonsense',
            "line 3, column 1",
        ),
    ],
)
def test_policies_that_do_not_parse_are_told_with_their_place(text: str, place: str) -> None:
    """Where the policy at fault begins: the parser says no more."""
    with pytest.raises(ConfigurationError) as caught:
        CedarEvaluator("mine", text)
    assert place in caught.value.message
    assert "'mine'" in caught.value.message


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to install it."""
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(ConfigurationError, match=r"install canalgate\[cedar\]"):
        CedarEvaluator("e", PERMIT)
