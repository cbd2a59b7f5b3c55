"""How long to wait before a dead child is started again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Doubling delays in seconds, with jitter so that children which died together do not return together.

    Attributes:
        first: delay after the first death.
        longest: no delay is longer.
        good_life: a child that was ready for so long has earned ``first`` again.
        jitter: a delay is multiplied by a random factor between ``1 - jitter`` and ``1 + jitter``.
    """

    first: float = 0.1
    longest: float = 10.0
    good_life: float = 30.0
    jitter: float = 0.2
    uniform: Callable[[float, float], float] = random.uniform
    _next: float = 0.0

    def delay_after(self, life: float) -> float:
        """Delay for a child that died after having been ready for ``life`` seconds (0: it never was)."""
        if self._next == 0.0 or life >= self.good_life:
            self._next = self.first
        delay = self._next * self.uniform(1 - self.jitter, 1 + self.jitter)
        self._next = min(self._next * 2, self.longest)
        return min(delay, self.longest)
