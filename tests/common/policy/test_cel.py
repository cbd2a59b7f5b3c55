"""The evaluator ``cel``."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.domain.errors import ConfigurationError
from common.domain.policy import Counters
from common.policy.cel import CelEvaluator
from common.policy.evaluation import Asked, PolicyCounts, TooMuch
from common.policy.testing import PolicyEvaluatorContract, question
from common.ports import PolicyEvaluator


class TestContract(PolicyEvaluatorContract):
    """As any evaluator."""

    allowed = question(arguments={"amount": 5})
    denied = question(arguments={"amount": 50})

    def evaluator(self) -> PolicyEvaluator:
        return CelEvaluator("e", "!has(arguments.amount) || arguments.amount < 10")


def allows(expression: str, **parts: Any) -> bool:
    return CelEvaluator("e", expression).evaluate(question(**parts)).allow


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ('tenant == "acme" && client == "ci"', {}),
        ('subject.endsWith("@a.example")', {"subject": "me@a.example"}),
        ('"write" in scopes', {"scopes": ("read", "write")}),
        ('tool == "tool" && kind == "tool" && name.startsWith("re")', {}),
        ('method == "tools/call" && request_id == "1"', {}),
        ("arguments.list.exists(item, item > 2)", {"arguments": {"list": [1, 2, 3]}}),
        ("counters == null", {}),
        (
            "counters.tool_calls < 2 && counters.tool_waiting == 0",
            {"counters": Counters(tool_calls=1, tool_waiting=0, tenant_sessions=5)},
        ),
    ],
)
def test_an_expression_sees_the_question(expression: str, parts: dict[str, Any]) -> None:
    """All of it."""
    assert allows(expression, **parts)
    assert not allows(f"!({expression})", **parts)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("tenant == (", "line 1, column 12"),
        ('tenant == "a"\n && foo(]', "line 2, column 9"),
        ("tenant ==\n\n  'a", "line 3, column 3"),
        ("", "line 1, column 1"),
        ('tenant == "a" &&\n tenent == "b"', "names 'tenent' in line 2"),
        ("('tenent' == name) || tenent == ''", "names 'tenent' in line 1"),
        ('nosuch(tenant) == "b"', "nosuch"),
        ("(" * 3000 + "true" + ")" * 3000, "does not compile"),
        ("true || " * 3000 + "true", "has 24004 characters, more than 16384"),
    ],
)
def test_what_does_not_compile_is_told_with_its_place(expression: str, said: str) -> None:
    """When the settings are read, not when a call comes."""
    with pytest.raises(ConfigurationError) as caught:
        CelEvaluator("mine", expression)
    assert said in caught.value.message
    assert "'mine'" in caught.value.message


@pytest.mark.parametrize(
    "expression", ["scopes.all(s, s != '') || [1].exists(n, n > 0)", "size(scopes) == 0"]
)
def test_names_of_macros_are_no_unknown_names(expression: str) -> None:
    """They are bound where they stand."""
    assert allows(expression)


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        ("arguments.missing == 1", {}),
        ("arguments.n / 0 == 1", {"n": 1}),
        ("arguments.n + 9223372036854775807 > 0", {"n": 1}),
        ("1", {}),
        ('"true"', {}),
        ("arguments.n", {"n": None}),
        ("arguments.s.matches(arguments.s)", {"s": "["}),
    ],
)
def test_anything_but_a_boolean_denies(expression: str, arguments: dict[str, Any]) -> None:
    """Also what cannot be worked out."""
    counts = PolicyCounts()
    asked = Asked("e", CelEvaluator("e", expression), counts, timeout=1, bulkhead=None, counters=False)
    assert not asked.decide(question(arguments=arguments), left=1).allowed
    assert counts.evaluations == {("e", "raised"): 1}


BIG = {"a": list(range(4000))}


@pytest.mark.parametrize(
    "expression",
    [
        "arguments.a.map(x, x).size() > 0",
        "arguments.a.map(x, arguments.a).size() > 0",
        "arguments.a.all(x, arguments.a.exists(y, y >= x))",
        "arguments.a.all( x , arguments . a . exists(y, y >= x))",
        "'(' != name && arguments.a.all(x, arguments.a.all(y, arguments.a.all(z, x + y + z >= 0)))",
        "arguments.a.filter(x, x in arguments.a).size() > 0",
    ],
)
def test_an_expression_that_loops_is_stopped_before_it_begins(expression: str) -> None:
    """It would hold up the whole process: nothing can interrupt it."""
    evaluator = CelEvaluator("e", expression)
    began = time.perf_counter()
    with pytest.raises(TooMuch):
        evaluator.evaluate(question(arguments=BIG))
    assert time.perf_counter() - began < 0.5
    assert evaluator.evaluate(question(arguments={"a": [1, 2]})).allow


@pytest.mark.parametrize(
    "expression", ["scopes.exists(s, s == 'a')", "size(arguments.a) > 0", "arguments.a[5] == 5"]
)
def test_large_arguments_are_no_harm_to_what_does_not_go_through_them(expression: str) -> None:
    """Only what an expression looks at counts."""
    assert allows(expression, arguments=BIG, scopes=("a",))


def test_an_evaluation_at_the_bound_is_short() -> None:
    """So many steps as are just allowed."""
    for expression, size in (
        ("arguments.a.all(x, x in arguments.a)", 900),
        ("arguments.a.map(x, arguments.a).size() > 0", 90),
        ("arguments.a.all(x, arguments.a.all(y, x in arguments.a))", 90),
    ):
        evaluator = CelEvaluator("e", expression)
        began = time.perf_counter()
        evaluator.evaluate(question(arguments={"a": list(range(size))}))
        assert time.perf_counter() - began < 1, expression


def test_a_regular_expression_takes_no_time() -> None:
    """Those of the library cannot run away."""
    began = time.perf_counter()
    assert not allows("name.matches('^(a+)+$')", name="a" * 20_000 + "!")
    assert time.perf_counter() - began < 1
