"""What the settings say of keys in Redis, and of what lies under them."""

from __future__ import annotations

from common.settings import RedisSettings
from common.store.keys import Keys
from common.store.sealing import SealingKey, Seals


def keys_of(redis: RedisSettings) -> Keys:
    """The keys of a gateway; with ``encryption_keys`` payloads under them are sealed."""
    ring = [SealingKey(key.id, key.secret.get_secret_value().encode()) for key in redis.encryption_keys]
    prefix = redis.key_prefix
    return Keys(prefix, Seals(ring, prefix=prefix, accept_plain=redis.accept_plain) if ring else None)
