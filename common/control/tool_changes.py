"""Changing definitions as operators write them: entries of the settings file, in which a mask stands for a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.errors import InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import ToolId, checked_id
from common.domain.tool import RegisteredTool, Tool, changed_fields
from common.registry.registry import ABSENT, ANY_VERSION, Registry
from common.settings.definitions import (
    check_credentials_stay,
    check_kept_secrets,
    tool_from_entry,
    unmasked_entry,
)
from common.settings.entry_of import changed_entry
from common.settings.model import RuntimeSettings


class ToolChanges:
    """Fails closed: without Redis each method raises ``StoreUnavailable``. No change of somebody else is lost."""

    def __init__(
        self, registry: Registry, runtime: RuntimeSettings, *, allow_credentials: bool = True
    ) -> None:
        """``runtime`` gives what an entry leaves out. Without ``allow_credentials`` those of tools stay as they are."""
        self._allow_credentials = allow_credentials
        self._registry = registry
        self._runtime = runtime

    def found(self, tool: ToolId) -> RegisteredTool | None:
        """The definition that is registered; None without one."""
        try:
            return self._registry.get(tool).registered
        except ToolNotFound:
            return None

    def put(self, tool: ToolId, entry: Mapping[str, Any], *, actor: str, expected: int = ANY_VERSION) -> bool:
        """Register or replace; the same definition again changes nothing. Returns whether there was none.

        Raises :class:`InvalidRequest` that names the key at fault, and :class:`VersionConflict` if what is there is not
        at the version ``expected``.
        """
        checked_id(tool, field="id")
        found = self.found(tool)
        version = ABSENT if found is None else found.version
        if expected not in {ANY_VERSION, version}:
            raise VersionConflict(f"tool {tool!r} is at version {version}, not {expected}", version=version)
        with self._registry.refusals_noted(tool, actor):
            known = unmasked_entry(entry, found.tool if found else None)
            wanted = self._read(tool, known, found.tool if found else None)
        if found is None or wanted != found.tool:
            changed = () if found is None else changed_fields(found.tool, wanted)
            self._registry.put(wanted, expected=expected, actor=actor, changed=changed)
        return found is None

    def patch(
        self,
        tool: ToolId,
        patch: Mapping[str, Any],
        *,
        actor: str,
        expected: int = ANY_VERSION,
        change_transport: bool = False,
    ) -> int:
        """Change what ``patch`` names: what it does not stays, None gives a default back. Returns the version.

        Raises what :meth:`Registry.update` raises.
        """
        if "enabled" in patch:
            raise InvalidRequest(
                "enabled is not changed by a patch: enable or disable the tool", field="enabled"
            )

        def changed(found: Tool) -> Tool:
            entry = changed_entry(found, unmasked_entry(patch, found))
            wanted = self._read(tool, entry, found)
            check_kept_secrets(found, patch)
            return wanted

        return self._registry.update(
            tool, changed, actor=actor, change_transport=change_transport, expected=expected
        )

    def _read(self, tool: ToolId, entry: Mapping[str, Any], present: Tool | None) -> Tool:
        wanted = tool_from_entry(tool, entry, self._runtime)
        if not self._allow_credentials:
            check_credentials_stay(present, wanted)
        return wanted
