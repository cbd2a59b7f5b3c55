"""Waiting on conditions, so that no test sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], *, timeout: float = 10.0, description: str, interval: float = 0.02
) -> T:
    """Return the first truthy value of ``predicate``; fail with ``description`` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout} s: {description} (last value {value!r})")
        time.sleep(interval)
