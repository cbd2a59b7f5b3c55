"""Values are put where the rules say, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from common.credentials.injection import CannotInject, Injected, inject, with_meta
from common.domain.credentials import Credentials
from tests.worker.credentials.desk import rules

KNOWN = Credentials.of(
    {"user": "u", "key": "canary-1", "pem": "-----BEGIN\nEND-----", "nul": "a\0b", "odd": "ä€"}
)


def test_each_place_gets_its_values() -> None:
    """And what no rule names is left where it was."""
    found = inject(
        rules(
            env={"A": "key", "PEM": "pem"},
            headers={"X": "{user}:{key}", "Y": "{{{user}}}"},
            meta={"a.b/c": "key", "/d/e": "user", "/d/f~1g": "key"},
        ),
        KNOWN,
    )
    assert found == Injected(
        {"A": "canary-1", "PEM": "-----BEGIN\nEND-----"},
        {"X": "u:canary-1", "Y": "{u}"},
        {"a.b/c": "canary-1", "d": {"e": "u", "f/g": "canary-1"}},
    )
    assert "canary-1" not in repr(found)


@pytest.mark.parametrize(
    "places",
    [
        {"env": {"A": "none"}},
        {"env": {"A": "nul"}},
        {"headers": {"X": "{none}"}},
        {"headers": {"X": "{key}{none}"}},
        {"headers": {"X": "Bearer {pem}"}},
        {"headers": {"X": "{nul}"}},
        {"headers": {"X": "{odd}"}},
        {"meta": {"m": "none"}},
    ],
)
def test_what_cannot_be_put_there_is_refused_without_its_value(places: dict[str, Any]) -> None:
    """A line break in a header would begin another header."""
    with pytest.raises(CannotInject) as caught:
        inject(rules(**places), KNOWN)
    assert not any(
        value.reveal() in str(caught.value) for value in KNOWN.values.values() if len(value.reveal()) > 1
    )


@pytest.mark.parametrize("value", ["x\r\nX-Admin: 1", "x\nX-Admin: 1", "x\rX", " x", "x ", "x\x7f", "x\x00"])
def test_no_value_becomes_a_second_header(value: str) -> None:
    """Whatever the line ending."""
    with pytest.raises(CannotInject):
        inject(rules(headers={"X": "{k}"}), Credentials.of({"k": value}))


def test_an_optional_value_that_is_not_there_is_left_out() -> None:
    """The others are put in their places."""
    found = inject(
        rules(mode="optional", env={"A": "none", "B": "user"}, headers={"X": "{user}{none}"}), KNOWN
    )
    assert found == Injected({"B": "u"}, {}, {})


@pytest.mark.parametrize(
    ("sent", "own", "seen"),
    [
        ({}, {"a": "1"}, {"a": "1"}),
        ({"a": "forged", "b": 2}, {"a": "1"}, {"a": "1", "b": 2}),
        ({"a": {"x": "forged", "y": 1}}, {"a": {"x": "1"}}, {"a": {"x": "1", "y": 1}}),
        ({"a": "forged"}, {"a": {"x": "1"}}, {"a": {"x": "1"}}),
        ({"a": ["forged"]}, {"a": {"x": "1"}}, {"a": {"x": "1"}}),
    ],
)
def test_what_is_the_gateways_own_wins(
    sent: dict[str, Any], own: dict[str, Any], seen: dict[str, Any]
) -> None:
    """A caller cannot put his own in its place, and his message is not changed."""
    params = {"_meta": sent, "name": "x"}
    before = repr(params)
    assert with_meta(params, own) == {"_meta": seen, "name": "x"}
    assert repr(params) == before
    assert with_meta({"_meta": "no mapping"}, own) == {"_meta": own}
