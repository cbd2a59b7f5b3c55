"""What the project promises of its speed, and whether it was measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import median_of, ratio, rounded
from benchmarks.parts import PARTS_OF_A_CALL
from benchmarks.targets import GATEWAY

Row = Mapping[str, Any]
BRIDGES = ("mcp-proxy-ts", "mcp-proxy-py")
FULL_GATEWAYS = ("fastmcp", "fastmcp-held", "contextforge")
PEERS = (*BRIDGES, *FULL_GATEWAYS)
BUSY, ALONE = 16, 1
"""Calls in flight at which the goals of the whole loop are judged."""
MOST_CPU_MS = {"stdio": 0.8, "http": 1.0}
MOST_ADDED_MS, MOST_TAIL = 2.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure that the project promises; ``at_least`` says in which direction."""

    text: str
    wanted: float
    measured: float | None
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the measured figure keeps the promise."""
        if self.measured is None:
            return False
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def row(self) -> Row:
        """As it stands in the result file."""
        return {
            "goal": self.text,
            "wanted": self.wanted,
            "at_least": self.at_least,
            "measured": self.measured,
            "reached": self.reached,
        }


class _Loop:
    """The rows of one transport, by target and concurrency. A row without a single good call is none."""

    def __init__(self, rows: Iterable[Row], transport: str) -> None:
        self.transport = transport
        self._rows = {
            (row["name"], row["concurrency"]): row
            for row in rows
            if row["transport"] == transport and row["rps"]
        }

    def row(self, name: str, concurrency: int) -> Row | None:
        return self._rows.get((name, concurrency))

    def _measured(self, names: Iterable[str], concurrency: int) -> list[Row]:
        return [row for name in names if (row := self.row(name, concurrency)) is not None]

    def rate(self, names: Sequence[str], what: str, wanted: float) -> list[Goal]:
        """Calls/s to those of the best of ``names``, as the median over the rounds; nothing if none was measured."""
        own, peers = self.row(GATEWAY, BUSY), self._measured(names, BUSY)
        if own is None or not peers:
            return []
        best = max(peers, key=lambda row: row["rps"])
        pairs = zip(own["rps_of_rounds"], best["rps_of_rounds"], strict=True)
        measured = rounded(median_of([its / other if its and other else math.nan for its, other in pairs]))
        named = f"{what} ({best['name']})" if len(names) > 1 else what
        text = f"{self.transport}, c={BUSY}: calls/s to those of {named}"
        return [Goal(text=text, wanted=wanted, measured=measured, at_least=True)]

    def alone(self) -> list[Goal]:
        """The p50 of a lone call beside the backend alone, and beside whichever peer answers soonest."""
        own, direct = self.row(GATEWAY, ALONE), self.row("direct", ALONE)
        if own is None:
            return []
        goals, place = [], f"{self.transport}, c={ALONE}"
        if direct is not None:
            added = rounded(own["p50_ms"] - direct["p50_ms"])
            goals += [Goal(text=f"{place}: added p50 in ms", wanted=MOST_ADDED_MS, measured=added)]
        if peers := self._measured(PEERS, ALONE):
            soonest = min(peers, key=lambda row: row["p50_ms"])
            text = f"{place}: p50 to that of the peer that answers soonest ({soonest['name']})"
            goals += [Goal(text=text, wanted=1.0, measured=ratio(own["p50_ms"], soonest["p50_ms"]))]
        return goals

    def busy(self) -> list[Goal]:
        """CPU a call and the tail."""
        own = self.row(GATEWAY, BUSY)
        if own is None:
            return []
        goals, place = [], f"{self.transport}, c={BUSY}"
        parts = [own.get(f"{part}_cpu_us_per_call") for part in PARTS_OF_A_CALL]
        if None not in parts:
            cpu = rounded(sum(part for part in parts if part is not None) / 1e3)
            text = f"{place}: CPU of {', '.join(PARTS_OF_A_CALL)} a call in ms"
            goals += [Goal(text=text, wanted=MOST_CPU_MS[self.transport], measured=cpu)]
        tail = ratio(own["p99_ms"], own["p50_ms"])
        return [*goals, Goal(text=f"{place}: p99 to p50", wanted=MOST_TAIL, measured=tail)]


def whole_loop(rows: Sequence[Row]) -> list[Goal]:
    """Return the goals of `benchmarks.run` that can be judged: a peer that was not measured is no goal met."""
    stdio, http = _Loop(rows, "stdio"), _Loop(rows, "http")
    shipped = "FastMCP's proxy as shipped"
    goals = [
        *stdio.rate(BRIDGES, "the best bridge", 1.5),
        *stdio.rate(FULL_GATEWAYS, "the best full gateway", 3.0),
        *http.rate(PEERS, "the best peer", 3.0),
        *http.rate(["fastmcp"], f"{shipped}, which opens a session for each request", 30.0),
        *stdio.rate(["fastmcp"], f"{shipped}, which keeps its child process", 30.0),
    ]
    for loop in (stdio, http):
        goals += loop.rate(["contextforge"], "ContextForge", 10.0)
    for loop in (stdio, http):
        goals += [*loop.alone(), *loop.busy()]
    return goals
