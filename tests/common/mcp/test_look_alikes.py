"""Names that can be taken for others."""

from __future__ import annotations

import pytest

from common.mcp.look_alikes import look_alikes, skeleton


@pytest.mark.parametrize("name", ["se\u0430rch", "\uff53earch", "sear\u0441h", "se\u200barch", "\u0455earch"])
def test_letters_of_other_scripts_look_the_same(name: str) -> None:
    """Cyrillic, full width, and what nobody sees."""
    assert list(look_alikes([name], {skeleton("search"): "search"})) == [(name, "search")]


@pytest.mark.parametrize(("name", "other"), [("read_fiIe", "read_file"), ("g1t", "glt"), ("f00", "foo")])
def test_digits_and_capitals_do(name: str, other: str) -> None:
    """Within ASCII."""
    assert skeleton(name) == skeleton(other)


@pytest.mark.parametrize(
    ("name", "other"), [("search", "search"), ("search", "searches"), ("getUser", "get_user")]
)
def test_others_do_not(name: str, other: str) -> None:
    """The same name at two tools is told apart by the tool's id before it."""
    assert list(look_alikes([name], {skeleton(other): other})) == []
