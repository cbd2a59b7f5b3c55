"""Fixtures for every test: a private Redis for the session, and a check that nothing is left in it for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings
from redis import Redis

from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from tests.support.redis import RedisServer, leaked_keys, running_redis
from tests.support.tcp_proxy import TcpProxy

# The machines that run these tests are slow and shared: how long one example takes says nothing.
settings.register_profile("canalgate", deadline=None)
settings.load_profile("canalgate")

# A shell's background job starts with SIGINT ignored, and so would whatever the tests start and end with Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Plain lines: the coloured tracebacks for people take most of a second each.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real server, started with the first test that needs it."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of the database that ``client`` empties."""
    return redis_server.url()


@pytest.fixture
def address(redis_url: str) -> StoreAddress:
    """The same for the product's own clients."""
    return StoreAddress(url=redis_url)


@pytest.fixture
def client(address: StoreAddress) -> Iterator[Client]:
    """The product's client, on an empty database; each key left there has a TTL, or is permanent by the catalogue."""
    client = connect(address)
    client.flushdb()
    yield client
    left = leaked_keys(client)
    client.close()
    assert left == []


@pytest.fixture
def keys() -> Keys:
    """Keys under a prefix of the tests' own."""
    return Keys("test")


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[Redis]:
    """A plain client on the same database, with none of our settings."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[TcpProxy]:
    """A way to the server that can be disturbed."""
    with TcpProxy(redis_server.socket) as proxy:
        yield proxy
