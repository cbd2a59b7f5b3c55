"""Making the registry hold what a source names, without touching what anybody else said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from common.discovery.partial import Partial
from common.discovery.unfit import Unfit
from common.domain.errors import InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import ToolId, checked_id
from common.domain.tool import Origin, Tool, changed_fields
from common.registry.records import Entry
from common.registry.registry import ABSENT, Registry
from common.registry.retirement import Retirement
from common.settings import RuntimeSettings
from common.settings.definitions import tool_from_entry


def actor_of(source: str) -> str:
    """Who the journal says has registered a source's tools."""
    return f"discovery:{source}"


class DiscoveredTools:
    """Fails closed: without Redis each method raises ``StoreUnavailable``, and what was done so far is whole."""

    def __init__(
        self,
        registry: Registry,
        retirement: Retirement,
        runtime: RuntimeSettings,
        with_credentials: Collection[str] = (),
    ) -> None:
        """``with_credentials``: the sources whose tools may be given the operator's secrets."""
        self._with_credentials = frozenset(with_credentials)
        self._registry = registry
        self._retirement = retirement
        self._runtime = runtime

    def hold(self, source: str, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Register what is new, change what changed, retire what is gone; why which of them is refused.

        One that is refused keeps the definition that it had from this source, unless that carries credentials which its
        source may not ask for. A name that the settings file, an operator or another source has is theirs.
        """
        present = {entry.id: entry for entry in self._registry.entries()}
        refused: dict[str, str] = {}
        for name, entry in entries.items():
            try:
                self._hold_one(source, ToolId(checked_id(name, field="id")), entry, present)
            except InvalidRequest as error:
                refused[name[:100]] = error.message
            except VersionConflict:
                refused[name[:100]] = "somebody else changes it at this moment"
        bare = {name for name in refused if not self._may_carry(source, present.get(ToolId(name)))}
        self._leave(source, present, entries, bare)
        return refused

    def present(self, source: str) -> dict[str, Tool]:
        """The tools that are registered as this source's, by id; those that are to go are none."""
        return {
            entry.id: entry.tool
            for entry in self._registry.entries()
            if _is_discovered(entry) and entry.registered.source == source and not entry.operator.retiring
        }

    def leave_all_but(self, sources: Collection[str]) -> None:
        """Retire the tools of sources that the settings do not name any more."""
        present = {entry.id: entry for entry in self._registry.entries()}
        found = {entry.registered.source for entry in present.values() if _is_discovered(entry)}
        for source in found - set(sources):
            self._leave(source, present, ())

    def end(self, now: int) -> None:
        """Remove those that are gone and have no calls left. ``now`` is Redis' time in ms."""
        for entry in self._registry.entries():
            if _is_discovered(entry):
                self._retirement.look([entry], now, actor=actor_of(entry.registered.source))

    def _hold_one(
        self, source: str, tool: ToolId, entry: Mapping[str, Any], present: Mapping[ToolId, Entry]
    ) -> None:
        if isinstance(entry, Unfit):
            raise InvalidRequest(entry.words, field="definition")
        wanted, found = tool_from_entry(tool, entry, self._runtime), present.get(tool)
        if wanted.credentials is not None and source not in self._with_credentials:
            # Whoever names a tool says where it leads: the operator's secrets would go wherever he likes.
            raise InvalidRequest(
                f"credentials: tools of the source {source!r} may carry none: leave it away, or give the source "
                "`allow_credentials: true` in sources.listed",
                field="credentials",
            )
        if found is not None and not (_is_discovered(found) and found.registered.source == source):
            whose = found.registered.source or f"the {found.registered.origin.value}"
            raise InvalidRequest(f"tool {tool!r} is of {whose}, which goes before discovery", field="id")
        if found is not None and found.operator.retiring:
            self._retirement.end(tool, actor=actor_of(source))
        elif found is not None and found.tool == wanted:
            return
        self._registry.put(
            wanted,
            origin=Origin.DISCOVERED,
            source=source,
            expected=ABSENT if found is None else found.registered.version,
            actor=actor_of(source),
            changed=() if found is None else changed_fields(found.tool, wanted),
        )

    def _may_carry(self, source: str, entry: Entry | None) -> bool:
        return entry is None or entry.tool.credentials is None or source in self._with_credentials

    def _leave(
        self,
        source: str,
        present: Mapping[ToolId, Entry],
        named: Collection[str],
        bare: Collection[str] = (),
    ) -> None:
        for tool, entry in present.items():
            if not _is_discovered(entry) or entry.registered.source != source:
                continue
            if tool not in bare and (
                tool in named or (isinstance(named, Partial) and named.kept(entry.tool))
            ):
                continue
            if not entry.operator.retiring:
                with suppress(ToolNotFound):
                    self._retirement.begin(tool, actor=actor_of(source))


def _is_discovered(entry: Entry) -> bool:
    return entry.registered.origin is Origin.DISCOVERED
