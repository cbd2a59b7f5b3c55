"""kill -9 of every part in turn: the next call works within five seconds of its return, and nobody is left over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import psutil
import pytest
from redis import Redis

from tests.support.mcp import RawClient, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(120)]
BACK_WITHIN = 5.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway of its own for each death."""
    command, *args = server_command("echo")
    with running_gateway({"local": {"command": command, "args": args}}, directory=tmp_path) as found:
        yield found


def process_named(gateway: RunningGateway, *words: str) -> psutil.Process:
    """The youngest process of the gateway whose command line holds all the words."""

    def found() -> psutil.Process | None:
        for process in reversed(gateway.process.descendants()):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                return process
        return None

    process = wait_until(found, description=f"a process with {words}")
    assert process is not None
    return process


def works(client: RawClient) -> bool:
    """Whether a call is answered."""
    try:
        answer = client.post("tools/call", {"name": "echo", "arguments": {"text": "x"}}, timeout=5.0)
        return answer.status_code == 200 and "result" in answer.json()
    except httpx.TransportError:
        return False


def killed_and_back(gateway: RunningGateway, victim: psutil.Process, *words: str) -> float:
    """Kill, wait for its successor, and return the seconds from its start to the next answered call."""
    client = modern(gateway.tool_url("local"))
    assert works(client)
    victim.kill()
    wait_until(
        lambda: not psutil.pid_exists(victim.pid) or victim.status() == "zombie", description="its death"
    )
    wait_until(
        lambda: process_named(gateway, *words).pid != victim.pid, timeout=15, description="a successor"
    )
    returned = time.monotonic()
    wait_until(lambda: works(client), timeout=20, description="a call to be answered again")
    return time.monotonic() - returned


def test_a_stdio_child(gateway: RunningGateway) -> None:
    """Its session is rebuilt by the next call."""
    client = modern(gateway.tool_url("local"))
    pid = int(client.text("pid"))
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    wait_until(lambda: works(client), timeout=BACK_WITHIN, description="a call to be answered again")
    assert time.monotonic() - begun < BACK_WITHIN
    assert int(client.text("pid")) != pid


def test_a_worker(gateway: RunningGateway) -> None:
    """It is started again; its children go with it."""
    child = int(modern(gateway.tool_url("local")).text("pid"))
    took = killed_and_back(gateway, process_named(gateway, "celery", "worker1"), "celery", "worker1")
    assert took < BACK_WITHIN, f"{took:.1f} s"
    wait_until(lambda: not psutil.pid_exists(child), description="the dead worker's child to go")


def test_a_web_process(gateway: RunningGateway) -> None:
    """gunicorn replaces it."""
    took = killed_and_back(gateway, process_named(gateway, "gunicorn"), "gunicorn")
    assert took < BACK_WITHIN, f"{took:.1f} s"


def test_redis(gateway: RunningGateway) -> None:
    """It comes back with its data; worker and web are the same processes as before."""
    worker = process_named(gateway, "celery", "worker1").pid
    took = killed_and_back(gateway, process_named(gateway, "redis.sock"), "redis.sock")
    assert took < BACK_WITHIN, f"{took:.1f} s"
    assert process_named(gateway, "celery", "worker1").pid == worker


def test_the_calls_of_a_dead_worker_are_answered(gateway: RunningGateway) -> None:
    """A caller is told WORKER_LOST within 12 seconds instead of waiting for its deadline."""
    client = modern(gateway.tool_url("local"))
    assert works(client)
    worker = process_named(gateway, "celery", "worker1")
    message = client.message("tools/call", {"name": "sleep", "arguments": {"seconds": 25}})
    headers = client.sent_headers("tools/call", message["params"])
    with httpx.Client(timeout=30.0) as http:
        request = http.build_request("POST", client.url, json=message, headers=headers)
        import threading

        timer = threading.Timer(1.0, worker.kill)
        timer.start()
        begun = time.monotonic()
        answer = http.send(request).json()
    assert answer["error"]["data"]["code"] == "WORKER_LOST"
    assert time.monotonic() - begun < 13.0


def test_the_supervisor(gateway: RunningGateway) -> None:
    """When it is killed itself, everything below it goes too."""
    assert works(modern(gateway.tool_url("local")))
    below = gateway.process.descendants()
    assert len(below) >= 4
    gateway.process.popen.kill()
    wait_until(
        lambda: not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE],
        timeout=10,
        description="all processes to go",
    )


def test_an_emptied_redis(gateway: RunningGateway) -> None:
    """The file's tools are registered again, and calls work as before."""
    record = orjson.loads((gateway.config.parent / "state" / "run.json").read_bytes())
    client = modern(gateway.tool_url("local"))
    assert works(client)
    with Redis.from_url(record["redis_url"]) as redis:
        redis.flushall()
    wait_until(lambda: works(client), timeout=15, description="calls to work again")
