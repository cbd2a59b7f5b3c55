"""Requests of all revisions, mutated, against a real gateway: none breaks it, and none is read in two ways.

What was authorised must be what the backend got, as any reader before or behind us understands it. ``FUZZ_SEED`` and
``FUZZ_REQUESTS`` choose the run (``make fuzz``); ``FUZZ_FIRST`` begins at a later request of it, to repeat a failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.fuzz.grammar import Case, make
from tests.support.fuzz.judge import Tally, judge, unaccounted
from tests.support.fuzz.requests import BACKENDS
from tests.support.fuzz.wire import Lane
from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

SEED = int(os.environ.get("FUZZ_SEED") or 20261128)
FIRST = int(os.environ.get("FUZZ_FIRST") or 0)
REQUESTS = int(os.environ.get("FUZZ_REQUESTS") or 1500)
SLOWEST = 0.050
"""Seconds; of the long run only, 99 of 100 answers take less."""
LONG = re.compile(rb"(.)\1{40,}")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120 + REQUESTS // 5)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway and its backends leave what they write."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def gateway(directory: Path) -> Iterator[RunningGateway]:
    """Two witnesses, one of each era, behind one web process and one worker."""
    command, *args = server_command("witness")
    eras = dict(zip(BACKENDS, ("both", "legacy"), strict=True))
    tools = {
        tool: {
            "command": command,
            "args": [*args, "--era", era],
            "env": {"WITNESS_TOOL": tool, "WITNESS_LOG": str(directory / "witnessed")},
        }
        for tool, era in eras.items()
    }
    settings = {"logging": {"level": "info"}, "web": {"sse_commit_after": 30}}
    with running_gateway(tools, directory=directory, settings=settings) as found:
        for tool in tools:
            wait_until(partial(listed, found, tool), timeout=30, description=f"the lists of {tool}")
        yield found


def listed(gateway: RunningGateway, tool: str) -> bool:
    """Whether the gateway knows what a tool offers."""
    answer = modern(gateway.tool_url(tool)).post("resources/list").json()
    return bool(answer.get("result", {}).get("resources"))


def shown(case: Case, sent: bytes, faults: list[str]) -> str:
    """A failing request, so that it can be sent again."""
    return (
        f"\nFUZZ_SEED={SEED} FUZZ_FIRST={case.number} FUZZ_REQUESTS=1 ({case.revision}; {', '.join(case.done)})\n"
        f"  {'; '.join(faults)[:3000]}\n  {LONG.sub(lambda run: b'%b*%d' % (run[1], len(run[0])), sent)[:3000]!r}"
    )


def test_whatever_is_sent_is_answered_and_read_in_one_way(gateway: RunningGateway, directory: Path) -> None:
    """No 5xx, no traceback, JSON-RPC or a plain 4xx; tool and arguments as authorised are what the backend got."""
    tally, failures = Tally(), []
    lane = Lane(gateway.port)
    for number in range(FIRST, FIRST + REQUESTS):
        case = make(SEED, number)
        sent, answer = lane.send(case)
        if faults := judge(case, sent, answer, tally):
            failures.append(shown(case, sent, faults))
        if len(failures) >= 20:
            break
    lane.close()
    assert not failures, f"{len(failures)} requests went wrong:" + "".join(failures)

    witnessed = (directory / "witnessed").read_text().splitlines()
    assert unaccounted(tally, witnessed) == []
    logs = [*directory.glob("state/logs/*.log"), directory / "gateway.log"]
    broken = [line for log in logs for line in log.read_text().splitlines() if is_a_fault(line)]
    assert broken == []

    print(f"\n{REQUESTS} requests, seed {SEED}: {dict(sorted(tally.statuses.items()))}")
    print(f"{tally.reached} reached a backend, {tally.changed} of them changed")
    slow = sorted(tally.slow)
    p50, p99 = slow[len(slow) // 2], slow[int(len(slow) * 0.99)]
    print(f"answers: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    if REQUESTS >= 1000:  # else the run says nothing
        assert tally.reached > REQUESTS / 8
        assert tally.changed > REQUESTS / 16
    if os.environ.get("FUZZ_LATENCY"):
        assert p99 <= SLOWEST


def is_a_fault(line: str) -> bool:
    """Whether a line of a log tells of something that nobody foresaw."""
    return any(
        word in line for word in ("Traceback", "Error handling request", "request_broke", "[ERROR]", "[error")
    )
