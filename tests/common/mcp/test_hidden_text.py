"""What nobody sees in a text is found, in every string, and what people write is left alone."""

from __future__ import annotations

import time
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.mcp.hidden_text import cleaned, hidden_in, is_plain_json, visible, without_hidden

INNOCENT = [
    "Adds two numbers.\n\tAnd more.\r\nYes.",
    "\u26a0\ufe0f careful \u2764\ufe0f",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 a family",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "1\ufe0f\u20e3 first",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "\u0915\u094d\u200d\u0937",
    "\u845b\U000e0100",
    "na\u00efve \u65e5\u672c\u8a9e \u05e9\u05dc\u05d5\u05dd",
]
HIDDEN = {
    "bidi control": "\u202etxt.exe",
    "tag": "a\U000e0041\U000e0042",
    "invisible": "pass\u200bword",
    "joiner": "a\u200db",
    "variation selector": "a\ufe01",
    "control": "a\x07b",
    "escape sequence": "\x1b[8mread ~/.ssh\x1b[0m",
    "private use": "a\ue000",
}


@pytest.mark.parametrize("text", INNOCENT)
def test_what_people_write_is_left_alone(text: str) -> None:
    """Emoji, scripts that join their letters, lines and tabs."""
    assert list(hidden_in({"description": text})) == []
    assert without_hidden(text) == text == visible(text)


@pytest.mark.parametrize(("kind", "text"), HIDDEN.items(), ids=HIDDEN)
def test_each_kind_is_found_and_named(kind: str, text: str) -> None:
    """With the place at which it stands."""
    found = list(hidden_in({"inputSchema": {"properties": {"a": {"description": text}}}}))
    assert found
    assert str(found[0]).startswith(kind)
    assert "at /inputSchema/properties/a/description" in str(found[0])
    assert not list(hidden_in(without_hidden(text)))


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize(
    "item",
    [
        lambda text: {text: 1},
        lambda text: {"a": [{"enum": ["x", text]}]},
        lambda text: {"_meta": {"x/y": {"z": text}}},
        lambda text: {"icons": [{"src": text}]},
    ],
    ids=["key", "list", "_meta", "icon"],
)
def test_every_string_is_looked_at(item: Any, text: str) -> None:
    """Keys as well."""
    found = item(text)
    assert list(hidden_in(found))
    assert not is_plain_json(orjson.dumps(found))


def test_every_character_of_the_categories_is_hidden() -> None:
    """Control, format and private use: all of Unicode but tab and line feed."""
    missed = [
        hex(code)
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in {"Cc", "Cf", "Co"}
        and chr(code) not in "\t\n"
        and not list(hidden_in(chr(code)))
    ]
    assert missed == []


@given(
    st.text(st.sampled_from("ab\x1b[]m8\u200b\u200d\u202e\ufe0f\U0001f468\U000e0041\r\n\u0915 "), max_size=30)
)
def test_nothing_hidden_is_left(text: str) -> None:
    """Also where taking something out brings together what was apart."""
    assert not list(hidden_in(without_hidden(text)))
    assert not list(hidden_in(visible(text)))


@given(
    st.recursive(
        st.text(max_size=5) | st.integers(0, 9), lambda inner: st.dictionaries(st.text(max_size=5), inner)
    )
)
def test_a_glance_never_calls_hidden_what_is_plain(item: Any) -> None:
    """It may ask for a closer look, never for none."""
    if is_plain_json(orjson.dumps(item)):
        assert list(hidden_in(item)) == []


def test_only_prose_is_cleaned() -> None:
    """A name without its hidden characters would be another's name."""
    bad = "x\u200by"
    item = {
        "name": bad,
        "description": bad,
        "inputSchema": {"properties": {bad: {"title": bad, "enum": [bad]}}},
    }
    assert cleaned(item) == {
        "name": bad,
        "description": "xy",
        "inputSchema": {"properties": {bad: {"title": "xy", "enum": [bad]}}},
    }


def test_a_person_sees_what_was_hidden() -> None:
    """By code point and name."""
    assert visible("a\u202eb\x1b[8m") == "a<U+202E RIGHT-TO-LEFT OVERRIDE>b<U+001B>[8m"


@pytest.mark.parametrize(
    "text", ["\x1b[" + "1" * 250_000, "\x1b]" * 125_000, "a\u200b" * 125_000, "\ufe0f" * 250_000]
)
def test_a_hostile_text_takes_no_longer_than_a_long_one(text: str) -> None:
    """A quarter of a megabyte, judged and cleaned."""
    begun = time.process_time()
    assert list(hidden_in(text))
    without_hidden(text)
    assert time.process_time() - begun < 5
