"""What tenants use now of what they may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from common.domain.ids import TenantId
from common.domain.limits import Bucket, Rate
from common.domain.quota import Quota
from common.store.client import Client, store_errors
from common.store.keys import Keys

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUsage:
    """How many requests would pass at once now, of a rate."""

    left: int
    rate: Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUsage:
    """``requests``, ``calls`` and ``mcp_sessions`` are None where no bound of the tenant has them counted.

    ``capabilities`` are in the order of the quota. A rate is None as well if what was counted for it cannot be read.
    """

    tenant: TenantId
    quota: Quota
    requests: RateUsage | None
    capabilities: tuple[RateUsage | None, ...]
    calls: int | None
    sessions: int
    mcp_sessions: int | None


def usage_of(client: Client, keys: Keys, quotas: Mapping[TenantId, Quota]) -> list[TenantUsage]:
    """Of these tenants, in one round trip. Fails closed: raises ``StoreUnavailable``."""
    with store_errors("reading what tenants use"):
        seconds, micros = client.time()
        now = seconds * 1_000_000 + micros
        with client.pipeline(transaction=False) as pipe:
            for tenant, quota in quotas.items():
                pipe.get(keys.tenant_rate(tenant))
                for limit in quota.capabilities:
                    pipe.get(keys.capability_rate(tenant, limit.tool, limit.name))
                pipe.zcount(keys.tenant_calls(tenant), f"({now // 1000}", "+inf")
                pipe.scard(keys.tenant_sessions(tenant))
                pipe.zcount(keys.mcp_sessions_of(tenant), f"({now // 1000}", "+inf")
            found = iter(pipe.execute())
    return [_usage(tenant, quota, found, now) for tenant, quota in quotas.items()]


def _usage(tenant: TenantId, quota: Quota, found: Any, now: int) -> TenantUsage:
    raw, rate = next(found), quota.rate
    requests = None if rate is None else _rate_usage(tenant, raw, now, rate)
    capabilities = tuple(_rate_usage(tenant, next(found), now, limit.rate) for limit in quota.capabilities)
    calls, sessions, mcp_sessions = next(found), next(found), next(found)
    return TenantUsage(
        tenant=tenant,
        quota=quota,
        requests=requests,
        capabilities=capabilities,
        calls=None if quota.max_calls is None else calls,
        sessions=sessions,
        mcp_sessions=None if quota.max_mcp_sessions is None else mcp_sessions,
    )


def _rate_usage(tenant: TenantId, raw: bytes | None, now: int, rate: Rate) -> RateUsage | None:
    """What is left of a rate, or None if that cannot be read: it must not hide what all others use."""
    try:
        bucket = Bucket() if raw is None else Bucket(*map(int, raw.split()))
    except (TypeError, ValueError) as error:
        log.error("rate_unreadable", tenant=tenant, error=repr(error))
        return None
    return RateUsage(left=bucket.left(now, rate), rate=rate)
