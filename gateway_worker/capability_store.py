"""Storing what a discovery found: with the tool's pins in one step, and in the audit journal."""

from __future__ import annotations

from typing import Any

import structlog

from common.audit.journal import audit_command
from common.domain.audit import AuditEvent, EventKind
from common.domain.capabilities import LISTS, Capabilities, Flag, Quarantined
from common.domain.content_rules import Pinning
from common.domain.ids import NodeId
from common.domain.pins import discovered
from common.mcp.hidden_text import visible
from common.registry.pins import MOST_ATTEMPTS, discovery_events, pin_arguments, pins_from_redis
from common.registry.records import Entry, capabilities_to_json
from common.store.client import AsyncClient, store_errors
from common.store.keys import Keys
from common.store.scripts import Arg, run_async
from gateway_worker.content import offered

log = structlog.get_logger(__name__)


class CapabilityStore:
    """One a worker. Raises :class:`StoreUnavailable`: then nothing was stored, or it was and nobody knows."""

    def __init__(self, client: AsyncClient, keys: Keys, node: NodeId) -> None:
        self._client = client
        self._keys = keys
        self._node = node

    async def put(self, entry: Entry, found: Capabilities, begun: int) -> None:
        """Store it, unless the tool is another by now."""
        if not await self._stored(entry, found, begun):
            return
        if found.error is None:
            await self._tell(entry, found)

    async def _stored(self, entry: Entry, found: Capabilities, begun: int) -> bool:
        """A failure says nothing of definitions, so it leaves the pins alone."""
        keys = self._keys
        names = [
            *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
            *(keys.registry_changes, keys.registry_refresh),
            *(keys.pins(entry.id), keys.registry_unapproved, keys.audit),
        ]
        told: list[Arg] = [
            *(entry.id, capabilities_to_json(found), entry.registered.version, begun, keys.registry_channel)
        ]
        pinned = entry.tool.content.pinning is not Pinning.OFF and found.error is None
        for _ in range(MOST_ATTEMPTS):
            pins = await self._pin_arguments(entry, found, begun) if pinned else []
            with store_errors("storing capabilities"):
                answer = int(await run_async(self._client, "capabilities_put", names, [*told, *pins]))
            if answer >= 0:
                return answer == 1
        log.warning("pins_contended", tool=entry.id)
        return False

    async def _pin_arguments(self, entry: Entry, found: Capabilities, begun: int) -> list[Arg]:
        rules = entry.tool.content
        with store_errors("reading the pins of a tool"):
            raw: Any = await self._client.hgetall(self._keys.pins(entry.id))
        pins = pins_from_redis(raw)
        change = discovered(pins, offered(found), rules, now=begun)
        return pin_arguments(pins, change, discovery_events(entry.id, pins, change, rules, actor=self._node))

    async def _tell(self, entry: Entry, found: Capabilities) -> None:
        """Log what was found; what is new to operators goes into the journal."""
        counts = {field: len(getattr(found, field)) for field in LISTS.values()}
        log.info("capabilities_discovered", tool=entry.id, eras=dict(found.eras), **counts)
        for item in found.quarantined:
            log.warning(
                "item_quarantined", tool=entry.id, list=item.list, item=visible(item.name), reason=item.reason
            )
        known = entry.known
        refused = set(found.quarantined) - set(() if known is None else known.quarantined)
        flags = set(found.flags) - set(() if known is None else known.flags)
        events: list[tuple[EventKind, Quarantined | Flag]] = [
            *((EventKind.TOOL_QUARANTINED, item) for item in refused if item.refused),
            *((EventKind.TOOL_FLAGGED, flag) for flag in flags),
        ]
        for kind, told in events:
            event = AuditEvent(
                kind=kind,
                actor=self._node,
                tool=entry.id,
                reason=told.reason,
                detail=f'{told.list} "{visible(told.name[:100])}"',
            )
            with store_errors("writing the audit journal"):
                await self._client.execute_command(*audit_command(self._keys, event))  # type: ignore[no-untyped-call]
