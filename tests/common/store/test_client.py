"""Connections: nothing is sent twice, nothing waits for ever, no password is shown, nothing stays open."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import kombu
import pytest
from redis import Redis

from common.domain.errors import ConfigurationError, StoreUnavailable
from common.store.client import Client, StoreAddress, connect, connect_async, store_errors
from common.store.scripts import run, run_async
from tests.support.messages import unstamped
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

PATIENCE = 0.3
INCR = "return redis.call('INCR', KEYS[1])"


@contextmanager
def fails_within(seconds: float) -> Iterator[None]:
    """The block must raise StoreUnavailable, and in time."""
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable), store_errors("testing"):
        yield
    assert time.monotonic() - begun < seconds


@pytest.fixture
def hasty(proxy: TcpProxy) -> Iterator[Client]:
    """The product's client through the proxy, connected already."""
    client = connect(StoreAddress(url=proxy.url, connect_timeout=PATIENCE, socket_timeout=PATIENCE))
    client.ping()
    yield client
    client.close()


# -- nothing twice --------------------------------------------------------------------------------------


def test_a_lost_reply_is_an_error_and_no_second_try(hasty: Client, proxy: TcpProxy, client: Client) -> None:
    """redis-py would run the script again: ten times, by default."""
    proxy.swallow_next_reply()
    with fails_within(PATIENCE + 1):
        hasty.eval(INCR, 1, "test:count")
    assert proxy.swallowed == 1
    assert client.getdel("test:count") == b"1"


def test_a_lost_reply_to_a_loaded_script_is_one_run(hasty: Client, proxy: TcpProxy, client: Client) -> None:
    """The same by the way the product takes."""
    run(client, "admit", ["tool.warm", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    proxy.swallow_next_reply()
    with fails_within(PATIENCE + 1):
        run(hasty, "admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    assert client.llen("tool.a") == 1


def test_asyncio_does_not_repeat_either(proxy: TcpProxy, client: Client) -> None:
    """The worker's client keeps the same policy."""
    run(client, "admit", ["tool.warm", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])

    async def lose_a_reply() -> None:
        address = StoreAddress(url=proxy.url, connect_timeout=PATIENCE, socket_timeout=PATIENCE)
        hasty = connect_async(address)
        await hasty.ping()
        proxy.swallow_next_reply()
        with fails_within(PATIENCE + 1):
            await run_async(
                hasty, "admit", ["tool.a", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100]
            )
        await hasty.aclose()

    asyncio.run(lose_a_reply())
    assert client.llen("tool.a") == 1


def test_a_pipeline_is_not_repeated(hasty: Client, proxy: TcpProxy, client: Client) -> None:
    """A lost reply to several commands at once is one error, too."""
    proxy.swallow_next_reply()
    with fails_within(PATIENCE + 1), hasty.pipeline(transaction=True) as pipe:
        pipe.incr("test:count")
        pipe.execute()
    assert client.getdel("test:count") == b"1"


def test_the_next_command_works_again(hasty: Client, proxy: TcpProxy) -> None:
    """After a fault the connection is replaced, and no late reply is taken for another command's."""
    proxy.swallow_next_reply()
    with fails_within(PATIENCE + 1):
        hasty.echo("first")
    assert hasty.echo("second") == b"second"


# -- nothing for ever -----------------------------------------------------------------------------------


def test_a_server_that_hangs_is_an_error_in_time(redis_server: RedisServer) -> None:
    """Stopped by a signal: connected, and silent."""
    address = StoreAddress(url=redis_server.url(), connect_timeout=PATIENCE, socket_timeout=PATIENCE)
    client = connect(address)
    client.ping()
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            with fails_within(PATIENCE + 1):
                client.ping()
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    client.close()


def test_a_server_that_accepts_nothing_is_an_error_in_time() -> None:
    """As behind a firewall that drops: the connection is never made."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        url = f"redis://127.0.0.1:{full.getsockname()[1]}/0"
        client = connect(StoreAddress(url=url, connect_timeout=PATIENCE, socket_timeout=5))
        with fails_within(PATIENCE + 1):
            client.ping()
        client.close()


def test_a_server_that_is_away_is_an_error_at_once() -> None:
    """Nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = connect(StoreAddress(url=f"redis://127.0.0.1:{unused.getsockname()[1]}/0"))
        with fails_within(1):
            client.ping()
        client.close()


def test_connections_are_bounded(address: StoreAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is used up is an error after a wait, not a flood of connections."""
    monkeypatch.setattr("common.store.client.POOL_WAIT", 0.05)
    client = connect(address, size=1)
    with client.pubsub() as holding:
        holding.subscribe("x")
        with fails_within(1):
            client.ping()
    assert client.ping()
    client.close()


# -- nothing open ---------------------------------------------------------------------------------------


def test_closing_a_client_closes_its_connections(redis_server: RedisServer, raw: Redis) -> None:
    """Not when the garbage collector comes by: at once."""
    name = uuid.uuid4().hex
    client = connect(StoreAddress(url=f"{redis_server.url()}&client_name={name}"))
    client.ping()
    assert name in {found["name"] for found in raw.client_list()}
    client.close()
    wait_until(lambda: name not in {found["name"] for found in raw.client_list()}, description="it is closed")


def test_closing_an_asyncio_client_closes_its_connections(redis_server: RedisServer, raw: Redis) -> None:
    """The same for the worker."""
    name = uuid.uuid4().hex

    async def use() -> None:
        client = connect_async(StoreAddress(url=f"{redis_server.url()}&client_name={name}"))
        await client.ping()
        assert name in {found["name"] for found in raw.client_list()}
        await client.aclose()
        wait_until(
            lambda: name not in {found["name"] for found in raw.client_list()}, description="it is closed"
        )

    asyncio.run(use())


# -- addresses ------------------------------------------------------------------------------------------

SECRET = "s3cr3t"
SECRET_URLS = [
    f"redis://:{SECRET}@127.0.0.1:1/0",
    f"redis://user:{SECRET}@127.0.0.1:1/0",
    f"redis://127.0.0.1:1/0?password={SECRET}",
    f"rediss://user:{SECRET}@[::1]:1/0",
    f"unix://:{SECRET}@/nonexistent?db=1",
    f"unix:///nonexistent?db=1&password={SECRET}",
    f"redis://:{SECRET}/with/slashes@127.0.0.1:1/0",
    f"redis://:{SECRET}#with@127.0.0.1:1/0",
    f"redis://:{SECRET}?with@127.0.0.1:1/0",
    f"redis://:[{SECRET}@127.0.0.1:1/0",
    f"http://:{SECRET}@127.0.0.1:1/0",
]


def ping(address: StoreAddress) -> None:
    with store_errors("testing"), connect(address) as client:
        client.ping()


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_password_is_ever_shown(url: str) -> None:
    """Not in a repr, not in the address for people, not in an error, nor in what caused it."""
    address = StoreAddress(url=url, connect_timeout=PATIENCE)
    texts = [repr(address), address.shown]
    with pytest.raises((ConfigurationError, StoreUnavailable)) as caught:
        ping(address)
    error: BaseException | None = caught.value
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not [text for text in texts if SECRET in text]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pw@host:6379/2", "redis://host:6379/2"),
        ("redis://host", "redis://host"),
        ("rediss://:pw@[::1]:1/0?ssl_cert_reqs=none", "rediss://[::1]:1/0"),
        ("unix://user:pw@/run/redis.sock?db=1&password=pw", "unix:///run/redis.sock"),
    ],
)
def test_people_see_where_redis_is(url: str, shown: str) -> None:
    """Server and database; neither user nor password."""
    assert StoreAddress(url=url).shown == shown


@pytest.mark.parametrize("url", ["", "http://h", "redis://h:port/0", "redis://[h", "127.0.0.1:6379"])
def test_what_is_no_url_is_a_configuration_error(url: str) -> None:
    """Said at the start, with the key's name."""
    for connecting in (connect, connect_async):
        with pytest.raises(ConfigurationError, match=r"redis\.url") as caught:
            connecting(StoreAddress(url=url))
        assert caught.value.data == {"field": "redis.url"}


@pytest.mark.parametrize("url", ["redis://:pw@h:1/2", "rediss://u:pw@h/0"])
def test_celery_takes_tcp_addresses_as_they_are(url: str) -> None:
    """Only sockets are spelled differently there."""
    assert StoreAddress(url=url).celery_url == url


@pytest.mark.parametrize(
    ("userinfo", "query"),
    [("", "db=3"), ("guest:p%20w%40%2F1@", "db=3"), ("guest@", "db=3&password=p%20w%40%2F1")],
)
def test_celery_gets_to_the_same_database_as_the_same_user(
    redis_server: RedisServer, raw: Redis, userinfo: str, query: str
) -> None:
    """Over a socket too: with user, password and database."""
    raw.acl_setuser(
        "guest", enabled=True, passwords=["+p w@/1"], commands=["+@all"], keys=["*"], channels=["*"]
    )
    address = StoreAddress(url=f"unix://{userinfo}{redis_server.socket}?{query}")
    with connect(address) as ours, kombu.Connection(address.celery_url) as theirs:
        seen = [
            {name: client.client_info()[name] for name in ("user", "db")}
            for client in (ours, theirs.default_channel.client)
        ]
    raw.acl_deluser("guest")
    assert seen[0] == seen[1] == {"user": "guest" if userinfo else "default", "db": 3}
