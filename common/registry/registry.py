"""Changing the registry: every write is a compare-and-set on the tool's version, and is audited with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Protocol

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import InvalidRequest, ToolNotFound, VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import Origin, RegisteredTool, Tool, changed_fields
from common.mcp.naming import clash
from common.registry.records import (
    Entry,
    RawEntry,
    definition_to_json,
    entry_from_redis,
    hashes,
    readable_entries,
)
from common.registry.refused import refusals_noted
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

ANY_VERSION = -1
ABSENT = 0
API = "api"
"""The actor of changes by programs that do not say who they are."""
FILE = "file"
"""The actor of changes that come with the settings file."""
MOST_ATTEMPTS = 10
"""How often an update begins again because others were first."""


class Retiring(Protocol):
    """How tools leave that have calls yet (:class:`common.registry.retirement.Retirement`)."""

    def begin(self, tool: ToolId) -> bool:
        """Let it take no new calls; whether it was not so already."""

    def end(self, tool: ToolId) -> None:
        """It stays."""


class Registry:
    """The tools of one gateway. Fails closed: without Redis every method raises ``StoreUnavailable``.

    ``actor`` is what the audit journal is told of who makes a change. A definition that does not come from the settings
    file must pass ``rules``, whoever brings it.
    """

    def __init__(self, client: Client, keys: Keys, rules: EgressRules = STRICT) -> None:
        self._client = client
        self._keys = keys
        self._rules = rules

    def put(
        self,
        tool: Tool,
        *,
        origin: Origin = Origin.RUNTIME,
        expected: int = ANY_VERSION,
        actor: str = API,
        changed: Iterable[str] = (),
        source: str = "",
    ) -> int:
        """Register or change a tool; return its new version. What an operator said of the tool stays.

        ``expected`` is the version the writer has read: ``ABSENT`` if there must be none, ``ANY_VERSION`` to
        write in any case. Raises :class:`VersionConflict` if it is another. ``changed`` names the fields that the
        writer knows to be others now, for the audit journal. Raises :class:`InvalidRequest` for what may not be
        registered at run time. ``source`` names who discovered it (:attr:`Origin.DISCOVERED`).
        """
        if origin is not Origin.FILE:
            rules = self._rules.for_discovered if origin is Origin.DISCOVERED else self._rules
            # What discovery brings it audits itself, once for as long as it brings it.
            told = nullcontext() if origin is Origin.DISCOVERED else self.refusals_noted(tool.id, actor)
            with told:
                rules.check_runtime(tool)
                self._refuse_clash(tool.id)
        keys, names = self._keys, ", ".join(changed)
        with store_errors("registering a tool"):
            done, version = run(
                self._client,
                "registry_put",
                [
                    keys.registry_tools,
                    keys.registry_versions,
                    keys.registry_version,
                    keys.registry_changes,
                    keys.audit,
                ],
                [
                    tool.id,
                    definition_to_json(tool, origin, keys, source),
                    expected,
                    keys.registry_channel,
                    actor,
                    f"; changed: {names}" if names else "",
                ],
            )
        if not done:
            raise VersionConflict(
                f"tool {tool.id!r} is at version {version}, not {expected}; read it again", version=version
            )
        return int(version)

    def refusals_noted(self, tool: str, actor: str) -> AbstractContextManager[None]:
        """For whoever reads a definition before it gets here: what is refused inside is in the journal."""
        return refusals_noted(self._client, self._keys, tool, actor)

    def _refuse_clash(self, tool: ToolId) -> None:
        """Raise :class:`InvalidRequest` if the tool's names could be taken for another's where tools share an endpoint.

        Two that are registered at the same moment are not held against each other; the longer id then wins.
        """
        with store_errors("reading the registry"):
            known: Any = self._client.hkeys(self._keys.registry_tools)
        for other in (name.decode() for name in known):
            if other != tool and clash((other, tool)) is not None:
                raise InvalidRequest(
                    f"the names of tool {tool!r} could be taken for those of {other!r}: choose another id "
                    "(names are <tool>__<name>)",
                    field="id",
                )

    def update(
        self,
        tool: ToolId,
        change: Callable[[Tool], Tool],
        *,
        actor: str = API,
        change_transport: bool = False,
        expected: int = ANY_VERSION,
    ) -> int:
        """Change a registered tool; return its version, which is the old one if ``change`` changes nothing.

        ``change`` is given the present definition, once more each time somebody else was first. The id and whether the
        tool is enabled stay as they are, and so does what an operator said of it. The file's tool stays the file's;
        but where it leads was not said there any more if that is what changes. That one of command,
        URL and factory becomes another is refused unless ``change_transport`` asks for it. ``expected`` is the one
        version that may be changed.

        Raises :class:`ToolNotFound`, :class:`InvalidRequest`, or :class:`VersionConflict` if others are always first.
        """
        for attempt in range(MOST_ATTEMPTS):
            found = self.get(tool).registered
            if expected not in {ANY_VERSION, found.version}:
                raise VersionConflict(
                    f"tool {tool!r} is at version {found.version}, not {expected}; read it again",
                    version=found.version,
                )
            with self.refusals_noted(tool, actor):
                wanted = replace(change(found.tool), id=found.tool.id, state=found.tool.state)
                if type(wanted.transport) is not type(found.tool.transport) and not change_transport:
                    raise InvalidRequest(
                        f"the update would change the transport of tool {tool!r} to another kind "
                        "(command, url, factory); "
                        "ask for that (--change-transport), or give what goes with its present kind",
                        field="transport",
                    )
            if wanted == found.tool:
                return found.version
            changed = changed_fields(found.tool, wanted)
            moved = found.origin is Origin.FILE and wanted.transport != found.tool.transport
            origin = Origin.CHANGED if moved else found.origin
            try:
                return self.put(
                    wanted,
                    origin=origin,
                    expected=found.version,
                    actor=actor,
                    changed=changed,
                    source=found.source,
                )
            except VersionConflict:
                if attempt + 1 == MOST_ATTEMPTS:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def remove(self, tool: ToolId, *, expected: int = ANY_VERSION, actor: str = API) -> None:
        """Take a tool off, with its circuit, its health, its pins and what an operator said of it.

        Calls under way end as they would; the sessions' owners close them then. Raises :class:`ToolNotFound` or
        :class:`VersionConflict`.
        """
        keys = self._keys
        with store_errors("removing a tool"):
            done, version = run(
                self._client,
                "registry_remove",
                [
                    *(
                        keys.registry_tools,
                        keys.registry_versions,
                        keys.registry_version,
                        keys.registry_changes,
                    ),
                    *(keys.audit, keys.circuit(tool), keys.circuit_permits(tool), keys.pins(tool)),
                    *(keys.registry_capabilities, keys.registry_refresh, keys.registry_states, keys.health),
                    keys.registry_unapproved,
                ],
                [tool, expected, keys.registry_channel, actor],
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
        with store_errors("reading the registry"), self._client.pipeline(transaction=True) as pipe:
            for name in hashes(self._keys):
                pipe.hgetall(name)
            return list(readable_entries(self._keys, *pipe.execute()))

    def get(self, tool: ToolId) -> Entry:
        """One tool. Raises :class:`ToolNotFound`."""
        with store_errors("reading the registry"), self._client.pipeline(transaction=True) as pipe:
            for name in hashes(self._keys):
                pipe.hget(name, tool)
            raw = RawEntry(*pipe.execute())
        if raw.definition is None:
            raise ToolNotFound(f"no tool {tool!r} is registered")
        return entry_from_redis(raw, self._keys, tool)

    def publish_file(self, tools: Iterable[Tool], retiring: Retiring | None = None) -> list[ToolId]:
        """Make the registry hold the settings file's tools; return the ids that changed.

        Tools of an earlier file that are no longer in it are removed, or with ``retiring`` first end the calls that
        they have; tools registered at run time or discovered stay, unless the file names the same id. An unchanged
        definition keeps its version, and with it its sessions.
        """
        wanted = {tool.id: tool for tool in tools}
        entries = {entry.id: entry for entry in self.entries()}
        changed = [tool.id for tool in wanted.values() if self._publish(tool, entries.get(tool.id), retiring)]
        for tool_id, entry in entries.items():
            found = entry.registered
            if found.origin in _OTHERS or tool_id in wanted:
                continue
            if retiring is not None:
                changed += [tool_id] if retiring.begin(tool_id) else []
                continue
            # Race: another web process removes it as well, or an operator has just registered it anew.
            with suppress(ToolNotFound, VersionConflict):
                self.remove(tool_id, expected=found.version, actor=FILE)
                changed.append(tool_id)
        return changed

    def _publish(self, tool: Tool, entry: Entry | None, retiring: Retiring | None) -> bool:
        """Register a tool of the file over what was found; False if that is the same."""
        found = None if entry is None else entry.registered
        if retiring is not None and entry is not None and entry.operator.retiring:
            retiring.end(tool.id)
        elif _from_file(found, tool):
            return False
        expected = ABSENT if found is None else found.version
        changed = () if found is None else changed_fields(found.tool, tool)
        try:
            self.put(tool, origin=Origin.FILE, expected=expected, actor=FILE, changed=changed)
        except VersionConflict:
            # Web processes that start together publish the same file: who comes second finds it done.
            now = next((entry.registered for entry in self.entries() if entry.id == tool.id), None)
            if _from_file(now, tool):
                return False
            self.put(tool, origin=Origin.FILE, actor=FILE)
        return True


_OTHERS = frozenset({Origin.RUNTIME, Origin.DISCOVERED})
"""Whose tools are no concern of the settings file."""


def _from_file(found: RegisteredTool | None, tool: Tool) -> bool:
    return found is not None and found.origin is Origin.FILE and found.tool.digest() == tool.digest()
