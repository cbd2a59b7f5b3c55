"""A registry in Redis, and the discoveries of some workers over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from common.domain.capabilities import Capabilities
from common.domain.ids import NodeId, ToolId
from common.processes import ProcessGuard
from common.registry.catalogue import Catalogue
from common.registry.registry import Registry
from common.settings import DiscoverySettings
from common.store.client import Client, StoreAddress, connect_async
from common.store.clock import RedisClock
from common.store.keys import Keys
from gateway_worker.credentials.identity import GivenTo, nothing_given
from gateway_worker.discovery import Discovery
from gateway_worker.egress.backend import make_link
from tests.support.aio import ended, until
from tests.support.backends import (
    MAX_BYTES,
)
from tests.support.egress import ANYTHING
from tests.support.servers.echo_core import ENTRIES, EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request

QUICK = DiscoverySettings(ttl=300, timeout=10, era_probe_timeout=2, retry_min=0.05, retry_max=0.4)
NAMES = [entry["name"] for entry in ENTRIES]


class Cluster:
    """A registry in Redis and the discoveries of some workers over it."""

    def __init__(self, client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> None:
        self.client = client
        self.keys = keys
        self.registry = Registry(client, keys, ANYTHING)
        self.catalogue = Catalogue(client, keys)
        self.workers: list[Discovery] = []
        self._address = address
        self._guard = guard
        self.refreshing = True

    @asynccontextmanager
    async def running(
        self,
        *nodes: str,
        settings: DiscoverySettings = QUICK,
        serves: Callable[[ToolId], bool] = lambda _: True,
        given_to: GivenTo = nothing_given,
    ) -> AsyncIterator[None]:
        """Run a worker's discovery per node, over one catalogue that is refreshed all the time."""
        store = connect_async(self._address)
        self.catalogue.refresh()
        self.workers = [
            Discovery(
                node=NodeId(node),
                client=store,
                keys=self.keys,
                clock=RedisClock(),
                catalogue=self.catalogue,
                serves=serves,
                links=partial(make_link, guard=self._guard, max_bytes=MAX_BYTES, rules=ANYTHING),
                settings=settings,
                given_to=given_to,
            )
            for node in nodes or ("n1",)
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in self.workers]
        tasks.append(asyncio.create_task(self._refresh()))
        try:
            yield
        finally:
            for worker in self.workers:
                await worker.close()
            await ended(*tasks)
            await store.aclose()

    async def _refresh(self) -> None:
        while True:
            if self.refreshing:
                await asyncio.to_thread(self.catalogue.refresh)
            await asyncio.sleep(0.01)

    def known(self, tool: str = "local") -> Capabilities | None:
        """What Redis holds."""
        return self.registry.get(ToolId(tool)).known

    async def settled(
        self, condition: Callable[[Capabilities], bool], tool: str = "local", *, what: str
    ) -> Capabilities:
        """Wait until what is known of a tool fulfils a condition."""

        def found() -> Capabilities | None:
            known = self.known(tool)
            return known if known is not None and condition(known) else None

        known = await until(found, timeout=15, description=what, shown=lambda: self.known(tool))
        assert known is not None
        return known

    async def good(self, tool: str = "local") -> Capabilities:
        """Wait for an answer without error."""
        return await self.settled(lambda known: known.error is None, tool, what="a good answer")


class Changeable:
    """A backend whose eras change while its definition stays."""

    def __init__(self, era: str, version: str) -> None:
        self.become(era, version)

    def become(self, era: str, version: str) -> None:
        """Be upgraded."""
        self._server = EchoServer(era=era, name=f"echo {version}")
        self._http = HttpServer(self._server)

    def handle(self, connection: Connection, request: Request) -> None:
        """Serve as what it is now."""
        self._http.handle(connection, request)
