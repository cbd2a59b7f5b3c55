"""Which buckets a request counts in, and what a full one costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from common.domain.errors import StoreUnavailable, Throttled
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.domain.limits import Rate
from common.domain.quota import CapabilityRate, Quota
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from common.tenants import rates as module
from common.tenants.rates import FullBuckets, RateBucket, RequestRates, names_asked, of_call, of_caller
from tests.support.backends import stdio_tool

ME = Caller(tenant=TenantId("a-b"), client=ClientId("c"))
KEYS = Keys("test")


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "echo", "arguments": {"name": "other"}}, "echo"),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "file:///a"}, "file:///a"),
        ("resources/subscribe", {"uri": "file:///a"}, "file:///a"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "a:{b}"}}, "a:{b}"),
        ("completion/complete", {"ref": 5, "name": "no"}, None),
        ("tools/call", {"name": 5}, None),
        ("tools/call", {}, None),
    ],
)
def test_what_a_call_asks_for(method: str, params: dict[str, Any], name: str | None) -> None:
    """As its tool has the name."""
    names = names_asked(method, params)
    assert names is not None
    assert name in names if name else not names


def test_no_spelling_of_a_uri_is_a_way_around_its_rate() -> None:
    """It counts by each of its readings; one that has none counts for every rate of the tool."""
    limit = CapabilityRate(tool="t", name="file:///a/*", requests_per_minute=1)
    spellings = ["file:///a/b", "FILE:///a/b", "file:///%61/b", "file://localhost/a/b", "file:///c/../a/b"]
    for uri in spellings:
        assert limit.matches("t", names_asked("resources/read", {"uri": uri})), uri
    assert not limit.matches("t", names_asked("resources/read", {"uri": "file:///b"}))


def test_a_call_counts_for_the_tenant_the_client_each_glob_that_fits_and_the_tool() -> None:
    """And for nothing else; each has a bucket of its own."""
    quota = Quota(
        requests_per_minute=60,
        client_requests_per_minute=6,
        capabilities=tuple(
            CapabilityRate(tool=tool, name=name, requests_per_minute=3)
            for tool, name in (("local", "e*"), ("local", "*"), ("local", "x"), ("other", "*"))
        ),
    )
    tool = stdio_tool(requests_per_minute=100, burst=10)
    found = of_call(KEYS, quota, tool, ME, "tools/call", {"name": "echo"})
    assert [(bucket.key.removeprefix("test:"), bucket.whose) for bucket in found] == [
        ("rate:a-b", "tenant"),
        ("rate:a-b:c", "client"),
        ("rate-of:a-b:local:e%2A", "capability"),
        ("rate-of:a-b:local:%2A", "capability"),
        ("rate-tool:local", "tool"),
    ]
    assert found[-1].rate == Rate(100, 10)
    assert of_caller(KEYS, Quota(max_calls=1), ME) == []


@pytest.fixture
def connection(address: StoreAddress, client: Client) -> Iterator[SharedConnection]:
    found = SharedConnection(address)
    yield found
    found.close()


def scripts_run(client: Client) -> int:
    """How many scripts Redis has run."""
    return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


def test_a_flood_beyond_a_rate_costs_redis_one_script(
    client: Client, keys: Keys, connection: SharedConnection
) -> None:
    """It said until when the bucket is full; each refusal says how long that is still."""
    counting = RequestRates(connection, keys, FullBuckets())
    quota = Quota(requests_per_minute=60, burst=2)
    for _ in range(2):
        counting.count(quota, ME)
    with pytest.raises(Throttled) as first:
        counting.count(quota, ME)
    before, waits = scripts_run(client), [first.value.data["retry_after"]]
    for _ in range(50):
        with pytest.raises(Throttled) as caught:
            counting.count(quota, ME)
        waits.append(caught.value.data["retry_after"])
    assert scripts_run(client) == before
    assert waits == sorted(waits, reverse=True)
    assert 0 < waits[-1] <= waits[0] <= 1.0
    assert caught.value.data["reason"] == "tenant"


def test_whoever_waits_as_long_as_he_was_told_passes(keys: Keys, connection: SharedConnection) -> None:
    """Not a moment longer, and not in vain."""
    counting, quota = RequestRates(connection, keys, FullBuckets()), Quota(requests_per_minute=1200, burst=1)
    counting.count(quota, ME)
    for _ in range(5):
        with pytest.raises(Throttled) as caught:
            counting.count(quota, ME)
        assert caught.value.data["retry_after"] <= 0.05
        time.sleep(caught.value.data["retry_after"])
        counting.count(quota, ME)


def test_a_rate_that_was_changed_is_asked_for_at_once(keys: Keys, connection: SharedConnection) -> None:
    """What was used under the old one counts under the new one."""
    counting = RequestRates(connection, keys, FullBuckets())
    for _ in range(2):
        counting.count(Quota(requests_per_minute=2), ME)
    with pytest.raises(Throttled):
        counting.count(Quota(requests_per_minute=2), ME)
    counting.count(Quota(requests_per_minute=3), ME)
    with pytest.raises(Throttled):
        counting.count(Quota(requests_per_minute=3), ME)


def test_only_so_many_full_buckets_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are asked for again."""
    monkeypatch.setattr(module, "REMEMBERED", 2)
    full = FullBuckets()
    buckets = [RateBucket(f"b{n}", Rate(1, 1), "client") for n in range(3)]
    for bucket in buckets:
        full.refused(bucket, 60_000_000, time.monotonic())
    full.check(buckets[:1])
    for bucket in buckets[1:]:
        with pytest.raises(Throttled):
            full.check([bucket])


def test_without_redis_only_callers_without_a_rate_pass(keys: Keys) -> None:
    """Fails closed."""
    away = SharedConnection(StoreAddress(url="redis://127.0.0.1:1", connect_timeout=0.1))
    counting = RequestRates(away, keys, FullBuckets())
    counting.count(Quota(max_calls=1), ME)
    with pytest.raises(StoreUnavailable):
        counting.count(Quota(requests_per_minute=60), ME)
