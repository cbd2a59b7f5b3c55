"""Taking over tools from a document: planned as a whole, then done tool by tool at the versions that were read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.domain.errors import InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import ToolId, checked_id
from common.domain.tool import RegisteredTool, Tool, changed_fields
from common.mcp.naming import clash
from common.registry.registry import ABSENT, Registry
from common.settings import Settings
from common.settings.definitions import check_credentials_stay, tool_from_entry, unmasked_entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an import does: the versions are those that were read, and each tool is changed at its own alone."""

    created: tuple[Tool, ...]
    changed: tuple[tuple[Tool, RegisteredTool], ...]
    unchanged: tuple[ToolId, ...]
    removed: tuple[RegisteredTool, ...]

    def told(self) -> dict[str, list[str]]:
        """The ids of each kind."""
        return {
            "created": [tool.id for tool in self.created],
            "changed": [tool.id for tool, _ in self.changed],
            "unchanged": list(self.unchanged),
            "removed": [found.tool.id for found in self.removed],
        }


class ToolImport:
    """Fails closed: without Redis each method raises ``StoreUnavailable``."""

    def __init__(self, registry: Registry, settings: Settings, *, allow_credentials: bool = True) -> None:
        """Without ``allow_credentials`` those of tools stay as they are."""
        self._allow_credentials = allow_credentials
        self._registry = registry
        self._settings = settings

    def plan(self, entries: Mapping[str, Mapping[str, Any]], *, prune: bool = False) -> Plan:
        """What the entries of a document make of the tools that are registered. Changes nothing.

        A masked value stands for the one that the tool has. With ``prune`` all tools go that the document does not
        name. Raises :class:`InvalidRequest` that names the first entry at fault: then nothing of it can be done.
        """
        present = {entry.id: entry.registered for entry in self._registry.entries()}
        wanted = [self._read(name, entry, present) for name, entry in entries.items()]
        pair = clash({*present, *(tool.id for tool in wanted)})
        if pair is not None and not set(pair) <= set(present):
            raise InvalidRequest(
                f"the names of tool {pair[0]!r} could be taken for those of {pair[1]!r}: choose another id",
                field="tools",
            )
        changed = [(tool, present[tool.id]) for tool in wanted if tool.id in present]
        named = {tool.id for tool in wanted}
        return Plan(
            created=tuple(tool for tool in wanted if tool.id not in present),
            changed=tuple((tool, found) for tool, found in changed if tool != found.tool),
            unchanged=tuple(tool.id for tool, found in changed if tool == found.tool),
            removed=tuple(found for name, found in present.items() if prune and name not in named),
        )

    def apply(self, plan: Plan, *, actor: str) -> None:
        """Do what was planned; what is to be removed goes last.

        A tool that somebody else changed since is left as it is. Raises :class:`VersionConflict` in the end if there
        are such: its ``conflicts`` names them, and all others are done.
        """
        steps = [
            *((tool.id, partial(self._put, tool, None, actor)) for tool in plan.created),
            *((tool.id, partial(self._put, tool, found, actor)) for tool, found in plan.changed),
            *((found.tool.id, partial(self._remove, found, actor)) for found in plan.removed),
        ]
        conflicts = [tool for tool, step in steps if not _done(step)]
        if conflicts:
            raise VersionConflict(
                f"others changed {len(conflicts)} of the tools meanwhile, which were left as they are; "
                "the rest is done: import again",
                conflicts=conflicts,
            )

    def _put(self, tool: Tool, found: RegisteredTool | None, actor: str) -> None:
        expected = ABSENT if found is None else found.version
        changed = () if found is None else changed_fields(found.tool, tool)
        self._registry.put(tool, expected=expected, actor=actor, changed=changed)

    def _remove(self, found: RegisteredTool, actor: str) -> None:
        self._registry.remove(found.tool.id, expected=found.version, actor=actor)

    def _read(self, name: str, entry: Mapping[str, Any], present: Mapping[ToolId, RegisteredTool]) -> Tool:
        try:
            tool_id = ToolId(checked_id(name, field="id"))
            found = present[tool_id].tool if tool_id in present else None
            tool = tool_from_entry(tool_id, unmasked_entry(entry, found), self._settings.runtime)
            if not self._allow_credentials:
                check_credentials_stay(found, tool)
            if tool != found:
                self._settings.egress.rules.check_runtime(tool)
        except InvalidRequest as error:
            where = f"tools.{name[:100]}.{error.data.get('field', '')}".rstrip(".")
            raise InvalidRequest(f"{where}: {error.message}", field=where) from error
        return tool


def _done(step: Callable[[], object]) -> bool:
    """Take a step; False if somebody else was quicker."""
    try:
        step()
    except (VersionConflict, ToolNotFound):
        return False
    return True
