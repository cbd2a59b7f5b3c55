"""Ids may be any text, and no two lists of ids ever share a name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import InvalidRequest
from common.domain.ids import (
    MAX_ID_LENGTH,
    ToolId,
    checked_id,
    decode_part,
    encode_part,
    queue_of,
    tool_of,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(TEXT)
def test_encoding_is_undone_by_decoding(value: str) -> None:
    """Whatever the characters."""
    assert decode_part(encode_part(value)) == value


@given(TEXT, TEXT)
def test_different_ids_have_different_encodings(one: str, other: str) -> None:
    """The encoding is injective."""
    assert (encode_part(one) == encode_part(other)) == (one == other)


@given(
    st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4), st.sampled_from(":,|/ ")
)
def test_parts_never_run_together(one: list[str], other: list[str], separator: str) -> None:
    """Two lists of ids joined by a separator are alike only if the lists are."""
    names = [separator.join(map(encode_part, parts)) for parts in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@pytest.mark.parametrize("separator", [":", ",", "|"])
def test_a_dash_inside_is_not_a_dash_between(separator: str) -> None:
    """``a-b``, ``c`` is not ``a``, ``b-c``, and the same with the separator itself."""
    pairs = [("a-b", "c"), ("a", "b-c"), (f"a{separator}b", "c"), ("a", f"b{separator}c")]
    assert len({separator.join(map(encode_part, pair)) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "value",
    ["a", "user@example.com", "auth0|123", "https://x/y?z=1#f", "a:b", "50%", "ö ü", "\x00", "\x1f", "🦀"],
)
def test_any_text_is_a_good_id(value: str) -> None:
    """No character rule: what must be safe is encoded where it is used."""
    assert checked_id(value, field="client") == value
    assert tool_of(queue_of(ToolId(value))) == value
    assert encode_part(value).isascii()
    assert encode_part(value).isprintable()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "must not be empty"),
        ("a" * (MAX_ID_LENGTH + 1), f"longer than {MAX_ID_LENGTH}"),
        ("a\ud800", "lone surrogate"),
        (None, "must be a string, not NoneType"),
        (7, "must be a string, not int"),
        (b"a", "must be a string, not bytes"),
        (["a"], "must be a string, not list"),
    ],
)
def test_what_is_no_id_is_refused_by_name(value: Any, reason: str) -> None:
    """The message names the field and the reason, and so does the data."""
    with pytest.raises(InvalidRequest, match=reason) as caught:
        checked_id(value, field="tenant")
    assert caught.value.message.startswith("tenant ")
    assert caught.value.data == {"field": "tenant"}


def test_the_longest_id_is_accepted() -> None:
    """The bound itself is within the bound."""
    assert checked_id("é" * MAX_ID_LENGTH, field="tool")


@pytest.mark.parametrize("queue", ["celery", "tool", "", "gateway.tool.a", "Tool.a"])
def test_other_queues_are_no_tools(queue: str) -> None:
    """A worker may consume queues that are not ours."""
    assert tool_of(queue) is None


@pytest.mark.parametrize("queue", ["tool.", "tool.%ff", "tool.%61", "tool.a b", "tool.%2f", "tool.%"])
def test_a_name_that_no_tool_is_given_is_none_of_ours(queue: str) -> None:
    """``-Q tool.%ff`` is somebody's typing error: one tool has one queue name, and nothing breaks."""
    assert tool_of(queue) is None


def test_queue_names_are_what_operators_type() -> None:
    """Ordinary ids stay readable: ``-Q tool.everything``."""
    assert queue_of(ToolId("everything-1.0_x")) == "tool.everything-1.0_x"
    assert queue_of(ToolId("a/b c")) == "tool.a%2Fb%20c"
