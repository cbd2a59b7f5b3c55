"""Reports to a circuit: one that was asked for waits for Redis, another costs nothing but a failure of a row."""

from __future__ import annotations

import asyncio

import pytest

from common.domain.errors import TransportFailure
from common.domain.ids import ToolId
from common.domain.invocation import ExecutionResult, answer, failed
from common.registry.records import Entry
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import script
from gateway_worker import circuits as module
from gateway_worker.circuits import CircuitReports
from gateway_worker.node import Node
from tests.support.aio import on_loop, until
from tests.support.backends import entry_of, stdio_tool
from tests.support.tcp_proxy import TcpProxy
from tests.worker.test_journey import Way, through, way

TOOL = stdio_tool().id
PERMIT_END = 10**13


def entry(_tool: ToolId) -> Entry | None:
    """Every tool is this one."""
    return entry_of(stdio_tool())


def reports(w: Way) -> CircuitReports:
    """Of a node, over the way's connection."""
    return CircuitReports(Node("bench"), w.redis, w.keys, w.outbox, entry)


def half_open(client: Client, keys: Keys, call: str) -> None:
    """The circuit lets this call try."""
    client.hset(keys.circuit(TOOL), mapping={"state": "half_open", "generation": 0})
    client.zadd(keys.circuit_permits(TOOL), {call: PERMIT_END})


@pytest.fixture(autouse=True)
def quick_again(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    """What Redis did not take is tried again soon. It knows the script: else it would say only that it does not."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    client.script_load(script("circuit_report").source)


@on_loop
async def test_a_half_open_circuit_hears_of_its_call_once_redis_is_back(
    client: Client, proxy: TcpProxy, keys: Keys
) -> None:
    """Otherwise it would stay half open until the permit ends, which may be minutes."""
    async with way(client, through(proxy), keys) as w:
        told, held = reports(w), w.held()
        half_open(client, keys, held.head.id)
        await w.redis.command("PING")
        proxy.refuse()
        proxy.cut()
        told.report(held, TOOL, good(), asked_for=True)
        await asyncio.sleep(0)
        assert client.hget(keys.circuit(TOOL), "state") == b"half_open"
        proxy.refuse(False)
        await until(
            lambda: not client.hexists(keys.circuit(TOOL), "state"), description="the circuit to close"
        )
        await until(lambda: client.exists(keys.circuit_permits(TOOL)) == 0, description="the permit to end")


@on_loop
async def test_a_lost_answer_closes_it_once(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """The second report finds the generation over."""
    async with way(client, through(proxy), keys) as w:
        told, held = reports(w), w.held()
        half_open(client, keys, held.head.id)
        await w.redis.command("PING")
        proxy.swallow_next_reply()
        told.report(held, TOOL, good(), asked_for=True)
        await until(lambda: not told.under_way, description="the report to be answered")
        generation = client.hget(keys.circuit(TOOL), "generation")
        assert generation is not None
        assert client.hget(keys.circuit(TOOL), "failures") is None


@on_loop
async def test_a_first_failure_is_not_told_twice(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """Nobody asked: a second one would count as another failure."""
    async with way(client, through(proxy), keys) as w:
        told, held = reports(w), w.held()
        await w.redis.command("PING")
        proxy.swallow_next_reply()
        told.report(held, TOOL, failed(TransportFailure("gone", stage="backend")), asked_for=False)
        await until(lambda: not told.under_way, description="the report to be given up")
        assert client.hget(keys.circuit(TOOL), "failures") == b"1"


def good() -> ExecutionResult:
    """An answer of the backend."""
    return answer({"content": []})
