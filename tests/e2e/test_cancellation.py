"""Taking a call back, in both eras, down to the backend."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.mcp import RawClient, legacy, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.peer import logged
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the backend writes what it receives."""
    return tmp_path_factory.mktemp("log") / "heard.jsonl"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, heard: Path) -> Iterator[RunningGateway]:
    """A gateway whose tool logs what it hears."""
    command, *args = server_command("echo")
    tools = {
        "local": {"command": command, "args": args, "env": {"ECHO_LOG": str(heard)}},
        "slow": {"command": command, "args": args, "request_timeout": 1.0},
    }
    with running_gateway(tools, directory=tmp_path_factory.mktemp("gw")) as found:
        yield found


def cancellations(heard: Path) -> int:
    """How often the backend was told that a call is off."""
    return sum(line.get("received", {}).get("method") == "notifications/cancelled" for line in logged(heard))


def wait_for_call(heard: Path, count: int) -> None:
    """Wait until the backend got that many calls that block."""
    wait_until(
        lambda: heard.exists() and heard.read_text().count('"cancel_log"') >= count,
        description="the call to reach the backend",
    )


def test_a_legacy_client_cancels_by_notification(gateway: RunningGateway, heard: Path) -> None:
    """The call ends with -32800 and the backend hears ``notifications/cancelled``."""
    client = legacy(gateway.tool_url("local"))
    before, calls = cancellations(heard), heard.read_text().count('"cancel_log"') if heard.exists() else 0
    message = client.message("tools/call", {"name": "cancel_log", "arguments": {}})
    headers = client.sent_headers("tools/call", message["params"])
    answers: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(client.url, json=message, headers=headers, timeout=30))
    )
    thread.start()
    wait_for_call(heard, calls + 1)
    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": message["id"]}}
    assert httpx.post(client.url, json=notice, headers=headers).status_code == 202
    thread.join(10)
    assert answers[0].json()["error"]["code"] == -32800
    wait_until(lambda: cancellations(heard) > before, description="the backend to hear of it")


def test_a_modern_client_cancels_by_hanging_up(gateway: RunningGateway, heard: Path) -> None:
    """Closing the connection is the cancellation; the backend hears of it within two seconds."""
    client = modern(gateway.tool_url("local"))
    before, calls = cancellations(heard), heard.read_text().count('"cancel_log"') if heard.exists() else 0
    connection = send_and_keep(client, "cancel_log")
    wait_for_call(heard, calls + 1)
    connection.close()
    wait_until(lambda: cancellations(heard) > before, timeout=2.0, description="the backend to hear of it")


def send_and_keep(client: RawClient, name: str) -> socket.socket:
    """Send a call over a bare socket, and return the open socket."""
    parts = urlsplit(client.url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10)
    connection.sendall(client.wire("tools/call", {"name": name, "arguments": {}}))
    return connection


def test_a_deadline_is_kept(gateway: RunningGateway) -> None:
    """A tool that does not answer within its ``request_timeout`` gets INVOCATION_TIMEOUT said for it."""
    client = modern(gateway.tool_url("slow"))
    client.call("echo", {"text": "warm"})
    error = client.call("sleep", {"seconds": 30})["error"]
    assert error["data"]["code"] == "INVOCATION_TIMEOUT"


def test_cancelling_another_session_s_request_does_nothing(gateway: RunningGateway) -> None:
    """Request ids are the session's own: the same id in another session is another request."""
    ours, theirs = legacy(gateway.tool_url("slow")), legacy(gateway.tool_url("slow"))
    message = ours.message("tools/call", {"name": "sleep", "arguments": {"seconds": 0.3}})
    notice = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": message["id"]}}
    answers: list[httpx.Response] = []
    headers = ours.sent_headers("tools/call", message["params"])
    thread = threading.Thread(
        target=lambda: answers.append(httpx.post(ours.url, json=message, headers=headers))
    )
    thread.start()
    httpx.post(theirs.url, json=notice, headers=theirs.sent_headers("x", {}))
    thread.join(10)
    assert "result" in answers[0].json()
