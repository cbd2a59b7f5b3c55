"""Tools by transports of one's own in a whole gateway: served as all others, and contained where they do harm."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mcp import RawClient, legacy, modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command
from tests.support.servers.tcp_lines import TcpLinesServer, running_tcp_lines
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
NEW = {"If-None-Match": "*"}
ADMIN = "the-token-of-the-operator"
INSIDE = "tests.support.executors:InProcess"
KEY = "canary-key-of-the-backend"


@pytest.fixture(scope="module")
def server() -> Iterator[TcpLinesServer]:
    with running_tcp_lines(server_command("echo")) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(server: TcpLinesServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    rules = {"scope": "tool", "inject": {"secrets": {"key": "key"}}}
    tools: dict[str, Any] = {
        "far": {"factory": "examples.tcp_transport:TcpLines", "options": server.options},
        "inside": {"factory": INSIDE, "credentials": rules, "request_timeout": 2, "circuit_failures": 50},
        "odd": {
            "factory": INSIDE,
            "options": {"open": "raises"},
            "circuit_failures": 2,
            "circuit_open_for": 60,
        },
        "gone": {"factory": "nobodys"},
    }
    settings = {
        "admin": {"enabled": True, "tokens": [{"name": "me", "token": ADMIN, "role": "admin"}]},
        "egress": {"allowed_factories": ["examples.tcp_transport:TcpLines"]},
        "credentials": {
            "providers": ["static"],
            "static": [{"tool": "inside", "values": {"key": KEY}}],
        },
    }
    directory = tmp_path_factory.mktemp("own")
    with running_gateway(tools, directory=directory, settings=settings) as found:
        yield found


def do(gateway: RunningGateway, what: str) -> dict[str, Any]:
    return sent(modern(gateway.tool_url("inside")), "do", do=what)


def sent(client: RawClient, name: str, **arguments: Any) -> dict[str, Any]:
    """The whole answer, also an error."""
    found: dict[str, Any] = client.post("tools/call", {"name": name, "arguments": arguments}).json()
    return found


def test_it_serves_both_eras(gateway: RunningGateway) -> None:
    """Lists, calls and progress."""
    for client in (modern(gateway.tool_url("far")), legacy(gateway.tool_url("far"))):
        assert client.text("echo", {"text": "hello"}) == "hello"
    names = {
        tool["name"] for tool in modern(f"{gateway.url}/mcp").post("tools/list").json()["result"]["tools"]
    }
    assert {"far__echo", "inside__do"} <= names


def test_a_lost_connection_is_replaced(gateway: RunningGateway, server: TcpLinesServer) -> None:
    client = modern(gateway.tool_url("far"))
    pid = client.text("pid")
    server.kill()
    assert wait_until(lambda: _text(client, "pid"), description="it is served again") != pid


def _text(client: RawClient, name: str) -> str | None:
    found = sent(client, name)
    return str(found["result"]["content"][0]["text"]) if "result" in found else None


def test_what_blocks_and_what_raises_harms_its_own_calls_alone(gateway: RunningGateway) -> None:
    """Each has an answer within its deadline, and others are served meanwhile."""
    begun = time.monotonic()
    assert do(gateway, "raise")["error"]["data"]["code"] == "TRANSPORT_FAILURE"
    assert do(gateway, "a list")["error"]["data"]["code"] == "TRANSPORT_FAILURE"
    assert do(gateway, "block")["error"]["data"]["code"] == "INVOCATION_TIMEOUT"
    assert time.monotonic() - begun < 10
    assert modern(gateway.tool_url("far")).text("echo", {"text": "x"}) == "x"
    wait_until(lambda: "result" in do(gateway, "say"), timeout=30, description="it has another thread")


def test_one_that_does_not_open_is_counted_by_its_circuit(gateway: RunningGateway) -> None:
    client = modern(gateway.tool_url("odd"))

    def refused() -> bool:
        found = sent(client, "do", do="say")
        assert "canary" not in str(found)
        return str(found["error"]["data"]["code"]) == "CIRCUIT_OPEN"

    wait_until(refused, timeout=30, description="its circuit opens")


def test_it_is_given_its_credentials_and_shows_none(gateway: RunningGateway) -> None:
    assert do(gateway, "secrets")["result"]["content"][0]["text"] == {"key": KEY}
    assert KEY not in gateway.process.log.read_text(encoding="utf-8")


def test_the_admin_api_registers_what_is_allowed(gateway: RunningGateway, server: TcpLinesServer) -> None:
    """Spelled the same, and nothing else: code is loaded by the operator's word alone."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=f"{gateway.url}/admin/v1", headers=headers, timeout=30) as admin:
        refused = admin.put("/tools/new", json={"factory": INSIDE}, headers=NEW)
        assert refused.status_code == 400
        assert "egress.allowed_factories" in refused.text
        entry = {"factory": "examples.tcp_transport:TcpLines", "options": server.options}
        assert admin.put("/tools/new", json=entry, headers=NEW).status_code in (200, 201)
        found = admin.get("/tools/new").json()
        assert found["transport"] == "custom"
        assert found["definition"]["options"] == dict.fromkeys(server.options, "********")
    client = modern(gateway.tool_url("new"))
    wait_until(lambda: "result" in sent(client, "echo", text="x"), timeout=30, description="it is served")


def test_doctor_loads_it(tmp_path: Path) -> None:
    """And says which it cannot load, with the names there are."""
    config = tmp_path / "canalgate.yaml"
    config.write_text(f'tools:\n  good: {{factory: "{INSIDE}"}}\n  bad: {{factory: nobodys}}\n')
    command = [*gateway_command(), "doctor", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    shown = " ".join(done.stdout.split())
    assert f"tool good: {INSIDE} is there" in shown
    assert "tool bad: factory 'nobodys' is unknown: installed packages bring none" in shown
    assert done.returncode != 0
