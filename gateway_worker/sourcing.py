"""Each worker sees to it that the sources of tools are asked: one of them at a time does it, in threads of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial

import structlog

from common.audit.journal import Journal
from common.discovery.loading import make_source
from common.discovery.running import Discoverer
from common.discovery.tools import DiscoveredTools
from common.domain.errors import StoreUnavailable
from common.metrics.figures import Figures
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from common.registry.retirement import Retirement
from common.settings import Settings
from common.store.client import StoreAddress, connect, store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.node import Node

log = structlog.get_logger(__name__)

LEASE = 8.0
RENEW = 2.0
"""Seconds between two renewals, and between two looks whether somebody holds the lease."""
MARGIN = 2.0
"""Seconds before the lease's end at which it is given up for lost: what is under way then ends within them."""


class Sourcing:
    """Belongs to the engine's loop. Degrades: without Redis, or without a holder, the tools stay as they are."""

    def __init__(
        self,
        settings: Settings,
        address: StoreAddress,
        node: Node,
        redis: PipelinedConnection,
        keys: Keys,
        figures: Figures | None,
    ) -> None:
        self._settings = settings
        self._address = address
        self._node = node
        self._redis = redis
        self._keys = keys
        self._figures = figures
        self._until = 0.0

    @property
    def holds(self) -> bool:
        """Whether the lease is this worker's, as far as its own clock says."""
        return time.monotonic() < self._until

    async def run(self) -> None:
        """For ever."""
        thread: threading.Thread | None = None
        try:
            while True:
                with suppress(StoreUnavailable):
                    await self._renew()
                if self.holds and (thread is None or not thread.is_alive()):
                    thread = threading.Thread(target=self._discover, name="discovery", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:
                        log.warning("sources_not_asked", cause=repr(error))  # no thread is to be had now
                await asyncio.sleep(RENEW)
        finally:
            self._until = 0.0
            with suppress(StoreUnavailable):
                await self._redis.run("lease_release", [self._keys.sources_lease], [self._node.id])

    async def _renew(self) -> None:
        asked = time.monotonic()
        with store_errors("renewing the lease of discovery"):
            mine = await self._redis.run(
                "lease_take", [self._keys.sources_lease], [self._node.id, int(LEASE * 1000)]
            )
        self._until = asked + LEASE - MARGIN if mine else 0.0

    def _discover(self) -> None:
        client = connect(self._address, size=2)
        try:
            registry = Registry(client, self._keys, self._settings.egress.rules)
            retirement = Retirement(registry, Lifecycle(client, self._keys))
            sources = self._settings.sources.listed
            trusted = [source.name for source in sources if source.allow_credentials]
            tools = DiscoveredTools(registry, retirement, self._settings.runtime, trusted)
            Discoverer(
                client,
                Journal(client, self._keys),
                tools,
                sources,
                lambda: self.holds,
                count=self._count,
                make=partial(make_source, rules=self._settings.egress.rules, present=tools.present),
            ).run()
        finally:
            client.close()

    def _count(self, source: str, outcome: str) -> None:
        if self._figures is not None:
            self._figures.count("canalgate_discovery_faults", source, outcome)
