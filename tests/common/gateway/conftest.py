"""A gateway of its own for each test, and a worker without backends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.calls import replies
from common.domain.tool import StdioTransport, Tool, ToolState
from common.gateway import Caller, ClientId, Gateway, TenantId, ToolId
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.support.fake_worker import FakeWorker
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

ME = Caller(tenant=TenantId("default"), client=ClientId("script"))
ECHO, SLOW, OFF = ToolId("echo"), ToolId("slow"), ToolId("off")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats that a test can wait for."""
    monkeypatch.setattr(replies, "HEARTBEAT", 0.05)
    monkeypatch.setattr(replies, "MISSED_HEARTBEATS", 20)
    monkeypatch.setattr("common.calls.call.ANSWER_GRACE", 0.1)


def made(address: StoreAddress, **sections: object) -> Gateway:
    """A gateway on three tools, not started."""
    settings = Settings.model_validate({"redis": {"key_prefix": "test"}, **sections})
    gateway = Gateway(settings, address)
    gateway.registry.publish_file(
        [
            Tool(id=ECHO, transport=StdioTransport(command="cmd")),
            Tool(id=SLOW, transport=StdioTransport(command="cmd"), request_timeout=0.3),
            Tool(id=OFF, transport=StdioTransport(command="cmd"), state=ToolState.DISABLED),
        ]
    )
    return gateway


@pytest.fixture
def gateway(client: Client, address: StoreAddress) -> Iterator[Gateway]:
    """One that has read the registry."""
    with made(address) as gateway:
        wait_until(lambda: gateway.catalogue.get(ECHO), description="the catalogue is read")
        wait_until(gateway._first_reading.is_set, description="tenants are read as well")
        yield gateway


@pytest.fixture
def worker(redis_server: RedisServer, client: Client, keys: Keys) -> Iterator[FakeWorker]:
    """It echoes what it is not told to do otherwise."""
    with FakeWorker(redis_server, keys, [ECHO, SLOW]) as worker:
        yield worker
