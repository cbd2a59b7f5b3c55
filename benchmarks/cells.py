"""One cell of the table: a target at one transport and one concurrency, measured in several rounds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.desk import Desk, Transport
from benchmarks.figures import Window, median_of, percentile, rounded
from benchmarks.http1 import BadHttpError
from benchmarks.load import Load
from benchmarks.parts import Part
from benchmarks.targets import Target

WARM_UP = 0.3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A target that runs and has answered a call."""

    target: Target
    desk: Desk
    loads: dict[Transport, Load]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The figures of one round. CPU in milliseconds a call; NaN where nothing was measured.

    ``part_cpu_us`` splits the target's CPU by program, in microseconds a call.
    """

    rps: float = 0.0
    p50_ms: float = math.nan
    p99_ms: float = math.nan
    target_cpu_ms: float = math.nan
    backend_cpu_ms: float = math.nan
    client_cpu_ms: float = math.nan
    calls: int = 0
    backend_calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    part_cpu_us: dict[Part, float] = field(default_factory=dict)


async def measure_round(served: Served, transport: Transport, concurrency: int, seconds: float) -> Round:
    """Measure one round. A round that cannot be measured is an error of the target, not of the benchmark."""
    try:
        async with served.loads[transport].open(concurrency) as runner:
            warm = await runner.run(WARM_UP)
            before = served.desk.account(transport)
            window = await runner.run(seconds)
            after = served.desk.account(transport)
    except (OSError, TimeoutError, BadHttpError) as error:
        return Round(errors=Counter({f"round failed: {error}": 1}))
    target_cpu = after.target_cpu_since(before)
    backend_cpu = after.backend_cpu_since(before)
    calls = max(window.calls, 1)
    return Round(
        rps=window.rps,
        p50_ms=percentile(window.latencies, 50) * 1e3,
        p99_ms=percentile(window.latencies, 99) * 1e3,
        target_cpu_ms=(backend_cpu if served.target.is_backend else target_cpu) / calls * 1e3,
        backend_cpu_ms=backend_cpu / calls * 1e3,
        client_cpu_ms=window.client_cpu_seconds / calls * 1e3,
        calls=window.calls,
        backend_calls=after.backend_calls - before.backend_calls,
        errors=_errors(warm, window, after.backend_calls - before.backend_calls),
        part_cpu_us={
            part: seconds / calls * 1e6 for part, seconds in after.target_cpu_by_part_since(before).items()
        },
    )


def _errors(warm: Window, window: Window, backend_calls: int) -> Counter[str]:
    """Whatever went wrong, also while warming up, also what the backend never heard of."""
    errors = window.errors + Counter({f"warm-up: {kind}": count for kind, count in warm.errors.items()})
    if (made_up := len(window.latencies) - backend_calls) > 0:
        errors["answered without a call to the backend"] += made_up
    return errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All rounds of one target at one transport and concurrency."""

    target: Target
    transport: Transport
    concurrency: int
    rounds: list[Round] = field(default_factory=list)

    def row(self, shared: dict[str, Any]) -> dict[str, Any]:
        """Return the row of the report: medians over the rounds, sums of calls and errors."""
        errors = sum((it.errors for it in self.rounds), Counter[str]())
        return {
            "name": self.target.name,
            "version": self.target.version,
            "transport": str(self.transport),
            "concurrency": self.concurrency,
            "rps": rounded(median_of([it.rps for it in self.rounds])),
            "p50_ms": rounded(median_of([it.p50_ms for it in self.rounds])),
            "p99_ms": rounded(median_of([it.p99_ms for it in self.rounds])),
            "cpu_ms_per_call": rounded(median_of([it.target_cpu_ms for it in self.rounds])),
            "backend_cpu_ms_per_call": rounded(median_of([it.backend_cpu_ms for it in self.rounds])),
            "client_cpu_ms_per_call": rounded(median_of([it.client_cpu_ms for it in self.rounds])),
            **self._parts(),
            "errors": errors.total(),
            "error_kinds": dict(errors.most_common(5)),
            "calls": sum(it.calls for it in self.rounds),
            "backend_calls": sum(it.backend_calls for it in self.rounds),
            "cpu_ms_of_rounds": [rounded(it.target_cpu_ms) for it in self.rounds],
            "rps_of_rounds": [rounded(it.rps) for it in self.rounds],
            "round_count": len(self.rounds),
            **shared,
        }

    def _parts(self) -> dict[str, float | None]:
        """CPU by program; nothing for the backend, which is no gateway."""
        if self.target.is_backend:
            return {}
        return {
            f"{part}_cpu_us_per_call": rounded(
                median_of([it.part_cpu_us.get(part, math.nan) for it in self.rounds])
            )
            for part in Part
        }
