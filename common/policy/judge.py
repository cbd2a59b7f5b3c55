"""What decides on calls: the rules in memory, then the evaluator, if there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from common.domain.egress import EgressRules
from common.domain.ids import TenantId, ToolId
from common.domain.invocation import Caller
from common.domain.policy import ALLOWED, Capability, Counters, Decision, Question
from common.mcp.asked import arguments_of, capability_asked
from common.policy.compiled import rules_of
from common.policy.evaluation import Asked, PolicyCounts
from common.policy.loading import evaluators_of
from common.settings import PolicySettings

RETIRED_FOR = 5.0
"""Seconds beyond the longest time of an evaluator for which one that was replaced is kept."""
ReadCounters = Callable[[TenantId, ToolId], Counters]


class Judge:
    """One a process. Safe from any thread."""

    def __init__(
        self,
        settings: PolicySettings,
        egress: EgressRules,
        read_counters: ReadCounters,
        counts: PolicyCounts | None = None,
    ) -> None:
        """Raises :class:`ConfigurationError` for an evaluator that cannot be made.

        One that connects to a server does so where ``egress`` lets it, as the tools of the settings file.

        ``read_counters`` may cost a round trip, and is asked only for evaluators that want it. ``counts`` are those of
        a judge whose place this one takes.
        """
        self.counts = counts or PolicyCounts()
        self.rules = rules_of(settings)
        self._evaluators = evaluators_of(settings, egress, self.counts)
        self._longest = max((entry.timeout for entry in settings.evaluators), default=0.0)
        self._common = settings.evaluator
        self._of_tenant = settings.tenants
        self._read_counters = read_counters

    def close(self) -> None:
        """Let go of what the evaluators hold."""
        for evaluator in self._evaluators.values():
            evaluator.close()

    def retire(self) -> None:
        """Let go of what the evaluators hold when whoever asks them now has had its answer."""
        if self._evaluators:
            timer = threading.Timer(self._longest + RETIRED_FOR, self.close)
            timer.daemon = True
            timer.start()

    def decide(self, caller: Caller, tool: ToolId, capability: Capability | None) -> Decision:
        """What the rules say, in memory: lists and calls are decided by the same."""
        return self.rules.decide(caller, tool, capability) if self.rules else ALLOWED

    def evaluator_of(self, tenant: str) -> Asked | None:
        """Who is asked about the calls of a tenant; None if nobody is."""
        name = self._of_tenant.get(tenant, self._common)
        return None if name is None else self._evaluators[name]

    @property
    def wanted(self) -> bool:
        """Whether there is anything to ask about any call."""
        return bool(self.rules) or self._common is not None or bool(self._of_tenant)

    def judge(
        self,
        caller: Caller,
        tool: ToolId,
        method: str,
        params: Mapping[str, Any],
        *,
        request_id: str | int | None = None,
        left: float = float("inf"),
    ) -> Decision:
        """What rules and evaluator say of a call, which has ``left`` seconds. Nothing of it has been consumed yet.

        Raises :class:`StoreUnavailable` if the evaluator wants counters and Redis does not answer (fails closed).
        """
        evaluator = self.evaluator_of(caller.tenant)
        if evaluator is None and not self.rules:
            return ALLOWED
        capability = capability_asked(method, params)
        decision = self.decide(caller, tool, capability)
        if evaluator is not None and decision.allowed:
            counters = None
            if evaluator.counters:
                counters = self._read_counters(caller.tenant, tool)
            question = Question(
                caller=caller,
                tool=tool,
                method=method,
                capability=capability,
                arguments=arguments_of(method, params),
                request_id=request_id,
                counters=counters,
            )
            decision = evaluator.decide(question, left=left)
        if decision.ground is not None:
            self.counts.denied(decision.ground)
        return decision

    def authorise(
        self,
        caller: Caller,
        tool: ToolId,
        method: str,
        params: Mapping[str, Any],
        *,
        request_id: str | int | None = None,
        left: float,
    ) -> Decision:
        """Let a call pass, or raise :class:`PolicyDenied`; else as :meth:`judge`."""
        decision = self.judge(caller, tool, method, params, request_id=request_id, left=left)
        if not decision.allowed:
            raise decision.error()
        return decision
