"""The catalogue as one caller sees it: what the rules deny is not there.

Whoever looks for a tool, lists what it offers or tells of changes looks at a view, so that a tool of which a caller may
use nothing is to everyone of these as one that does not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from common.domain.capabilities import LISTS, Capabilities
from common.domain.ids import ToolId
from common.domain.policy import Capability, CapabilityKind
from common.domain.policy_rules import Kind, RuleSet
from common.mcp.listings import LISTINGS, PROMPTS, RESOURCE_TEMPLATES, RESOURCES, TOOLS, Listing
from common.registry.catalogue import Catalogue
from common.registry.records import Entry

KINDS: dict[str, CapabilityKind] = {
    TOOLS.member: CapabilityKind.TOOL,
    RESOURCES.member: CapabilityKind.RESOURCE,
    RESOURCE_TEMPLATES.member: CapabilityKind.TEMPLATE,
    PROMPTS.member: CapabilityKind.PROMPT,
}
"""The member of a list -> what its items are to the rules."""
MOST_VIEWS = 1000
"""Kinds of callers whose views are kept; then all are made anew."""


class View:
    """What callers of one kind see. Safe from any thread: what is kept can be worked out again at any time."""

    def __init__(self, catalogue: Catalogue, rules: RuleSet, kind: Kind) -> None:
        self._catalogue = catalogue
        self._rules = rules
        self._kind = kind
        self._seen: dict[ToolId, tuple[Entry, Entry | None]] = {}

    def get(self, tool: ToolId) -> Entry | None:
        """The entry of a tool with what may be used of it; None if nothing may, or there is none."""
        entry = self._catalogue.get(tool)
        if entry is None:
            self._seen.pop(tool, None)
            return None
        known = self._seen.get(tool)
        if known is None or known[0] is not entry:
            known = self._seen[tool] = entry, self._shown(entry)
        return known[1]

    def entries(self) -> tuple[Entry, ...]:
        """All entries that are seen, sorted by id."""
        found = (self.get(entry.id) for entry in self._catalogue.entries())
        return tuple(entry for entry in found if entry is not None)

    def ids(self) -> Collection[str]:
        """The ids of the tools that are seen; membership is a look-up."""
        return _Ids(self)

    def _shown(self, entry: Entry) -> Entry | None:
        if self._rules.scope_of(self._kind, entry.id).shut is not None:
            return None
        known = entry.known
        if known is None:
            return entry
        lists: dict[str, Any] = {
            LISTS[listing.member]: self._allowed(entry.id, known, listing) for listing in LISTINGS
        }
        offered, allowed = sum(map(len, known.lists.values())), sum(map(len, lists.values()))
        if allowed == offered:
            return entry
        return replace(entry, capabilities=replace(known, **lists)) if allowed else None

    def _allowed(self, tool: ToolId, known: Capabilities, listing: Listing) -> tuple[Mapping[str, Any], ...]:
        kind = KINDS[listing.member]
        return tuple(
            item
            for item in known.lists[listing.member]
            if self._rules.decide_for(self._kind, tool, Capability(kind, item[listing.key])).allowed
        )


class _Ids(Collection[str]):
    def __init__(self, view: View) -> None:
        self._view = view

    def __contains__(self, tool: object) -> bool:
        return isinstance(tool, str) and self._view.get(ToolId(tool)) is not None

    def __iter__(self) -> Iterator[str]:
        return (entry.id for entry in self._view.entries())

    def __len__(self) -> int:
        return len(self._view.entries())


class Views:
    """The views of all callers. Without rules everybody sees the catalogue itself."""

    def __init__(self, catalogue: Catalogue, rules: RuleSet) -> None:
        self._catalogue = catalogue
        self._rules = rules
        self._views: dict[Kind, View] = {}

    def of(self, kind: Kind) -> View:
        """What callers of a kind see."""
        view = self._views.get(kind)
        if view is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            view = self._views[kind] = View(self._catalogue, self._rules, kind)
        return view
