"""Connections to Redis, with the retry policy written out.

redis-py 8.1 repeats a command ten times by default, also one whose reply alone was lost, and so can run a
script twice. Here nothing is repeated: a command either answers within ``socket_timeout`` or raises
:class:`~common.domain.errors.StoreUnavailable`, and whoever asked knows best whether asking again is safe.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from redis import BlockingConnectionPool, Redis
from redis.asyncio import BlockingConnectionPool as AsyncBlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, WatchError
from redis.exceptions import TimeoutError as AnswerLate
from redis.retry import Retry

from common.domain.errors import ConfigurationError, StoreUnavailable
from common.domain.tls import PLAIN_TLS, TlsRules
from common.domain.tool import MASK
from common.settings import RedisSettings
from common.tls import MINIMUM

__all__ = [
    "AsyncClient",
    "Client",
    "StoreAddress",
    "Subscription",
    "WatchError",
    "address_of",
    "connect",
    "connect_async",
    "store_errors",
]

Client = Redis
AsyncClient = AsyncRedis
Subscription = PubSub

POOL_SIZE = 64
_CERT_REQS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
POOL_WAIT = 5.0
# What the URL parser has to say may hold a piece of the password, so it is not repeated.
NO_URL = (
    "redis.url must be redis://host:port/db, rediss://host:port/db or unix:///path/of/socket; special characters "
    "of a password are written in percent-encoding"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """Where Redis is, and how long to wait for it (seconds). The URL may hold a password: it is not shown."""

    url: str = field(repr=False)
    connect_timeout: float = 2.0
    socket_timeout: float = 5.0

    @property
    def shown(self) -> str:
        """The address for people: without user and password."""
        scheme, _, rest = self.url.partition("://")
        authority = re.split("[/?#]", rest, maxsplit=1)[0]
        if "@" in rest.removeprefix(authority):
            # Somebody forgot to encode a character of the password: it is not clear what is what.
            return f"{scheme}://{MASK}"
        return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"

    @property
    def celery_url(self) -> str:
        """The same address in the words of kombu, which spells Unix sockets in its own way."""
        parts = urlsplit(self.url)
        if parts.scheme == "rediss":
            # Celery wants to be told of TLS beside the URL: it takes no version from there.
            rest = [pair for pair in parse_qsl(parts.query) if not pair[0].startswith("ssl_")]
            return urlunsplit(parts._replace(query=urlencode(rest)))
        if parts.scheme != "unix":
            return self.url
        options = dict(parse_qsl(parts.query))
        userinfo = parts.netloc
        if "password" in options:
            userinfo = f"{parts.username or ''}:{quote(options['password'], safe='')}@"
        return f"redis+socket://{userinfo}{parts.path}?virtual_host={options.get('db', '0')}"

    @property
    def celery_tls(self) -> dict[str, Any] | None:
        """What ``broker_use_ssl`` and ``redis_backend_use_ssl`` have to be; None for a connection without TLS."""
        parts = urlsplit(self.url)
        if parts.scheme != "rediss":
            return None
        said = {name: value for name, value in parse_qsl(parts.query) if name.startswith("ssl_")}
        wanted: dict[str, Any] = {
            **said,
            "ssl_cert_reqs": _CERT_REQS.get(said.get("ssl_cert_reqs", ""), ssl.CERT_REQUIRED),
        }
        wanted["ssl_check_hostname"] = said.get("ssl_check_hostname", "true").lower() not in {
            "false",
            "0",
            "no",
        }
        if "ssl_min_version" in said:
            wanted["ssl_min_version"] = ssl.TLSVersion(int(said["ssl_min_version"]))
        return wanted


def address_of(redis: RedisSettings) -> StoreAddress:
    """The address in the settings. Raises :class:`ConfigurationError` if they name none."""
    if redis.url is None:
        raise ConfigurationError(
            "redis.url is not set: a program started by itself needs it (CANALGATE_REDIS__URL); "
            "`canalgate up` starts a Redis of its own",
            field="redis.url",
        )
    return StoreAddress(
        url=with_tls(str(redis.url), redis.tls_rules()),
        connect_timeout=redis.connect_timeout,
        socket_timeout=redis.socket_timeout,
    )


def with_tls(url: str, rules: TlsRules) -> str:
    """The address with these rules in its query, in redis-py's words, where every program finds them."""
    if rules == PLAIN_TLS:
        return url
    parts = urlsplit(url)
    named = {"ssl_ca_certs": rules.ca_file, "ssl_certfile": rules.cert_file, "ssl_keyfile": rules.key_file}
    said = {name: os.path.abspath(file) for name, file in named.items() if file is not None}
    said["ssl_min_version"] = str(int(MINIMUM[rules.min_version]))
    return urlunsplit(parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **said})))


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
    except ValueError:
        raise ConfigurationError(NO_URL, field="redis.url") from None
    return Redis.from_pool(pool)


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
    except ValueError:
        raise ConfigurationError(NO_URL, field="redis.url") from None
    return AsyncRedis.from_pool(pool)


def _keepalive(address: StoreAddress) -> dict[str, bool]:
    """TCP keep-alive, which a Unix socket does not know."""
    return {} if address.url.startswith("unix:") else {"socket_keepalive": True}


class store_errors:  # noqa: N801 - a context manager reads as a verb; a class, since a generator costs 1 us a use
    """Turn any Redis fault inside into :class:`StoreUnavailable`: the caller fails closed."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConnectionLost | AnswerLate | OSError):
            raise StoreUnavailable(f"Redis did not answer while {self._doing}") from error
        if isinstance(error, RedisError):
            raise StoreUnavailable(f"Redis refused a command while {self._doing}") from error
