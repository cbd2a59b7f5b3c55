"""The gateway's own connections: it lists and probes a tool as whom the settings say, never as a caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.credentials.injection import Injected
from common.domain.errors import CredentialUnavailable
from common.domain.ids import ToolId
from common.domain.rules import HealthRules
from common.domain.tool import Tool, ToolState
from common.mcp.revisions import Era
from common.processes import ProcessGuard
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.support.aio import on_loop
from tests.support.backends import HttpBackend, http_backend, http_tool
from tests.worker.credentials.desk import with_credentials
from tests.worker.credentials.test_refusal import Guarded
from tests.worker.discovery_cluster import Cluster
from tests.worker.egress import http_links
from tests.worker.health_cluster import ProbingCluster

RULES = HealthRules(interval=0.4, timeout=0.4, degraded_after=0.3)


@pytest.fixture
def probing(client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> ProbingCluster:
    """No tool registered yet."""
    return ProbingCluster(client, keys, address, guard)


async def as_ops(_tool: Tool) -> Injected:
    """What the settings' tenant has."""
    return Injected(headers={"Authorization": "Bearer ops"})


async def unknown(_tool: Tool) -> Injected:
    """A provider that is away."""
    raise CredentialUnavailable("no", reason="failed")


@contextmanager
def behind_a_door(good: str = "Bearer ops", door: Guarded | None = None) -> Iterator[HttpBackend]:
    """A backend that lets only this one in."""
    door = door or Guarded()
    door.good = good
    with http_backend(door.handle) as backend:
        yield backend


def tool_at(backend: HttpBackend) -> Tool:
    """With credentials of each tenant's own."""
    return with_credentials(
        http_tool(backend.url, health=RULES), headers={"Authorization": "Bearer {key}"}, scope="tenant"
    )


@on_loop
async def _listed(cluster: Cluster) -> None:
    with behind_a_door() as backend:
        cluster.registry.put(tool_at(backend))
        async with cluster.running(given_to=as_ops):
            assert (await cluster.good("remote")).tools
        assert {request.headers.get("authorization") for request in backend.requests} == {"Bearer ops"}


def test_a_tool_is_listed_as_the_settings_say(cluster: Cluster) -> None:
    """On every request."""
    _listed(cluster)


def test_a_refused_listing_says_what_to_set(cluster: Cluster) -> None:
    """In the tool's status."""

    @on_loop
    async def scenario() -> None:
        with behind_a_door("another") as backend:
            cluster.registry.put(tool_at(backend))
            async with cluster.running(given_to=as_ops):
                known = await cluster.settled(
                    lambda known: known.error is not None, "remote", what="an error"
                )
        assert known.error is not None
        assert "credentials.discovery_tenant" in known.error

    scenario()


def test_a_probe_never_goes_over_a_callers_session(probing: ProbingCluster) -> None:
    """It goes as the settings say: a session may be refused for what its caller may not."""

    @on_loop
    async def scenario() -> None:
        door, of_alice = Guarded(), {"authorization": "Bearer alice"}
        with behind_a_door("Bearer alice", door) as backend:
            probing.registry.put(tool_at(backend))
            async with http_links.connected(backend, era=Era.MODERN, headers=of_alice) as (session, _):
                probing.sessions.open[ToolId("remote")] = session
                door.good, before = "Bearer ops", len(backend.requests)
                async with probing.running(given_to=as_ops):
                    await probing.settled("remote", ToolState.ENABLED)
            asked = backend.requests[before:]
            assert {request.headers.get("authorization") for request in asked} == {"Bearer ops"}

    scenario()


def test_refused_credentials_are_no_sign_of_the_tools_health(probing: ProbingCluster) -> None:
    """It answered; and that nobody knows any credentials says nothing at all."""

    @on_loop
    async def scenario() -> None:
        with behind_a_door("another") as backend:
            probing.registry.put(tool_at(backend))
            async with probing.running(given_to=as_ops):
                await probing.settled("remote", ToolState.ENABLED)
        with behind_a_door() as backend:
            probing.registry.put(tool_at(backend))
            async with probing.running(given_to=unknown):
                await probing.looks()
            assert backend.requests == []

    scenario()
