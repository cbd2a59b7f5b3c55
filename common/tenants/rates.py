"""Rates: which buckets a request counts in, and what is said when one of them is full."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from common.domain.errors import Throttled
from common.domain.invocation import Caller
from common.domain.limits import Rate
from common.domain.policy import CapabilityKind
from common.domain.quota import Quota
from common.domain.tool import Tool
from common.domain.uri_readings import readings_of
from common.mcp.asked import capability_asked
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.scripts import Arg
from common.store.shared import SharedConnection

REMEMBERED = 10_000
"""So many full buckets a process remembers; refusals of the others cost a round trip."""

_WORDS: Mapping[str, str] = {
    "tenant": "the tenant",
    "client": "the client",
    "capability": "the tenant, for this capability,",
    "tool": "the tool, of all tenants together,",
}


class RateBucket(NamedTuple):
    """One bucket that a request counts in. ``whose`` says for what the rate is."""

    key: str
    rate: Rate
    whose: Literal["tenant", "client", "capability", "tool"]

    def full(self, wait: float) -> Throttled:
        """The refusal of a request that passes in ``wait`` seconds."""
        return Throttled(
            f"{_WORDS[self.whose]} may make {self.rate.per_minute} requests a minute, {self.rate.burst} at once; "
            f"try again in {math.ceil(wait)} s",
            reason=self.whose,
            # Rounded up: whoever waits so long is not refused for the same reason.
            retry_after=math.ceil(wait * 1000) / 1000,
        )


Buckets = Sequence[RateBucket]


def of_caller(keys: Keys, quota: Quota, caller: Caller) -> list[RateBucket]:
    """Those that any request of a caller counts in."""
    found: list[RateBucket] = []
    if (rate := quota.rate) is not None:
        found.append(RateBucket(keys.tenant_rate(caller.tenant), rate, "tenant"))
    if (rate := quota.client_rate) is not None:
        found.append(RateBucket(keys.client_rate(caller.tenant, caller.client), rate, "client"))
    return found


def of_call(
    keys: Keys, quota: Quota, tool: Tool, caller: Caller, method: str, params: Mapping[str, Any]
) -> list[RateBucket]:
    """Those that a call counts in."""
    found = of_caller(keys, quota, caller)
    if quota.capabilities:
        names = names_asked(method, params)
        found += [
            RateBucket(keys.capability_rate(caller.tenant, limit.tool, limit.name), limit.rate, "capability")
            for limit in quota.capabilities
            if limit.matches(tool.id, names)
        ]
    if (rate := tool.rate) is not None:
        found.append(RateBucket(keys.tool_rate(tool.id), rate, "tool"))
    return found


def names_asked(method: str, params: Mapping[str, Any]) -> Collection[str] | None:
    """The names by which the tool may take what a call asks for: of a URI each of its readings.

    None for a URI that cannot be told from others: it counts for every rate of the tool, so no odd spelling is a way
    around one.
    """
    asked = capability_asked(method, params)
    if asked is None:
        return ()
    if asked.kind in (CapabilityKind.TOOL, CapabilityKind.PROMPT):
        return (asked.name,)
    readings = readings_of(asked.name)
    return None if readings is None else readings.all


def rate_args(buckets: Buckets) -> list[Arg]:
    """As the scripts take them (``lua/lib/buckets.lua``)."""
    return [part for bucket in buckets for part in (bucket.key, bucket.rate.per_minute, bucket.rate.burst)]


class FullBuckets:
    """Buckets that are full for a while, by what Redis said: a flood that is refused costs it nothing.

    A refused request adds nothing to its buckets, so each is full until the time that was told. It is remembered by
    this process's monotonic clock, under the rate that held: a quota that is changed is asked for at once.
    """

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[str, Rate], tuple[float, float]] = OrderedDict()
        """The times (monotonic seconds) until which one is certainly full, and from which one certainly is not."""

    def check(self, buckets: Buckets) -> None:
        """Raises :class:`Throttled` if one of them is known to be full."""
        for bucket in buckets:
            found = self._until.get((bucket.key, bucket.rate))
            if found is None:
                continue
            certain, over = found
            now = time.monotonic()
            if now < certain:
                raise bucket.full(over - now)
            self._until.pop((bucket.key, bucket.rate), None)

    def refused(self, bucket: RateBucket, wait_us: int, asked: float) -> Throttled:
        """Redis says that a bucket is full for so many microseconds; it was asked at ``asked`` (monotonic seconds)."""
        wait = wait_us / 1e6
        self._until[bucket.key, bucket.rate] = asked + wait, time.monotonic() + wait
        while len(self._until) > REMEMBERED:
            self._until.popitem(last=False)
        return bucket.full(wait)


class RequestRates:
    """Counts requests that queue no call. Fails closed: without Redis no request of a caller with a rate passes."""

    def __init__(self, connection: SharedConnection, keys: Keys, full: FullBuckets) -> None:
        self._connection = connection
        self._keys = keys
        self._full = full

    def check(self, quota: Quota, caller: Caller) -> None:
        """Refuse early, before policy is asked, what the script would refuse: raises :class:`Throttled`."""
        if quota.requests_per_minute or quota.client_requests_per_minute:
            self._full.check(of_caller(self._keys, quota, caller))

    def count(self, quota: Quota, caller: Caller) -> None:
        """Count one request. Raises :class:`Throttled`, or :class:`StoreUnavailable`."""
        buckets = of_caller(self._keys, quota, caller)
        if not buckets:
            return
        self._full.check(buckets)
        asked = time.monotonic()
        with store_errors("counting a request"):
            which, wait = self._connection.run("rate_take", [], rate_args(buckets))
        if which:
            raise self._full.refused(buckets[which - 1], wait, asked)
