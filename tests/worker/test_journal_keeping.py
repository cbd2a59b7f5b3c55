"""The process that keeps the journal: started by one worker, replaced when it dies, ended with it; nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.audit.chain_store import ChainStore
from common.audit.verify import verify_file
from common.domain.audit_chain import SealedRecord
from common.settings import Settings
from common.settings.audit import AuditSettings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import journal_keeping
from gateway_worker.journal_keeping import JournalKeeping
from gateway_worker.keeper_order import order_of
from gateway_worker.keeper_run import UNUSABLE, keeper_of
from tests.common.audit.chains import write_events
from tests.support.aio import on_loop, until
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(120)


def settings(path: Path, **audit: Any) -> Settings:
    file = {"type": "file", "name": "f", "options": {"path": str(path)}}
    given = {"redis": {"key_prefix": "test"}, "audit": {"sinks": [file], "chain_key": "k", **audit}}
    return Settings.model_validate(given)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_LOOK", "LOOK", "AGAIN_FIRST"):
        monkeypatch.setattr(journal_keeping, name, 0.05)


class Worker:
    """What a worker does for the journal; ``pid`` is that of its process, 0 while it has none."""

    def __init__(self, settings: Settings, address: StoreAddress, monkeypatch: pytest.MonkeyPatch) -> None:
        self._redis = PipelinedConnection(address)
        self._keeping = JournalKeeping(settings, address, self._redis, Keys("test"))
        self._start = self._keeping._start
        self.pids: list[int] = []
        monkeypatch.setattr(self._keeping, "_start", self._started)

    def _started(self) -> Any:
        process = self._start()
        self.pids.append(process.pid)
        return process

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Worker]:
        task = asyncio.create_task(self._keeping.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self._redis.aclose()


def lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [SealedRecord.from_line(line).event["detail"] for line in whole]


@on_loop
async def test_nothing_is_lost_by_kill_9(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again while events come: each is in the file, once, and the chain is unbroken."""
    path, count = tmp_path / "audit.ndjson", 0
    worker = Worker(settings(path), address, monkeypatch)
    async with worker.running():
        for killed in range(5):
            write_events(client, keys, 2000, first=count)
            count += 2000
            await until(lambda n=killed: len(worker.pids) > n, description="a process")
            # Somewhere within the work: the first is killed while it starts, another in the middle of a batch.
            await until(lambda n=killed: len(lines(path)) >= n * 1500, description="some of them", timeout=30)
            with suppress(ProcessLookupError):
                os.kill(worker.pids[-1], signal.SIGKILL)
        await until(lambda: len(lines(path)) == count, description="all of them", timeout=40)
    assert lines(path) == [str(number) for number in range(count)]
    found = verify_file(path, b"k", safe=ChainStore(client, keys).state().sinks.get("f"))
    assert (found.sound, found.repeated, found.last) == (True, 0, count)
    assert len(set(worker.pids)) >= 5


@on_loop
async def test_it_ends_with_its_worker(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has come by then is delivered, and the lease is free."""
    path = tmp_path / "audit.ndjson"
    worker = Worker(settings(path), address, monkeypatch)
    async with worker.running():
        await until(lambda: client.hexists(keys.audit_chain, "added"), description="it runs", timeout=20)
        write_events(client, keys, 10)
    assert lines(path) == [str(number) for number in range(10)]
    assert not client.exists(keys.audit_lease)
    assert not psutil.pid_exists(worker.pids[-1])


@pytest.mark.parametrize("error", [BlockingIOError("no process"), RuntimeError("can't start new thread")])
@on_loop
async def test_where_no_process_can_be_started_it_is_tried_again(
    error: Exception,
    client: Client,
    keys: Keys,
    address: StoreAddress,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker goes on meanwhile."""
    worker, tries = Worker(settings(tmp_path / "audit.ndjson"), address, monkeypatch), []
    start = worker._keeping._start

    def scarce() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise error
        return start()

    monkeypatch.setattr(worker._keeping, "_start", scarce)
    async with worker.running():
        await until(lambda: client.hexists(keys.audit_chain, "added"), description="it runs", timeout=20)
    assert len(tries) == 3


PARENT = """
import os, subprocess, sys
argv = [sys.executable, "-m", "gateway_worker.keeper_program", str(os.getpid())]
child = subprocess.Popen(argv, stdin=subprocess.PIPE)
child.stdin.write(sys.stdin.buffer.readline())
child.stdin.flush()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("when", ["as it starts", "while Redis is silent"])
def test_it_does_not_outlive_a_worker_that_was_killed(when: str, tmp_path: Path) -> None:
    """Whatever it is at, also if it hangs in a question to Redis, it is gone two seconds later."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        order = order_of(settings(tmp_path / "a.ndjson"), StoreAddress(url=url, socket_timeout=60.0), "o")
        with subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdin is not None
            assert parent.stdout is not None
            parent.stdin.write(order)
            parent.stdin.flush()
            keeper = psutil.Process(int(parent.stdout.readline()))
            with ExitStack() as connected:
                if when != "as it starts":
                    silent.settimeout(30)
                    connection = connected.enter_context(silent.accept()[0])
                    connection.recv(1)
                parent.kill()
                try:
                    wait_until(lambda: ended(keeper), timeout=2.0, description="the keeper's end")
                finally:
                    with suppress(psutil.NoSuchProcess):
                        keeper.kill()


def ended(process: psutil.Process) -> bool:
    """Whether it runs no more, also if nobody has asked for its status yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@on_loop
async def test_one_of_several_workers_keeps_it(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other starts no process as long as that one lives, and goes on when it has left."""
    path = tmp_path / "audit.ndjson"
    one = Worker(settings(path), address, monkeypatch)
    other = Worker(settings(path), address, monkeypatch)
    async with other.running():
        async with one.running():
            await until(lambda: one.pids or other.pids, description="a keeper", timeout=20)
            write_events(client, keys, 10)
            await until(lambda: len(lines(path)) == 10, description="the first part", timeout=20)
            assert len(one.pids) + len(other.pids) == 1
        write_events(client, keys, 10, first=10)
        await until(lambda: len(lines(path)) == 20, description="the second part", timeout=20)
    assert verify_file(path, b"k").sound


@on_loop
async def test_a_sink_that_cannot_be_made_is_said(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends with a code of its own; the events wait in Redis, and it is tried again."""
    (tmp_path / "file").write_text("")
    worker = Worker(settings(tmp_path / "file" / "x"), address, monkeypatch)
    write_events(client, keys, 3)
    async with worker.running():
        process = worker._started()
        assert await asyncio.to_thread(process.wait, 20) == UNUSABLE
        process.stdin.close()
    assert client.xlen(keys.audit) == 3


def test_the_process_is_told_all_and_its_arguments_nothing(tmp_path: Path, address: StoreAddress) -> None:
    """Its order holds secrets, and makes the same keeper again."""
    custom = {
        "type": "tests.worker.test_journal_keeping:Custom",
        "name": "c",
        "options": {"token": "hunter2"},
    }
    told = settings(tmp_path / "x", sinks=[custom], max_backlog=500)
    order = order_of(told, address, "me")
    assert b"hunter2" in order
    import orjson

    made = AuditSettings.model_validate(orjson.loads(order)["audit"])
    assert made == told.audit
    keeper = keeper_of(orjson.loads(order))
    assert keeper._rules.key == b"k"
    assert keeper._rules.most == 500
    assert Custom.given == {"token": "hunter2"}


class Custom:
    """A sink of somebody else."""

    given: dict[str, Any] = {}  # noqa: RUF012 - set by the test's own

    def __init__(self, options: dict[str, Any]) -> None:
        type(self).given = dict(options)

    def write(self, records: list[SealedRecord]) -> int:
        return records[-1].seq if records else 0

    def close(self) -> None:
        pass
