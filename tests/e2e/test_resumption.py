"""Clients that lose the stream of a call and come back to it: the web process was killed, or closed it by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from mcp import Client

from tests.support.aio import run, until
from tests.support.mcp import RawClient, legacy
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
STEPS = 400
"""Of the backend, one each hundredth of a second: there is time to kill somebody meanwhile."""
EARLY = 20
MAX_AGE = 0.5


def tools() -> dict[str, Any]:
    """A backend that reports its steps, and one that asks."""
    echo, asking = server_command("echo"), server_command("inquirer", "legacy")
    return {
        "echo": {"command": echo[0], "args": echo[1:]},
        "asking": {"command": asking[0], "args": asking[1:]},
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two web processes."""
    directory = tmp_path_factory.mktemp("resume")
    with running_gateway(tools(), directory=directory, settings={"web": {"processes": 2}}) as found:
        yield found


class Stream:
    """An event stream as a client reads it: the id to come back with, and the messages."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        self.port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
        self.last = ""
        self._lines = response.iter_lines()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Up to the end of the stream, however it ends."""
        try:
            for line in self._lines:
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last = value
                elif name == "data" and value:
                    yield orjson.loads(value)
        except httpx.HTTPError:
            return


@contextmanager
def called(client: RawClient, name: str, arguments: dict[str, Any]) -> Iterator[Stream]:
    """The stream of a call that reports its progress."""
    params = {"name": name, "arguments": arguments, "_meta": {"progressToken": "p"}}
    message = client.message("tools/call", params)
    headers = client.sent_headers("tools/call", message["params"])
    with (
        httpx.Client(timeout=30) as http,
        http.stream("POST", client.url, json=message, headers=headers) as response,
    ):
        yield Stream(response)


@contextmanager
def came_back(client: RawClient, last: str) -> Iterator[Stream]:
    """The rest of it, as soon as somebody serves it."""
    headers = {**client.sent_headers("", {}), "accept": "text/event-stream", "last-event-id": last}
    with (
        httpx.Client(timeout=30, transport=httpx.HTTPTransport(retries=5)) as http,
        http.stream("GET", client.url, headers=headers) as response,
    ):
        yield Stream(response)


def web_process(gateway: RunningGateway, port: int) -> psutil.Process:
    """The web process at the other end of a connection of ours."""

    def found() -> psutil.Process | None:
        for process in gateway.process.descendants():
            try:
                if any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp")):
                    return process
            except psutil.Error:
                continue
        return None

    process = wait_until(found, description="the web process that serves us")
    assert process is not None
    return process


def kill(gateway: RunningGateway, port: int) -> None:
    """kill -9 of who serves a connection."""
    process = web_process(gateway, port)
    process.kill()
    wait_until(
        lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, description="its death"
    )


def steps(messages: list[dict[str, Any]]) -> list[int]:
    """The progress among messages."""
    return [m["params"]["progress"] for m in messages if m.get("method") == "notifications/progress"]


def test_a_web_process_is_killed_and_another_one_goes_on(gateway: RunningGateway) -> None:
    """Every step once and in order, then the result of the very call."""
    client = legacy(gateway.tool_url("echo"))
    heard: list[dict[str, Any]] = []
    with called(client, "progress", {"steps": STEPS}) as stream:
        for message in stream.messages():
            heard.append(message)
            if len(heard) == EARLY:
                kill(gateway, stream.port)
    known = len(heard)
    assert EARLY <= known < STEPS
    with came_back(client, stream.last) as rest:
        heard += rest.messages()
    assert steps(heard) == list(range(1, STEPS + 1))
    assert heard[-1]["result"]["content"][0]["text"] == f"did {STEPS} steps"
    with came_back(client, stream.last) as again:
        assert list(again.messages()) == heard[known:]


def test_a_client_that_hangs_up_again_and_again_misses_nothing(gateway: RunningGateway) -> None:
    """At whichever web process it comes back to."""
    client = legacy(gateway.tool_url("echo"))
    heard: list[dict[str, Any]] = []
    with called(client, "progress", {"steps": STEPS}) as stream:
        for message in stream.messages():
            heard.append(message)
            if len(heard) == EARLY:
                break
        last = stream.last
    while "result" not in heard[-1]:
        with came_back(client, last) as rest:
            for number, message in enumerate(rest.messages(), 1):
                heard.append(message)
                last = rest.last
                if number == EARLY:
                    break
    assert steps(heard) == list(range(1, STEPS + 1))


def test_a_question_outlives_the_web_process_that_asked_it(gateway: RunningGateway) -> None:
    """It is not asked again of the client that has heard it; the answer goes by way of another process."""
    client = RawClient(gateway.tool_url("asking"))
    assert client.open(capabilities={"elicitation": {}}).status_code == 200
    with called(client, "elicitation", {"who": "me"}) as stream:
        question = next(stream.messages())
        assert question["method"] == "elicitation/create"
        kill(gateway, stream.port)
    with came_back(client, stream.last) as rest:
        answer = {
            "jsonrpc": "2.0",
            "id": question["id"],
            "result": {"action": "accept", "content": {"answer": "42"}},
        }
        headers = client.sent_headers("", {})
        assert httpx.post(client.url, json=answer, headers=headers).status_code == 202
        (result,) = rest.messages()
    assert "42" in result["result"]["content"][0]["text"]


def sdk_call(gateway: RunningGateway, told: list[float]) -> Coroutine[Any, Any, str]:
    """The same call by the Python SDK's client."""

    async def note(done: float, _total: float | None, _message: str | None) -> None:
        told.append(done)

    async def call() -> str:
        async with Client(gateway.tool_url("echo"), mode="legacy") as client:
            result = await client.call_tool("progress", {"steps": STEPS}, progress_callback=note)
            return str(result.content[0].text)  # type: ignore[union-attr]

    return call()


def test_the_sdk_comes_back_by_itself(gateway: RunningGateway) -> None:
    """The Python SDK's client sees nothing of it but the time it takes."""
    told: list[float] = []

    def connected(process: psutil.Process) -> bool:
        found = process.net_connections("tcp")
        return any(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == gateway.port for c in found)

    async def killing() -> str:
        call = asyncio.create_task(sdk_call(gateway, told))
        await until(lambda: len(told) >= EARLY, description="some steps")
        for process in filter(connected, gateway.process.descendants()):
            process.kill()
        assert len(told) < STEPS
        return await call

    assert run(killing()) == f"did {STEPS} steps"
    assert told == list(range(1, STEPS + 1))


def test_clients_poll_when_streams_are_closed_at_an_age(tmp_path: Path) -> None:
    """``web.stream_max_age``: the SDK comes back until it has the result."""
    told: list[float] = []
    settings = {"web": {"stream_max_age": MAX_AGE}}
    with running_gateway(tools(), directory=tmp_path, settings=settings) as gateway:
        client = legacy(gateway.tool_url("echo"))
        with called(client, "progress", {"steps": STEPS}) as stream:
            assert 0 < len(list(stream.messages())) < STEPS
        assert run(sdk_call(gateway, told)) == f"did {STEPS} steps"
    assert told == list(range(1, STEPS + 1))
