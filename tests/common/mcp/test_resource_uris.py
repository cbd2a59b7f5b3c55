"""Whose a resource is: qualified URIs, and templates (RFC 6570)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.mcp.resource_uris import MAX_LENGTH, SCHEME, matches, qualified, split


@given(tool=st.text(min_size=1), uri=st.text(min_size=1))
def test_a_qualified_uri_leads_back(tool: str, uri: str) -> None:
    """Whatever stands in either part; and it is one token of printable ASCII."""
    try:
        found = qualified(tool, uri)
    except UnicodeEncodeError:  # a lone surrogate is nobody's id
        return
    assert split(found) == (tool, uri)
    assert found.isascii()
    assert found.isprintable()
    assert " " not in found


@pytest.mark.parametrize(
    "uri", ["file:///a", "canalgate://", "canalgate://a", "canalgate://a/", "canalgate:///x"]
)
def test_any_other_uri_is_none(uri: str) -> None:
    """A backend's own scheme, and ours without one of its parts."""
    assert split(uri) is None


def test_a_broken_escape_is_none() -> None:
    """Bytes that are no UTF-8."""
    assert split(SCHEME + "a/%ff") is None


@pytest.mark.parametrize(
    ("template", "uri", "fits"),
    [
        ("test://template/{id}/data", "test://template/7/data", True),
        ("test://template/{id}/data", "test://template/7/8/data", False),
        ("test://template/{id}/data", "test://template/7/date", False),
        ("file:///{+path}", "file:///a/b/c", True),
        ("file:///{path}", "file:///a/b/c", False),
        ("x://{+a}y{b}", "x://1y/2y3", True),
        ("x://q{?a,b}", "x://q", True),
        ("x://q{?a,b}", "x://q?a=1&b=2", True),
        ("x://q{?a,b}", "x://qa=1", False),
        ("x://h{/seg*}", "x://h/a/b", True),
        ("x://h{#f}", "x://h#/a?b", True),
        ("x://h{.e}", "x://h.txt", True),
        ("x://h{;m}", "x://h;m=1", True),
        ("x://h?x=1{&y}", "x://h?x=1&y=2", True),
        ("x://{a}{b}", "x://", True),
        ("x://no(regular)[expression].*", "x://no(regular)[expression].*", True),
        ("x://no.", "x://noo", False),
        ("{+a}", "anything at all\nof more lines", True),
    ],
)
def test_templates(template: str, uri: str, fits: bool) -> None:
    """Each operator, and literals that mean something elsewhere."""
    assert matches(template, uri) is fits


def test_no_template_is_slow() -> None:
    """What would take a regular expression for ever takes this less than a second."""
    template, uri = "x://" + "{+a}b" * 400, "x://" + "b" * 2000
    begun = time.process_time()
    matches(template[:MAX_LENGTH], uri)
    assert time.process_time() - begun < 1
    assert not matches("{+a}", "x" * (MAX_LENGTH + 1))
