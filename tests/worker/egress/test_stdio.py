"""MCP over a child's pipes: many calls at once, every answer to its own caller, and what its death means."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.domain.tool import StdioTransport, Tool
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from gateway_worker.egress import stdio as stdio_module
from gateway_worker.egress.backend import connect
from gateway_worker.egress.link import LinkLost, RpcError
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    EchoLog,
    descendants,
    misbehaving,
    open_files,
    stdio_tool,
    text_of,
)
from tests.support.servers import echo_core
from tests.worker.egress.stdio_links import Json, call, connected, link_to, scripted

# -- calls ----------------------------------------------------------------------------------------------


@on_loop
async def test_requests_of_one_turn_reach_the_child_in_one_write(guard: ProcessGuard) -> None:
    """And nobody gets another's answer."""
    async with connected(stdio_tool(), guard) as (backend, link):
        await backend.request("ping", {})
        writes: list[bytes] = []
        stdin = link.child.stdin
        plain = stdin.write

        def write(data: bytes | memoryview) -> int:
            writes.append(bytes(data))
            return plain(data)

        stdin.write = write  # type: ignore[method-assign]
        texts = [str(n) for n in range(50)]
        asked = (backend.request("tools/call", call("echo", text=text)) for text in texts)
        found = await asyncio.gather(*asked)
        assert [text_of(result) for result in found] == texts
        assert len(writes) == 1
        assert writes[0].count(b"\n") == 50


@pytest.mark.parametrize("era", ERAS)
def test_every_tool_of_the_echo_server(era: Era, guard: ProcessGuard) -> None:
    """Each answers, in both eras; what comes back is what it sent, to the last field."""

    @on_loop
    async def scenario() -> None:
        heard: list[tuple[str, Json]] = []
        async with connected(stdio_tool(env={"FLAVOUR": "sweet"}), guard, era=era) as (backend, link):

            async def ask(name: str, token: Any = None, **arguments: Any) -> Json:
                return await backend.request(
                    "tools/call", call(name, token, **arguments), on_notification=lambda *m: heard.append(m)
                )

            assert text_of(await ask("echo", text="héllo \u2028 🚢")) == "héllo \u2028 🚢"
            assert text_of(await ask("sleep", seconds=0.01)) == "slept 0.01 s"
            assert (await ask("add", a=1, b=2.5))["structuredContent"] == {"sum": 3.5}
            assert (await ask("fail"))["isError"] is True
            rich = await ask("rich")
            assert rich.items() >= {k: v for k, v in echo_core.RICH_RESULT.items() if k != "_meta"}.items()
            assert rich["_meta"]["vendor.example/kept"] == {"deep": ["x"]}
            assert len(text_of(await ask("big", bytes=1 << 20))) == 1 << 20
            assert text_of(await ask("progress", "mine", steps=3)) == "did 3 steps"
            assert [(m, p["progressToken"], p["progress"]) for m, p in heard] == [
                ("notifications/progress", "mine", step) for step in (1, 2, 3)
            ]
            assert text_of(await ask("log")) == "logged"
            if era is Era.LEGACY:
                assert heard[-1][0] == "notifications/message"
            assert text_of(await ask("pid")) == str(link.child.process.pid)
            assert (await ask("env"))["structuredContent"]["FLAVOUR"] == "sweet"
            assert text_of(await ask("list_changed")) == "added_1"
            with pytest.raises(RpcError) as unknown:
                await ask("no such tool")
            assert unknown.value.error == {"code": -32602, "message": "Unknown tool: no such tool"}
            with pytest.raises(LinkLost, match="exit status 9"):
                await ask("kill_me")
            assert link.closed.is_set()

    scenario()


@on_loop
async def test_two_hundred_calls_at_once_on_one_child(guard: ProcessGuard) -> None:
    """Every one gets its own answer, in about the time of the slowest."""
    async with connected(stdio_tool(), guard) as (backend, _):
        names = [f"caller {n}" for n in range(200)]
        calls = [backend.request("tools/call", call("echo", text=name)) for name in names]
        slow = [backend.request("tools/call", call("sleep", seconds=0.2)) for _ in range(20)]
        answers = await asyncio.gather(*slow, *calls)
        assert [text_of(answer) for answer in answers[20:]] == names


@on_loop
async def test_equal_progress_tokens_of_two_callers_do_not_meet(guard: ProcessGuard) -> None:
    """Each hears its own progress, under the token it chose, be it a string, a number or the same as the other's."""
    async with connected(stdio_tool(), guard) as (backend, _):
        heard: dict[str, list[Json]] = {"a": [], "b": [], "c": []}

        async def count(who: str, token: Any, steps: int) -> None:
            await backend.request(
                "tools/call",
                call("progress", token, steps=steps),
                on_notification=lambda _, p: heard[who].append(p),
            )

        await asyncio.gather(count("a", 1, 3), count("b", 1, 5), count("c", "1", 4))
    assert [[p["progress"] for p in heard[who]] for who in "abc"] == [
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 4],
    ]
    assert {json.dumps(p["progressToken"]) for who in "ab" for p in heard[who]} == {"1"}
    assert {p["progressToken"] for p in heard["c"]} == {"1"}


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_call_is_cancelled_at_the_child(era: Era, guard: ProcessGuard, echo_log: EchoLog) -> None:
    """The notification names the id the child knows; other calls go on."""

    @on_loop
    async def scenario() -> None:
        async with connected(stdio_tool(env=echo_log.env), guard, era=era) as (backend, _):
            task = asyncio.create_task(backend.request("tools/call", call("cancel_log")))
            await until(lambda: echo_log.received("tools/call"), description="the call at the child")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: any("cancelled" in e for e in echo_log.entries()), description="cancelled")
            (sent,) = echo_log.received("tools/call")
            (cancelled,) = echo_log.received("notifications/cancelled")
            assert cancelled["params"]["requestId"] == sent["id"]
            assert text_of(await backend.request("tools/call", call("echo", text="on"))) == "on"

    scenario()


ANSWERS = """
if m['method'] == 'initialize':
    info = {'name': 'late', 'version': '1'}
    say(id=m['id'], result={'protocolVersion': '2025-11-25', 'capabilities': {}, 'serverInfo': info})
elif m['method'] == 'answered':
    say(id=m['id'], result=m['params'])
elif m['method'] == 'deaf':
    time.sleep(60)
"""
LATE = """
elif m['method'] == 'notifications/cancelled':
    say(id=m['params']['requestId'], **%s)
"""


@pytest.mark.parametrize("answer", ["{'result': {}}", "{'error': {'code': 0, 'message': 'cancelled'}}"])
def test_a_late_answer_settles_a_call_that_was_given_up(answer: str, guard: ProcessGuard) -> None:
    """Once, and whatever it says. It is no noise: somebody waited for it."""

    @on_loop
    async def scenario() -> None:
        settled: list[str] = []
        async with connected(scripted(ANSWERS.rstrip() + LATE % answer), guard) as (backend, link):
            work = backend.call("given up", {}, on_settled=lambda: settled.append("late"))
            task = asyncio.create_task(work)
            await backend.call("answered", {}, on_settled=lambda: settled.append("in time"))
            assert settled == ["in time"]
            task.cancel()
            await until(lambda: "late" in settled, description="the late answer")
            await asyncio.wait([task])
            await backend.call("answered", {})
            assert settled == ["in time", "late"]
            assert link.noise == 0

    scenario()


@on_loop
async def test_a_call_that_was_never_written_is_settled(guard: ProcessGuard) -> None:
    """It waited for a child that does not read; the one before it was written, in part at least."""
    settled: list[str] = []
    async with connected(scripted(ANSWERS), guard) as (backend, link):
        tasks = [
            asyncio.create_task(backend.call(method, params, on_settled=partial(settled.append, method)))
            for method, params in (("deaf", {}), ("half", {"text": "x" * 1_000_000}), ("unsent", {}))
        ]
        await until(lambda: 0 < link.waiting_input < 1_000_000, description="a full pipe")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert settled == ["unsent"]


@on_loop
async def test_what_is_never_answered_is_forgotten_some_day(
    guard: ProcessGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may cost us no memory by its silence."""
    monkeypatch.setattr(stdio_module, "MOST_LATE", 3)
    async with connected(scripted(ANSWERS), guard) as (backend, link):
        for _ in range(10):
            task = asyncio.create_task(backend.call("given up", {}, on_settled=lambda: None))
            await backend.call("answered", {})
            task.cancel()
            await asyncio.wait([task])
        assert len(link._late) == 3


@on_loop
async def test_the_handshake_is_never_cancelled(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """The lifecycle rules forbid it: a start that is given up just ends the child."""
    link = link_to(misbehaving("silent", env=echo_log.env), guard)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await connect(link, [Era.LEGACY])
    assert len(echo_log.received("initialize")) == 1
    assert echo_log.received("notifications/cancelled") == []
    assert not is_running(link.child.process.pid)


# -- a child that dies ----------------------------------------------------------------------------------


@on_loop
async def test_a_child_killed_in_the_middle_of_calls(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """All of them fail at once, none with the claim that nothing was sent; the link is closed."""
    async with connected(stdio_tool(env=echo_log.env), guard) as (backend, link):
        tasks = [asyncio.create_task(backend.request("tools/call", call("cancel_log"))) for _ in range(5)]
        await until(lambda: len(echo_log.received("tools/call")) == 5, description="the calls at the child")
        killed = time.monotonic()
        os.kill(link.child.process.pid, 9)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - killed < 1.0
        for outcome in outcomes:
            assert isinstance(outcome, LinkLost)
            assert outcome.message == "the tool's process was ended by signal 9"
            assert not outcome.unsent
        assert link.closed.is_set()
        with pytest.raises(LinkLost) as later:
            await backend.request("tools/call", call("echo", text="x"))
        assert later.value.unsent


@on_loop
async def test_a_child_killed_while_a_grandchild_holds_its_pipes(guard: ProcessGuard, tmp_path: Path) -> None:
    """No end of file tells of it; the call fails at once all the same, and the grandchild goes too."""
    pid_file = tmp_path / "pid"
    async with connected(misbehaving("spawns_grandchild", "--pid-file", pid_file), guard) as (backend, link):
        task = asyncio.create_task(backend.request("tools/call", call("cancel_log")))
        await asyncio.sleep(0)
        killed = time.monotonic()
        os.kill(link.child.process.pid, 9)
        with pytest.raises(LinkLost, match="signal 9"):
            await task
        assert time.monotonic() - killed < 1.5
    assert not is_running(int(pid_file.read_text()))


@on_loop
async def test_what_a_child_wrote_just_before_its_end_is_read(guard: ProcessGuard) -> None:
    """An answer counts though its writer is gone, also without a line end."""
    code = """
if m['method'] == 'last':
    os.write(1, b'{"jsonrpc":"2.0","id":%d,"result":{"said":"%s"}}' % (m['id'], b'x' * 60000))
    os._exit(0)
"""
    link = link_to(scripted(code), guard)
    await link.open()
    assert len((await link.request("last", {}))["said"]) == 60000
    await link.close()


@on_loop
async def test_a_child_that_exits_at_the_start(guard: ProcessGuard) -> None:
    """The error says how it ended; what it printed is kept for the log."""
    link = link_to(misbehaving("exit_at_start"), guard)
    with pytest.raises(LinkLost, match="exit status 3"):
        await connect(link, [Era.LEGACY, Era.MODERN])
    assert link.child.stderr_tail() == ["fatal: no configuration found"]


@pytest.mark.parametrize(
    ("then", "words"),
    [("os._exit(3)", "ended with exit status 3"), ("time.sleep(60)", "does not read its input")],
    ids=["and ends", "and lives"],
)
@on_loop
async def test_a_child_that_closes_its_input(then: str, words: str, guard: ProcessGuard) -> None:
    """A write may break before anything else tells of a child's end: its end is what is told, if it has one."""
    code = f"import os, sys, time; os.close(0); print('deaf', file=sys.stderr, flush=True); time.sleep(0.2); {then}"
    tool = Tool(id="deaf", transport=StdioTransport(command=sys.executable, args=("-c", code)))  # type: ignore[arg-type]
    link = link_to(tool, guard)
    await link.open()
    await until(link.child.stderr_tail, description="its input is closed")
    asked = asyncio.create_task(link.request("ping", {}))
    gone = asyncio.create_task(link.notify("notifications/x", {}))
    settled = asyncio.Event()
    given_up = asyncio.create_task(link.request("ping", {}, on_settled=settled.set))
    for _ in range(5):
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait([given_up])
    assert settled.is_set(), "it was never sent"
    for waiting in (asked, gone):
        with pytest.raises(LinkLost, match=words) as lost:
            await waiting
        assert lost.value.unsent
    await until(link.closed.is_set, description="the link's end")
    await link.close()


# -- the end --------------------------------------------------------------------------------------------


@on_loop
async def test_calls_under_way_fail_when_the_link_is_closed(guard: ProcessGuard, echo_log: EchoLog) -> None:
    """They are told at once, and do not hold up the close."""
    async with connected(stdio_tool(env=echo_log.env), guard) as (backend, link):
        task = asyncio.create_task(backend.request("tools/call", call("cancel_log")))
        await until(lambda: echo_log.received("tools/call"), description="the call at the child")
        begun = time.monotonic()
        await link.close()
        assert time.monotonic() - begun < 2.0
        with pytest.raises(LinkLost):
            await task
    await link.close()


@on_loop
async def test_who_hangs_and_who_does_not(guard: ProcessGuard) -> None:
    """A child that has said nothing yet, or nothing since a call was given up; any word makes it alive again."""
    code = """
if m['method'] == 'speak': say(id=m['id'], result={})
elif m.get('method') == 'notifications/cancelled': cancelled = True
"""
    link = link_to(scripted(code), guard)
    await link.open()
    assert link.hangs
    await link.request("speak", {})
    assert not link.hangs
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await link.request("be silent", {})
    assert link.hangs
    await link.request("speak", {})
    assert not link.hangs
    silent = asyncio.create_task(link.request("be silent", {}))
    await link.request("speak", {})
    silent.cancel()
    await asyncio.wait([silent])
    assert not link.hangs, "it has spoken while the call was under way"
    await link.close()


@pytest.mark.slow
@on_loop
async def test_closing_a_stubborn_child_takes_at_most_five_seconds(guard: ProcessGuard) -> None:
    """It ignores the end of its input and SIGTERM."""
    async with connected(misbehaving("ignores_sigterm"), guard) as (_, link):
        begun = time.monotonic()
        await link.close()
        assert time.monotonic() - begun < 5.0
        assert not is_running(link.child.process.pid)


@on_loop
async def test_nothing_piles_up_over_sessions(guard: ProcessGuard) -> None:
    """After 30 of them files and processes are those of before."""
    guard.start()
    files, processes = open_files(), len(descendants())
    for start in range(0, 30, 10):
        links = [link_to(stdio_tool(), guard) for _ in range(10)]
        await asyncio.gather(*(connect(link, [Era.LEGACY]) for link in links))
        await asyncio.gather(*(link.close() for link in links))
        assert start < 30
    await until(lambda: open_files() <= files, description="file descriptors back", shown=open_files)
    assert len(descendants()) == processes
