"""Patterns with stars."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.glob import Glob


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("add", "add", True),
        ("add", "added", False),
        ("*", "", True),
        ("a*", "a", True),
        ("*a", "ba", True),
        ("a*a", "a", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "acb", False),
        ("a?c", "abc", False),
        ("[ab]", "a", False),
        ("a.c", "abc", False),
        ("*b*b*", "b", False),
    ],
)
def test_only_the_star_stands_for_something(pattern: str, text: str, expected: bool) -> None:
    """Everything else stands for itself."""
    assert Glob(pattern).matches(text) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_it_matches_what_the_same_regular_expression_does(pattern: str, text: str) -> None:
    """The two say the same of every text."""
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert Glob(pattern).matches(text) is (re.fullmatch(expression, text, re.DOTALL) is not None)


def test_no_pattern_makes_it_slow() -> None:
    """Where a regular expression would try for years."""
    began = time.perf_counter()
    assert not Glob("*a" * 100 + "b").matches("a" * 10_000)
    assert time.perf_counter() - began < 1
