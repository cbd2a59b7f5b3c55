"""Issued keys in Redis: each change is one step with its version and its audit event."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import structlog

from common.audit.journal import Journal
from common.domain.errors import InvalidRequest, StoreUnavailable, VersionConflict
from common.identity.api_keys import ApiKeys, IssuedKeys
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection

WHO: Any = {"tenant": "acme", "client": "bot", "actor": "cli:ann"}


@pytest.fixture
def service(client: Client, keys: Keys) -> ApiKeys:
    return ApiKeys(client, keys)


def events(client: Client, keys: Keys) -> list[tuple[str, str, str, str]]:
    """Kind, actor, tenant and detail of each, the oldest first."""
    found = reversed(Journal(client, keys).newest(100))
    return [(r.kind, r.fields["actor"], r.fields.get("tenant", ""), r.fields["detail"]) for r in found]


def test_a_key_lives_from_its_issue_to_its_revocation(
    service: ApiKeys, client: Client, keys: Keys, address: StoreAddress
) -> None:
    """Each change counts, is heard of, and is audited under who made it; the secret is nowhere."""
    with closing(SharedConnection(address)) as connection:
        issued = IssuedKeys(connection, keys)
        assert issued.refresh()
        record, key = service.issue(**WHO, scopes=("a",), note="ci", expires_in=60)
        assert issued.refresh()
        assert not issued.refresh()
        assert issued.find(record.id) == record == service.get(record.id)
        assert record.good_until(key, service.now()) == record.expires_at
        rotated, second = service.rotate(record.id, grace=60, actor="cli:bob")
        assert issued.refresh()
        assert issued.find(record.id) == rotated
        assert rotated.good_until(key, service.now())
        assert [found.id for found in service.list()] == [record.id]
        assert service.revoke(record.id, actor="cli:cid", reason="leaked") == rotated
        assert issued.refresh()
        assert issued.find(record.id) is None
        assert service.list() == []
    detail = f"key {record.id}"
    assert events(client, keys) == [
        ("api_key_issued", "cli:ann", "acme", detail),
        ("api_key_rotated", "cli:bob", "acme", detail),
        ("api_key_revoked", "cli:cid", "acme", detail),
    ]
    everything = "".join(str(client.dump(name)) for name in client.scan_iter())
    for secret in (key, second):
        assert secret not in everything
        assert secret.removeprefix(f"cgk_{record.id}_") not in everything


def test_what_changes_nothing_is_no_event(service: ApiKeys, client: Client, keys: Keys) -> None:
    """A key that is not there is neither rotated nor revoked, nor a wrong one made."""
    for wrong in ("0" * 16, "x"):
        with pytest.raises(InvalidRequest):
            service.rotate(wrong, grace=1, actor="a")
        with pytest.raises(InvalidRequest):
            service.revoke(wrong, actor="a")
        with pytest.raises(InvalidRequest):
            service.get(wrong)
    with pytest.raises(InvalidRequest):
        service.issue(**{**WHO, "tenant": ""})
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    "raw",
    [
        b'{"v":2,"who":"knows"}',
        b"nonsense",
        b"[]",
        b"5",
        b'{"scopes":[]}',
        b'{"id":"0","tenant":"t","client":"c","digest":"d","created_at":"x","created_by":"a","scopes":[]}',
        b'{"id":"0","tenant":5,"client":"c","digest":"d","created_at":1,"created_by":"a","scopes":[]}',
    ],
)
def test_a_key_that_cannot_be_read_hides_no_other_and_can_be_revoked(
    service: ApiKeys, client: Client, keys: Keys, raw: bytes
) -> None:
    """A newer release wrote it, or it is garbage; the log names its id, which is all that its revocation needs."""
    unreadable = "0" * 16
    record, _ = service.issue(**WHO)
    client.hset(keys.api_keys, unreadable, raw)
    with structlog.testing.capture_logs() as lines:
        assert service.list() == [record]
    assert [(line["event"], line["id"]) for line in lines] == [("api_key_unreadable", unreadable)]
    assert service.is_there(unreadable)
    assert service.revoke(unreadable, actor="cli:bob") is None
    assert not service.is_there(unreadable)
    assert service.list() == [record]
    assert events(client, keys)[-1] == ("api_key_revoked", "cli:bob", "", f"key {unreadable}")


def test_changes_at_the_same_time_all_happen(service: ApiKeys, client: Client, keys: Keys) -> None:
    """None is written over by another one; who cannot get through is told so."""

    def issue(_: int) -> bool:
        try:
            service.issue(**WHO)
        except VersionConflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(issue, range(20)))
    assert done > 0
    assert (
        len(service.list())
        == int(client.get(keys.api_keys_version) or 0)
        == len(events(client, keys))
        == done
    )


def test_a_rotation_is_of_the_secret_that_is_good_now(service: ApiKeys) -> None:
    """Of two, the second one makes the first one's the old one."""
    record, first = service.issue(**WHO)
    _, second = service.rotate(record.id, grace=60, actor="a")
    now, third = service.rotate(record.id, grace=60, actor="a")
    good = [now.good_until(key, service.now()) for key in (first, second, third)]
    assert (good[0], good[1], good[2]) == (0, now.previous_until, None)


def test_without_redis_nothing_is_known(keys: Keys) -> None:
    """Fails closed."""
    with closing(SharedConnection(StoreAddress(url="unix:///nonexistent/s"))) as connection:
        issued = IssuedKeys(connection, keys)
        for look in (issued.refresh, lambda: issued.find("0" * 16)):
            with pytest.raises(StoreUnavailable):
                look()
