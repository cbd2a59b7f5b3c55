"""What a worker tells the process that keeps the journal. Apart from that process, whose parts no worker loads."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import SecretStr

from common.settings import Settings
from common.settings.audit_sinks import CustomOptions
from common.settings.section import Section
from common.store.client import StoreAddress


def order_of(settings: Settings, address: StoreAddress, owner: str) -> bytes:
    """What the process is told, as one line."""
    told = {
        "url": address.url,
        "connect_timeout": address.connect_timeout,
        "socket_timeout": address.socket_timeout,
        "prefix": settings.redis.key_prefix,
        "owner": owner,
        "audit": _revealed(settings.audit),
        "egress": _revealed(settings.egress),
        "logging": _revealed(settings.logging),
    }
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def _revealed(value: Any) -> Any:
    """A section as the plain data of which it can be made again, secrets included."""
    if isinstance(value, CustomOptions):
        return value.values
    if isinstance(value, Section):
        return {name: _revealed(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [_revealed(part) for part in value]
    return value.get_secret_value() if isinstance(value, SecretStr) else value
