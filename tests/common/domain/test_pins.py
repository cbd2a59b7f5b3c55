"""Which definitions are trusted, which wait, and what an operator can say of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.domain import pins as module
from common.domain.content_rules import ContentRules, Pinning, content_rules_from_wire, content_rules_to_wire
from common.domain.errors import InvalidRequest, VersionConflict
from common.domain.pins import (
    FIRST_USE,
    Offered,
    Pins,
    Place,
    Standing,
    approve,
    changed_members,
    discovered,
    reject,
)

A: Place = ("tools", "a")
B: Place = ("tools", "b")
WARN = ContentRules()
QUARANTINE = ContentRules(pinning=Pinning.QUARANTINE)
FIRST = ContentRules(pinning=Pinning.QUARANTINE, approve_first=True)


def one(text: str) -> Offered:
    """A definition, with a digest that shows what it is of."""
    return Offered(digest=text * 16, text=text.encode())


def seen(pins: Pins, rules: ContentRules = QUARANTINE, **offered: str) -> Pins:
    """The pins after a discovery of these definitions."""
    found = {("tools", name): one(text) for name, text in offered.items()}
    return discovered(pins, found, rules, now=5).applied(pins)


def test_the_first_definition_of_a_name_is_trusted() -> None:
    """Nothing waits, and nobody is told."""
    change = discovered(Pins(), {A: one("x")}, QUARANTINE, now=5)
    assert change.told == ()
    pins = change.applied(Pins())
    assert (pins.approved[A].digest, pins.approved[A].word, pins.approved[A].at) == ("x" * 16, FIRST_USE, 5)
    assert pins.waiting == {}


@pytest.mark.parametrize("rules", [WARN, QUARANTINE])
def test_another_definition_waits_and_is_told_once(rules: ContentRules) -> None:
    """What was approved stays approved; other capabilities go on."""
    pins = seen(Pins(), rules, a="x", b="y")
    change = discovered(pins, {A: one("z"), B: one("y")}, rules, now=6)
    assert change.told == (A,)
    pins = change.applied(pins)
    assert pins.waiting.keys() == {A}
    assert (pins.waiting[A].word, pins.approved[A].digest) == (Standing.CHANGED, "x" * 16)
    assert not discovered(pins, {A: one("z"), B: one("y")}, rules, now=7)


def test_the_approved_definition_is_welcome_back() -> None:
    """Whether the other one was there meanwhile, or nothing."""
    pins = seen(Pins(), a="x")
    assert seen(seen(pins, a="z"), a="x").waiting == {}
    assert seen(seen(pins), a="x").waiting == {}
    assert seen(seen(pins), a="z").waiting.keys() == {A}


def test_what_wants_approval_first_waits_from_the_beginning() -> None:
    """And is trusted when the operator says so, or asks for that no more."""
    pins = seen(Pins(), FIRST, a="x")
    assert pins.waiting[A].word == Standing.NEW
    assert approve(pins, A, "x" * 16, by="ann", now=9).applied(pins).approved[A].word == "ann"
    assert seen(pins, QUARANTINE, a="x").approved[A].word == FIRST_USE


def test_an_approval_is_of_what_was_seen() -> None:
    """A definition that changed once more under the operator's eyes is not approved."""
    pins = seen(seen(Pins(), a="x"), a="y")
    again = seen(pins, a="z")
    with pytest.raises(VersionConflict):
        approve(again, A, "y" * 16, by="ann", now=9)
    assert approve(pins, A, "y" * 12, by="ann", now=9).applied(pins).approved[A].digest == "y" * 16
    for place, digest in ((B, "y" * 16), (A, "y" * 11), (A, "")):
        with pytest.raises(InvalidRequest):
            approve(pins, place, digest, by="ann", now=9)


def test_what_was_rejected_stays_away_until_it_is_another() -> None:
    """It is no news when it is found again."""
    pins = seen(seen(Pins(), a="x"), a="y")
    pins = reject(pins, A, "y" * 16, now=9).applied(pins)
    assert pins.waiting[A].word == Standing.REJECTED
    assert not discovered(pins, {A: one("y")}, QUARANTINE, now=10)
    assert discovered(pins, {A: one("z")}, QUARANTINE, now=10).told == (A,)
    first = seen(Pins(), FIRST, a="x")
    first = reject(first, A, "x" * 16, now=9).applied(first)
    assert seen(first, QUARANTINE, a="x").waiting[A].word == Standing.REJECTED


def test_no_pin_is_forgotten_for_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that lists thousands of them cannot have its first ones trusted anew."""
    monkeypatch.setattr(module, "MOST_PINS", 1)
    pins = seen(seen(Pins(), a="x"), a="x", b="y")
    assert (pins.approved.keys(), pins.waiting.keys()) == ({A}, {B})
    assert seen(pins, a="z").waiting.keys() == {A}


def test_texts_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest is kept in any case."""
    monkeypatch.setattr(module, "MOST_TEXT", 1)
    pins = seen(Pins(), a="x", b="y")
    assert [pin.text for pin in pins.approved.values()] == [b"x", b""]
    assert seen(pins, a="x", b="z").waiting.keys() == {B}


def test_the_members_that_changed_are_named() -> None:
    """Sorted; what came and what went as well."""
    assert changed_members({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 9, "d": 4}) == ("b", "c", "d")


def test_the_rules_travel() -> None:
    """A reader of an older record has the defaults."""
    for rules in (WARN, QUARANTINE, FIRST):
        assert content_rules_from_wire(content_rules_to_wire(rules)) == rules
    assert content_rules_from_wire({}) == ContentRules()
    with pytest.raises(InvalidRequest) as caught:
        replace(WARN, approve_first=True)
    assert caught.value.data == {"field": "approve_first"}
    with pytest.raises(InvalidRequest):
        content_rules_from_wire({"pinning": "on"})
