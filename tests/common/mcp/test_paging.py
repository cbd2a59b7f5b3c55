"""Pages of a list: complete, in order, and never of another list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.mcp.jsonrpc import INVALID_PARAMS, JsonRpcError
from common.mcp.paging import page_of


@given(items=st.lists(st.integers(0, 9)), size=st.integers(0, 7))
def test_the_pages_together_are_the_list(items: list[int], size: int) -> None:
    """None is longer than it may be, and the last has no cursor."""
    found: list[int] = []
    cursor: str | None = None
    for _ in range(len(items) + 1):
        page, cursor = page_of(items, cursor, size)
        assert not size or len(page) <= size
        found += page
        if cursor is None:
            break
    assert found == items
    assert cursor is None


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", 3, None.__class__, "ä", "A" * 200, "=" * 8])
def test_a_cursor_that_is_none_is_refused(cursor: object) -> None:
    """Whatever it is, with the protocol's code."""
    with pytest.raises(JsonRpcError) as caught:
        page_of([1, 2, 3], cursor, 2)
    assert caught.value.code == INVALID_PARAMS


def test_a_cursor_of_another_list_is_refused() -> None:
    """Items could be missed or seen twice."""
    _, cursor = page_of([1, 2, 3], None, 2)
    assert page_of([1, 2, 3], cursor, 2) == ([3], None)
    with pytest.raises(JsonRpcError):
        page_of([1, 2, 4], cursor, 2)


def test_a_cursor_stays_good_when_pages_are_off() -> None:
    """An operator may change the size between two pages."""
    _, cursor = page_of([1, 2, 3], None, 2)
    assert page_of([1, 2, 3], cursor, 0) == ([3], None)
