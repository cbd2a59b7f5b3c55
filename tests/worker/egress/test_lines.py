"""A child's output, taken apart into lines."""

from __future__ import annotations

import pytest

from common.domain.errors import ResponseTooLarge
from gateway_worker.egress.lines import Lines


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_lines_come_in_pieces_of_any_size(size: int) -> None:
    """A pipe knows no lines: several come in one read, one in several."""
    lines = Lines(limit=100)
    sent = b"\n".join([b"one", b"", b"x" * 100, "\u00fc".encode(), b"last"])
    found: list[bytes] = []
    for start in range(0, len(sent), size):
        found += lines.feed(sent[start : start + size])
    found += lines.end()
    assert found == sent.split(b"\n")


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_above_the_bound_is_not_collected(end: bytes) -> None:
    """Whether it comes to an end or not, in one piece or in many."""
    for pieces in ([b"x" * 101 + end], [b"x" * 50, b"x" * 51 + end], [b"ok\n" + b"x" * 101 + end]):
        lines = Lines(limit=100)
        with pytest.raises(ResponseTooLarge):
            [line for piece in pieces for line in lines.feed(piece)]
