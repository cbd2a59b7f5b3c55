"""The figures of a real gateway: those of several web processes and of a worker on one page, and its status."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.common.metrics.test_page import Samples, read
from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until
from tests.web.peers import DOORS

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
SETTINGS = {"metrics": {"allowed": ["127.0.0.1"]}, "web": {"processes": 2}}
CALLS = 20
TRANSPORTS = ("streamable_http", "http_sse", "websocket")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("met"), settings=SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One whose calls need not be counted exactly."""
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    settings = {"metrics": SETTINGS["metrics"]}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("mo"), settings=settings) as found:
        yield found


def scraped(gateway: RunningGateway) -> Samples:
    answer = httpx.get(f"{gateway.url}/metrics", timeout=30)
    assert answer.status_code == 200, answer.text
    return read(answer.content)


def by_process(samples: Samples, name: str, **labels: str) -> dict[str, float]:
    wanted = set(labels.items())
    return {dict(has)["process"]: n for (found, has), n in samples.items() if found == name and wanted <= has}


def total(samples: Samples, name: str, **labels: str) -> float:
    """Over all processes."""
    return sum(by_process(samples, name, **labels).values())


def test_each_process_is_shown_once_and_nothing_is_counted_twice(gateway: RunningGateway) -> None:
    """Whichever web process is asked: the sum over processes is the number of calls."""
    for number in range(CALLS):
        modern(gateway.tool_url("local")).text("echo", {"text": str(number)})

    def told() -> Samples | None:
        samples = scraped(gateway)
        requests = by_process(samples, "canalgate_requests_total", method="tools/call", outcome="ok")
        calls = by_process(samples, "canalgate_calls_total", tool="local", outcome="ok")
        return samples if sum(requests.values()) == sum(calls.values()) == CALLS else None

    samples = wait_until(told, timeout=20, description="all processes to tell their figures")
    webs = by_process(samples, "canalgate_requests_waiting")
    assert len(webs) == 2
    assert all(name.startswith("web-") for name in webs)
    (worker,) = by_process(samples, "canalgate_worker_may_act").items()
    assert worker[0].startswith("worker1@")
    assert worker[1] == 1
    assert sum(by_process(samples, "canalgate_call_wait_seconds_count", tool="local").values()) == CALLS
    assert by_process(samples, "canalgate_worker_sessions") == {worker[0]: 1}


def test_streams_are_counted_while_they_stand_open(other: RunningGateway) -> None:
    """By transport; one that its client has left is open no more."""

    def open_now() -> dict[str, float]:
        samples = scraped(other)
        found = {name: total(samples, "canalgate_streams", transport=name) for name in TRANSPORTS}
        return {name: number for name, number in found.items() if number}

    url, accept = other.tool_url("local"), {"Accept": "application/json, text/event-stream"}
    begin = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    with httpx.Client(timeout=30) as client:
        session = client.post(url, json=begin, headers=accept).headers["mcp-session-id"]
        standing = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        with (
            client.stream("GET", url, headers=standing) as first,
            client.stream("GET", f"{other.url}/servers/local/sse", headers=standing) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            socket = DOORS["websocket"](f"localhost:{other.port}", "local")
            wait_until(
                lambda: open_now() == dict.fromkeys(TRANSPORTS, 1),
                timeout=20,
                description="all three to be counted",
                interval=0.3,
            )
            socket.close()
            wait_until(
                lambda: open_now() == {"streamable_http": 1, "http_sse": 1},
                timeout=20,
                description="the WebSocket to be gone",
                interval=0.3,
            )
    wait_until(lambda: open_now() == {}, timeout=30, description="all to be gone", interval=0.3)


def test_a_session_whose_process_dies_is_counted(other: RunningGateway) -> None:
    """Begun twice, lost once."""
    client = modern(other.tool_url("local"))
    client.text("echo", {"text": "x"})
    before = of_sessions(other)
    (child,) = [it for it in other.process.descendants() if ARGS[0] in it.cmdline()]
    child.kill()
    wait_until(
        lambda: of_sessions(other)[1] == before[1] + 1, timeout=20, description="the loss", interval=0.3
    )
    client.text("echo", {"text": "y"})
    wait_until(
        lambda: of_sessions(other)[0] == before[0] + 1, timeout=20, description="the new one", interval=0.3
    )


def of_sessions(other: RunningGateway) -> tuple[float, float]:
    """How many were begun, and lost."""
    samples = scraped(other)
    begun, lost = (
        total(samples, f"canalgate_tool_sessions_{what}_total", tool="local") for what in ("begun", "lost")
    )
    return begun, lost
