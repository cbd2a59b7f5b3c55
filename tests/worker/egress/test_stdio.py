"""MCP over a child's pipes: many calls at once, every answer to its own caller, whatever the child does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.domain.errors import GatewayError, ResponseTooLarge
from common.domain.tool import StdioTransport, Tool
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from gateway_worker.egress.backend import Backend, connect
from gateway_worker.egress.link import LinkLost, RpcError
from gateway_worker.egress.process import Child
from gateway_worker.egress.stdio import StdioLink
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    MAX_BYTES,
    EchoLog,
    descendants,
    misbehaving,
    open_files,
    stdio_tool,
    text_of,
)
from tests.support.servers import echo_core

Json = dict[str, Any]


def link_to(tool: Tool, guard: ProcessGuard, *, max_bytes: int = MAX_BYTES) -> StdioLink:
    """A link to a tool's child, not yet open."""
    assert isinstance(tool.transport, StdioTransport)
    return StdioLink(Child(tool.transport, guard, line_limit=max_bytes))


@asynccontextmanager
async def connected(
    tool: Tool, guard: ProcessGuard, *, era: Era = Era.LEGACY, max_bytes: int = MAX_BYTES
) -> AsyncIterator[tuple[Backend, StdioLink]]:
    """A backend that has been spoken to, and its link."""
    link = link_to(tool, guard, max_bytes=max_bytes)
    try:
        yield await connect(link, [era]), link
    finally:
        await link.close()


def call(name: str, token: Any = None, **arguments: Any) -> Json:
    """Params of a ``tools/call``."""
    params: Json = {"name": name, "arguments": arguments}
    return params if token is None else {**params, "_meta": {"progressToken": token}}


def scripted(code: str) -> Tool:
    """A child whose every received message ``m`` goes through some lines of Python; ``say`` answers."""
    script = (
        "import json, os, sys, time\n"
        "def say(**m): os.write(1, json.dumps({'jsonrpc': '2.0', **m}).encode() + b'\\n')\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n" + "\n".join("    " + line for line in code.strip("\n").splitlines())
    )
    return Tool(id="scripted", transport=StdioTransport(command=sys.executable, args=("-c", script)))  # type: ignore[arg-type]


# -- calls ----------------------------------------------------------------------------------------------


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


# -- a child that talks nonsense ------------------------------------------------------------------------


@on_loop
async def test_valid_answers_are_found_among_garbage(guard: ProcessGuard) -> None:
    """Lines that are no JSON-RPC are counted and passed over."""
    async with connected(misbehaving("garbage_stdout"), guard) as (backend, link):
        assert text_of(await backend.request("tools/call", call("echo", text="found"))) == "found"
        assert link.noise >= 6


NONSENSE: list[Any] = [
    {"method": "notifications/progress", "params": [1, 2]},
    {"method": "notifications/progress", "params": "x"},
    {"method": "notifications/progress", "params": {"progressToken": [1]}},
    {"method": "notifications/progress", "params": {"progressToken": {}, "progress": 1}},
    {"method": "notifications/progress"},
    {"method": "notifications/message", "params": 5},
    {"method": "notifications/message", "params": None},
    {"method": 5, "params": {}},
    {"method": None},
    {"id": {}, "method": "ping"},
    {"id": None, "method": "ping"},
    {"id": 99, "method": "ping", "params": []},
    {"id": [1], "result": {}},
    {"id": "1", "result": {"wrong": True}},
    {"id": True, "result": {"wrong": True}},
    {"id": 1.0, "result": {"wrong": True}},
    {"id": None, "error": {"code": -32700, "message": "Parse error"}},
    {"result": {"wrong": True}},
    {},
    [],
    [{"id": 1, "result": {"wrong": True}}],
    None,
    1,
    "text",
]


@on_loop
async def test_no_nonsense_ends_a_session_or_answers_a_call(guard: ProcessGuard) -> None:
    """Whatever stands on a line, only an answer with a call's own id is the call's answer."""
    code = f"""
for nonsense in json.loads({json.dumps(json.dumps(NONSENSE))}):
    os.write(1, json.dumps(nonsense).encode() + b'\\n')
os.write(1, b'[' * 100000 + b'\\n')
os.write(1, b'{{"id": 77, "result": {{"wrong": "\\xff"}}}}\\n')
if 'id' in m and 'method' in m:
    say(id=m['id'], result={{'right': m['id']}})
"""
    link = link_to(scripted(code), guard)
    await link.open()
    heard: list[Any] = []
    link.on_notification = lambda method, params: heard.append((method, params))
    for n in (1, 2):
        answer = await link.request(
            "anything", call("x", "token"), on_notification=lambda *m: heard.append(m)
        )
        assert answer == {"right": n}
    assert not link.closed.is_set()
    assert all(isinstance(method, str) and isinstance(params, dict) for method, params in heard)
    await link.close()


@on_loop
async def test_an_answer_without_a_result_is_a_typed_error(guard: ProcessGuard) -> None:
    """Neither result nor error object: the call fails, the session goes on."""
    code = """
say(id=m['id'], **({'result': {}} if m['method'] == 'good' else {'result': 'text'}))
"""
    link = link_to(scripted(code), guard)
    await link.open()
    with pytest.raises(LinkLost, match="neither a result nor an error"):
        await link.request("bad", {})
    assert await link.request("good", {}) == {}
    await link.close()


@on_loop
async def test_an_answer_that_is_no_json_for_us_fails_its_call(guard: ProcessGuard) -> None:
    """A lone surrogate has no UTF-8 form and can be sent on to nobody; its call is told so at once."""
    code = r"""
os.write(1, b'{"jsonrpc":"2.0","id":%d,"result":{"text":"\\ud800"}}\n' % m['id'])
"""
    link = link_to(scripted(code), guard)
    await link.open()
    with pytest.raises(LinkLost, match="no valid JSON"):
        async with asyncio.timeout(5):
            await link.request("anything", {})
    await link.close()


@on_loop
async def test_wrong_ids_answer_nobody(guard: ProcessGuard) -> None:
    """A call whose answers all bear other ids waits for its deadline."""
    async with connected(misbehaving("wrong_ids"), guard) as (backend, link):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await backend.request("tools/call", call("echo", text="x"))
        assert link.noise == 1
        assert len((await backend.request("tools/list", {}))["tools"]) > 5


@on_loop
async def test_a_late_answer_is_dropped(guard: ProcessGuard) -> None:
    """It never becomes the answer of a later call."""
    code = """
if m['method'] == 'slow': held = m['id']
elif m['method'] == 'next':
    say(id=held, result={'of': 'slow'})
    say(id=m['id'], result={'of': 'next'})
    say(id=m['id'], result={'of': 'next, again'})
elif 'id' in m: say(id=m['id'], result={'of': m['method']})
"""
    link = link_to(scripted(code), guard)
    await link.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await link.request("slow", {})
    assert await link.request("next", {}) == {"of": "next"}
    assert await link.request("third", {}) == {"of": "third"}
    assert link.noise == 2
    await link.close()


@on_loop
async def test_requests_of_the_backend_are_answered(guard: ProcessGuard) -> None:
    """``ping`` with an empty result, all else with -32601, under the id it came with."""
    code = """
if m.get('method') == 'ask':
    asked, got = m['id'], []
    say(id='p', method='ping')
    say(id=7, method='sampling/createMessage', params={})
elif 'method' not in m:
    got.append(m)
    if len(got) == 2: say(id=asked, result={'got': got})
"""
    link = link_to(scripted(code), guard)
    await link.open()
    pong, refusal = (await link.request("ask", {}))["got"]
    assert pong == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (refusal["id"], refusal["error"]["code"]) == (7, -32601)
    await link.close()


# -- too much -------------------------------------------------------------------------------------------


@on_loop
async def test_a_huge_line_is_too_large(guard: ProcessGuard, quick_stop: None) -> None:
    """The call is told so, the memory stays bounded, the child is ended and the link closed."""
    us = psutil.Process()
    before = us.memory_info().rss
    async with connected(misbehaving("huge_line"), guard) as (backend, link):
        with pytest.raises(ResponseTooLarge, match="max_result_bytes"):
            await backend.request("tools/call", call("echo", text="x"))
        assert us.memory_info().rss - before < 3 * MAX_BYTES
        assert link.closed.is_set()
        with pytest.raises(GatewayError) as later:
            await backend.request("tools/call", call("echo", text="x"))
        assert isinstance(later.value, LinkLost)
        assert later.value.unsent
    assert not is_running(link.child.process.pid)


@on_loop
async def test_a_line_of_exactly_the_bound_passes(guard: ProcessGuard) -> None:
    """The bound is on the message."""
    code = """
head = '{"jsonrpc":"2.0","id":%d,"result":{"x":"' % m['id']
size = m['params']['size']
os.write(1, (head + 'x' * (size - len(head) - 3) + '"}}\\n').encode())
"""
    link = link_to(scripted(code), guard, max_bytes=50_000)
    await link.open()
    assert len((await link.request("say", {"size": 50_000}))["x"]) > 49_000
    with pytest.raises(ResponseTooLarge):
        await link.request("say", {"size": 50_001})
    await link.close()


@on_loop
async def test_a_flood_of_standard_error_does_not_block_calls(guard: ProcessGuard) -> None:
    """1 MiB before every answer: calls succeed, memory stays."""
    us = psutil.Process()
    async with connected(misbehaving("stderr_flood"), guard) as (backend, _):
        before = us.memory_info().rss
        for n in range(8):
            assert text_of(await backend.request("tools/call", call("echo", text=str(n)))) == str(n)
        assert us.memory_info().rss - before < 16 << 20


@on_loop
async def test_a_child_that_does_not_read_costs_bounded_memory(guard: ProcessGuard, quick_stop: None) -> None:
    """Requests it never takes do not pile up: those given up before their turn leave nothing behind."""
    code = "import time\ntime.sleep(60)"
    tool = Tool(id="deaf", transport=StdioTransport(command=sys.executable, args=("-c", code)))  # type: ignore[arg-type]
    link = link_to(tool, guard)
    await link.open()
    big = {"x": "x" * (1 << 20)}
    waiting = []
    for _ in range(5):
        begun = time.monotonic()
        outcomes = await asyncio.gather(
            *(asyncio.wait_for(link.request("x", big), 0.1) for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
        assert time.monotonic() - begun < 0.5, "giving up must not wait for the child"
        waiting.append(link.child.stdin.transport.get_write_buffer_size())
    assert waiting[0] < 2 << 20
    assert len(set(waiting)) == 1, "not even a word that they were given up"
    await link.close()


@on_loop
async def test_a_backend_that_asks_without_reading_is_cut_off(guard: ProcessGuard, quick_stop: None) -> None:
    """Answers to its requests are not collected without bound."""
    code = """
while True: os.write(1, b'{"jsonrpc":"2.0","id":"%s","method":"x"}\\n' % (b'i' * 30000))
"""
    link = link_to(scripted(code), guard)
    await link.open()
    with pytest.raises(LinkLost, match="does not read"):
        async with asyncio.timeout(20):
            await link.request("go", {})
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
