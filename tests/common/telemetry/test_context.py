"""Trace context from outside: what is well-formed is taken, all else is as if it were not there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.telemetry.context import (
    MOST_BAGGAGE,
    MOST_STATE,
    MOST_STATE_MEMBERS,
    TraceContext,
    read_baggage,
    read_context,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
TOO_MANY = ",".join(f"a{number}=1" for number in range(MOST_STATE_MEMBERS + 1))


def test_it_comes_back_as_it_went() -> None:
    """Both headers, as W3C has them."""
    found = read_context({"traceparent": PARENT, "tracestate": "a=1,b@c=2"})
    assert found == TraceContext(int(TRACE, 16), int(SPAN, 16), sampled=True, state="a=1,b@c=2")
    assert found.headers() == {"traceparent": PARENT, "tracestate": "a=1,b@c=2"}


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_one_flag_says_whether_it_is_recorded(flags: str, sampled: bool) -> None:
    """The others are none of ours."""
    found = read_context({"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
    assert found is not None
    assert found.sampled is sampled


def test_a_later_version_may_say_more() -> None:
    """Of that only what is known is read."""
    assert read_context({"traceparent": f"01-{TRACE}-{SPAN}-01-more"}) is not None


@pytest.mark.parametrize(
    "parent",
    [
        None,
        5,
        "",
        "nonsense",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
        f"{PARENT},{PARENT}",
        f"{PARENT}\n",
        f"01-{TRACE}-{SPAN}-01-{'x' * 100}",
        f"00-{TRACE}{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_malformed_is_ignored(parent: object) -> None:
    """Two of them, joined by a proxy or by WSGI, are none. A line end around it is blank space."""
    found = read_context({"traceparent": parent, "tracestate": "a=1"})
    assert (found is None) is (parent != f"{PARENT}\n")


@pytest.mark.parametrize(
    "state",
    [5, "a", "=1", "A=1", "a=1,,b=2", "a=ä", "a=1\r\nx: y", "a=" + "x" * MOST_STATE, TOO_MANY],
)
def test_a_state_that_is_malformed_or_too_large_is_dropped_and_the_trace_goes_on(state: object) -> None:
    """As the specification asks."""
    found = read_context({"traceparent": PARENT, "tracestate": state})
    assert found is not None
    assert found.state == ""


@pytest.mark.parametrize(
    ("baggage", "read"),
    [
        ("a=1, b=2;p=q", "a=1,b=2;p=q"),
        ("a=" + "x" * MOST_BAGGAGE, ""),
        (",".join(f"a{number}=1" for number in range(65)), ""),
        ("no pair", ""),
        ("a=1\r\nx: y", ""),
        (None, ""),
    ],
)
def test_baggage_is_bounded(baggage: object, read: str) -> None:
    """Beyond the bounds there is none."""
    assert read_baggage({"baggage": baggage}) == read


@given(st.text(max_size=80), st.text(max_size=40))
def test_no_text_breaks_it_and_what_it_passes_on_is_plain(parent: str, state: str) -> None:
    """No character that would end a header."""
    found = read_context({"traceparent": parent, "tracestate": state})
    assert found is None or all(text.isprintable() and text.isascii() for text in found.headers().values())
