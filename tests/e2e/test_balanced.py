"""Two web processes and a balancer without stickiness: each request of a session goes to another process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.support.mcp import legacy, modern
from tests.support.servers.balanced import balanced_gateway
from tests.support.servers.gateway import RunningGateway
from tests.support.servers.process import server_command

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two gunicorns of one process each, one worker, one stdio tool."""
    command, *args = server_command("echo")
    with balanced_gateway(
        {"local": {"command": command, "args": args}}, directory=tmp_path_factory.mktemp("balanced")
    ) as found:
        yield found


def test_a_session_lives_at_every_web_process(gateway: RunningGateway) -> None:
    """It begins at one, is used at both, and is ended for both."""
    client = legacy(gateway.tool_url("local"))
    for number in range(4):
        assert client.post("ping").json()["result"] == {}
        assert client.text("echo", {"text": str(number)}) == str(number)
        assert client.post("logging/setLevel", {"level": "error"}).json()["result"] == {}
    headers = client.sent_headers("", {})
    assert httpx.delete(client.url, headers=headers).status_code == 200
    assert [client.post("ping").status_code for _ in range(4)] == [404] * 4


def test_modern_requests_go_anywhere(gateway: RunningGateway) -> None:
    """Each stands for itself."""
    client = modern(gateway.tool_url("local"))
    assert [client.text("echo", {"text": str(number)}) for number in range(4)] == list("0123")


def test_a_cancellation_finds_its_call_at_the_other_process(gateway: RunningGateway) -> None:
    """The call waits at one process, its ``notifications/cancelled`` comes to the other."""
    client = legacy(gateway.tool_url("local"))
    message = client.message("tools/call", {"name": "sleep", "arguments": {"seconds": 30}})
    headers = client.sent_headers("tools/call", message["params"])
    answered: list[httpx.Response] = []

    def call() -> None:
        answered.append(httpx.post(client.url, json=message, headers=headers, timeout=30))

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        # Again, for before it has begun there is nothing to cancel.
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": message["id"]},
        }
        httpx.post(client.url, json=cancel, headers=client.sent_headers("", {}))
        thread.join(0.2)
    assert answered[0].elapsed.total_seconds() < 25
