"""A child that talks nonsense, or too much: answers stay with their callers, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import psutil
import pytest

from common.domain.errors import GatewayError, ResponseTooLarge
from common.domain.tool import StdioTransport, Tool
from common.processes import ProcessGuard, is_running
from gateway_worker.egress.link import LinkLost
from tests.support.aio import on_loop
from tests.support.backends import (
    MAX_BYTES,
    misbehaving,
    text_of,
)
from tests.worker.egress.stdio_links import call, connected, link_to, scripted

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
async def test_a_line_that_breaks_its_listener_costs_nobody_else_an_answer(guard: ProcessGuard) -> None:
    """Nor does a request whose id is nested too deeply to be answered: the lines behind it are read."""
    code = """
deep = json.loads('[' * 300 + ']' * 300)
if m.get('method') == 'tools/call':
    lines = [{'method': 'notifications/message', 'params': {'level': 'info', 'data': 'x'}},
             {'method': 'ping', 'id': deep}, {'id': m['id'], 'result': {'right': m['id']}}]
    os.write(1, b''.join(json.dumps({'jsonrpc': '2.0', **line}).encode() + b'\\n' for line in lines))
"""

    def broken(_method: str, _params: dict[str, Any]) -> None:
        raise RuntimeError("a listener with a fault")

    link = link_to(scripted(code), guard)
    try:
        await link.open()
        async with asyncio.timeout(10):
            result = await link.request("tools/call", call("x"), on_notification=broken)
        assert result == {"right": 1}
        assert link.noise == 2
    finally:
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


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"jsonrpc":"2.0","id":%d,"result":{"x":DEEP}}', True),
        ('{"result":{"x":DEEP},"jsonrpc":"2.0","id": %d}', True),
        ('{"result":{"x":DEEP,"id":%d},"jsonrpc":"2.0"}', False),
        ('{"jsonrpc":"2.0","id":"%d","result":DEEP}', False),
        ('{"jsonrpc":"2.0","id":%d,"method":"sampling/createMessage","params":DEEP}', False),
        ('{"params":DEEP,"id":%d,"method":"sampling/createMessage"}', False),
    ],
)
def test_an_answer_nested_too_deeply_fails_its_call(line: str, told: bool, guard: ProcessGuard) -> None:
    """If its id can be told from outside; what is no answer, or nobody's, is noise. The session goes on."""
    code = f"""
if m.get('method') == 'deep':
    os.write(1, {line!r}.replace('%d', str(m['id'])).replace('DEEP', '[' * 100000 + ']' * 100000).encode() + b'\\n')
elif 'id' in m: say(id=m['id'], result={{}})
"""

    @on_loop
    async def scenario() -> None:
        link = link_to(scripted(code), guard)
        await link.open()
        with pytest.raises(ResponseTooLarge if told else TimeoutError, match="nested" if told else None):
            async with asyncio.timeout(5 if told else 0.3):
                await link.request("deep", {})
        assert await link.request("other", {}) == {}
        assert link.noise == (0 if told else 1)
        await link.close()

    scenario()


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
        waiting.append(link.waiting_input)
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
