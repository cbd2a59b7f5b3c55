"""What policy costs a call in the web process, by itself: ``python -m benchmarks.policy``.

Each policy judges the same calls in the same run, the rounds of all policies in turn; the fastest round of each counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from common.domain.egress import STRICT
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import Counters
from common.domain.policy_rules import RuleSet
from common.policy.judge import Judge
from common.settings import PolicySettings

CALLS, ROUNDS = 2_000, 7
RULES: list[dict[str, Any]] = [
    *({"effect": "deny", "tenants": [f"trial-{n}*"], "tools": ["payments"]} for n in range(10)),
    {"effect": "deny", "mcp_tools": ["delete_*", "drop_*", "*_unsafe"]},
    {"effect": "deny", "resources": ["file:///etc/*"]},
    {"effect": "allow", "tenants": ["acme*"]},
]
EXPRESSION = (
    '!(tool == "bank" && name == "transfer") || arguments.amount <= 100 || "payments:large" in scopes'
)
CEL = {"evaluators": [{"id": "e", "type": "cel", "expression": EXPRESSION}], "evaluator": "e"}
CEDAR = {
    "evaluators": [
        {
            "id": "e",
            "type": "cedar",
            "policies": "permit(principal, action, resource) when { !(context.arguments has amount) || "
            "context.arguments.amount <= 100 };",
        }
    ],
    "evaluator": "e",
}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "13 rules, known names": {"rules": RULES},
    "13 rules, each name new": {"rules": RULES},
    "CEL": CEL,
    "13 rules and CEL": {"rules": RULES, **CEL},
    "Cedar": CEDAR,
}


def calls(*, new: bool) -> list[tuple[Caller, ToolId, dict[str, Any]]]:
    """Of 100 clients, for ten names of a tool or each for one of its own."""
    made = []
    for number in range(CALLS):
        caller = Caller(
            tenant=TenantId("acme"), client=ClientId(f"c{number % 100}"), scopes=frozenset({"read", "write"})
        )
        name = f"read_{number if new else number % 10}"
        made.append((caller, ToolId("bank"), {"name": name, "arguments": {"amount": 5, "to": "x" * 20}}))
    return made


def round_of(judge: Judge, asked: list[tuple[Caller, ToolId, dict[str, Any]]]) -> float:
    """Microseconds a call."""
    began = time.perf_counter()
    for caller, tool, params in asked:
        assert judge.judge(caller, tool, "tools/call", params).allowed
    return (time.perf_counter() - began) / len(asked) * 1e6


def main() -> None:
    """Print a table."""
    idle = Counters(tool_calls=0, tool_waiting=0, tenant_sessions=0)
    judges = {
        name: Judge(PolicySettings.model_validate(policy), STRICT, lambda *_: idle)
        for name, policy in POLICIES.items()
    }
    best = dict.fromkeys(judges, float("inf"))
    for _, (name, judge) in itertools.product(range(ROUNDS), judges.items()):
        new = "new" in name
        if new:
            judge.rules = RuleSet(judge.rules.common)
        best[name] = min(best[name], round_of(judge, calls(new=new)))
    print("| policy | microseconds a call | more than none |\n|---|---|---|")
    for name, took in best.items():
        print(f"| {name} | {took:.2f} | {took - best['none']:.2f} |")


if __name__ == "__main__":
    main()
