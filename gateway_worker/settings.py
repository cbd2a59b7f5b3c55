"""The worker process's settings, read once."""

from __future__ import annotations

from functools import cache

from common.domain.errors import ConfigurationError
from common.settings import Settings, load
from common.store.client import StoreAddress


@cache
def settings() -> Settings:
    """The settings of this process."""
    return load()


@cache
def address() -> StoreAddress:
    """Where Redis is. Raises :class:`ConfigurationError` if the settings do not say."""
    redis = settings().redis
    if redis.url is None:
        raise ConfigurationError(
            "redis.url is not set: a worker started by itself needs it (CANALGATE_REDIS__URL); "
            "`canalgate up` starts a Redis of its own",
            field="redis.url",
        )
    return StoreAddress(
        url=str(redis.url),
        connect_timeout=redis.connect_timeout,
        socket_timeout=redis.socket_timeout,
    )
