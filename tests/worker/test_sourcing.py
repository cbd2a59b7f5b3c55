"""One worker of the cluster asks the sources of tools; another one does when it is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from common.domain.ids import ToolId
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import sourcing
from gateway_worker.node import Node
from gateway_worker.sourcing import Sourcing
from tests.support.aio import on_loop, until

KEYS = Keys("test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sourcing, "LEASE", 0.6)
    monkeypatch.setattr(sourcing, "MARGIN", 0.2)
    monkeypatch.setattr(sourcing, "RENEW", 0.05)
    monkeypatch.setattr("common.discovery.running.LOOK", 0.05)


def settings(path: Path) -> Settings:
    source = {"name": "team", "type": "file", "path": str(path), "interval": 0.1}
    return Settings.model_validate({"redis": {"key_prefix": "test"}, "sources": {"listed": [source]}})


@asynccontextmanager
async def working(given: Settings, address: StoreAddress) -> AsyncIterator[Sourcing]:
    redis = PipelinedConnection(address)
    found = Sourcing(given, address, Node("test"), redis, KEYS, None)
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await redis.aclose()


def named(path: Path, *names: str) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(orjson.dumps({"mcpServers": {name: {"url": "https://x.example"} for name in names}}))
    new.replace(path)


@on_loop
async def test_one_of_them_does_it(client: Client, address: StoreAddress, tmp_path: Path) -> None:
    """It hands over at its end; the other one finds the tools as they are, and goes on."""
    path = tmp_path / "mcp.json"
    named(path, "a")
    registry, given = Registry(client, KEYS), settings(path)
    async with working(given, address) as first:
        await until(lambda: first.holds, description="the first holds the lease")
        await until(registry.entries, description="the tool is registered")
        version = registry.get(ToolId("a")).registered.version
        async with working(given, address) as second:
            await asyncio.sleep(0.3)
            assert first.holds
            assert not second.holds
    async with working(given, address) as third:
        await until(lambda: third.holds, description="another one holds it, at once")
        named(path, "a", "b")
        await until(lambda: len(registry.entries()) == 2, description="the other tool is registered")
        assert registry.get(ToolId("a")).registered.version == version
    await until(lambda: client.get(KEYS.sources_lease) is None, description="the lease is let go")


@on_loop
async def test_a_lease_that_ran_out_is_another_s(
    client: Client, address: StoreAddress, tmp_path: Path
) -> None:
    """Who was frozen, or cut off, knows by its own clock that it must not go on."""
    named(tmp_path / "mcp.json", "a")
    async with working(settings(tmp_path / "mcp.json"), address) as one:
        await until(lambda: one.holds, description="it holds the lease")
        client.set(KEYS.sources_lease, "another", px=5000)
        await until(lambda: not one.holds, description="it knows")
    assert client.get(KEYS.sources_lease) == b"another"


@on_loop
async def test_where_there_is_no_thread_to_be_had_it_is_tried_again(
    client: Client, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on meanwhile."""
    tries: list[int] = []

    class Scarce(threading.Thread):
        def start(self) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(sourcing, "threading", SimpleNamespace(Thread=Scarce))
    path = tmp_path / "mcp.json"
    named(path, "a")
    async with working(settings(path), address):
        await until(Registry(client, KEYS).entries, description="the tool is registered")
