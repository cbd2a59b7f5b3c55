"""Put this directory on ``PYTHONPATH``, and ``time.time`` is wrong by the seconds that the file ``SKEW_FILE`` holds.

The file is read again every 50 ms, so that a clock can step while the program runs. The monotonic clock stays right,
as it does on a machine whose clock is set.
"""

from __future__ import annotations

import os
import time

_FILE = os.environ.get("SKEW_FILE")
_AGAIN = 0.05


def _skewed(path: str) -> None:
    real, monotonic = time.time, time.monotonic
    seen = [0.0, float("-inf")]

    def offset() -> float:
        now = monotonic()
        if now - seen[1] >= _AGAIN:
            seen[1] = now
            try:
                with open(path, encoding="ascii") as file:
                    seen[0] = float(file.read())
            except (OSError, ValueError):
                pass  # half written: the last value holds
        return seen[0]

    time.time = lambda: real() + offset()
    time.time_ns = lambda: int((real() + offset()) * 1e9)


if _FILE:
    _skewed(_FILE)
