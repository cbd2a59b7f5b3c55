"""The shared connection: many threads, one socket; nothing twice, nothing for ever, nobody gets another's answer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from redis import Redis

from common.domain.errors import StoreUnavailable
from common.store.client import Client, StoreAddress
from common.store.pipelined import CommandRefused
from common.store.shared import UNKNOWN, SharedConnection
from tests.support.messages import unstamped
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

PATIENCE = 0.3


@contextmanager
def fails_within(seconds: float, *, outcome: str | None = None) -> Iterator[None]:
    """The block must raise StoreUnavailable, in time, and say whether the command may have run."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        yield
    assert time.monotonic() - begun < seconds
    assert caught.value.data.get("outcome") == outcome


@pytest.fixture
def shared(address: StoreAddress, client: Client) -> Iterator[SharedConnection]:
    connection = SharedConnection(address)
    yield connection
    connection.close()


@pytest.fixture
def hasty(proxy: TcpProxy, client: Client) -> Iterator[SharedConnection]:
    """Through the proxy, connected already, with the scripts loaded."""
    address = StoreAddress(url=proxy.url, connect_timeout=PATIENCE, socket_timeout=PATIENCE)
    connection = SharedConnection(address)
    connection.run("admit", ["tool.warm", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    yield connection
    connection.close()


def test_commands_are_answered(shared: SharedConnection) -> None:
    """Strings as bytes, numbers as numbers, nothing as None, lists as lists."""
    assert shared.command("SET", "test:a", "ü", "EX", 60) == b"OK"
    assert shared.command("GET", "test:a") == "ü".encode()
    assert shared.command("GET", "test:b") is None
    assert shared.command("EXISTS", "test:a", "test:b") == 1
    assert shared.command("MGET", "test:a", "test:b") == ["ü".encode(), None]


def test_redis_own_errors_are_raised_and_the_connection_stays(shared: SharedConnection, raw: Redis) -> None:
    """The next command uses the same one."""
    before = shared.command("CLIENT", "ID")
    with pytest.raises(CommandRefused, match="unknown command"):
        shared.command("NONSENSE")
    shared.command("LPUSH", "tool.a", "x")
    with pytest.raises(CommandRefused, match="WRONGTYPE"):
        shared.command("GET", "tool.a")
    assert shared.command("CLIENT", "ID") == before


def test_a_forgotten_script_is_sent_again(shared: SharedConnection, client: Client) -> None:
    """Nobody notices SCRIPT FLUSH."""
    for _ in range(2):
        client.script_flush()
        shared.run("admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    assert client.llen("tool.a") == 2


def test_many_threads_share_one_socket(shared: SharedConnection, raw: Redis) -> None:
    """Each gets its own answer, small or large, and there is one connection."""
    size = [1, 10, 1000, 100_000]
    mine = shared.command("CLIENT", "ID")

    def ask(number: int) -> bool:
        text = f"{number}:" + "x" * size[number % 4]
        return shared.command("ECHO", text) == text.encode() and shared.command("CLIENT", "ID") == mine

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(ask, range(1000)))


def test_a_lost_answer_is_an_error_and_no_second_try(
    hasty: SharedConnection, proxy: TcpProxy, client: Client
) -> None:
    """In time, saying that nobody knows; executed once."""
    proxy.swallow_next_reply()
    with fails_within(PATIENCE + 1, outcome=UNKNOWN):
        hasty.run("admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    assert client.llen("tool.a") == 1
    assert hasty.command("ECHO", "next") == b"next"


def test_behind_a_lost_answer_nobody_gets_another_ones(hasty: SharedConnection, proxy: TcpProxy) -> None:
    """20 threads ask while one answer is lost: each gets its own, or an error."""
    proxy.swallow_next_reply()

    def ask(number: int) -> object:
        try:
            return hasty.command("ECHO", str(number))
        except StoreUnavailable:
            return None

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(200)))
    assert all(found in {None, str(number).encode()} for number, found in enumerate(answers))
    assert None in answers
    assert hasty.command("PING") == b"PONG"


def test_a_cut_connection_is_replaced(hasty: SharedConnection, proxy: TcpProxy) -> None:
    """Whoever waited is told at once; the next command connects anew."""
    proxy.delay = 5
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(hasty.command, "PING") for _ in range(5)]
        wait_until(lambda: all(one.running() for one in waiting), description="all are asking")
        proxy.cut()
        proxy.delay = 0
        for one in waiting:
            with fails_within(PATIENCE + 1, outcome=UNKNOWN):
                one.result()
    assert hasty.command("PING") == b"PONG"


def test_a_server_that_is_away_is_an_error_at_once() -> None:
    """Nobody listens: it is certain that nothing was sent, and no socket is left over."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for url in (f"redis://127.0.0.1:{unused.getsockname()[1]}/0", "unix:///nonexistent/redis.sock"):
            connection = SharedConnection(StoreAddress(url=url))
            for _ in range(3):
                with fails_within(1):
                    connection.command("PING")
            connection.close()


def test_a_server_that_hangs_is_an_error_in_time(redis_server: RedisServer) -> None:
    """Stopped by a signal, with answers outstanding: every thread is told within its own patience."""
    address = StoreAddress(url=redis_server.url(), connect_timeout=PATIENCE, socket_timeout=PATIENCE)
    connection = SharedConnection(address)
    connection.command("PING")

    def ask(_: int) -> None:
        with pytest.raises(StoreUnavailable):
            connection.command("PING")

    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(ask, range(10)))
        assert time.monotonic() - begun < 2 * PATIENCE + 1
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    wait_until(lambda: connection.command("PING") == b"PONG", description="it goes on")
    connection.close()


def test_a_server_that_accepts_nothing_keeps_nobody_long() -> None:
    """20 threads ask at once: they wait for one attempt to connect, not for twenty in a row."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        url = f"redis://127.0.0.1:{full.getsockname()[1]}/0"
        connection = SharedConnection(StoreAddress(url=url, connect_timeout=PATIENCE, socket_timeout=5))

        def ask(_: int) -> None:
            with pytest.raises(StoreUnavailable):
                connection.command("PING")

        begun = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(ask, range(20)))
        assert time.monotonic() - begun < 4 * PATIENCE
        connection.close()


def test_a_wrong_password_is_an_error_that_does_not_repeat_it(redis_server: RedisServer) -> None:
    """Said as "refuses"; the next attempt is made anew."""
    connection = SharedConnection(StoreAddress(url=f"unix://nobody:s3cr3t@{redis_server.socket}"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="refuses") as caught:
            connection.command("PING")
        assert "s3cr3t" not in f"{caught.value!r} {caught.value.__cause__!r}"
    connection.close()


def test_it_uses_the_database_and_user_of_the_address(redis_server: RedisServer, raw: Redis) -> None:
    """Before anybody's first command."""
    raw.acl_setuser(
        "guest", enabled=True, passwords=["+p w@/1"], commands=["+@all"], keys=["*"], channels=["*"]
    )
    connection = SharedConnection(StoreAddress(url=f"unix://guest:p%20w%40%2F1@{redis_server.socket}?db=3"))
    info = connection.command("CLIENT", "INFO").decode()
    connection.close()
    raw.acl_deluser("guest")
    assert " db=3 " in info
    assert " user=guest " in info


def readers() -> set[threading.Thread]:
    """The threads that read answers, of whoever's connections."""
    return {thread for thread in threading.enumerate() if thread.name == "redis-answers"}


def test_closing_closes_the_connection(
    shared: SharedConnection, redis_server: RedisServer, raw: Redis
) -> None:
    """At once, with its thread; twice is no error; closing one that was never used is none either."""
    shared.command("PING")  # another one's, which goes on: it is not looked at
    before = readers()
    connection = SharedConnection(StoreAddress(url=redis_server.url()))
    mine = connection.command("CLIENT", "ID")
    own = readers() - before
    assert own
    connection.close()
    connection.close()
    wait_until(
        lambda: str(mine) not in {found["id"] for found in raw.client_list()}, description="it is closed"
    )
    wait_until(lambda: not own & readers(), description="its reader has ended")
    assert shared.command("PING") == b"PONG"
    SharedConnection(StoreAddress(url=redis_server.url())).close()


def test_it_works_with_greenlets(redis_url: str) -> None:
    """Under gunicorn's gevent worker: 200 greenlets, one socket."""
    program = """
    from gevent import monkey; monkey.patch_all()
    import gevent, sys
    from common.store.client import StoreAddress
    from common.store.shared import SharedConnection

    connection = SharedConnection(StoreAddress(url=sys.argv[1]))
    mine = connection.command("CLIENT", "ID")
    def ask(number):
        return connection.command("ECHO", str(number)) == str(number).encode(), connection.command("CLIENT", "ID")
    asking = [gevent.spawn(ask, number) for number in range(200)]
    gevent.joinall(asking, timeout=20)
    assert {one.value for one in asking} == {(True, mine)}
    connection.close()
    print("all answered")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(program), redis_url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all answered"]), done.stderr


def test_what_answers_without_speaking_redis_is_no_redis() -> None:
    """A proxy's page, or a server that has another protocol by now: away, as for the commands behind the greeting."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answers() -> None:
            sock, _ = server.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

        thread = threading.Thread(target=answers)
        thread.start()
        connection = SharedConnection(StoreAddress(url=f"redis://:x@127.0.0.1:{server.getsockname()[1]}/0"))
        with pytest.raises(StoreUnavailable):
            connection.listen("channel")
        thread.join(10)
        connection.close()
