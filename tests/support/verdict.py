"""The rules that a run is judged by, and what a breach of one looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PATIENCE = 12.0
"""Seconds beyond its deadline in which every call has its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What was set up. Maps are by tool; a tool that is missing has no such bound.

    ``shared`` tools have sessions that all callers use. ``settle`` is the time in seconds that calls which were under
    way when a circuit opened have to arrive. ``refused_within`` is generous: what a refusal costs is measured on a calm
    machine, here it must not be one that waits.
    """

    queue_max_length: Mapping[str, int] = field(default_factory=dict)
    max_in_flight: Mapping[str, int] = field(default_factory=dict)
    probes: Mapping[str, int] = field(default_factory=dict)
    open_for: Mapping[str, float] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    settle: float = 1.0
    refused_within: float = 5.0
    closed_within: float = 3.0
    lost_within: float = PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One breach of one invariant."""

    invariant: str
    text: str
    call: str | None = None

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}" + (f" [{self.call}]" if self.call else "")
