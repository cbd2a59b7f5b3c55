"""TLS to Redis: every connection of ours and of others speaks it, proves itself, and keeps its bounds inside it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from common.domain.errors import ConfigurationError, StoreUnavailable
from common.settings import RedisSettings, load
from common.store.blocking_subscription import Published, Subscribed
from common.store.client import StoreAddress, address_of, connect, connect_async, store_errors
from common.store.pipelined import PipelinedConnection
from common.store.shared import SharedConnection
from common.store.subscription import Subscription
from gateway_web.supervisor import RedisUrl, SupervisorError
from gateway_web.supervisor.ping import ping
from tests.support.aio import on_loop, until
from tests.support.certificates import Authority, Certificate, server_context
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy

PATIENCE = 0.5


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def mine(ca: Authority) -> Certificate:
    """What the gateway shows."""
    return ca.issue("gateway", usage="client")


@pytest.fixture
def proxy(redis_server: RedisServer, ca: Authority) -> Iterator[TcpProxy]:
    """Redis behind TLS that wants a certificate."""
    context = server_context(ca.issue("127.0.0.1", "localhost"), client_ca=ca.file)
    with TcpProxy(redis_server.socket, tls=context) as proxy:
        yield proxy


@pytest.fixture
def secure(proxy: TcpProxy, ca: Authority, mine: Certificate) -> StoreAddress:
    """By the settings."""
    return address_of(settings(proxy, ca, mine))


def settings(proxy: TcpProxy, ca: Authority, mine: Certificate | None, **more: object) -> RedisSettings:
    keys = {"tls_ca_file": str(ca.file), "connect_timeout": 2, "socket_timeout": PATIENCE, **more}
    if mine is not None:
        keys |= {"tls_cert_file": str(mine.cert), "tls_key_file": str(mine.key)}
    return RedisSettings.model_validate({"url": proxy.url, **keys})


def test_every_connection_speaks_it(secure: StoreAddress) -> None:
    """redis-py, both lean ones, both subscriptions, and the supervisor's ping."""
    heard: list[bytes] = []

    @on_loop
    async def scenario() -> None:
        client = connect_async(secure)
        assert await client.ping()
        await client.aclose()
        lean = PipelinedConnection(secure)
        assert await lean.command("PING") == b"PONG"
        assert await lean.commands([("ECHO", "x" * 300_000), ("PING",)]) == [b"x" * 300_000, b"PONG"]
        ready = asyncio.Event()
        listening = asyncio.create_task(
            Subscription(
                secure, ["c"], on_publication=lambda _, data: heard.append(data), on_subscribed=ready.set
            ).run()
        )
        await ready.wait()
        await lean.command("PUBLISH", "c", "hello")
        await until(lambda: heard == [b"hello"], description="the publication")
        listening.cancel()
        await asyncio.wait([listening])
        await lean.aclose()

    scenario()
    with connect(secure) as client:
        assert client.ping()
    shared = SharedConnection(secure)
    assert shared.command("PING") == b"PONG"
    assert shared.command("ECHO", "x" * 300_000) == b"x" * 300_000
    ear = shared.listen("c")
    assert ear.read(2) == [Subscribed("c")]
    assert ear.read(0.05) is None
    shared.command("PUBLISH", "c", "again")
    assert ear.read(2) == [Published("c", b"again")]
    ear.close()
    shared.close()
    ping(RedisUrl.parse(secure.url))


def test_many_threads_share_one_connection(secure: StoreAddress) -> None:
    """Readers and writers at once: no answer is another's, none is lost."""
    shared = SharedConnection(secure)

    def ask(number: int) -> bool:
        text = f"{number}-" * (1 + number % 700)
        return bool(shared.command("ECHO", text) == text.encode())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(2000)))
    shared.close()


def test_silence_is_noticed_in_time(secure: StoreAddress, proxy: TcpProxy) -> None:
    """An answer that does not come, and a peer that takes nothing more: neither holds anybody longer than it may."""
    shared = SharedConnection(secure)
    shared.command("PING")
    proxy.black_hole()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        shared.command("PING")
    assert time.monotonic() - begun < 3 * PATIENCE
    assert shared.command("PING") == b"PONG"
    proxy.black_hole()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        shared.command("ECHO", "x" * (16 << 20))
    assert time.monotonic() - begun < 6 * PATIENCE
    shared.close()

    @on_loop
    async def scenario() -> None:
        lean = PipelinedConnection(secure)
        await lean.command("PING")
        proxy.black_hole()
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await lean.command("ECHO", "x" * (16 << 20))
        assert time.monotonic() - begun < 6 * PATIENCE
        await lean.aclose()

    scenario()


def test_closing_wakes_who_waits(secure: StoreAddress) -> None:
    """No thread stays behind."""
    before = set(threading.enumerate())
    shared = SharedConnection(secure)
    shared.command("PING")
    shared.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(2)
        assert not thread.is_alive()


@pytest.mark.parametrize("why", ["unknown authority", "another name", "no certificate", "old version"])
def test_who_does_not_prove_himself_is_not_spoken_to(
    redis_server: RedisServer, ca: Authority, mine: Certificate, why: str, tmp_path: Path
) -> None:
    """By any connection; the password least of all."""
    names = ("elsewhere.example",) if why == "another name" else ("127.0.0.1",)
    context = server_context(ca.issue(*names), client_ca=ca.file if why == "no certificate" else None)
    trusted = Authority(tmp_path / "other") if why == "unknown authority" else ca
    more = {"tls_min_version": "1.3"} if why == "old version" else {}
    if why == "old version":
        context.maximum_version = context.minimum_version.TLSv1_2
    with TcpProxy(redis_server.socket, tls=context) as proxy:
        proxy.written = []
        address = address_of(settings(proxy, trusted, None if why == "no certificate" else mine, **more))
        address = StoreAddress(
            url=address.url.replace("://", "://:hunter2@"), connect_timeout=1, socket_timeout=1
        )
        with pytest.raises(StoreUnavailable):
            SharedConnection(address).command("PING")
        with pytest.raises(StoreUnavailable), connect(address) as client, store_errors("asking"):
            client.ping()
        with pytest.raises(SupervisorError):
            ping(RedisUrl.parse(address.url))

        @on_loop
        async def scenario() -> None:
            lean = PipelinedConnection(address)
            with pytest.raises(StoreUnavailable):
                await lean.command("PING")
            await lean.aclose()

        scenario()
        assert proxy.written == []


def test_a_replaced_certificate_is_shown_by_the_next_connection(
    secure: StoreAddress, ca: Authority, mine: Certificate, proxy: TcpProxy, tmp_path: Path
) -> None:
    """Without a restart; one that is not trusted any more is refused."""
    shared = SharedConnection(secure)
    assert shared.command("PING") == b"PONG"
    strange = Authority(tmp_path / "other").issue("gateway", usage="client")
    os.replace(strange.cert, mine.cert)
    os.replace(strange.key, mine.key)
    proxy.cut()
    for _ in range(3):  # the first may find the old connection cut
        with pytest.raises(StoreUnavailable):
            shared.command("PING")
    good = ca.issue("gateway", usage="client")
    os.replace(good.cert, mine.cert)
    os.replace(good.key, mine.key)
    assert shared.command("PING") == b"PONG"
    shared.close()


def test_a_file_that_cannot_be_read_is_told_at_the_start(
    proxy: TcpProxy, ca: Authority, tmp_path: Path
) -> None:
    """By name; no program starts without."""
    address = address_of(settings(proxy, ca, None, tls_cert_file=str(tmp_path / "gone.pem")))
    with pytest.raises(ConfigurationError, match=r"gone\.pem: No such file"):
        SharedConnection(address)


@pytest.mark.parametrize("url", ["redis://h/0", "unix:///s", ""])
def test_files_without_tls_are_a_mistake(url: str) -> None:
    """Else somebody would believe that the connection is encrypted."""
    with pytest.raises(ConfigurationError, match="rediss://"):
        load(None, {"CANALGATE_REDIS__URL": url, "CANALGATE_REDIS__TLS_CA_FILE": "/x"})


def test_celery_is_told_beside_the_url(secure: StoreAddress, ca: Authority) -> None:
    """Whose URL then has nothing more of it; the password stays."""
    address = StoreAddress(url=secure.url.replace("://", "://:p%40w@"))
    assert "ssl_" not in address.celery_url
    assert ":p%40w@" in address.celery_url
    told = address.celery_tls
    assert told is not None
    assert (told["ssl_ca_certs"], told["ssl_cert_reqs"].name) == (str(ca.file), "CERT_REQUIRED")
    assert told["ssl_check_hostname"] is True
    assert StoreAddress(url="redis://h").celery_tls is None
    bare = StoreAddress(url=f"rediss://h/0?ssl_ca_certs={quote('/a b')}&x=1")
    assert bare.celery_url == "rediss://h/0?x=1"


def test_greenlets_share_one_connection_too(secure: StoreAddress) -> None:
    """Under gevent, whose TLS sockets have ways of their own: large writes, many waiters, a silent peer."""
    story = textwrap.dedent(
        f"""
        from gevent import monkey; monkey.patch_all()
        import gevent, time
        from common.domain.errors import StoreUnavailable
        from common.store.client import StoreAddress
        from common.store.shared import SharedConnection
        shared = SharedConnection(StoreAddress(url={secure.url!r}, socket_timeout=5))
        def ask(n):
            text = f"{{n}}-" * (1 + n % 5000)
            assert shared.command("ECHO", text) == text.encode()
        waiting = [gevent.spawn(ask, n) for n in range(300)]
        gevent.joinall(waiting, raise_error=True)
        assert len(shared.command("ECHO", "x" * (4 << 20))) == 4 << 20
        ear = shared.listen("c")
        assert len(ear.read(2)) == 1
        assert ear.read(0.05) is None
        hasty = SharedConnection(StoreAddress(url={secure.url!r}, socket_timeout=0.3))
        begun = time.monotonic()
        try:
            hasty.command("BLPOP", "test:nothing", 20)
        except StoreUnavailable:
            print("told", time.monotonic() - begun < 3)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", story], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "told True\n", done.stderr
