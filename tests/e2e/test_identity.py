"""An API key's life at a real gateway with two web processes: issued, used, revoked, and refused everywhere in time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from simple_websocket import ConnectionClosed

from tests.support.mcp import RawClient
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until
from tests.web.peers import Talk, WebSocketPeer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

BOUND = 2.0
"""Seconds after which a revoked key is good at no web process, and its streams have ended: docs/security.md."""
CALL = {"name": "local__echo", "arguments": {"text": "same"}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two web processes; nobody is let in without a key."""
    command, *args = server_command("echo")
    settings = {
        "web": {"processes": 2},
        "identity": {"resolver": "api_key"},
        "tenants": {"listed": ["acme"]},
    }
    tools = {"local": {"command": command, "args": args}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("k"), settings=settings) as found:
        yield found


def canalgate(gateway: RunningGateway, *words: str) -> Any:
    """What a verb of the command line says, beside the gateway."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env["CANALGATE_STATE_DIR"] = str(gateway.config.parent / "state")
    command = [*gateway_command(), *words, "--config", str(gateway.config)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return orjson.loads(done.stdout) if "--json" in words else done.stdout


def issue(gateway: RunningGateway, client: str) -> tuple[str, str]:
    """A key's id, and the key."""
    found = canalgate(gateway, "keys", "issue", "--tenant", "acme", "--client", client, "--json")
    return found["id"], found["key"]


def statuses(gateway: RunningGateway, key: str, count: int) -> set[int]:
    """What as many connections are answered; each may be at another web process."""
    found = set()
    for _ in range(count):
        client = RawClient(f"{gateway.url}/mcp", modern=True, headers={"authorization": f"Bearer {key}"})
        message = client.message("tools/call", CALL)
        headers = client.sent_headers("tools/call", message["params"])
        found.add(httpx.post(client.url, json=message, headers=headers, timeout=20).status_code)
    return found


def test_a_revoked_key_is_refused_everywhere_in_time(gateway: RunningGateway, tmp_path: Path) -> None:
    """By each web process, on streams as well; another key goes on, and the journal knows who did it."""
    key_id, key = issue(gateway, "bot")
    _, other = issue(gateway, "other")
    assert statuses(gateway, key, 12) == statuses(gateway, other, 4) == {200}
    place = f"127.0.0.1:{gateway.port}"
    peers = [WebSocketPeer(place, Authorization=f"Bearer {key}") for _ in range(6)]
    for peer in peers:
        Talk(peer).initialize()
    canalgate(gateway, "keys", "revoke", key_id, "--reason", "leaked")
    revoked = time.monotonic()
    for peer in peers:
        with closing(peer), pytest.raises(ConnectionClosed) as closed:
            peer.socket.receive(timeout=BOUND)
        assert int(closed.value.reason) == 1008
    assert time.monotonic() - revoked < BOUND
    wait_until(lambda: statuses(gateway, key, 12) == {401}, timeout=BOUND, description="all to refuse")
    assert statuses(gateway, other, 4) == {200}
    records = canalgate(gateway, "audit", "--json")
    told = {record["kind"]: record for record in records}
    assert told["api_key_revoked"]["reason"] == "leaked"
    assert told["api_key_revoked"]["actor"].startswith("cli:")
    assert key not in str(records)
    assert key.split("_", 2)[2] not in (gateway.config.parent / "gateway.log").read_text()


def test_a_rotated_key_and_its_old_secret(gateway: RunningGateway) -> None:
    """Both are good within the grace; without any the old one is good no more."""
    key_id, first = issue(gateway, "rotated")
    second = canalgate(gateway, "keys", "rotate", key_id, "--grace", "1h", "--json")["key"]
    assert statuses(gateway, first, 4) == statuses(gateway, second, 4) == {200}
    third = canalgate(gateway, "keys", "rotate", key_id, "--grace", "0", "--json")["key"]
    wait_until(
        lambda: statuses(gateway, second, 6) == {401}, timeout=BOUND, description="the old one refused"
    )
    assert statuses(gateway, third, 6) == {200}


def test_whoever_has_no_key_is_audited(gateway: RunningGateway) -> None:
    """Once a second and reason, however often."""
    assert statuses(gateway, "cgk_" + "0" * 16 + "_" + "x" * 43, 30) == {401}

    def told() -> list[dict[str, str]]:
        records = canalgate(gateway, "audit", "--json")
        return [r for r in records if r["kind"] == "identity_failure" and r["reason"] == "unknown_key"]

    wait_until(
        lambda: sum(int(record["detail"].rpartition("x")[2]) for record in told()) >= 30,
        timeout=10,
        description="all of them in the journal",
    )
    assert {record["actor"] for record in told()} == {"127.0.0.1"}
    assert len(told()) < 30
