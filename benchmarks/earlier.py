"""The gateway beside an earlier state of itself, measured in the same rounds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.figures import median_of, ratio
from benchmarks.targets import EARLIER, GATEWAY

Row = Mapping[str, Any]
_FIGURES = {"CPU": "cpu_ms_of_rounds", "calls/s": "rps_of_rounds"}


def lines(rows: Iterable[Row]) -> list[str]:
    """One line for each transport and concurrency; none where no earlier state was measured."""
    found = {(row["name"], row["transport"], row["concurrency"]): row for row in rows}
    return [
        _line(row, found[GATEWAY, transport, concurrency])
        for (name, transport, concurrency), row in found.items()
        if name == EARLIER and (GATEWAY, transport, concurrency) in found
    ]


def _line(before: Row, now: Row) -> str:
    ratios = {name: _of_rounds(before[key], now[key]) for name, key in _FIGURES.items()}
    told = ", ".join(f"{name} {'-' if it is None else f'{it:.2f}x'}" for name, it in ratios.items())
    return f"{now['transport']}, c={now['concurrency']}: {told} of {before['version']}"


def _of_rounds(before: Iterable[float | None], now: Iterable[float | None]) -> float | None:
    """The median over the rounds of the ratio in the same round, which a drifting machine does not move."""
    pairs = [ratio(after, base) for base, after in zip(before, now, strict=True) if base and after]
    return ratio(median_of([it for it in pairs if it is not None]), 1.0) if pairs else None
