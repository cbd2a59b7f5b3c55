"""A gateway that is closed leaves nothing, and hangs nobody."""

from __future__ import annotations

import asyncio
import threading

import psutil
import pytest

from common.domain.errors import InternalError, InvocationCancelled, StoreUnavailable
from common.gateway import ExecutionResult, Gateway
from common.gateway.process import Process
from common.store.client import Client, StoreAddress
from tests.common.gateway.conftest import ECHO, ME, made
from tests.common.gateway.test_streams import CALL
from tests.support.fake_worker import FakeWorker
from tests.support.wait import wait_until


def open_sockets() -> set[tuple[int, object]]:
    return {(found.fd, found.laddr) for found in psutil.Process().net_connections("all")}


def test_no_thread_and_no_socket_is_left(client: Client, address: StoreAddress, worker: FakeWorker) -> None:
    """After calls of both kinds, verbs and live audit."""
    client.ping()
    threads, sockets = set(threading.enumerate()), open_sockets()

    async def work(gateway: Gateway) -> None:
        async with gateway:
            assert (await gateway.ainvoke(ME, ECHO, "tools/call", CALL)).status == "success"
            await gateway.adrain_tool(ECHO)
            async for _ in gateway.asubscribe("0-0"):
                break

    with made(address) as gateway:
        assert gateway.invoke(ME, ECHO, "tools/call", CALL).status == "success"
        assert next(gateway.subscribe("0-0")).kind == "tool_registered"
    asyncio.run(work(made(address)))
    wait_until(lambda: set(threading.enumerate()) <= threads, description="all threads have ended")
    wait_until(lambda: open_sockets() <= sockets, description="all sockets are closed")


def test_calls_under_way_are_taken_back(client: Client, address: StoreAddress, worker: FakeWorker) -> None:
    """Whoever waits in another thread, or on a loop, gets its end at once; so does the worker."""
    worker.behaviour = lambda call: None
    results: list[ExecutionResult] = []
    gateway = made(address)
    gateway.start()

    def wait() -> None:
        results.append(gateway.invoke(ME, ECHO, "tools/call", CALL))

    def wait_on_a_loop() -> None:
        results.append(asyncio.run(gateway.ainvoke(ME, ECHO, "tools/call", CALL)))

    waiting = [threading.Thread(target=wait), threading.Thread(target=wait_on_a_loop)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: len(worker.taken) == 2, description="both are under way")
    gateway.close()
    for thread in waiting:
        thread.join(5)
        assert not thread.is_alive()
    for result in results:
        with pytest.raises(InvocationCancelled):
            result.value()
    wait_until(lambda: len(worker.cancelled) == 2, description="the worker is told")


def test_a_closed_gateway_stays_closed(client: Client, address: StoreAddress) -> None:
    """It says so, and opens nothing anew; closing it twice is nothing."""
    with made(address) as gateway:
        pass
    gateway.close()
    sockets = open_sockets()
    for work in (
        lambda: gateway.invoke(ME, ECHO, "tools/call", CALL),
        lambda: gateway.drain_tool(ECHO),
        gateway.list_tools,
        gateway.sessions,
        lambda: gateway.register_tool("x", {"url": "https://a.example"}),
        lambda: gateway.remove_tool(ECHO),
        gateway.audit,
        gateway.status,
        lambda: asyncio.run(gateway.ainvoke(ME, ECHO, "tools/call", CALL)),
    ):
        with pytest.raises(InternalError, match="closed"):
            work()
    assert open_sockets() <= sockets


def test_what_upkeep_breaks_over_keeps_nothing_else_from_being_done() -> None:
    """Only a Redis that is away ends it, until the next time."""
    done: list[str] = []

    def breaks() -> None:
        raise ZeroDivisionError

    def away() -> None:
        raise StoreUnavailable("away")

    Process._each(breaks, lambda: done.append("next"))
    assert done == ["next"]
    with pytest.raises(StoreUnavailable):
        Process._each(away, lambda: done.append("never"))
    assert done == ["next"]
