"""The resolver api_key with keys that were issued: cached, and good no longer than they are."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain import api_key
from common.domain.errors import StoreUnavailable, Unauthenticated
from tests.web.identity.support import NOW, Issued, Noted, facts, identity_of, named, settings

BOT = ("acme", "bot")


def issue(issued: Issued, **changes: Any) -> str:
    record, key = api_key.issue(**{"tenant": "acme", "client": "bot", "now": NOW, "actor": "a", **changes})
    issued.records[record.id] = record
    return key


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_an_issued_key_is_looked_up_once(header: str) -> None:
    """By either header; then it is remembered."""
    issued = Issued()
    key = issue(issued)
    identity = identity_of(settings("api_key"), issued=issued)
    request = facts({header: key if header == "x-api-key" else f"Bearer {key}"})
    assert [named(identity, request) for _ in range(3)] == [BOT] * 3
    assert issued.looks == 1


def test_a_change_of_any_key_has_each_looked_up_again() -> None:
    """So a revoked one is good no more."""
    issued = Issued()
    key = issue(issued)
    identity = identity_of(settings("api_key"), issued=issued)
    request = facts({"x-api-key": key})
    assert named(identity, request) == BOT
    issued.records.clear()
    assert named(identity, request) == BOT
    issued.version += 1
    assert named(identity, request) is Unauthenticated


def test_without_a_cache_each_request_looks() -> None:
    """As the setting says."""
    issued = Issued()
    key = issue(issued)
    identity = identity_of(settings("api_key", cache_ttl=0), issued=issued)
    for _ in range(3):
        assert named(identity, facts({"x-api-key": key})) == BOT
    assert issued.looks == 3


def test_wrong_ones_are_refused_and_not_remembered() -> None:
    """Unknown ids, wrong secrets, nonsense with the prefix."""
    issued, noted = Issued(), Noted()
    key = issue(issued)
    identity = identity_of(settings("api_key"), issued=issued, noted=noted)
    other = issue(Issued())
    wrong = [
        other,
        key[:-1] + ("a" if key[-1] != "a" else "b"),
        key + "x",
        "cgk_",
        "cgk_x_y",
        key[:21] + other[21:],
    ]
    for text in wrong:
        assert named(identity, facts({"authorization": f"Bearer {text}"})) is Unauthenticated
    assert set(noted.reasons) == {"unknown_key"}
    assert named(identity, facts({"x-api-key": key})) == BOT


def test_one_that_expires_is_refused_from_then_on() -> None:
    """Also by the cache, whose time is cut to that."""
    issued, noted = Issued(), Noted()
    key = issue(issued, expires_in=5)
    (record,) = issued.records.values()
    late = issue(issued, now=NOW - 10_000, expires_in=5)
    identity = identity_of(settings("api_key"), issued=issued, noted=noted)
    assert named(identity, facts({"x-api-key": late})) is Unauthenticated
    assert noted.reasons == ["expired"]
    assert record.good_until(key, NOW) == NOW + 5000


def test_without_redis_an_issued_key_lets_nobody_in() -> None:
    """Those of the file do: they need none."""
    issued = Issued(fault=StoreUnavailable("gone"))
    key = issue(issued)
    section = settings("api_key", api_keys=[{"key": "plain", "tenant": "acme", "client": "bot"}])
    identity = identity_of(section, issued=issued)
    assert named(identity, facts({"x-api-key": key})) is StoreUnavailable
    assert named(identity, facts({"x-api-key": "plain"})) == BOT


def test_a_key_of_the_file_may_look_like_an_issued_one() -> None:
    """It is found all the same."""
    _, key = api_key.new_key()
    section = settings("api_key", api_keys=[{"key": key, "tenant": "acme", "client": "bot"}])
    assert named(identity_of(section), facts({"x-api-key": key})) == BOT
