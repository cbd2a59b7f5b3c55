"""The health of a tool: how the last probe graded it, and since when it is so.

What an operator says of a tool (disabled, draining) is no grade and stands elsewhere: no probe ever overrides it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.domain.rules import HealthRules
from common.domain.tool import ToolState

GRADES = (ToolState.ENABLED, ToolState.DEGRADED, ToolState.UNAVAILABLE)
MAX_REASON = 500
"""Longest reason in characters: some hold the end of a process's standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the last probe found.

    ``latency_ms`` is how long the tool took to answer, None if it did not or was not asked (a stdio tool at rest).
    ``at`` is the Redis time of the last probe and ``since`` that of the last transition, in milliseconds.
    ``reason`` is empty for an enabled tool, and says otherwise what is wrong with it.
    """

    grade: ToolState
    latency_ms: float | None
    at: int
    since: int
    reason: str = ""

    def __post_init__(self) -> None:
        if self.grade not in GRADES:
            raise ValueError(f"{self.grade.value!r} is an operator's word and no grade")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthTransition:
    """A grade that became another; ``before`` is None if there was no record yet."""

    before: ToolState | None
    after: ToolState
    reason: str

    def __str__(self) -> str:
        return f"{self.before.value if self.before else 'unknown'} -> {self.after.value}"


def graded(latency_s: float | None, rules: HealthRules, error: str = "") -> tuple[ToolState, str]:
    """The grade of a tool, and the reason for it.

    ``latency_s`` is how many seconds the answer took, None if nothing was asked; ``error`` says why there was none.
    """
    if error:
        return ToolState.UNAVAILABLE, error
    if latency_s is None:
        return ToolState.ENABLED, ""
    if latency_s >= rules.timeout:
        return ToolState.UNAVAILABLE, f"the tool did not answer within health_timeout ({rules.timeout:g} s)"
    if latency_s >= rules.degraded_after:
        return (
            ToolState.DEGRADED,
            f"the tool answers in {latency_s:.3g} s; health_degraded_after is {rules.degraded_after:g} s",
        )
    return ToolState.ENABLED, ""


def observed(
    old: Health | None, latency_s: float | None, rules: HealthRules, error: str = "", *, at: int
) -> Health:
    """The record behind a probe: as :func:`graded` says, and as old as the grade is."""
    grade, reason = graded(latency_s, rules, error)
    answered = latency_s is not None and grade is not ToolState.UNAVAILABLE
    return Health(
        grade=grade,
        latency_ms=round(latency_s * 1000, 1) if answered and latency_s is not None else None,
        at=at,
        since=old.since if old is not None and old.grade is grade else at,
        reason=reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…",
    )


def transition(old: Health | None, new: Health) -> HealthTransition | None:
    """What is to be announced, None if nothing is.

    A tool without a record passes for enabled, so a first probe that finds it so is no news.
    """
    before = None if old is None else old.grade
    if new.grade is (before or ToolState.ENABLED):
        return None
    return HealthTransition(before=before, after=new.grade, reason=new.reason)


def health_to_wire(health: Health) -> dict[str, Any]:
    """The record as plain JSON."""
    return {
        "grade": health.grade.value,
        "latency_ms": health.latency_ms,
        "at": health.at,
        "since": health.since,
        "reason": health.reason,
    }


def health_from_wire(wire: object) -> Health | None:
    """Inverse of :func:`health_to_wire`; None for what is no record this reader understands.

    What a newer writer has added is left out. A record that cannot be read is no reason not to show the tool: the
    next probe replaces it.
    """
    if not isinstance(wire, Mapping):
        return None
    try:
        grade, at = ToolState(wire["grade"]), int(wire["at"])
        latency = wire.get("latency_ms")
        return Health(
            grade=grade,
            latency_ms=_latency(latency),
            at=at,
            since=int(wire.get("since", at)),
            reason=str(wire.get("reason", ""))[:MAX_REASON],
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        return None


def _latency(value: Any) -> float | None:
    """Raises TypeError or ValueError for what is no number."""
    if value is None:
        return None
    latency = float(value)
    return latency if math.isfinite(latency) else None
