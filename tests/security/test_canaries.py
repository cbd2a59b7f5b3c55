"""Secrets go where they belong and nowhere else: with sealed payloads Redis never holds one, not even for a moment."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from celery import Celery
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult
from redis import Redis

from tests.security.canaries import CANARIES, PLACES, Scene, leaks, overheard
from tests.security.canary_credentials import (
    Outside,
    around,
    put_secrets,
    settings_of_providers,
    tools_of_providers,
    use_credentials,
)
from tests.security.shown import environments
from tests.support.aio import on_loop
from tests.support.mcp import legacy, modern
from tests.support.redis import running_redis
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import REPOSITORY, running_http, server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
BEARER = {"Authorization": f"Bearer {CANARIES['bearer']}", "Cookie": f"session={CANARIES['cookie']}"}


KEEPS_FILES = {
    "rdbcompression": "no",
    "aof-use-rdb-preamble": "no",
    "appendfsync": "always",
    "appendonly": "yes",
}
"""Redis writes down all that it is told, in a form in which a text can be found."""


def settings(redis_url: str, home: Path, outside: Outside) -> dict[str, Any]:
    """Payloads are sealed, whoever calls has a key, and every part that has a secret is on."""
    return {
        **settings_of_providers(home, outside),
        "admin": {
            "enabled": True,
            "tokens": [{"name": "a", "token": CANARIES["admin_token"], "role": "admin"}],
        },
        "metrics": {"token": CANARIES["metrics_token"]},
        "audit": {
            "chain_key": CANARIES["chain_key"],
            "sinks": [
                {"name": "kept", "type": "file", "options": {"path": str(home / "gateway" / "audit.jsonl")}}
            ],
        },
        "telemetry": {
            "exporter": "otlp_http",
            "endpoint": outside.collector.http_url,
            "headers": f"x-api-key={CANARIES['telemetry_header']}",
        },
        "redis": {
            "url": redis_url,
            "encryption_keys": [{"id": "k1", "secret": CANARIES["encryption_secret"]}],
        },
        "identity": {
            "resolver": "api_key",
            "api_keys": [{"key": CANARIES["bearer"], "tenant": "t", "client": "c", "subject": "s"}],
        },
        "tenants": {"listed": ["t"]},
        "logging": {"level": "debug"},
    }


def tools(remote: str) -> dict[str, Any]:
    """Backends that tell what they were given, ask, and tell of changes."""
    echo, ask = server_command("echo"), server_command("inquirer", "legacy")
    return {
        **tools_of_providers(),
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
    with (
        running_redis() as server,
        running_http("echo_http", log=directory / "echo_http.log") as remote,
        around() as outside,
    ):
        for name, value in KEEPS_FILES.items():
            server.client().config_set(name, value)
        server.client().config_set("requirepass", password)
        redis = Redis(unix_socket_path=str(server.socket), password=password)
        scene_directory = directory / "gateway"
        heard = bytearray()
        put_secrets(directory, outside)
        url = f"unix://{server.socket}?db=0&password={password}"
        with (
            overheard(str(server.socket), password, heard),
            running_gateway(
                tools(remote),
                directory=scene_directory,
                settings=settings(url, directory, outside),
                env={"GIVEN__environment__token": CANARIES["environment_credential"]},
            ) as gateway,
        ):
            scene = Scene(
                redis=redis,
                traffic=heard,
                directory=scene_directory,
                gateway=gateway,
                collector=outside.collector,
            )
            call_tools(gateway)
            use_credentials(gateway, outside, **BEARER)
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
    holds = {
        "redis traffic": b'\\"sealed\\":\\"cgs1.k1.',
        "redis dump": b"cgs1.k1.",
        "redis files": b"cgs1.k1.",
        "files": b"capabilities_discovered",
        "command lines": b"echo.py",
        "traces": b"tools/call",
        "metrics": b"canalgate_",
        "admin API": b'"idle"',
        "outputs": b"idle",
        "environments": b"CANALGATE_REDIS__URL",
        "environments of tools": CANARIES["child_env"].encode(),
    }
    assert holds.keys() == PLACES.keys()
    for place, known in holds.items():
        assert known in played.place(place), place


def test_both_files_of_redis_were_looked_into(played: Scene) -> None:
    """The one that holds every write, and the snapshot; a text that Redis was told stands in both."""
    assert any(magic in played.place("redis files") for magic in (b"REDIS00", b"VALKEY0"))
    assert b"XADD" in played.place("redis files").upper()


def test_no_process_of_the_gateway_leaves_its_memory_on_the_disk(played: Scene) -> None:
    """A core file would hold every secret: the limit is 0 for all of them, and cannot be raised again."""
    up = psutil.Process(played.pid)
    seen = {process.pid: process.rlimit(psutil.RLIMIT_CORE) for process in [up, *up.children(recursive=True)]}
    assert len(seen) >= 4
    assert set(seen.values()) == {(0, 0)}


def test_the_compose_file_holds_no_secret() -> None:
    """Each comes from the environment, without a default; the example of one has none to be left in place."""
    compose = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
    secrets = re.findall(r"\$\{(\w*(?:PASSWORD|KEY|TOKEN|SECRET)\w*)([^}]*)\}", compose)
    assert {"REDIS_PASSWORD", "CANALGATE_API_KEY"} <= {name for name, _ in secrets}
    assert all(
        default.startswith((":?", ":-}")) or default in {"", ":-"}
        for name, default in secrets
        if not name.endswith("_FILE")
    )
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    assert all(not re.search(rf"^{name}=.+$", example, re.MULTILINE) for name, _ in secrets)


def test_a_tool_sees_the_secrets_of_no_other_and_none_of_the_gateway(played: Scene) -> None:
    """One environment, one credential at most."""
    given = {
        name: CANARIES[name].encode() for name in CANARIES if name.endswith(("_credential", "child_env"))
    }
    held = [
        {name for name, canary in given.items() if canary in environment}
        for environment in environments(played.pid, tools=True).values()
    ]
    assert max(map(len, held)) == 1
    assert set().union(*held) == set(given)


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
