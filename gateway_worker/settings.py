"""The worker process's settings, read once."""

from __future__ import annotations

from functools import cache

from common.settings import Settings, load
from common.store.client import StoreAddress, address_of


@cache
def settings() -> Settings:
    """The settings of this process."""
    return load()


@cache
def address() -> StoreAddress:
    """Where Redis is. Raises :class:`ConfigurationError` if the settings do not say."""
    return address_of(settings().redis)
