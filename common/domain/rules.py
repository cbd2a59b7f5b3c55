"""The rules of a tool that say how its calls are routed, retried, bounded, broken off and watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar

from common.domain.errors import InvalidRequest

MAX_COUNT = 1_000_000
MAX_SECONDS = 24 * 3600.0
MOST_WAITS = 4
"""So many times ``input_timeout`` a call may wait for its client altogether; the worker counts alike."""


class Routing(StrEnum):
    """Which tool session serves a call."""

    STICKY = "sticky"
    """The caller's own session, held by one worker for as long as it lives."""
    LEAST_LOADED = "least_loaded"
    """One of ``pool_size`` sessions that all callers share, the one with the fewest calls: for tools without state."""


class Affinity(StrEnum):
    """Whose session a sticky one is."""

    CLIENT = "client"
    """One for each tenant and client."""
    MCP_SESSION = "mcp_session"
    """One for each MCP session; callers without one share that of their client."""


class Retry(StrEnum):
    """When a call may be sent to its backend a second time."""

    NEVER = "never"
    """Not by the worker that tried, even if it is certain that the backend has seen nothing of it.

    A call whose worker died before its session had started was not tried, and goes to another.
    """
    UNSENT = "unsent"
    """Only if it is certain that no byte of it was written."""
    SAFE = "safe"
    """Also if it may have run: the operator says that running twice does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitRules:
    """When a tool's circuit opens: after ``failures`` in a row, for ``open_for`` seconds.

    Then at most ``probes`` calls at a time, in the whole cluster, try whether it works again.
    """

    failures: int = 5
    open_for: float = 30.0
    probes: int = 1

    def __post_init__(self) -> None:
        check_count("circuit_failures", self.failures)
        check_seconds("circuit_open_for", self.open_for)
        check_count("circuit_probes", self.probes)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRules:
    """How a tool is watched: every ``interval`` seconds (0: not at all) it is asked, for at most ``timeout`` seconds.

    An answer that takes ``degraded_after`` seconds or longer makes it degraded, none makes it unavailable.
    """

    interval: float = 30.0
    timeout: float = 5.0
    degraded_after: float = 1.0

    def __post_init__(self) -> None:
        if self.interval:
            check_seconds("health_interval", self.interval)
        check_seconds("health_timeout", self.timeout)
        check_seconds("health_degraded_after", self.degraded_after)
        if self.interval and self.timeout > self.interval:
            raise InvalidRequest(
                f"health_timeout ({self.timeout:g} s) must not be above health_interval ({self.interval:g} s): "
                "two probes would overlap",
                field="health_timeout",
            )
        if self.degraded_after >= self.timeout:
            raise InvalidRequest(
                f"health_degraded_after ({self.degraded_after:g} s) must be below health_timeout "
                f"({self.timeout:g} s): nothing would ever be degraded",
                field="health_degraded_after",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """Resource limits of each process of a stdio tool (``setrlimit(2)``); None leaves the worker's own.

    ``processes`` counts all processes of the worker's user, and does not bind root.
    """

    open_files: int | None = None
    processes: int | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < 1 << 62:
                raise InvalidRequest(
                    f"limit_{field.name} must be above 0 and below 2^62; leave it out for no limit of its own",
                    field=f"limit_{field.name}",
                )


def check_count(name: str, value: int) -> None:
    """Raise :class:`InvalidRequest` for what is no number from 1 to a million."""
    if not 0 < value <= MAX_COUNT:
        raise InvalidRequest(f"{name} must be above 0 and at most {MAX_COUNT}", field=name)


def check_seconds(name: str, value: float) -> None:
    """Raise :class:`InvalidRequest` for what is no time from above 0 to a day."""
    if not 0 < value <= MAX_SECONDS:
        raise InvalidRequest(f"{name} must be above 0 and at most {MAX_SECONDS:.0f} seconds", field=name)


R = TypeVar("R", CircuitRules, HealthRules, ProcessLimits)
E = TypeVar("E", bound=StrEnum)


def rules_from_wire(kind: type[R], wire: Mapping[str, Any]) -> R:
    """Rules from plain JSON. What a newer writer has added is left out, what an older did not know has its default."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in wire.items() if name in names})


def choice(kind: type[E], value: str, *, field: str) -> E:
    """A word as a member of an enumeration. Raises :class:`InvalidRequest` that lists the words there are."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise InvalidRequest(f"{field} must be one of {known}, not {value[:40]!r}", field=field) from None
