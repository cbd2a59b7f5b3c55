"""Calls through a whole gateway, seen from outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.support.mcp import RawClient, legacy, modern
from tests.support.servers.gateway import RunningGateway

pytestmark = pytest.mark.e2e
Open = Callable[[str], RawClient]
ERAS = pytest.mark.parametrize("open_client", [legacy, modern], ids=["legacy", "modern"])
TOOLS = pytest.mark.parametrize("tool", ["local", "remote"])


@ERAS
@TOOLS
def test_a_result_arrives_as_the_backend_sent_it(
    gateway: RunningGateway, open_client: Open, tool: str
) -> None:
    """Every kind of content, structured content, ``_meta`` and unknown fields pass unchanged."""
    result = open_client(gateway.tool_url(tool)).call("rich")["result"]
    kinds = {block["type"] for block in result["content"]}
    assert {"text", "image", "audio", "resource", "resource_link"} <= kinds
    assert "structuredContent" in result
    assert result["_meta"]


@ERAS
def test_a_tool_error_is_an_answer(gateway: RunningGateway, open_client: Open) -> None:
    """``isError`` comes back as a result, not as an error of the gateway."""
    assert open_client(gateway.tool_url("local")).call("fail")["result"]["isError"] is True


def test_the_aggregate_prefixes_names(gateway: RunningGateway) -> None:
    """``/mcp`` lists every tool's capabilities as ``<tool>__<name>``, and calls them so."""
    client = legacy(f"{gateway.url}/mcp")
    names = [tool["name"] for tool in client.post("tools/list").json()["result"]["tools"]]
    assert {"local__echo", "remote__echo"} <= set(names)
    assert client.text("local__echo", {"text": "a"}) == "a"
    assert client.text("remote__echo", {"text": "b"}) == "b"


@ERAS
@TOOLS
def test_progress_streams_while_the_call_runs(gateway: RunningGateway, open_client: Open, tool: str) -> None:
    """A notification turns the answer into an event stream that ends with the result; the token is the caller's."""
    client = open_client(gateway.tool_url(tool))
    answer = client.post(
        "tools/call", {"name": "progress", "arguments": {"steps": 3}, "_meta": {"progressToken": "mine"}}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert sum('"progressToken":"mine"' in event for event in events) == 3
    assert '"result"' in events[-1]


@pytest.mark.alone
def test_two_hundred_slow_calls_run_at_once(gateway: RunningGateway) -> None:
    """200 calls of one second each, on one worker process and one child, take less than two seconds together."""
    client = modern(gateway.tool_url("local"))
    client.call("sleep", {"seconds": 0})

    async def one() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(client.wire("tools/call", {"name": "sleep", "arguments": {"seconds": 1}}))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        writer.close()
        return b'"result"' in body

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(one() for _ in range(200)))

    begun = time.monotonic()
    answered = asyncio.run(all_at_once())
    took = time.monotonic() - begun
    assert all(answered)
    assert took < 2.0, f"{took:.2f} s"


def test_sessions_are_shared_by_eras_only_through_the_backend(gateway: RunningGateway) -> None:
    """The same caller keeps its child from call to call."""
    client = modern(gateway.tool_url("local"))
    assert client.text("pid") == client.text("pid")


def test_a_killed_child_costs_one_call_at_most(gateway: RunningGateway) -> None:
    """The call it was in gets TRANSPORT_FAILURE at once; the next one has a fresh child."""
    client = modern(gateway.tool_url("local"))
    before = client.text("pid")
    begun = time.monotonic()
    error = client.call("kill_me")["error"]
    assert error["data"]["code"] == "TRANSPORT_FAILURE"
    assert time.monotonic() - begun < 5.0
    assert client.text("pid") != before
