"""An evaluator of policy of one's own: payments above a limit need a scope.

In canalgate.yaml, with this file where Python finds it (PYTHONPATH)::

    policy:
      evaluators:
        - {id: payments, type: custom, implementation: "examples.policy_evaluator:SmallPayments", options: {limit: 100}}
      evaluator: payments
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.policy import Question
from common.ports import PolicyAnswer


class SmallPayments:
    """Denies calls with an ``amount`` above the limit, unless the caller has the scope ``payments:large``."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._limit = float(options["limit"])

    def evaluate(self, question: Question) -> PolicyAnswer:
        """Anything that is no number is no payment."""
        amount = question.arguments.get("amount", 0)
        if not isinstance(amount, int | float) or amount <= self._limit:
            return PolicyAnswer(allow=True)
        if "payments:large" in question.caller.scopes:
            return PolicyAnswer(allow=True, rule="large")
        return PolicyAnswer(
            allow=False, reason=f"amounts above {self._limit:g} need the scope payments:large", rule="limit"
        )
