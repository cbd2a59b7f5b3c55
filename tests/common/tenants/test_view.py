"""A process's view of the tenants: layers, who may call, and that it follows what operators set."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.errors import Forbidden, StoreUnavailable
from common.domain.ids import TenantId
from common.domain.quota import Quota
from common.settings import Settings
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from common.tenants import view as module
from common.tenants.records import TenantRecords
from common.tenants.view import Tenants

ACME, UMBRA, NEW = map(TenantId, ("acme", "umbra", "new|ü"))


def view_of(client: Client, keys: Keys, **tenants: Any) -> Tenants:
    """The view of a process with such settings, up to date."""
    given = {"requests_per_minute": 60, "listed": [{"id": ACME, "max_calls": 3}, UMBRA], **tenants}
    found = Tenants(client, keys, Settings.model_validate({"tenants": given}))
    found.refresh()
    return found


@pytest.fixture
def records(client: Client, keys: Keys) -> TenantRecords:
    return TenantRecords(client, keys)


def test_what_was_set_lies_over_the_file_and_that_over_the_bounds_of_all(
    client: Client, keys: Keys, records: TenantRecords
) -> None:
    """Field by field."""
    records.put(ACME, {"max_calls": 5, "max_sessions": 2}, actor="me")
    view = view_of(client, keys, max_sessions=9, client_max_calls=4)
    assert view.quota_of(ACME) == Quota(
        requests_per_minute=60, max_calls=5, max_sessions=2, client_max_calls=4
    )
    assert view.quota_of(UMBRA) == Quota(requests_per_minute=60, max_sessions=9, client_max_calls=4)
    assert view.quota_of("nobody") == view.quota_of(UMBRA)


def test_a_key_that_is_null_in_the_file_is_no_bound(client: Client, keys: Keys) -> None:
    """One that is absent is the bound of all."""
    view = view_of(client, keys, listed=[{"id": ACME, "requests_per_minute": None}, UMBRA])
    assert (view.quota_of(ACME).rate, view.quota_of(UMBRA).requests_per_minute) == (None, 60)


@pytest.mark.parametrize("unlisted", [True, False])
def test_unlisted_tenants_are_refused_unless_the_settings_admit_them(
    unlisted: bool, client: Client, keys: Keys
) -> None:
    """Then they have the bounds of all."""
    view = view_of(client, keys, allow_unlisted=unlisted)
    if unlisted:
        assert view.authorise(NEW) == Quota(requests_per_minute=60)
    else:
        with pytest.raises(Forbidden, match="not listed"):
            view.authorise(NEW)


def test_one_that_something_was_set_for_is_listed(client: Client, keys: Keys, records: TenantRecords) -> None:
    """Until that is removed."""
    view = view_of(client, keys)
    records.put(NEW, {}, actor="me")
    assert view.refresh()
    assert view.authorise(NEW).requests_per_minute == 60
    records.remove(NEW, actor="me")
    assert view.refresh()
    with pytest.raises(Forbidden):
        view.authorise(NEW)


@pytest.mark.parametrize("by", ["file", "operator"])
def test_a_suspended_tenant_is_refused(by: str, client: Client, keys: Keys, records: TenantRecords) -> None:
    """By either; and an operator admits one that the file suspends."""
    listed = [{"id": ACME, "enabled": by != "file"}]
    if by == "operator":
        records.put(ACME, {"enabled": False}, actor="me")
    view = view_of(client, keys, listed=listed)
    with pytest.raises(Forbidden, match="suspended"):
        view.authorise(ACME)
    records.put(ACME, {"enabled": True}, actor="me")
    view.refresh()
    assert view.authorise(ACME).enabled


@pytest.mark.parametrize("behind", [0, 500])
def test_each_change_is_followed(
    behind: int, client: Client, keys: Keys, records: TenantRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed is read, or all of it by one that is far behind; without a change nothing is."""
    monkeypatch.setattr(module, "FULL_RELOAD_BEHIND", behind)
    view = view_of(client, keys)
    assert not view.refresh()
    records.put(ACME, {"max_calls": 7}, actor="me")
    records.put(NEW, {"max_calls": 8}, actor="me")
    records.put(UMBRA, {"max_calls": 9}, actor="me")
    records.remove(UMBRA, actor="me")
    assert view.refresh()
    found = [view.quota_of(tenant).max_calls for tenant in (ACME, NEW, UMBRA)]
    assert found == [7, 8, None]
    assert not view.refresh()


def test_a_redis_that_lost_them_leaves_the_file(client: Client, keys: Keys, records: TenantRecords) -> None:
    """Its counter went back."""
    records.put(ACME, {"max_calls": 7}, actor="me")
    view = view_of(client, keys)
    client.delete(keys.tenants_records, keys.tenants_version, keys.tenants_changes)
    assert view.refresh()
    assert view.quota_of(ACME).max_calls == 3


@pytest.mark.parametrize("raw", [b"", b"7", b"7 {", b"7 []", b'7 {"max_calls":0}', b"x {}", b"7 \xff"])
def test_what_cannot_be_read_keeps_its_tenant_out_and_no_other(
    raw: bytes, client: Client, keys: Keys, records: TenantRecords
) -> None:
    """Fails closed: nobody knows what was meant."""
    records.put(UMBRA, {"max_calls": 1}, actor="me")
    client.hset(keys.tenants_records, ACME, raw)
    view = view_of(client, keys)
    with pytest.raises(Forbidden):
        view.authorise(ACME)
    assert view.authorise(UMBRA).max_calls == 1


def test_without_redis_nothing_counts_as_read(keys: Keys) -> None:
    """It is said; whoever needs to know waits."""
    away = Tenants(connect(StoreAddress(url="redis://127.0.0.1:1", connect_timeout=0.1)), keys, Settings())
    with pytest.raises(StoreUnavailable):
        away.refresh()
    assert away.version == -1
