"""MCP over Streamable HTTP with a backend that behaves: both eras, both forms of answer, few connections."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import orjson
import pytest

from common.domain.tool import HttpTransport
from common.mcp.revisions import Era
from gateway_worker.egress.http import HttpLink
from gateway_worker.egress.link import LinkLost, RpcError
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    echo_backend,
    text_of,
)
from tests.support.servers import echo_core
from tests.support.servers.http_wire import Connection, Request
from tests.support.wait import wait_until
from tests.worker.egress.http_links import Json, call, connected, event, notification, respond, served

# -- calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("era", ERAS)
def test_every_tool_of_the_echo_server(era: Era, sse: bool) -> None:
    """Each answers, in both eras and both forms; what comes back is what it sent, to the last field."""

    @on_loop
    async def scenario() -> None:
        heard: list[tuple[str, Json]] = []
        with echo_backend(sse=sse) as server:
            async with connected(server, era=era) as (backend, _):

                async def ask(name: str, token: Any = None, **arguments: Any) -> Json:
                    return await backend.request(
                        "tools/call",
                        call(name, token, **arguments),
                        on_notification=lambda *m: heard.append(m),
                    )

                assert text_of(await ask("echo", text="héllo \u2028 🚢")) == "héllo \u2028 🚢"
                assert text_of(await ask("sleep", seconds=0.01)) == "slept 0.01 s"
                assert (await ask("add", a=1, b=2.5))["structuredContent"] == {"sum": 3.5}
                assert (await ask("fail"))["isError"] is True
                rich = await ask("rich")
                assert (
                    rich.items() >= {k: v for k, v in echo_core.RICH_RESULT.items() if k != "_meta"}.items()
                )
                assert len(text_of(await ask("big", bytes=1 << 20))) == 1 << 20
                assert text_of(await ask("progress", "mine", steps=3)) == "did 3 steps"
                assert [(m, p["progressToken"], p["progress"]) for m, p in heard] == [
                    ("notifications/progress", "mine", step) for step in (1, 2, 3)
                ]
                assert text_of(await ask("log")) == "logged"
                if era is Era.LEGACY:
                    assert heard[-1][0] == "notifications/message"
                with pytest.raises(RpcError) as unknown:
                    await ask("no such tool")
                assert unknown.value.error == {"code": -32602, "message": "Unknown tool: no such tool"}

    scenario()


@on_loop
async def test_the_session_of_a_legacy_backend() -> None:
    """Its id and revision go with every request after the handshake, and it is ended at the close."""
    with echo_backend() as server:
        async with connected(server, headers={"X-Key": "k"}) as (backend, _):
            await backend.request("tools/call", call("echo", text="x"))
            await until(lambda: server.by_verb("GET"), description="the standing stream")
        first, *others = server.requests
        assert orjson.loads(first.body)["method"] == "initialize"
        assert "mcp-session-id" not in first.headers
        assert {request.headers["mcp-protocol-version"] for request in others} == {"2025-11-25"}
        assert len({request.headers["mcp-session-id"] for request in others}) == 1
        assert all(request.headers["x-key"] == "k" for request in server.requests)
        assert others[-1].method == "DELETE"


@on_loop
async def test_a_modern_backend_is_told_by_headers() -> None:
    """Revision, method and name stand in headers; there is no session, no standing stream, nothing to end."""
    with echo_backend() as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            await backend.request("tools/call", call("echo", text="x"))
            await backend.request("tools/list", {})
        for request in server.requests:
            message = orjson.loads(request.body)
            assert request.method == "POST"
            assert "mcp-session-id" not in request.headers
            assert request.headers["mcp-protocol-version"] == "2026-07-28"
            assert request.headers["mcp-method"] == message["method"]
            assert request.headers.get("mcp-name") == message["params"].get("name")


@on_loop
async def test_the_environment_has_no_part(monkeypatch_env: pytest.MonkeyPatch) -> None:
    """No proxy and no credentials of the environment: where a tool lives is said in its definition."""
    monkeypatch_env.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch_env.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with echo_backend() as server:
        async with connected(server) as (backend, _):
            assert text_of(await backend.request("tools/call", call("echo", text="direct"))) == "direct"


@pytest.fixture
def monkeypatch_env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, to be changed."""
    return monkeypatch


# -- connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sse", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("era", ERAS)
def test_connections_are_used_again(era: Era, sse: bool) -> None:
    """Forty calls one after another share a connection or two, whatever the form of their answers."""

    @on_loop
    async def scenario() -> None:
        with echo_backend(sse=sse) as server:
            async with connected(server, era=era) as (backend, _):
                for n in range(40):
                    assert text_of(await backend.request("tools/call", call("echo", text=str(n)))) == str(n)
                standing = 1 if era is Era.LEGACY else 0
                assert server.connections <= 4 + standing

    scenario()


@on_loop
async def test_connections_are_used_again_after_notifications_and_refusals() -> None:
    """Also where an answer has no body, or is an error."""
    with echo_backend() as server:
        async with connected(server) as (backend, link):
            for _ in range(20):
                await link.notify("notifications/roots/list_changed", {})
                with pytest.raises(RpcError):
                    await backend.request("no/such/method", {})
            assert server.connections <= 3


@on_loop
async def test_connections_are_used_again_after_other_refusals() -> None:
    """A backend that says 429 to every call is not also burdened with a connection for each."""
    with served(
        lambda connection, _: connection.respond("429 Too Many", b"slow down", "text/plain")
    ) as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            for _ in range(20):
                with pytest.raises(LinkLost, match="429"):
                    await backend.request("tools/call", call("x"))
        assert server.connections <= 3


@on_loop
async def test_many_calls_at_once() -> None:
    """A hundred under way together get their own answers."""
    with echo_backend(sse=True) as server:
        async with connected(server, era=Era.MODERN) as (backend, _):
            names = [f"caller {n}" for n in range(100)]
            answers = await asyncio.gather(
                *(backend.request("tools/call", call("echo", text=name)) for name in names)
            )
            assert [text_of(answer) for answer in answers] == names


@on_loop
async def test_an_answer_counts_though_its_stream_stays_open() -> None:
    """Nobody waits for a backend that does not end its stream after the answer; its connection is let go."""
    released = threading.Event()

    def answer_and_hold(connection: Connection, request: Request) -> None:
        connection.start_stream()
        event(connection, respond(request, {"content": []}))
        while not connection.hung_up(0.05):
            pass
        released.set()
        connection.abort()

    with served(answer_and_hold) as server:
        async with connected(server) as (backend, _):
            async with asyncio.timeout(0.5):
                assert await backend.request("tools/call", call("x")) == {"content": []}
            await until(released.is_set, timeout=5, description="the stream to be let go")


@on_loop
async def test_a_link_costs_no_certificates_to_make() -> None:
    """Reading the trust store takes tenths of a second and would hold up every other call of the worker."""
    HttpLink(HttpTransport(url="https://host/mcp"), connect_timeout=1, max_bytes=1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for scheme in ("http", "https"):
        link = HttpLink(HttpTransport(url=f"{scheme}://host/mcp"), connect_timeout=1, max_bytes=1)
        await link.close()
    assert loop.time() - begun < 0.05


# -- notifications --------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_equal_progress_tokens_of_two_callers_do_not_meet(era: Era) -> None:
    """Each hears its own progress, under the token it chose."""

    @on_loop
    async def scenario() -> None:
        heard: dict[str, list[Json]] = {"a": [], "b": []}
        with echo_backend() as server:
            async with connected(server, era=era) as (backend, _):

                async def count(who: str, steps: int) -> None:
                    await backend.request(
                        "tools/call",
                        call("progress", "same", steps=steps),
                        on_notification=lambda _, p: heard[who].append(p),
                    )

                await asyncio.gather(count("a", 3), count("b", 5))
        assert [p["progress"] for p in heard["a"]] == [1, 2, 3]
        assert [p["progress"] for p in heard["b"]] == [1, 2, 3, 4, 5]
        assert {p["progressToken"] for who in "ab" for p in heard[who]} == {"same"}

    scenario()


@on_loop
async def test_progress_goes_to_its_own_caller_whatever_stream_it_comes_on() -> None:
    """A backend that mixes up its streams does not show one caller the other's progress."""
    tokens: dict[str, Any] = {}
    heard: dict[str, list[str]] = {"a": [], "b": []}
    both = threading.Barrier(2, timeout=10)

    def crossed(connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body)
        who = message["params"]["name"]
        tokens[who] = message["params"]["_meta"]["progressToken"]
        connection.start_stream()
        both.wait()
        other = "a" if who == "b" else "b"
        progress = {"progressToken": tokens[other], "message": f"for {other}"}
        event(connection, notification("notifications/progress", **progress))
        wait_until(lambda: heard["a"] and heard["b"], timeout=5, description="both to be heard")
        event(connection, respond(request, {"content": []}))
        connection.end_stream()

    with served(crossed) as server:
        async with connected(server) as (backend, _):
            await asyncio.gather(
                *(
                    backend.request(
                        "tools/call",
                        call(who, 1),
                        on_notification=lambda _, p, who=who: heard[who].append(p["message"]),
                    )
                    for who in "ab"
                )
            )
    assert heard == {"a": ["for a"], "b": ["for b"]}


@on_loop
async def test_a_changed_list_is_heard_on_the_standing_stream_and_on_a_calls_own() -> None:
    """It belongs to no call, so no caller hears it."""
    mine: list[str] = []
    all_others: list[str] = []

    def change(connection: Connection, request: Request) -> None:
        connection.start_stream()
        event(connection, notification("notifications/tools/list_changed"))
        event(connection, respond(request, {"content": []}))
        connection.end_stream()

    with echo_backend() as server:
        async with connected(server) as (backend, link):
            link.on_notification = lambda method, _: all_others.append(method)
            await until(lambda: server.by_verb("GET"), description="the standing stream")
            await backend.request(
                "tools/call", call("list_changed"), on_notification=lambda m, _: mine.append(m)
            )
            await until(lambda: all_others, description="the announcement")
    with served(change) as server:
        async with connected(server) as (backend, link):
            link.on_notification = lambda method, _: all_others.append(method)
            await backend.request("tools/call", call("x"), on_notification=lambda m, _: mine.append(m))
    assert all_others == ["notifications/tools/list_changed"] * 2
    assert mine == []


@on_loop
async def test_requests_of_the_backend_are_answered() -> None:
    """``ping`` with an empty result, all else with -32601, each in a POST of its own with the session."""
    answers: list[tuple[Json, str]] = []
    complete = threading.Event()

    def ask(connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body)
        if "method" not in message:
            answers.append((message, request.headers["mcp-session-id"]))
            connection.respond("202 Accepted")
            if len(answers) == 2:
                complete.set()
            return
        connection.start_stream()
        event(connection, {"jsonrpc": "2.0", "id": "p", "method": "ping"})
        event(connection, {"jsonrpc": "2.0", "id": 7, "method": "sampling/createMessage", "params": {}})
        complete.wait(10)
        event(connection, respond(request, {"content": []}))
        connection.end_stream()

    with served(ask, also=lambda message: "method" not in message) as server:
        async with connected(server) as (backend, _):
            await backend.request("tools/call", call("x"))
    by_id = {json.dumps(message["id"]): message for message, _ in answers}
    assert by_id['"p"']["result"] == {}
    assert by_id["7"]["error"]["code"] == -32601
