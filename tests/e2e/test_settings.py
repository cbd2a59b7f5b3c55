"""Settings whose effect is seen from outside only."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest
from redis import Redis

from tests.support.mcp import legacy, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
SETTINGS = {
    "redis": {"key_prefix": "another"},
    "web": {
        "session_idle_timeout": 1.0,
        "sse_commit_after": 0.2,
        "ping_interval": 0.2,
        "max_body_bytes": 2048,
        "read_timeout": 1.0,
        "allowed_hosts": ["gateway.example.com"],
        "allowed_origins": ["https://app.example.com"],
    },
    "worker": {"drain_timeout": 0.5},
    "runtime": {"result_ttl": 7.0, "max_result_bytes": 65536},
    "discovery": {"ttl": 1.0},
    "logging": {"format": "json", "level": "debug"},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with unusual settings."""
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("set"), settings=SETTINGS) as found:
        yield found


@pytest.fixture
def redis(gateway: RunningGateway) -> Iterator[Redis]:
    """The gateway's Redis."""
    record = orjson.loads((gateway.config.parent / "state" / "run.json").read_bytes())
    with Redis.from_url(record["redis_url"]) as client:
        yield client


def test_key_prefix_begins_our_keys(gateway: RunningGateway, redis: Redis) -> None:
    """``redis.key_prefix``: nothing is written under the default one."""
    modern(gateway.tool_url("local")).text("echo", {"text": "x"})
    assert redis.keys("another:*")
    assert not redis.keys("canalgate:*")


def test_result_ttl_bounds_the_life_of_results(gateway: RunningGateway, redis: Redis) -> None:
    """``runtime.result_ttl`` is the lifetime of a result's key."""
    modern(gateway.tool_url("local")).text("echo", {"text": "x"})
    lives = [redis.pttl(key) for key in redis.keys("celery-task-meta-*")]
    assert lives
    assert all(0 < life <= 7000 for life in lives)


def test_session_idle_timeout_ends_sessions(gateway: RunningGateway) -> None:
    """``web.session_idle_timeout``: a session nobody uses is gone; one in use is not."""
    client = legacy(gateway.tool_url("local"))
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        assert client.post("ping").status_code == 200
    idle = legacy(gateway.tool_url("local"))
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 1.3, description="the idle time")
    assert idle.post("ping").status_code == 404


def test_a_silent_call_becomes_a_stream_with_pings(gateway: RunningGateway) -> None:
    """``web.sse_commit_after`` and ``web.ping_interval``."""
    answer = modern(gateway.tool_url("local")).post(
        "tools/call", {"name": "sleep", "arguments": {"seconds": 1}}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count(": ping") >= 2
    assert '"result"' in answer.text


def test_bodies_and_results_are_bounded(gateway: RunningGateway) -> None:
    """``web.max_body_bytes`` and ``runtime.max_result_bytes``."""
    client = modern(gateway.tool_url("local"))
    assert client.post("tools/call", {"name": "echo", "arguments": {"text": "x" * 3000}}).status_code == 413
    assert client.call("big", {"bytes": 200_000})["error"]["data"]["code"] == "RESPONSE_TOO_LARGE"


def test_read_timeout_bounds_a_request(gateway: RunningGateway) -> None:
    """``web.read_timeout``: a body that does not come is not waited for; the default is a minute."""
    client = modern(gateway.tool_url("local"))
    head, _, body = client.wire("tools/list").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as sock:
        begun = time.monotonic()
        sock.sendall(head + b"\r\n\r\n" + body[:10])
        assert sock.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begun < 15
        assert sock.recv(4096) == b""


def test_hosts_and_origins_may_be_added(gateway: RunningGateway) -> None:
    """``web.allowed_hosts`` and ``web.allowed_origins``."""
    client = modern(gateway.tool_url("local"))
    message = client.message("tools/list")
    headers = client.sent_headers("tools/list", {})
    named = {"host": "gateway.example.com", "origin": "https://app.example.com"}
    assert httpx.post(client.url, json=message, headers=headers | named).status_code == 200
    assert (
        httpx.post(client.url, json=message, headers=headers | {"host": "b.example.com"}).status_code == 421
    )
    other = {"origin": "https://b.example.com"}
    assert httpx.post(client.url, json=message, headers=headers | other).status_code == 403


def test_discovery_ttl_asks_again(gateway: RunningGateway, redis: Redis) -> None:
    """``discovery.ttl``: a tool is asked anew when its answer is that old."""

    def asked() -> int:
        raw = redis.hget("another:registry:capabilities", "local")
        return int(orjson.loads(raw)["discovered_at"]) if raw else 0

    before = asked()
    wait_until(lambda: asked() >= before + 1000, timeout=10, description="another discovery")


def test_logs_are_json_at_their_level(gateway: RunningGateway) -> None:
    """``logging.format`` and ``logging.level``."""
    log = (gateway.config.parent / "state" / "logs" / "worker1.log").read_text().splitlines()
    events = [orjson.loads(line) for line in log if line.startswith("{")]
    assert any(event["event"] == "capabilities_discovered" for event in events)
    assert any(event["level"] == "debug" for event in events)


def test_drain_timeout_cuts_off_what_is_left(tmp_path: Path) -> None:
    """``worker.drain_timeout``: a stopping worker waits that long, then answers for the call."""
    import threading

    settings = {"worker": {"drain_timeout": 0.5}}
    with running_gateway(
        {"local": {"command": COMMAND, "args": ARGS}}, directory=tmp_path, settings=settings
    ) as gateway:
        client = modern(gateway.tool_url("local"))
        client.text("echo", {"text": "warm"})
        worker = next(p for p in gateway.process.descendants() if "worker1@" in " ".join(p.cmdline()))
        threading.Timer(0.5, worker.terminate).start()
        begun = time.monotonic()
        error = client.call("sleep", {"seconds": 20})["error"]
        assert error["data"]["code"] == "WORKER_LOST"
        assert time.monotonic() - begun < 6.0


def test_a_health_check_finds_the_heartbeat_file(tmp_path: Path) -> None:
    """``worker.heartbeat_file``: young and ``ready`` while the worker lives, gone when it stopped."""
    settings = {"worker": {"heartbeat_file": str(tmp_path / "beat-%n")}}
    with running_gateway(
        {"local": {"command": COMMAND, "args": ARGS}}, directory=tmp_path, settings=settings
    ):
        (file,) = tmp_path.glob("beat-worker1@*")
        wait_until(lambda: file.read_text() == "ready\n", description="the worker to be ready")
        seen = file.stat().st_mtime_ns
        wait_until(lambda: file.stat().st_mtime_ns > seen, description="another beat")
    assert not file.exists()
