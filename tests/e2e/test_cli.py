"""The command line against a gateway as ``canalgate up`` starts it, over its admin API: with the token that it made."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("cli")) as found:
        yield found


def state_of(gateway: RunningGateway) -> Path:
    return gateway.config.parent / "state"


def environment(gateway: RunningGateway) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    return {
        **env,
        "CANALGATE_STATE_DIR": str(state_of(gateway)),
        "CANALGATE_URL": f"http://127.0.0.1:{gateway.port}/",
    }


def canalgate(gateway: RunningGateway, *words: str, code: int = 0) -> Any:
    """What a verb says of the gateway at its address; it finds the token in the state directory."""
    done = subprocess.run(
        [*gateway_command(), *words],
        env=environment(gateway),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return orjson.loads(done.stdout) if "--json" in words else done.stdout


def test_the_token_of_a_laptop_is_its_owner_s_alone(gateway: RunningGateway) -> None:
    """In a file that nobody else reads; without it nobody is served, and it is not shown."""
    file = state_of(gateway) / "admin-token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    assert len(token) >= 43
    url = f"{gateway.url}/admin/v1/status"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {token}"}).json()["ready"]
    for place in (gateway.process.output(), orjson.dumps(canalgate(gateway, "config", "show")).decode()):
        assert token not in place
    assert str(file) in gateway.process.output()


def test_the_gateway_is_seen_and_changed_over_its_admin_api(gateway: RunningGateway) -> None:
    """As by whoever has its Redis."""
    assert canalgate(gateway, "status", "--json")["ready"]
    assert [tool["id"] for tool in canalgate(gateway, "tools", "--json")] == ["local"]
    assert canalgate(gateway, "tools", "disable", "local") == "local is disabled\n"
    refused = modern(gateway.tool_url("local")).call("echo", {"text": "x"})
    assert refused["error"]["data"]["code"] == "TOOL_DISABLED"
    assert canalgate(gateway, "tools", "enable", "local") == "local is enabled\n"
    (newest,) = canalgate(gateway, "audit", "-n", "1", "--json")
    assert (newest["kind"], newest["actor"]) == ("tool_enabled", "admin:laptop")


def test_a_session_is_closed_and_a_call_is_cancelled(gateway: RunningGateway) -> None:
    """By the ids that the lists show."""
    client, answers = modern(gateway.tool_url("local")), list[dict[str, Any]]()
    caller = threading.Thread(target=lambda: answers.append(client.call("sleep", {"seconds": 25})))
    caller.start()
    call = wait_until(
        lambda: next(iter(canalgate(gateway, "calls", "list", "--state", "running", "--json")), None),
        timeout=30,
        description="the call to run",
    )
    assert "taken back" in canalgate(gateway, "calls", "cancel", call["id"])
    caller.join(10)
    assert answers[0]["error"]["data"]["code"] == "INVOCATION_CANCELLED"
    (session,) = canalgate(gateway, "sessions", "--tool", "local", "--json")
    assert canalgate(gateway, "sessions", "close", session["id"]) == "closed\n"
    canalgate(gateway, "sessions", "close", session["id"], code=8)


def test_the_journal_is_followed(gateway: RunningGateway) -> None:
    """What was and what comes, each once, until Ctrl-C."""
    kinds = ("--kind", "tool_disabled", "--kind", "tool_enabled")
    canalgate(gateway, "tools", "disable", "local")
    known = canalgate(gateway, "audit", *kinds, "--json")
    command = [*gateway_command(), "audit", "--follow", "--json", *kinds]
    with subprocess.Popen(command, env=environment(gateway), stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        told = [orjson.loads(following.stdout.readline())["id"] for _ in known]
        assert told == [event["id"] for event in reversed(known)]
        canalgate(gateway, "tools", "enable", "local")
        assert orjson.loads(following.stdout.readline())["kind"] == "tool_enabled"
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 0
        assert following.stdout.read() == ""
