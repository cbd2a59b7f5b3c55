"""Changing the registry: every write is a compare-and-set on the tool's version."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from common.domain.errors import ToolNotFound, VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import Origin, RegisteredTool, Tool
from common.registry.records import Entry, definition_to_json, entry_from_redis, readable_entry
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

ANY_VERSION = -1
ABSENT = 0


class Registry:
    """The tools of one gateway. Fails closed: without Redis every method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def put(self, tool: Tool, *, origin: Origin = Origin.RUNTIME, expected: int = ANY_VERSION) -> int:
        """Register or change a tool; return its new version.

        ``expected`` is the version the writer has read: ``ABSENT`` if there must be none, ``ANY_VERSION`` to
        write in any case. Raises :class:`VersionConflict` if it is another.
        """
        keys = self._keys
        with store_errors("registering a tool"):
            done, version = run(
                self._client,
                "registry_put",
                [keys.registry_tools, keys.registry_versions, keys.registry_version, keys.registry_changes],
                [tool.id, definition_to_json(tool, origin), expected, keys.registry_channel],
            )
        if not done:
            raise VersionConflict(
                f"tool {tool.id!r} is at version {version}, not {expected}; read it again", version=version
            )
        return int(version)

    def remove(self, tool: ToolId, *, expected: int = ANY_VERSION) -> None:
        """Take a tool off. Raises :class:`ToolNotFound` or :class:`VersionConflict`."""
        keys = self._keys
        with store_errors("removing a tool"):
            done, version = run(
                self._client,
                "registry_remove",
                [
                    keys.registry_tools,
                    keys.registry_versions,
                    keys.registry_version,
                    keys.registry_changes,
                    keys.registry_capabilities,
                    keys.registry_refresh,
                ],
                [tool, expected, keys.registry_channel],
            )
        if not done and version == 0:
            raise ToolNotFound(f"no tool {tool!r} is registered")
        if not done:
            raise VersionConflict(f"tool {tool!r} is at version {version}, not {expected}", version=version)

    def refresh(self, tool: ToolId) -> None:
        """Ask the workers to discover the tool's capabilities now. Raises :class:`ToolNotFound`."""
        keys = self._keys
        with store_errors("asking for a discovery"):
            known = run(
                self._client,
                "refresh_request",
                [keys.registry_versions, keys.registry_refresh],
                [tool, keys.registry_channel],
            )
        if not known:
            raise ToolNotFound(f"no tool {tool!r} is registered")

    def entries(self) -> list[Entry]:
        """All tools whose records can be read, sorted by id."""
        keys = self._keys
        with store_errors("reading the registry"), self._client.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.registry_tools)
            pipe.hgetall(keys.registry_versions)
            pipe.hgetall(keys.registry_capabilities)
            tools, versions, capabilities = pipe.execute()
        found = (
            readable_entry(name, definition, versions[name], capabilities.get(name))
            for name, definition in sorted(tools.items())
        )
        return [entry for entry in found if entry is not None]

    def get(self, tool: ToolId) -> Entry:
        """One tool. Raises :class:`ToolNotFound`."""
        keys = self._keys
        with store_errors("reading the registry"), self._client.pipeline(transaction=True) as pipe:
            pipe.hget(keys.registry_tools, tool)
            pipe.hget(keys.registry_versions, tool)
            pipe.hget(keys.registry_capabilities, tool)
            definition, version, capabilities = pipe.execute()
        if definition is None:
            raise ToolNotFound(f"no tool {tool!r} is registered")
        return entry_from_redis(definition, version, capabilities)

    def publish_file(self, tools: Iterable[Tool]) -> list[ToolId]:
        """Make the registry hold the settings file's tools; return the ids that changed.

        Tools of an earlier file that are no longer in it are removed; tools registered at run time stay, unless
        the file names the same id. An unchanged definition keeps its version, and with it its sessions.
        """
        wanted = {tool.id: tool for tool in tools}
        present: dict[ToolId, RegisteredTool] = {entry.id: entry.registered for entry in self.entries()}
        changed = [tool.id for tool in wanted.values() if self._publish(tool, present.get(tool.id))]
        for tool_id, found in present.items():
            if found.origin is Origin.FILE and tool_id not in wanted:
                # Race: another web process removes it as well, or an operator has just registered it anew.
                with suppress(ToolNotFound, VersionConflict):
                    self.remove(tool_id, expected=found.version)
                    changed.append(tool_id)
        return changed

    def _publish(self, tool: Tool, found: RegisteredTool | None) -> bool:
        """Register a tool of the file over what was ``found``; False if that is the same."""
        if _from_file(found, tool):
            return False
        try:
            self.put(tool, origin=Origin.FILE, expected=ABSENT if found is None else found.version)
        except VersionConflict:
            # Web processes that start together publish the same file: who comes second finds it done.
            now = next((entry.registered for entry in self.entries() if entry.id == tool.id), None)
            if _from_file(now, tool):
                return False
            self.put(tool, origin=Origin.FILE)
        return True


def _from_file(found: RegisteredTool | None, tool: Tool) -> bool:
    return found is not None and found.origin is Origin.FILE and found.tool.digest() == tool.digest()
