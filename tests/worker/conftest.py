"""What the worker's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from common.processes import ProcessGuard
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.support.backends import EchoLog, stdio_tool
from tests.worker.discovery_cluster import Cluster
from tests.worker.engine_bench import Bench, running


@pytest.fixture(scope="session")
def guard() -> Iterator[ProcessGuard]:
    """One guard, as in a worker: its reaper is the only process it adds."""
    with ProcessGuard(grace=1) as guard:
        yield guard


@pytest.fixture
def echo_log(tmp_path: Path) -> EchoLog:
    """Where backends write what they were sent."""
    return EchoLog(tmp_path / "echo.jsonl")


@pytest.fixture
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with children that do not end by themselves."""
    monkeypatch.setattr("gateway_worker.egress.process.STOP_GRACE", 0.3)


@pytest.fixture
def bench(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, echo_log: EchoLog
) -> Iterator[Bench]:
    """One with the echo tool, which writes a log."""
    with running(client, keys, raw, address) as bench:
        bench.register(stdio_tool(env=echo_log.env))
        yield bench


@pytest.fixture
def cluster(client: Client, keys: Keys, address: StoreAddress, guard: ProcessGuard) -> Cluster:
    """No tool registered yet."""
    return Cluster(client, keys, address, guard)


@pytest.fixture
def the_engine_never_breaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that breaks ends its process; here the test fails instead."""
    broken: list[int] = []
    monkeypatch.setattr("gateway_worker.engine.os._exit", broken.append)
    yield
    assert broken == []
