"""What is kept of a child's standard error, and how much of it goes to the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from common.domain.tool import MASK
from gateway_worker.egress import stderr
from gateway_worker.egress.stderr import LOGGED_PER_SECOND, STDERR_LINE_LENGTH, STDERR_LINES, Stderr

Event = dict[str, Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the log's bound goes by; a test sets its only element."""
    now = [100.0]
    monkeypatch.setattr(stderr.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What is logged, at debug level."""
    logger = logging.getLogger(stderr.__name__)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    with structlog.testing.capture_logs() as found:
        yield found  # type: ignore[misc]
    logger.setLevel(before)


def _logged(events: list[Event]) -> list[str]:
    return [event["line"] for event in events if event["event"] == "tool_stderr"]


def _dropped(events: list[Event]) -> int:
    return sum(event["dropped_bytes"] for event in events if event["event"] == "tool_stderr_dropped")


def test_a_line_that_has_begun_is_shown() -> None:
    """A child that asks for a password on its terminal ends no line."""
    kept = Stderr(())
    kept.feed(b"started\nPassword: ", pid=1)
    assert kept.lines() == ["started", "Password: "]
    kept.feed(b"wrong\n", pid=1)
    assert kept.lines() == ["started", "Password: wrong"]


def test_of_a_line_that_has_begun_no_half_secret_is_shown() -> None:
    """Only what stands clear of the longest secret, until the line ends and is masked."""
    secret = "0123456789abcdef"
    kept = Stderr([secret])
    for end in range(1, len(secret) + 1):
        fresh = Stderr([secret])
        fresh.feed(b"the token: " + secret[:end].encode(), pid=1)
        assert not any(secret[:4] in line for line in fresh.lines())
    kept.feed(f"the token: {secret}, which is long enough by now".encode(), pid=1)
    assert kept.lines() == [f"the token: {MASK}, which is lo"]


def test_the_bounds_hold_for_a_line_that_has_begun() -> None:
    """It counts as one of the lines, and is cut like them."""
    kept = Stderr(())
    kept.feed(b"x\n" * 200 + b"y" * 100_000, pid=1)
    assert len(kept.lines()) == STDERR_LINES
    assert kept.lines()[-1] == "y" * STDERR_LINE_LENGTH


def test_lines_are_logged_masked(events: list[Event]) -> None:
    """With the process they came from."""
    kept = Stderr(["s3cret"])
    kept.feed(b"one\nwith s3cret\nbeg", pid=7)
    kept.end(pid=7)
    assert _logged(events) == ["one", f"with {MASK}", "beg"]
    assert {event["pid"] for event in events} == {7}
    assert _dropped(events) == 0


def test_nothing_is_logged_above_debug_level() -> None:
    """Nor is the work for it done."""
    with structlog.testing.capture_logs() as events:
        Stderr(()).feed(b"one\n", pid=1)
    assert events == []


def test_what_goes_beyond_the_bound_is_counted(events: list[Event], clock: list[float]) -> None:
    """64 KiB within a second; the rest is told as a number when the next second comes, and at the end."""
    line = b"x" * 99 + b"\n"
    kept = Stderr(())
    for _ in range(2000):
        kept.feed(line, pid=1)
    assert len(_logged(events)) == LOGGED_PER_SECOND // 100
    assert _dropped(events) == 0
    clock[0] += 1.0
    kept.feed(line, pid=1)
    assert len(_logged(events)) == LOGGED_PER_SECOND // 100 + 1
    assert _dropped(events) == (2000 - LOGGED_PER_SECOND // 100) * 100
    for _ in range(1000):
        kept.feed(line, pid=1)
    kept.end(pid=1)
    assert sum(len(text) + 1 for text in _logged(events)) + _dropped(events) == 3001 * 100


def test_all_bytes_of_a_flood_are_accounted_for(events: list[Event], clock: list[float]) -> None:
    """Also those of lines that were never looked at, and those of long lines that are cut."""
    kept = Stderr(())
    kept.feed(b"y" * 1000 + b"\n" + b"x\n" * 10_000, pid=1)
    kept.end(pid=1)
    assert sum(len(text) + 1 for text in _logged(events)) + _dropped(events) == 1001 + 20_000
