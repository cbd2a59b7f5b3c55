"""What operators see and change of tenants: versions, audit, usage."""

from __future__ import annotations

from typing import Any

import pytest

from common.audit.journal import Journal
from common.domain.errors import InvalidRequest, VersionConflict
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.domain.limits import Rate
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from common.tenants.desk import TenantDesk
from common.tenants.rates import FullBuckets, RequestRates
from common.tenants.records import TenantRecords

ACME, NEW = TenantId("acme"), TenantId("new ü")
FILE = {"max_sessions": 9, "listed": [{"id": "acme", "requests_per_minute": 60, "burst": 5}]}


@pytest.fixture
def desk(client: Client, keys: Keys) -> TenantDesk:
    return TenantDesk(client, keys, Settings.model_validate({"tenants": FILE}))


def test_what_is_set_is_merged_and_what_is_unset_is_the_file_s(desk: TenantDesk) -> None:
    """The view says what holds, and what of it was set."""
    desk.change(ACME, {"max_calls": 3, "max_sessions": None}, actor="me")
    view = desk.change(ACME, {"client_max_calls": 2}, ["max_sessions"], actor="me")
    assert view.record is not None
    assert view.record.layer == {"max_calls": 3, "client_max_calls": 2}
    assert (view.quota.max_sessions, view.quota.max_calls, view.quota.burst) == (9, 3, 5)
    assert [found.id for found in desk.all()] == ["acme", "default"]


def test_a_rate_s_burst_can_be_set_alone_and_goes_with_its_rate(desk: TenantDesk) -> None:
    """Only under a rate that was set as well: that of the file is the file's."""
    with pytest.raises(InvalidRequest, match="burst goes with requests_per_minute"):
        desk.change(ACME, {"burst": 2}, actor="me")
    desk.change(ACME, {"requests_per_minute": 600}, actor="me")
    assert desk.change(ACME, {"burst": 2}, actor="me").quota.rate == Rate(600, 2)
    assert desk.change(ACME, {"requests_per_minute": 10}, actor="me").quota.rate == Rate(10, 10)
    assert desk.change(ACME, {}, ["requests_per_minute"], actor="me").quota.rate == Rate(60, 5)


@pytest.mark.parametrize("expected", [0, 1, 99])
def test_who_has_read_another_version_is_told_so(expected: int, desk: TenantDesk) -> None:
    """And changes nothing; nor does one who removes."""
    desk.change(NEW, {"max_calls": 1}, actor="me")
    version = desk.change(NEW, {"max_calls": 2}, actor="me").version
    with pytest.raises(VersionConflict) as caught:
        desk.change(NEW, {"max_calls": 3}, actor="me", expected=expected)
    assert caught.value.data["version"] == version
    with pytest.raises(VersionConflict):
        desk.remove(NEW, actor="me", expected=expected + 100)
    assert desk.get(NEW).quota.max_calls == 2
    assert desk.change(NEW, {"max_calls": 3}, actor="me", expected=version).version > version


def test_two_who_change_different_fields_are_both_heard(
    desk: TenantDesk, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes second begins again with what the first wrote."""
    others, put = TenantRecords(client, keys), TenantRecords.put

    def second(self: TenantRecords, *args: Any, **options: Any) -> int:
        monkeypatch.setattr(TenantRecords, "put", put)
        others.put(ACME, {"max_calls": 1}, actor="first")
        return put(self, *args, **options)

    monkeypatch.setattr(TenantRecords, "put", second)
    quota = desk.change(ACME, {"client_max_calls": 2}, actor="second").quota
    assert (quota.max_calls, quota.client_max_calls) == (1, 2)


def test_what_was_never_set_cannot_be_removed(desk: TenantDesk) -> None:
    """A name that was misspelt is noticed."""
    with pytest.raises(InvalidRequest, match="nothing was set"):
        desk.remove(NEW, actor="me")


@pytest.mark.parametrize("sets", [{"max_call": 1}, {"max_calls": 0}, {"capabilities": [{}]}])
def test_what_makes_no_sense_changes_nothing(sets: dict[str, Any], desk: TenantDesk, client: Client) -> None:
    """Nothing is written, and nothing audited."""
    with pytest.raises(InvalidRequest):
        desk.change(ACME, sets, actor="me")
    assert client.dbsize() == 0


def test_each_change_is_audited_with_who_made_it(desk: TenantDesk, client: Client, keys: Keys) -> None:
    """And with what was set."""
    desk.change(NEW, {"enabled": False, "max_calls": 4}, actor="cli:ada")
    desk.remove(NEW, actor="cli:bob")
    removed, changed = Journal(client, keys).newest(5)
    assert (removed.kind, removed.fields["actor"], removed.fields["tenant"]) == (
        "tenant_removed",
        "cli:bob",
        NEW,
    )
    assert (changed.kind, changed.fields["actor"]) == ("tenant_changed", "cli:ada")
    assert changed.fields["detail"] == '{"enabled":false,"max_calls":4}'


def test_usage_is_what_is_used_now(
    desk: TenantDesk, client: Client, keys: Keys, address: StoreAddress
) -> None:
    """Of rates what is left; of calls and sessions those that count; what no bound counts is not known."""
    sets = {
        "max_calls": 5,
        "max_mcp_sessions": 2,
        "capabilities": [{"tool": "git", "name": "x", "requests_per_minute": 3}],
    }
    quota = desk.change(ACME, sets, actor="me").quota
    connection = SharedConnection(address)
    caller = Caller(tenant=ACME, client=ClientId("c"))
    for _ in range(2):
        RequestRates(connection, keys, FullBuckets()).count(quota, caller)
    connection.close()
    seconds, _ = client.time()
    client.zadd(keys.tenant_calls(ACME), {"over": (seconds - 1) * 1000, "now": (seconds + 60) * 1000})
    client.zadd(keys.mcp_sessions_of(ACME), {"now": (seconds + 60) * 1000})
    for key in (keys.tenant_calls(ACME), keys.mcp_sessions_of(ACME)):
        client.expire(key, 60)
    client.sadd(keys.tenant_sessions(ACME), "git|acme:c")
    (found,) = desk.usage([ACME])
    assert found.requests is not None
    assert (found.requests.left, found.requests.rate) == (3, Rate(60, 5))
    assert [(one.left, one.rate.burst) for one in found.capabilities] == [(3, 3)]
    assert (found.calls, found.sessions, found.mcp_sessions) == (1, 1, 1)
    client.set(keys.capability_rate(ACME, "git", "x"), "nonsense", px=5000)
    assert desk.usage([ACME])[0].capabilities == (None,)  # and the rest is told
    of_default = {one.tenant: one for one in desk.usage()}[TenantId("default")]
    assert (of_default.requests, of_default.calls, of_default.mcp_sessions) == (None, None, None)
