"""A registry in Redis, and the probers of some workers over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import orjson

from common.domain.capabilities import Capabilities
from common.domain.health import Health, health_from_wire
from common.domain.ids import NodeId, ToolId
from common.domain.tool import ToolState
from common.processes import ProcessGuard
from common.registry.catalogue import Catalogue
from common.registry.records import capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client, StoreAddress, connect_async
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.scripts import run
from gateway_worker.credentials.identity import GivenTo, nothing_given
from gateway_worker.egress.backend import Backend, make_link
from gateway_worker.health import Prober
from tests.support.aio import ended, until
from tests.support.backends import MAX_BYTES
from tests.support.egress import ANYTHING


class Sessions:
    """The open sessions of a worker, as a test has opened them."""

    def __init__(self) -> None:
        self.open: dict[ToolId, Backend] = {}

    def open_backend(self, tool: ToolId) -> Backend | None:
        """That of the tool."""
        return self.open.get(tool)


class ProbingCluster:
    """``probers`` are those that run, ``sessions`` those of all of them."""

    def __init__(self, client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> None:
        self.client = client
        self.keys = keys
        self.guard = guard
        self.registry = Registry(client, keys, ANYTHING)
        self.catalogue = Catalogue(client, keys)
        self.sessions = Sessions()
        self.probers: list[Prober] = []
        self._address = address

    @asynccontextmanager
    async def running(
        self,
        *nodes: str,
        serves: Callable[[ToolId], bool] = lambda _: True,
        given_to: GivenTo = nothing_given,
        address: StoreAddress | None = None,
    ) -> AsyncIterator[None]:
        """Run a prober per node, over one catalogue that is refreshed all the time."""
        store = connect_async(address or self._address)
        self.catalogue.refresh()
        self.probers = [
            Prober(
                node=lambda node=node: NodeId(node),  # type: ignore[misc]
                client=store,
                keys=self.keys,
                clock=RedisClock(),
                catalogue=self.catalogue,
                serves=serves,
                links=partial(make_link, guard=self.guard, max_bytes=MAX_BYTES, rules=ANYTHING),
                sessions=self.sessions,
                given_to=given_to,
            )
            for node in nodes or ("n1",)
        ]
        tasks = [asyncio.create_task(prober.run()) for prober in self.probers]
        tasks.append(asyncio.create_task(self._refresh()))
        try:
            yield
        finally:
            for prober in self.probers:
                await prober.close()
            await ended(*tasks)
            await store.aclose()

    async def _refresh(self) -> None:
        while True:
            await asyncio.to_thread(self.catalogue.refresh)
            await asyncio.sleep(0.01)

    async def looks(self, number: int = 3) -> None:
        """Wait until the first prober has looked that often from the beginning to the end."""
        seen = 0
        prober = self.probers[0]
        original = prober._tidy

        async def tidied() -> None:
            nonlocal seen
            await original()
            seen += 1

        prober._tidy = tidied  # type: ignore[method-assign]
        await until(lambda: seen > number, description="some looks")
        await self.quiet()

    async def quiet(self) -> None:
        """Wait for a moment without a probe."""
        await until(lambda: not any(each._running for each in self.probers), description="the probes to end")

    def version(self) -> int:
        """That of the registry."""
        return int(self.client.get(self.keys.registry_version) or 0)

    def discovered(self, tool: str, error: str | None = None) -> None:
        """What a discovery would have stored."""
        keys, version = self.keys, self.registry.get(ToolId(tool)).registered.version
        found = Capabilities(tool_version=version, discovered_at=1, error=error)
        names = [
            *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
            *(keys.registry_changes, keys.registry_refresh),
        ]
        told = [tool, capabilities_to_json(found), version, 1, keys.registry_channel]
        assert run(self.client, "capabilities_put", names, told)

    def put_record(self, tool: str, grade: ToolState) -> None:
        """A grade of an earlier probe."""
        record = {"grade": grade.value, "latency_ms": None, "at": 1, "since": 1, "reason": "an earlier probe"}
        self.client.hset(self.keys.health, tool, orjson.dumps(record))

    def known(self, tool: str) -> Health | None:
        """What Redis holds."""
        raw = self.client.hget(self.keys.health, tool)
        return None if raw is None else health_from_wire(orjson.loads(raw))

    async def settled(self, tool: str, grade: ToolState, *, after: int = 0) -> Health:
        """Wait for a grade that was found after a moment (Redis ms)."""

        def found() -> Health | None:
            known = self.known(tool)
            return known if known is not None and known.grade is grade and known.at > after else None

        known = await until(
            found, timeout=15, description=f"{tool} to be {grade.value}", shown=lambda: self.known(tool)
        )
        assert known is not None
        return known

    def announced(self) -> list[dict[str, str]]:
        """The audited transitions, in order."""
        events = [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in self.client.xrange(self.keys.audit)
        ]
        return [event for event in events if event["kind"] == "health_transition"]

    def transitions(self) -> list[str]:
        """What they say."""
        return [event["detail"] for event in self.announced()]
