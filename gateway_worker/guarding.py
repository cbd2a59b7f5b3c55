"""The reaper of a worker's children, kept alive; it ends the node's lease as well if the worker dies."""

from __future__ import annotations

import asyncio

import structlog

from common.processes.guard import ProcessGuard, ProcessGuardError
from common.store.client import StoreAddress
from common.store.keys import Keys
from common.store.last_words import last_words_of
from common.store.scripts import script
from gateway_worker.node import Node
from gateway_worker.sweep import PROCESS_GONE, fence_script

log = structlog.get_logger(__name__)

GUARD_GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL for the children of a worker that died."""
GUARD_LOOK = 1.0
"""Seconds between two looks whether the reapers live."""


class Guarding:
    """Belongs to the engine's loop."""

    def __init__(self, guard: ProcessGuard, address: StoreAddress, keys: Keys, node: Node) -> None:
        self._guard = guard
        self._address = address
        self._keys = keys
        self._node = node

    def guard_node(self) -> None:
        """Have the reaper end the node's lease if this process dies: it is certain then, and known at once.

        Degrades: a reaper that died is told when it is replaced.
        """
        keys, args = fence_script(self._keys, self._node.id, PROCESS_GONE, actor="reaper")
        command = ("EVAL", script("node_fence").source, len(keys), *keys, *args)
        try:
            self._guard.last_words(last_words_of(self._address, command))
        except ProcessGuardError as error:
            log.error("children_unguarded", error=str(error))

    async def run(self) -> None:
        """Replace a reaper that died, for ever. Degrades: until it can be, children of a dead worker may be left."""
        while True:
            await asyncio.sleep(GUARD_LOOK)
            try:
                self._guard.ensure()
            except ProcessGuardError as error:
                log.error("children_unguarded", error=str(error))
