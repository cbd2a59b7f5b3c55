"""The admin API of a real gateway: what lives is seen, closed and cancelled from outside."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import psutil
import pytest
from redis import Redis

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = pytest.mark.e2e
COMMAND, *ARGS = server_command("echo")
TOKEN = "the-token-of-the-operator"
SETTINGS = {
    "admin": {"enabled": True, "tokens": [{"name": "me", "token": TOKEN, "role": "admin"}]},
    "web": {"write_timeout": 2},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"local": {"command": COMMAND, "args": ARGS}}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("adm"), settings=SETTINGS) as found:
        yield found


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"{gateway.url}/admin/v1", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    ) as client:
        yield client


def items(admin: httpx.Client, path: str) -> list[dict[str, Any]]:
    answer = admin.get(path)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def told(admin: httpx.Client, *, in_flight: int) -> dict[str, Any]:
    """The session, once its worker told that so many calls run there; it does so every five seconds."""

    def found() -> dict[str, Any] | None:
        sessions = [one for one in items(admin, "/sessions?tool=local") if one["pid"]]
        return next((one for one in sessions if one["in_flight"] == in_flight), None)

    return wait_until(found, timeout=15, description=f"a session with {in_flight} calls")


def test_a_session_is_seen_and_closed(gateway: RunningGateway, admin: httpx.Client) -> None:
    """With the process of its child, which is gone afterwards; the next call has another."""
    client = modern(gateway.tool_url("local"))
    client.text("echo", {"text": "x"})
    session = told(admin, in_flight=0)
    assert (session["tenant"], session["client"]) == ("default", "default")
    assert psutil.pid_exists(session["pid"])
    closed = admin.delete(f"/sessions/{session['id']}")
    assert closed.json() == {"session": session["id"], "closed": True}
    wait_until(lambda: not psutil.pid_exists(session["pid"]), description="the child to end")
    assert client.text("echo", {"text": "again"}) == "again"
    closed_by_me = [
        event
        for event in audit(gateway)
        if event["kind"] == "session_closed" and "admin:me" in event.get("reason", "")
    ]
    assert {event["tool"] for event in closed_by_me} == {"local"}


@contextmanager
def redis_of(gateway: RunningGateway) -> Iterator[Redis]:
    record = orjson.loads((gateway.config.parent / "state" / "run.json").read_bytes())
    with Redis.from_url(record["redis_url"], decode_responses=True) as redis:
        yield redis


def audit(gateway: RunningGateway) -> list[dict[str, str]]:
    with redis_of(gateway) as redis:
        return [fields for _, fields in redis.xrange("canalgate:audit")]


@pytest.mark.parametrize("force", [False, True])
def test_a_busy_session_is_closed_when_its_calls_have_ended_or_at_once(
    gateway: RunningGateway, admin: httpx.Client, force: bool
) -> None:
    """Without force the call under way is answered; with it, it is not."""
    client, answers = modern(gateway.tool_url("local")), list[dict[str, Any]]()
    caller = threading.Thread(target=lambda: answers.append(client.call("sleep", {"seconds": 9})))
    caller.start()
    # What has not been sent yet when the session is closed is sent in another one.
    session = told(admin, in_flight=1)
    admin.delete(f"/sessions/{session['id']}", params={"force": force})
    caller.join(20)
    assert ("error" in answers[0]) == force, answers


def test_a_call_is_seen_and_cancelled(gateway: RunningGateway, admin: httpx.Client) -> None:
    """Its caller is told so, long before its time is over."""
    client, answers = modern(gateway.tool_url("local")), list[dict[str, Any]]()
    caller = threading.Thread(target=lambda: answers.append(client.call("sleep", {"seconds": 25})))
    caller.start()
    call = wait_until(
        lambda: next(iter(items(admin, "/calls?tool=local&state=running")), None),
        description="the call to run",
    )
    assert (call["method"], call["tenant"]) == ("tools/call", "default")
    (queue,) = items(admin, "/queues")
    assert queue["in_flight"] == 1
    (worker,) = items(admin, "/workers")
    assert (worker["calls"], call["node"]) == (1, worker["node"])
    assert admin.delete(f"/calls/{call['id']}").json() == {"id": call["id"], "tool": "local"}
    caller.join(10)
    assert answers[0]["error"]["data"]["code"] == "INVOCATION_CANCELLED"
    assert admin.delete(f"/calls/{call['id']}").status_code == 404


def test_the_status_says_how_it_stands(admin: httpx.Client) -> None:
    """And the configuration is shown without its secrets."""
    told = admin.get("/status").json()
    assert (told["ready"], told["tools"], told["workers"]) == (True, 1, 1)
    shown = admin.get("/config").text
    assert "the-token" not in shown
    assert "local" in shown


def test_the_journal_is_seen_live(gateway: RunningGateway, admin: httpx.Client) -> None:
    """A call's events come while its client still has the stream open."""
    with admin.stream("GET", "/audit/stream?tool=local&kind=invocation_complete") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id: ")
        modern(gateway.tool_url("local")).text("echo", {"text": "x"})
        data = next(line.removeprefix("data: ") for line in lines if line.startswith("data: {"))
    event = orjson.loads(data)["event"]
    assert (event["kind"], event["method"], event["outcome"]) == (
        "invocation_complete",
        "tools/call",
        "success",
    )
    assert orjson.loads(data) in items(admin, "/audit?tool=local&kind=invocation_complete")


def test_who_does_not_read_the_journal_is_cut_off(gateway: RunningGateway) -> None:
    """After web.write_timeout; meanwhile calls go on, and are written."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((urlsplit(gateway.url).hostname, urlsplit(gateway.url).port))
        head = (
            f"GET /admin/v1/audit/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        )
        sock.sendall(head.encode())
        assert sock.recv(12) == b"HTTP/1.1 200"
        with redis_of(gateway) as redis, redis.pipeline(transaction=False) as pipe:
            for _ in range(20_000):
                pipe.xadd("canalgate:audit", {"kind": "tool_disabled", "detail": "x" * 400})
            pipe.execute()
        client, peer = modern(gateway.tool_url("local")), sock.getsockname()
        assert client.text("echo", {"text": "x"}) == "x"

        def held() -> bool:
            return any(
                found.raddr == peer and found.status == psutil.CONN_ESTABLISHED and found.pid
                for found in psutil.net_connections("tcp4")
            )

        assert held()
        wait_until(lambda: not held(), timeout=20, description="it to be cut off")
        assert client.text("echo", {"text": "y"}) == "y"
    assert any(one["kind"] == "invocation_complete" for one in audit(gateway)[-5:])
