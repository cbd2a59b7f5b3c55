"""The harness's own parts, without a gateway."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from common.processes import ProcessGuard
from tests.chaos.journal import Journal
from tests.chaos.netns import Namespace, refused
from tests.chaos.program import Program
from tests.chaos.redis_server import ChaosRedis
from tests.chaos.wire import messages_in
from tests.support.wait import wait_until


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A file of events."""
    journal = Journal(tmp_path / "harness.jsonl")
    yield journal
    journal.close()


@pytest.fixture
def guard() -> Iterator[ProcessGuard]:
    """Ends what a failed test leaves."""
    with ProcessGuard(grace=1) as guard:
        yield guard


def events(journal: Journal) -> list[str]:
    """What was done, in order."""
    return [orjson.loads(line)["what"] for line in journal.path.read_bytes().splitlines()]


def test_a_program_is_frozen_thawed_killed_and_started_again(
    tmp_path: Path, journal: Journal, guard: ProcessGuard
) -> None:
    """Each is done to the process, and written down."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    program = Program(
        "p", "worker", command, env={}, cwd=tmp_path, log=tmp_path / "log", journal=journal, guard=guard
    )
    program.start()
    process = psutil.Process(program.pid)
    program.freeze()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, description="its freeze")
    program.thaw()
    wait_until(lambda: process.status() != psutil.STATUS_STOPPED, description="its thaw")
    first = program.pid
    program.kill()
    assert not program.alive
    assert program.status() == -9
    program.start()
    assert program.pid != first
    assert program.terminate(timeout=10) == -15
    program.close()
    assert events(journal) == ["start", "stop", "cont", "kill", "start", "term", "exit"]


def test_redis_loses_its_last_writes(tmp_path: Path, journal: Journal, guard: ProcessGuard) -> None:
    """All behind a size, transactions as a whole, and what is before it stays."""
    redis = ChaosRedis(tmp_path, journal, guard, durability="always")
    redis.start()
    with redis.client() as client:
        client.set("kept", 1)
        size = redis.written()
        client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)", 0)
        client.set("c", 1)
    redis.kill()
    assert redis.lose_writes_since(size - 1) >= 4
    redis.start()
    with redis.client() as client:
        assert client.keys() == [b"kept"]
        client.eval("redis.call('SET', 'a', 1) redis.call('SET', 'b', 1)", 0)
    redis.kill()
    redis.lose_writes_since(redis.written() - 30)  # in the middle of the transaction: it stays whole
    redis.start()
    with redis.client() as client:
        assert sorted(client.keys()) == [b"a", b"b", b"kept"]
    redis.program.close()


def test_answers_are_read() -> None:
    """JSON, event streams with comments and events without data, and what is no JSON at all."""
    assert messages_in("application/json", b'{"id":1}') == ({"id": 1},)
    stream = b': hello\r\n\r\nid: 1\r\ndata:\r\n\r\nevent: message\r\ndata: {"a":1}\r\n\r\ndata: {"id":2}\n\n'
    assert messages_in("text/event-stream", stream) == ({"a": 1}, {"id": 2})
    assert messages_in("text/html", b"<p>") == ()


def test_what_ci_needs_is_never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is a skip with its reason."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="refused here"):
        refused("namespaces are refused here")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="refused here"):
        refused("namespaces are refused here")


def test_a_namespace_is_cut_off_and_healed() -> None:
    """Either way of cutting keeps it from the machine's address; it and its link are gone afterwards."""
    place = Path("/run/netns")
    with Namespace() as space, socket.create_server((space.redis_address, 0)) as server:
        port = server.getsockname()[1]
        assert reaches(space, port)
        for cut in (space.cut, space.cut_one_way):
            cut()
            assert not reaches(space, port)
            space.heal()
            assert reaches(space, port)
    assert not (place / space.name).exists()


def reaches(space: Namespace, port: int) -> bool:
    """Whether a program in the namespace gets a connection to the address of Redis."""
    program = f"import socket; socket.create_connection(({space.redis_address!r}, {port}), 1).close()"
    command = [*space.prefix, sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
