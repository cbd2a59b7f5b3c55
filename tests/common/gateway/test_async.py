"""The Python API for asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from common.calls.admission import Order
from common.domain.errors import ErrorCode, InvocationCancelled, ToolNotFound
from common.gateway import Gateway
from tests.common.gateway.conftest import ECHO, ME, SLOW
from tests.common.gateway.test_streams import CALL, in_steps, nothing_is_left
from tests.support.aio import on_loop
from tests.support.fake_worker import FakeWorker
from tests.support.wait import wait_until


@on_loop
async def test_a_call_is_answered(gateway: Gateway, worker: FakeWorker) -> None:
    """As in a thread."""
    result = await gateway.ainvoke(ME, ECHO, "tools/call", CALL)
    assert result.value()["structuredContent"]["params"] == CALL
    assert nothing_is_left(gateway)


@on_loop
async def test_events_come_and_then_the_result(gateway: Gateway, worker: FakeWorker) -> None:
    """Four events, in order; the result as often as it is asked for."""
    worker.behaviour = in_steps
    async with gateway.ainvoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        events = [event async for event in stream]
        result = await stream.result()
    assert len(events) == 4
    assert (await stream.result()) is result
    collected = await gateway.ainvoke_stream(ME, ECHO, "tools/call", CALL).collect()
    assert collected.events == tuple(events)
    assert nothing_is_left(gateway)


@on_loop
async def test_a_refusal_is_a_value(gateway: Gateway) -> None:
    """Nothing is raised but by the value."""
    result = await gateway.ainvoke(ME, "none", "tools/call", CALL)
    with pytest.raises(ToolNotFound):
        result.value()
    assert nothing_is_left(gateway)


@on_loop
async def test_cancelling_the_wait_cancels_the_call(gateway: Gateway, worker: FakeWorker) -> None:
    """The worker is told, though its call is under way."""
    worker.behaviour = lambda call: None
    waiting = asyncio.create_task(gateway.ainvoke(ME, ECHO, "tools/call", CALL))
    taken = await asyncio.to_thread(worker.next_call)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(
        wait_until, lambda: worker.cancelled == [taken.invocation.id], description="the worker is told"
    )
    await asyncio.to_thread(wait_until, lambda: nothing_is_left(gateway), description="nothing is left")


@on_loop
async def test_a_call_that_is_cancelled_while_it_begins_is_cancelled(
    gateway: Gateway, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gave it up did not hear that it was queued."""
    worker.behaviour = lambda call: None
    admit, admitting, go_on = gateway._queueing._admission.admit, threading.Event(), threading.Event()

    def slowly(order: Order) -> object:
        admitting.set()
        go_on.wait(5)
        return admit(order)

    monkeypatch.setattr(gateway._queueing._admission, "admit", slowly)
    waiting = asyncio.create_task(gateway.ainvoke(ME, ECHO, "tools/call", CALL))
    await asyncio.to_thread(admitting.wait, 5)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    taken = await asyncio.to_thread(worker.next_call)
    await asyncio.to_thread(
        wait_until, lambda: worker.cancelled == [taken.invocation.id], description="the worker is told"
    )
    await asyncio.to_thread(wait_until, lambda: nothing_is_left(gateway), description="nothing is left")


@on_loop
async def test_a_stream_can_be_cancelled(gateway: Gateway, worker: FakeWorker) -> None:
    """Its result says so."""
    worker.behaviour = lambda call: call.notify("notifications/progress", progressToken="p", progress=1)
    async with gateway.ainvoke_stream(ME, ECHO, "tools/call", CALL) as stream:
        await anext(stream)
        await stream.cancel()
        with pytest.raises(InvocationCancelled):
            (await stream.result()).value()
    assert nothing_is_left(gateway)


@on_loop
async def test_no_thread_waits_for_an_answer(gateway: Gateway, worker: FakeWorker) -> None:
    """More calls wait than there are threads, and all are answered."""
    held = threading.Event()
    taken = []
    worker.behaviour = taken.append
    waiting = [asyncio.create_task(gateway.ainvoke(ME, ECHO, "tools/call", CALL)) for _ in range(60)]
    await asyncio.to_thread(wait_until, lambda: len(taken) == 60, description="all are queued")
    held.set()
    for call in taken:
        call.finish(in_result())
    results = await asyncio.gather(*waiting)
    assert {result.status for result in results} == {"success"}
    assert nothing_is_left(gateway)


def in_result() -> object:
    from common.domain.invocation import answer

    return answer({"content": []})


@on_loop
async def test_a_call_that_nobody_answers_ends(gateway: Gateway, worker: FakeWorker) -> None:
    """Within its deadline, although nothing wakes it."""
    worker.behaviour = lambda call: None
    result = await gateway.ainvoke(ME, SLOW, "tools/call", CALL)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INVOCATION_TIMEOUT


@on_loop
async def test_verbs_are_awaited(gateway: Gateway) -> None:
    """Each has a twin."""
    await gateway.adrain_tool(ECHO)
    assert (await gateway.aget_tool(ECHO)).entry.draining
    with pytest.raises(ToolNotFound):
        await gateway.adisable_tool("none")


@on_loop
async def test_the_journal_is_heard(gateway: Gateway) -> None:
    """From the moment on in which the first record is asked for."""
    heard = gateway.asubscribe(chosen=lambda record: record.kind == "tool_drained")
    first = asyncio.ensure_future(anext(heard))
    await asyncio.sleep(0)
    while not first.done():
        await gateway.adrain_tool(ECHO)
        await gateway.aundrain_tool(ECHO)
    assert (await first).fields["tool"] == ECHO
    await heard.aclose()
