"""What log lines say of the call they belong to, and that they never say it of another."""

from __future__ import annotations

import asyncio
from typing import Any

from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId
from common.domain.invocation import Caller, Invocation
from common.telemetry.about import About, add_facts, apart, current, leave, note
from common.telemetry.spans import Kind, Tracer
from tests.support.aio import on_loop


def invocation(number: int = 1) -> Invocation:
    return Invocation(
        id=InvocationId(f"call-{number}"),
        caller=Caller(tenant=TenantId(f"tenant-{number}"), client=ClientId("client")),
        tool=ToolId("tool"),
        method="tools/call",
        params={},
        version="2025-11-25",
        deadline=0,
        request_id=number,
        mcp_session=McpSessionId("session"),
    )


def line(**own: Any) -> dict[str, Any]:
    """A line written now."""
    return add_facts(None, "info", {"event": "x", **own})


@on_loop
async def test_a_line_names_call_and_trace() -> None:
    """Everything that is known; what the line says itself goes first."""
    about = About(session="tool-session", node="node")
    tracer = Tracer(lambda _: None)
    context = tracer.sampled(None)
    assert context is not None
    about.span = tracer.span("x", Kind.SERVER, context, None, {})
    about.enter()
    note(invocation())
    assert line(tool="own") == {
        "event": "x",
        "tenant": "tenant-1",
        "client": "client",
        "tool": "own",
        "method": "tools/call",
        "request_id": 1,
        "invocation": "call-1",
        "mcp_session": "session",
        "session": "tool-session",
        "node": "node",
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
    }
    leave()
    assert line() == {"event": "x"}


@on_loop
async def test_calls_at_the_same_time_do_not_mix() -> None:
    """Each task's lines are about its own, however they take turns."""

    async def call(number: int) -> set[str]:
        About().enter()
        note(invocation(number))
        seen = set()
        for _ in range(20):
            await asyncio.sleep(0)
            seen.add(line()["tenant"])
        return seen

    assert await asyncio.gather(*map(call, range(20))) == [{f"tenant-{number}"} for number in range(20)]
    assert line() == {"event": "x"}


@on_loop
async def test_what_began_in_a_call_and_outlives_it_says_nothing_of_it() -> None:
    """A connection that was opened for a call serves others later."""
    ended = asyncio.Event()

    async def lives_on() -> tuple[dict[str, Any], dict[str, Any]]:
        during = line()
        await ended.wait()
        return during, line()

    about = About()
    about.enter()
    note(invocation())
    task = asyncio.create_task(lives_on())
    await asyncio.sleep(0)
    about.ended = True
    ended.set()
    during, after = await task
    assert during["tenant"] == "tenant-1"
    assert after == {"event": "x"}


@on_loop
async def test_what_serves_many_calls_has_a_context_of_its_own() -> None:
    """Already while the call runs in which it began."""
    About().enter()
    note(invocation())

    async def line_of_it() -> dict[str, Any]:
        return line()

    apart_from_it = apart(About(tool="tool", session="s"))
    assert await asyncio.create_task(line_of_it(), context=apart_from_it) == {
        "event": "x",
        "tool": "tool",
        "session": "s",
    }
    assert await asyncio.create_task(line_of_it(), context=apart()) == {"event": "x"}
    assert current() is not None
