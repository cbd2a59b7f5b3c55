"""API keys: their form, what is kept of them, and when they are good."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from common.domain import api_key
from common.domain.api_key import ApiKeyRecord
from common.domain.errors import InvalidRequest

NOW = 1_000_000


def issued(**changes: Any) -> tuple[ApiKeyRecord, str]:
    return api_key.issue(**{"tenant": "acme", "client": "bot", "now": NOW, "actor": "cli:ann", **changes})


def test_a_key_has_a_prefix_an_id_and_256_bits() -> None:
    """No two are the same, and the record holds nothing of the secret but its digest."""
    made = [issued() for _ in range(50)]
    assert len({key for _, key in made}) == len({record.id for record, _ in made}) == 50
    for record, key in made:
        assert re.fullmatch(r"cgk_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", key)
        assert api_key.key_id_of(key) == record.id
        assert key[21:] not in str(api_key.record_to_wire(record))
        assert key not in repr(record)


@pytest.mark.parametrize(
    "text",
    ["", "cgk_", "cgk_x", "cgk_0123456789abcdef_", "cgk_0123456789abcdef_" + "a" * 44, "CGK_" + "0" * 60],
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    """Whatever it begins with."""
    assert api_key.key_id_of(text) is None


def test_a_key_is_good_until_it_expires() -> None:
    """One that never does is good for ever, and any other key never."""
    record, key = issued()
    assert record.good_until(key, NOW) is None
    _, other = issued()
    for wrong in (other, key[:-1], key + "x", "", "ü", "\ud800"):
        assert record.good_until(wrong, NOW) == 0
    short, key = issued(expires_in=2)
    assert short.good_until(key, NOW + 1999) == NOW + 2000
    assert short.good_until(key, NOW + 2000) == 0
    assert (short.expired(NOW + 1999), short.expired(NOW + 2000)) == (False, True)


def test_a_rotated_key_is_good_for_its_grace() -> None:
    """Both are meanwhile; then the new one alone, and never longer than the record."""
    record, old = issued(expires_in=100)
    rotated, new = api_key.rotate(record, grace=5, now=NOW)
    assert api_key.key_id_of(new) == record.id
    assert rotated.good_until(new, NOW) == NOW + 100_000
    assert rotated.good_until(old, NOW + 4999) == NOW + 5000
    assert rotated.good_until(old, NOW + 5000) == 0
    again, newest = api_key.rotate(rotated, grace=200, now=NOW)
    assert again.good_until(old, NOW) == 0
    assert again.good_until(new, NOW) == NOW + 100_000
    assert again.good_until(newest, NOW) == NOW + 100_000
    at_once, _ = api_key.rotate(record, grace=0, now=NOW)
    assert at_once.good_until(old, NOW) == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"client": "x" * 513}, "client"),
        ({"subject": "\ud800"}, "subject"),
        ({"scopes": ("a b",)}, "scopes"),
        ({"scopes": ("",)}, "scopes"),
        ({"scopes": tuple(map(str, range(101)))}, "scopes"),
        ({"note": "a\nb"}, "note"),
        ({"note": "x" * 201}, "note"),
        ({"expires_in": 0}, "expires"),
        ({"expires_in": float("inf")}, "expires"),
        ({"expires_in": float("nan")}, "expires"),
    ],
)
def test_what_is_refused_is_named(changes: dict[str, Any], field: str) -> None:
    """And no key is made."""
    with pytest.raises(InvalidRequest) as caught:
        issued(**changes)
    assert caught.value.data == {"field": field}


@pytest.mark.parametrize("grace", [-1, float("inf"), float("nan")])
def test_a_grace_that_is_none_is_refused(grace: float) -> None:
    """So that no old secret is good for ever."""
    with pytest.raises(InvalidRequest):
        api_key.rotate(issued()[0], grace=grace, now=NOW)


def test_an_expired_key_is_not_rotated() -> None:
    """The new one would be as dead."""
    with pytest.raises(InvalidRequest, match="has expired"):
        api_key.rotate(issued(expires_in=1)[0], grace=1, now=NOW + 1000)


def test_a_record_crosses_the_wire() -> None:
    """What a newer version has added is left out."""
    record = replace(issued(scopes=("b", "a"), subject="ann", note="for ci")[0], rotated_at=5)
    wire = api_key.record_to_wire(record)
    assert record.scopes == ("a", "b")
    assert api_key.record_from_wire({**wire, "scopes": list(record.scopes), "new": 1}) == record
    assert (record.caller.tenant, record.caller.client, record.caller.subject) == ("acme", "bot", "ann")
    assert record.caller.scopes == {"a", "b"}


@pytest.mark.parametrize("text", ["", "x", "0123456789ABCDEF", "cgk_0123456789abcdef_" + "s" * 43])
def test_an_id_is_checked_and_a_whole_key_not_repeated(text: str) -> None:
    """Somebody may have pasted the key."""
    with pytest.raises(InvalidRequest) as caught:
        api_key.checked_key_id(text)
    assert "sss" not in caught.value.message
