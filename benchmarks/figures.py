"""The arithmetic of the benchmark: percentiles and medians. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one stretch of load saw; ``seconds`` runs to the last answer.

    ``latencies`` are those of the good calls, in seconds; ``errors`` counts the others by what was wrong.
    """

    seconds: float
    latencies: Sequence[float]
    errors: Counter[str] = field(default_factory=Counter)
    client_cpu_seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Calls that came to an end, good or bad."""
        return len(self.latencies) + self.errors.total()

    @property
    def rps(self) -> float:
        """Good calls a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: the least value that ``percent`` of all values do not exceed.

    Never interpolates, so that the figure is one that was measured. NaN without values.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie in (0, 100], not {percent}")
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def median_of(values: Sequence[float]) -> float:
    """Return the median of what is a number, NaN if nothing is."""
    numbers = [value for value in values if not math.isnan(value)]
    return median(numbers) if numbers else math.nan


def rounded(value: float) -> float | None:
    """Return ``value`` with four significant digits; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def ratio(value: float, base: float) -> float | None:
    """Return ``value`` by ``base``, rounded; None where there is nothing to compare with."""
    return rounded(value / base) if base else None
