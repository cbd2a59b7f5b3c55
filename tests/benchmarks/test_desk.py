"""The benchmark's account of CPU and calls, and its promise to leave nothing running."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.desk import Account, BackendKind, Desk, Transport
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.processes import StartError, free_port, is_listening
from benchmarks.stdio_load import StdioLoad
from benchmarks.wire import Endpoint, Era
from tests.support.wait import wait_until

ORPHAN_MAKER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(60)
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A working place that is cleared whatever the test does."""
    place = Desk(tmp_path / "desk", cache=tmp_path / "cache", backend=BackendKind.FAST)
    yield place
    place.clear()


def _is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_clearing_ends_even_an_orphan_in_a_group_of_its_own(desk: Desk) -> None:
    """A grandchild that left group, session and parent is found by its mark."""
    maker = desk.spawn("maker", [sys.executable, "-c", ORPHAN_MAKER])
    orphan = int(wait_until(lambda: maker.log_text().strip(), description="the orphan's id"))
    assert _is_running(orphan)
    desk.clear()
    wait_until(lambda: not _is_running(orphan), description="the orphan's end")


def test_a_program_that_ends_at_once_is_reported_with_its_log(desk: Desk) -> None:
    """The reason stands in the error, not in a file that is gone."""
    with pytest.raises(StartError, match=r"(?s)code 3.*no such option"):
        desk.spawn_server(
            "bad", [sys.executable, "-c", "print('no such option'); raise SystemExit(3)"], port=free_port()
        )


def test_the_http_backend_is_accounted_apart_from_the_target(desk: Desk) -> None:
    """Its calls and its CPU are its own; the target, which there is none, used nothing."""
    port = free_port()
    desk.start_http_backend(port)
    before = desk.account(Transport.HTTP)
    load = HttpLoad(Endpoint(port=port), era=Era.LEGACY, mode=SessionMode.LANE)

    async def run() -> int:
        async with load.open(4) as runner:
            return (await runner.run(0.3)).calls

    calls = asyncio.run(run())
    after = desk.account(Transport.HTTP)
    assert after.backend_calls - before.backend_calls == calls > 8
    assert after.backend_cpu_since(before) > 0
    assert after.target_cpu_since(before) == 0
    desk.clear()
    assert not is_listening(port)


def test_the_stdio_backend_is_recognised_whoever_started_it(desk: Desk) -> None:
    """It counts into the desk's folder under its own process id, and ends with the load."""
    load = StdioLoad(desk.stdio_command(), era=Era.MODERN)

    async def run() -> tuple[int, Account]:
        async with load.open(4) as runner:
            window = await runner.run(0.3)
            assert not window.errors
            return window.calls, desk.account(Transport.STDIO)

    calls, account = asyncio.run(run())
    assert account.backend_calls == calls > 8
    assert sum(account.backend_cpu.values()) > 0
    assert not desk.account(Transport.STDIO).backend_cpu


def test_time_of_children_that_ended_stays_in_the_account() -> None:
    """A worker that was replaced leaves its time with its parent; a new one counts from zero."""
    before = Account(target_cpu={1: 1.0, 2: 3.0}, backend_cpu={9: 1.0}, backend_calls=0)
    after = Account(target_cpu={1: 4.5, 3: 0.25}, backend_cpu={9: 1.5, 10: 0.5}, backend_calls=0)
    assert after.target_cpu_since(before) == pytest.approx(0.75)
    assert after.backend_cpu_since(before) == pytest.approx(1.0)
