"""What one process knows of policy. Everything that asks a tool for something asks here first, and lists show what
the same rules allow.
"""

from __future__ import annotations

from common.domain.egress import EgressRules
from common.domain.invocation import Caller
from common.domain.policy_rules import Kind
from common.policy.evaluation import PolicyCounts
from common.policy.judge import Judge, ReadCounters
from common.policy.view import Views
from common.registry.catalogue import Catalogue, CatalogueReader
from common.settings import PolicySettings

NOBODY_IN_PARTICULAR = Kind(frozenset())
"""The kind of every caller where there are no rules."""


class Policy(Judge):
    """One a process. Safe from any thread."""

    def __init__(
        self,
        settings: PolicySettings,
        egress: EgressRules,
        catalogue: Catalogue,
        read_counters: ReadCounters,
        counts: PolicyCounts | None = None,
    ) -> None:
        """As :class:`Judge`."""
        super().__init__(settings, egress, read_counters, counts)
        self._catalogue = catalogue
        self._views = Views(catalogue, self.rules)

    def kind_of(self, caller: Caller) -> Kind:
        """Which callers see the same as this one."""
        return self.rules.kind_of(caller) if self.rules else NOBODY_IN_PARTICULAR

    def seen_by(self, caller: Caller) -> CatalogueReader:
        """The catalogue without what the rules deny to a caller."""
        return self._views.of(self.rules.kind_of(caller)) if self.rules else self._catalogue
