"""A sink that is away while calls go on: nobody is refused, and in the end it has everything.

``make audit-load`` lets it fail for a minute; else it is three seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.domain.audit import CALL_ENDS
from common.domain.audit_verify import Verifier
from tests.support.mcp import RawClient, modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until
from tests.support.webhook_receiver import Receiver, webhook_receiver

FULL = bool(os.environ.get("AUDIT_LOAD_FULL"))
SECONDS = 60.0 if FULL else 3.0
CALLERS = 4
KEY = b"e2e"
ENDS = {kind.value for kind in CALL_ENDS}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600 if FULL else 120)]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as found:
        yield found


@pytest.fixture
def gateway(receiver: Receiver, tmp_path: Path) -> Iterator[RunningGateway]:
    command, *args = server_command("echo")
    hook = {"type": "webhook", "options": {"url": receiver.url, "secret": "s", "timeout": 2}}
    settings = {"audit": {"chain_key": KEY.decode(), "sinks": [hook]}}
    with running_gateway(
        {"echo": {"command": command, "args": args}}, directory=tmp_path / "g", settings=settings
    ) as found:
        yield found


def test_a_sink_that_fails_under_load_gets_everything(gateway: RunningGateway, receiver: Receiver) -> None:
    """Each call is answered meanwhile, and has its decision, its start and one end; the chain is unbroken."""
    receiver.down = 503
    end = time.monotonic() + SECONDS
    over = threading.Event()

    def call(number: int) -> int:
        client, done = modern(gateway.tool_url("echo")), 0
        while not over.is_set():
            assert client.text("echo", {"text": f"{number}.{done}"}) == f"{number}.{done}"
            done += 1
        return done

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call, number) for number in range(CALLERS)]
        wait_until(
            lambda: time.monotonic() >= end and receiver.requests,
            timeout=SECONDS + 20,
            description="the time to be over",
            interval=0.1,
        )
        assert receiver.taken == []
        receiver.down = 0
        over.set()
        calls = sum(caller.result() for caller in callers)
    assert calls >= CALLERS
    wait_until(
        lambda: _ended(receiver) == calls, timeout=60, description="the end of each call", interval=0.2
    )
    print(f"{calls} calls in {SECONDS:.0f} s without the sink; {len(receiver.taken)} records came afterwards")
    told: dict[str, Counter[str]] = defaultdict(Counter)
    verifier = Verifier(KEY)
    for record in list(receiver.taken):
        verifier.feed(record)
        if "invocation" in record.event:
            told[record.event["invocation"]][record.event["kind"]] += 1
    assert verifier.problems == []
    assert verifier.first is not None
    assert verifier.first.seq == 1
    expected = {"policy_decision": 1, "invocation_start": 1, "invocation_complete": 1}
    assert [kinds for kinds in told.values() if kinds != expected] == []
    assert len(told) == calls
    assert receiver.doubled == 0


def _ended(receiver: Receiver) -> int:
    return sum(record.event["kind"] in ENDS for record in list(receiver.taken))


def test_a_full_journal_refuses_calls_until_it_is_taken(receiver: Receiver, tmp_path: Path) -> None:
    """Each client is told what docs/errors.md says, and when to come again; no tool is asked meanwhile."""
    command, *args = server_command("echo")
    hook = {"type": "webhook", "options": {"url": receiver.url, "secret": "s", "timeout": 2}}
    settings = {"audit": {"max_backlog": 100, "overflow": "refuse", "sinks": [hook]}}
    receiver.down = 503
    tools = {"echo": {"command": command, "args": args}}
    with running_gateway(tools, directory=tmp_path / "g", settings=settings) as gateway:
        client = modern(gateway.tool_url("echo"))
        old = RawClient(gateway.tool_url("echo"))
        old.open()
        ask = {"name": "echo", "arguments": {"text": "x"}}
        answers = [client.post("tools/call", ask) for _ in range(60)]
        statuses = [answer.status_code for answer in answers]
        served = statuses.index(503)
        assert set(statuses[:served]) == {200}
        assert set(statuses[served:]) == {503}
        for answer in (answers[served], old.post("tools/call", ask)):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, -32019)
            assert error["data"]["code"] == "AUDIT_UNAVAILABLE"
            assert answer.headers["retry-after"] == "5"
        assert client.post("tools/list", {}).status_code == 200
        receiver.down = 0
        wait_until(
            lambda: client.post("tools/call", ask).status_code == 200,
            timeout=30,
            description="calls to be taken again",
            interval=0.2,
        )
    kinds = Counter(record.event["kind"] for record in receiver.taken)
    assert kinds["invocation_start"] >= served
