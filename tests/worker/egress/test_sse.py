"""Server-sent events: what is read does not depend on how the bytes are cut, and nothing grows without bound."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import ResponseTooLarge
from gateway_worker.egress.sse import EventParser, ServerSentEvent

LIMIT = 1 << 20
PIECES = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xff"),
        *(b"data", b"data:", b"data: ", b"data:  two", b": comment", b"event: x", b"event", b"id: 7", b"id:"),
        *(b"id: a\0b", b"retry: 10", b"retry: ten", b"retry: -1", b"nonsense: 1", b"x", b" ", b":"),
        *("é🚢".encode(), "data: \u2028\x85\x0b".encode(), b'data: {"a": 1}\n\n'),
    ]
)


def parsed(chunks: Iterable[bytes], limit: int = LIMIT) -> list[ServerSentEvent]:
    """All events of a stream."""
    parser = EventParser(limit=limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def by_the_standard(raw: bytes) -> list[ServerSentEvent]:
    """The algorithm of WHATWG HTML 9.2.6, on the whole text at once. Events without any content are left out."""
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    *lines, _ = re.split(r"\r\n|\n|\r", text)
    found: list[ServerSentEvent] = []
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in lines:
        if not line:
            if data or "id" in fields or "retry" in fields:
                found.append(
                    ServerSentEvent(
                        data="\n".join(data),
                        event=fields.get("event") or "message",
                        id=fields.get("id"),
                        retry=int(fields["retry"]) if "retry" in fields else None,
                    )
                )
            fields, data = {}, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event" or (name == "id" and "\0" not in value) or (name == "retry" and value == "10"):
            fields[name] = value
    return found


@given(st.lists(PIECES, max_size=30).map(b"".join), st.data())
def test_the_cuts_between_chunks_do_not_matter(raw: bytes, data: st.DataObject) -> None:
    """Any chunking gives the events of the standard's own algorithm."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=20)))
    chunks = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert parsed(chunks) == by_the_standard(raw)


@given(st.lists(PIECES, max_size=20).map(b"".join))
def test_one_byte_at_a_time(raw: bytes) -> None:
    """The finest chunking gives the same as none."""
    assert parsed(raw[i : i + 1] for i in range(len(raw))) == by_the_standard(raw)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_given_with_the_bytes_that_end_it(end: bytes) -> None:
    """A stream that stays open after an event does not hold the event back, whatever its line ends."""

    (event,) = parsed([b"data: 1" + end + end])
    assert event.data == "1"


def test_the_byte_order_mark_is_dropped_only_at_the_start() -> None:
    """Later it is a character like any other, also behind an empty line."""
    assert [event.data for event in parsed([b"\xef", b"\xbb\xbfdata: 1\n\n"])] == ["1"]
    assert parsed([b"\n", b"\xef\xbb\xbfdata: 1\n\n"]) == []


def test_an_event_without_its_blank_line_is_dropped() -> None:
    """A stream cut in the middle never gives half an event."""
    assert [event.data for event in parsed([b"data: whole\n\ndata: half\n"])] == ["whole"]


@pytest.mark.parametrize("digits", [4, 5000])
def test_a_retry_of_any_length_is_no_fault(digits: int) -> None:
    """Absurdly many digits are not a time; the event they stand in is read all the same."""
    (event,) = parsed([b"retry: " + b"9" * digits + b"\ndata: 1\n\n"])
    assert event.data == "1"
    assert event.retry == (9999 if digits == 4 else None)


def test_the_limit_is_on_the_data_of_one_event() -> None:
    """Exactly the limit passes, one byte more does not; the next event counts anew."""
    fits = b"data: " + b"x" * 1000 + b"\n\n"
    assert len(parsed([fits, fits], limit=1000)) == 2
    with pytest.raises(ResponseTooLarge, match="max_result_bytes"):
        parsed([b"data: " + b"x" * 1001 + b"\n\n"], limit=1000)


def test_the_limit_counts_bytes() -> None:
    """A character of four bytes is four."""
    with pytest.raises(ResponseTooLarge):
        parsed(["data: {}\n\n".format("🚢" * 251).encode()], limit=1000)


def test_the_limit_is_on_the_lines_of_an_event_together() -> None:
    """Many short lines make one big event."""
    with pytest.raises(ResponseTooLarge):
        parsed([b"data: 12345\n"] * 300, limit=1000)


def test_comments_do_not_count() -> None:
    """A backend may keep a slow call alive with comments for as long as it likes."""
    assert [event.data for event in parsed([*[b": still here\n"] * 300, b"data: 1\n\n"], limit=1000)] == ["1"]


def test_a_line_without_end_is_refused_while_it_comes() -> None:
    """It is not collected first."""

    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1000
            yield b"x" * 1000

    with pytest.raises(ResponseTooLarge):
        parsed(endless(), limit=5000)
    assert read <= 7000


def test_a_big_event_in_small_chunks_costs_linear_time() -> None:
    """The loop that reads it serves a thousand other calls: 4 MiB in chunks of 4 KiB are no matter of seconds."""
    chunk = b"x" * 4096
    begun = time.process_time()
    (event,) = parsed([b"data: ", *[chunk] * 1024, b"\n\n"], limit=8 << 20)
    assert len(event.data) == 4 << 20
    assert time.process_time() - begun < 1.0
