"""Secrets go where they belong and nowhere else: with sealed payloads Redis never holds one, not even for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from celery import Celery
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult
from redis import Redis

from tests.security.canaries import CANARIES, PLACES, Scene, leaks, overheard
from tests.support.aio import on_loop
from tests.support.mcp import legacy, modern
from tests.support.redis import running_redis
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import running_http, server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
BEARER = {"Authorization": f"Bearer {CANARIES['bearer']}", "Cookie": f"session={CANARIES['cookie']}"}


def settings(redis_url: str) -> dict[str, Any]:
    """Payloads are sealed, and whoever calls has a key."""
    return {
        "redis": {
            "url": redis_url,
            "encryption_keys": [{"id": "k1", "secret": CANARIES["encryption_secret"]}],
        },
        "identity": {
            "resolver": "api_key",
            "api_keys": [{"key": CANARIES["bearer"], "tenant": "t", "client": "c"}],
        },
        "tenants": {"listed": ["t"]},
        "logging": {"level": "debug"},
    }


def tools(remote: str) -> dict[str, Any]:
    """Backends that tell what they were given, ask, and tell of changes."""
    echo, ask = server_command("echo"), server_command("inquirer", "legacy")
    return {
        "local": {"command": echo[0], "args": echo[1:], "env": {"SECRET_TOKEN": CANARIES["child_env"]}},
        "remote": {"url": remote, "headers": {"X-Api-Key": CANARIES["tool_header"]}},
        "asks": {"command": ask[0], "args": ask[1:]},
        "idle": {"url": f"http://user:{CANARIES['url_userinfo']}@127.0.0.1:9/mcp", "enabled": False},
    }


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A gateway through which every canary went; it still runs."""
    directory = tmp_path_factory.mktemp("canaries")
    password = CANARIES["redis_password"]
    with running_redis() as server, running_http("echo_http", log=directory / "echo_http.log") as remote:
        server.client().config_set("requirepass", password)
        redis = Redis(unix_socket_path=str(server.socket), password=password)
        scene_directory = directory / "gateway"
        heard = bytearray()
        url = f"unix://{server.socket}?db=0&password={password}"
        with (
            overheard(str(server.socket), password, heard),
            running_gateway(tools(remote), directory=scene_directory, settings=settings(url)) as gateway,
        ):
            scene = Scene(
                redis=redis, traffic=heard, directory=scene_directory, pid=gateway.process.popen.pid
            )
            call_tools(gateway)
            watch(gateway)
            be_asked(gateway)
            speak_sse(gateway)
            poison(redis, str(server.socket), password)
            yield scene


def call_tools(gateway: RunningGateway) -> None:
    """Arguments, results, errors and progress, in both eras, by a child and over HTTP."""
    for open_client in (legacy, modern):
        for tool in ("local", "remote"):
            client = open_client(gateway.tool_url(tool), **BEARER)
            for name in ("argument", "result"):
                assert client.text("echo", {"text": CANARIES[name]}) == CANARIES[name]
            failed = client.call("fail", {"text": CANARIES["error"]})["result"]
            assert failed["isError"] is True
            assert CANARIES["error"] in str(failed)
            token = {"progressToken": CANARIES["progress_token"]}
            answer = client.post(
                "tools/call", {"name": "progress", "arguments": {"steps": 2}, "_meta": token}
            )
            assert answer.text.count(CANARIES["progress_token"]) >= 2
    assert CANARIES["child_env"] in legacy(gateway.tool_url("local"), **BEARER).text("env")
    assert CANARIES["tool_header"] in legacy(gateway.tool_url("remote"), **BEARER).text("headers")


def watch(gateway: RunningGateway) -> None:
    """A URI that is watched stands in Redis for as long as that; its updates come by the session's stream."""
    client = legacy(gateway.tool_url("asks"), **BEARER)
    uri = f"test://{CANARIES['watched_uri']}"
    assert "result" in orjson.loads(client.post("resources/subscribe", {"uri": uri}).content)
    client.call("touch", {"uri": uri})


def be_asked(gateway: RunningGateway) -> None:
    """What a backend asks, and what its client answers, goes through Redis both ways."""

    async def elicit(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"answer": CANARIES["client_answer"]})

    @on_loop
    async def scenario() -> None:
        for mode in ("legacy", "2026-07-28"):
            async with httpx_client() as http:
                transport = streamable_http_client(gateway.tool_url("asks"), http_client=http)
                async with Client(transport, mode=mode, elicitation_callback=elicit) as client:
                    result = await client.call_tool("elicitation", {"who": "me"})
                    assert CANARIES["client_answer"] in str(result)

    scenario()


def httpx_client() -> Any:
    """A client with the canaries in its headers, of the library that the SDK wants."""
    import httpx2

    return httpx2.AsyncClient(headers=BEARER, timeout=60)


def speak_sse(gateway: RunningGateway) -> None:
    """What is POSTed beside an open stream goes to its holder by an inbox in Redis."""
    answered = threading.Event()
    with httpx.stream("GET", f"{gateway.url}/servers/local/sse", headers=BEARER, timeout=30) as stream:
        lines = stream.iter_lines()
        address = next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2024-11-05",
                "capabilities": {},
                "clientInfo": {"name": "c", "version": "1"},
                "_meta": {"note": CANARIES["sse_message"]},
            },
        }
        posted = httpx.post(f"{gateway.url}{address}", json=message, headers=BEARER)
        assert posted.status_code == 202, posted.text
        if any('"id":1' in line for line in lines if line.startswith("data: ")):
            answered.set()
    assert answered.is_set()


def poison(redis: Redis, path: str, password: str) -> None:
    """A stock producer's message that no worker can run becomes a dead letter."""
    url = f"redis+socket://:{password}@{path}?virtual_host=0"
    with Celery(broker=url, backend=url) as app:
        app.send_task("no.such.task", args=[CANARIES["dead_letter"]], queue="tool.local", ignore_result=True)
    letters = "canalgate:dead-letters"
    wait_until(lambda: redis.xlen(letters) > 0, timeout=30, description="the dead letter")


def test_no_canary_is_where_it_must_not_be(played: Scene) -> None:
    """All of them went through the gateway, and are in none of the places."""
    assert leaks(played) == []


def test_each_place_was_looked_into(played: Scene) -> None:
    """A place that is empty proves nothing; each holds what must be there."""
    for place, known in {
        "redis traffic": b'\\"sealed\\":\\"cgs1.k1.',
        "redis dump": b"cgs1.k1.",
        "files": b"capabilities_discovered",
        "command lines": b"echo.py",
    }.items():
        assert known in PLACES[place](played), place


def test_what_lies_in_redis_is_sealed_by_kind(played: Scene) -> None:
    """Every kind of payload is there, so none was left out of the proof by chance."""
    redis = played.redis
    assert all(b"sealed" in value for value in redis.hvals("canalgate:registry:tools"))
    [letter] = redis.xrange("canalgate:dead-letters")
    assert letter[1][b"message"].startswith(b'{"sealed":"')
    watches = list(redis.scan_iter("canalgate:watches:*"))
    assert [
        value for key in watches for value in redis.hvals(key) if not value.startswith(b'{"sealed"')
    ] == []
    assert watches
    results = [redis.get(key) for key in redis.scan_iter("celery-task-meta-*")]
    assert results
    assert [record for record in results if record is not None and b'"sealed":"' not in record] == []
