"""What one process knows of policy. Everything that asks a tool for something asks here first, and lists show what
the same rules allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.domain.policy import ALLOWED, Capability, Decision
from common.domain.policy_rules import Kind
from common.mcp.asked import capability_asked
from common.policy.compiled import rules_of
from common.policy.view import Views
from common.registry.catalogue import Catalogue, CatalogueReader
from common.settings import PolicySettings

NOBODY_IN_PARTICULAR = Kind(frozenset())
"""The kind of every caller where there are no rules."""


class Policy:
    """One a process. Safe from any thread."""

    def __init__(self, settings: PolicySettings, catalogue: Catalogue) -> None:
        self._rules = rules_of(settings)
        self._catalogue = catalogue
        self._views = Views(catalogue, self._rules)

    def kind_of(self, caller: Caller) -> Kind:
        """Which callers see the same as this one."""
        return self._rules.kind_of(caller) if self._rules else NOBODY_IN_PARTICULAR

    def seen_by(self, caller: Caller) -> CatalogueReader:
        """The catalogue without what the rules deny to a caller."""
        return self._views.of(self._rules.kind_of(caller)) if self._rules else self._catalogue

    def decide(self, caller: Caller, tool: ToolId, capability: Capability | None) -> Decision:
        """What the rules say, in memory: lists and calls are decided by the same."""
        return self._rules.decide(caller, tool, capability) if self._rules else ALLOWED

    def authorise(self, caller: Caller, tool: ToolId, method: str, params: Mapping[str, Any]) -> Decision:
        """Let a call pass, or raise :class:`PolicyDenied`."""
        decision = self.decide(caller, tool, capability_asked(method, params))
        if not decision.allowed:
            raise decision.error(tool)
        return decision
