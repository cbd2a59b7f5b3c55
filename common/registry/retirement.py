"""Tools that left the settings file while the gateway runs: they end the calls that they have, and go then."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import structlog

from common.domain.errors import ToolNotFound, VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import Origin
from common.registry.lifecycle import Lifecycle
from common.registry.records import Entry
from common.registry.registry import FILE, Registry

log = structlog.get_logger(__name__)

SETTLED = 2000
"""Milliseconds after which every web process knows that a tool is retiring, so that none lets a call through."""


class Retirement:
    """Any web process begins it, any of them ends it. Fails closed: raises ``StoreUnavailable``; nothing is lost."""

    def __init__(self, registry: Registry, lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._lifecycle = lifecycle

    def begin(self, tool: ToolId, *, actor: str = FILE) -> bool:
        """Let a tool take no new calls; whether it was not so already."""
        with suppress(ToolNotFound):
            return self._lifecycle.retire(tool, actor=actor).changed
        return False

    def end(self, tool: ToolId, *, actor: str = FILE) -> None:
        """It is wanted again.

        Race: another process may have seen that it has no calls left, and be about to remove it at its version. So
        whoever calls this gives it a new version behind it.
        """
        with suppress(ToolNotFound):
            self._lifecycle.keep(tool, actor=actor)

    def look(self, entries: Iterable[Entry], now: int, *, actor: str = FILE) -> None:
        """Remove those of the entries that have no calls left. ``now`` is Redis' time in ms."""
        for entry in [entry for entry in entries if entry.operator.retiring]:
            if entry.registered.origin is Origin.RUNTIME:
                self.end(entry.id)  # somebody registered it while it was retiring
                continue
            if now - entry.operator.since < SETTLED:
                continue
            left = self._lifecycle.drain_progress(entry.id)
            if left.waiting or left.in_flight:
                log.debug("tool_retires", tool=entry.id, waiting=left.waiting, in_flight=left.in_flight)
                continue
            with suppress(ToolNotFound, VersionConflict):
                self._registry.remove(entry.id, expected=entry.registered.version, actor=actor)
                log.info("tool_retired", tool=entry.id)
