"""Connections to Redis, with the retry policy written out.

redis-py 8.1 repeats a command ten times by default, also one whose reply alone was lost, and so can run a
script twice. Here nothing is repeated: a command either answers within ``socket_timeout`` or raises
:class:`~common.domain.errors.StoreUnavailable`, and whoever asked knows best whether asking again is safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from redis import BlockingConnectionPool, Redis
from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import RedisError, WatchError
from redis.retry import Retry

from common.domain.errors import ConfigurationError, StoreUnavailable

__all__ = [
    "AsyncClient",
    "Client",
    "StoreAddress",
    "Subscription",
    "WatchError",
    "connect",
    "connect_async",
    "store_errors",
]

Client = Redis
AsyncClient = AsyncRedis
Subscription = PubSub

POOL_SIZE = 64
POOL_WAIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """Where Redis is, and how long to wait for it (seconds). The URL may hold a password: it is not shown."""

    url: str = field(repr=False)
    connect_timeout: float = 2.0
    socket_timeout: float = 5.0

    @property
    def shown(self) -> str:
        """The address for people: without user and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def celery_url(self) -> str:
        """The same address in the words of kombu, which spells Unix sockets in its own way."""
        parts = urlsplit(self.url)
        if parts.scheme != "unix":
            return self.url
        database = dict(pair.partition("=")[::2] for pair in parts.query.split("&")).get("db", "0")
        return f"redis+socket://{parts.path}?virtual_host={database}"


def connect(address: StoreAddress, *, size: int = POOL_SIZE) -> Redis:
    """A blocking client with a bounded pool. Nothing is sent yet."""
    try:
        pool = BlockingConnectionPool.from_url(
            address.url,
            max_connections=size,
            timeout=POOL_WAIT,
            socket_connect_timeout=address.connect_timeout,
            socket_timeout=address.socket_timeout,
            retry=Retry(NoBackoff(), 0),
            **_keepalive(address),
        )
    except ValueError as error:
        raise ConfigurationError(f"redis.url is not a Redis URL: {error}", field="redis.url") from error
    return Redis(connection_pool=pool)


def connect_async(address: StoreAddress, *, size: int = POOL_SIZE) -> AsyncRedis:
    """The same for asyncio."""
    try:
        pool = AsyncBlockingConnectionPool.from_url(
            address.url,
            max_connections=size,
            timeout=POOL_WAIT,
            socket_connect_timeout=address.connect_timeout,
            socket_timeout=address.socket_timeout,
            retry=AsyncRetry(NoBackoff(), 0),
            **_keepalive(address),
        )
    except ValueError as error:
        raise ConfigurationError(f"redis.url is not a Redis URL: {error}", field="redis.url") from error
    return AsyncRedis(connection_pool=pool)


def _keepalive(address: StoreAddress) -> dict[str, bool]:
    """TCP keep-alive, which a Unix socket does not know."""
    return {} if address.url.startswith("unix:") else {"socket_keepalive": True}


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn any Redis fault inside into :class:`StoreUnavailable`: the caller fails closed."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis did not answer while {doing}") from error
