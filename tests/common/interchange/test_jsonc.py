"""JSON with comments and trailing commas."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.errors import ConfigurationError
from common.interchange import jsonc


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{} // end", {}),
        ("// start\n{}", {}),
        ("/* a\n b */ [1, /* two */ 2]", [1, 2]),
        ('["//", "/* */", ",]", "\\"//"]', ["//", "/* */", ",]", '"//']),
        ("[1, 2, ]", [1, 2]),
        ('{"a": [1,],\n}', {"a": [1]}),
        ("[1, // one\n]", [1]),
        ("\ufeff{}", {}),
    ],
)
def test_comments_and_trailing_commas_are_no_content(text: str, value: object) -> None:
    """And inside strings they are nothing special."""
    assert jsonc.loads(text) == value


@pytest.mark.parametrize(
    "text", ["", "[1,,2]", "[1 /* ]", "{'a': 1}", '"a', "NaN", '{"a":1,"a":2}', "\ud800", "/"]
)
def test_other_text_is_refused(text: str) -> None:
    """One typed error for all."""
    with pytest.raises(ConfigurationError, match="not JSON"):
        jsonc.loads(text)


def test_too_long_a_text_is_refused() -> None:
    """Before any work is done on it."""
    with pytest.raises(ConfigurationError, match="longer than"):
        jsonc.loads(" " * (jsonc.MAX_TEXT + 1))


@pytest.mark.parametrize("piece", ['"', "/*", "//", ",", "\\", '"\\', ", "])
def test_hostile_text_takes_no_time(piece: str) -> None:
    """A long run of anything is refused in linear time."""
    start = time.process_time()
    with pytest.raises(ConfigurationError):
        jsonc.loads(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 5


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.integers(-9, 9) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_plain_json_is_read_as_it_is(value: object) -> None:
    """Nothing in a string is taken for a comment or a comma."""
    assert jsonc.loads(json.dumps(value, indent=1)) == value
