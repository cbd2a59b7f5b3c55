"""Redis' clock, read without a round trip.

Deadlines compare the clocks of two machines, so they are told in the only clock both see: Redis'. A process
keeps the difference between that clock and its own monotonic one, and corrects it with every answer that
carries the time. The error is at most one round trip.
"""

from __future__ import annotations

import time


class RedisClock:
    """Milliseconds of Redis time. Before the first correction it is the machine's own time of day."""

    __slots__ = ("_offset", "synchronised")

    def __init__(self) -> None:
        self._offset = time.time() * 1000 - time.monotonic() * 1000
        self.synchronised = False

    def correct(self, redis_ms: int) -> None:
        """Take over the time that Redis has just told."""
        self._offset = redis_ms - time.monotonic() * 1000
        self.synchronised = True

    def now(self) -> int:
        """Milliseconds of Redis time now."""
        return int(time.monotonic() * 1000 + self._offset)

    def left(self, deadline: int) -> float:
        """Seconds until ``deadline``; zero or less once it has passed."""
        return (deadline - time.monotonic() * 1000 - self._offset) / 1000
