"""Limits as pure machines: how many requests a minute, and how many calls at a time.

They say what ``common/store/lua/lib/buckets.lua`` and ``permits.lua`` do in Redis; ``tests/lua/test_limits_twin.py``
holds both against each other.

A bucket is GCRA in its "leaky bucket as a meter" form: each request adds :data:`COST` to a level that sinks by
``per_minute`` each microsecond, and one that would rise above ``burst`` requests is refused, and adds nothing. All
numbers are whole, so exactly ``burst`` requests fit at once whatever the rate, and a rate that is changed keeps what
was used. Times are microseconds of Redis. A clock that was set back stops the level from sinking, and does no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.domain.errors import InvalidRequest
from common.domain.rules import check_count

COST = 60_000_000
"""What one request adds to a level: a minute in microseconds."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_minute`` requests in the long run, ``burst`` at once; both at least 1."""

    per_minute: int
    burst: int

    def __post_init__(self) -> None:
        if self.per_minute < 1 or self.burst < 1:
            raise InvalidRequest("a rate must be above 0", field="requests_per_minute")

    @classmethod
    def of(cls, per_minute: int, burst: int | None) -> Rate:
        """Without a burst of its own, a minute's requests may come at once."""
        return cls(per_minute, per_minute if burst is None else burst)

    @classmethod
    def maybe(cls, per_minute: int | None, burst: int | None) -> Rate | None:
        """None for no bound."""
        return None if per_minute is None else cls.of(per_minute, burst)


class Bucket(NamedTuple):
    """How full it was at a time. One that is empty is as good as none."""

    level: int = 0
    at: int = 0

    def level_at(self, now: int, rate: Rate) -> int:
        """How full it is now."""
        return max(0, self.level - max(0, now - self.at) * rate.per_minute)

    def left(self, now: int, rate: Rate) -> int:
        """How many requests would pass at once now."""
        return max(0, (rate.burst * COST - self.level_at(now, rate)) // COST)


class Asked(NamedTuple):
    """What buckets say of one more request: ``wait`` is in microseconds until it would pass, 0 if it does.

    ``which`` is the place of the bucket that has to be waited for longest, None if it passes; ``buckets`` are then as
    they stand with it.
    """

    wait: int
    which: int | None
    buckets: tuple[Bucket, ...]


def ask(buckets: Sequence[tuple[Bucket, Rate]], now: int) -> Asked:
    """One more request in all of these buckets, or in none of them."""
    wait, which, levels = 0, None, []
    for place, (bucket, rate) in enumerate(buckets):
        level = bucket.level_at(now, rate) + COST
        levels.append(level)
        over = level - rate.burst * COST
        if over > 0 and (longer := -(-over // rate.per_minute)) > wait:
            wait, which = longer, place
    if which is not None:
        return Asked(wait, which, tuple(bucket for bucket, _ in buckets))
    return Asked(0, None, tuple(Bucket(level, now) for level in levels))


def check_rate(per_minute: object, burst: object, prefix: str = "") -> None:
    """Raise :class:`InvalidRequest` for what is no rate; None is no bound. ``prefix`` begins the fields' names."""
    for name, value in (("requests_per_minute", per_minute), ("burst", burst)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"{prefix}{name} must be a whole number", field=f"{prefix}{name}")
        check_count(f"{prefix}{name}", value)
    if not isinstance(burst, int):
        return
    if not isinstance(per_minute, int):
        raise InvalidRequest(
            f"{prefix}burst goes with {prefix}requests_per_minute: set both", field=f"{prefix}burst"
        )
    if burst > per_minute:
        raise InvalidRequest(
            f"{prefix}burst ({burst}) must not be above {prefix}requests_per_minute ({per_minute}): "
            "more than a minute's requests would come at once",
            field=f"{prefix}burst",
        )


Permits = Mapping[str, int]
"""Calls under way -> the time (ms of Redis) from which one does not count any more, whatever became of it."""


def room(permits: Permits, call: str, *, most: int, now: int) -> bool:
    """Whether a call may be under way as well; one that is already is not counted twice."""
    return permits.get(call, 0) > now or sum(ends > now for ends in permits.values()) < most


def take(permits: Permits, call: str, *, ends: int, now: int) -> Permits:
    """A call is under way; those whose time has passed are gone."""
    return {other: end for other, end in {**permits, call: ends}.items() if end > now}


def give_back(permits: Permits, call: str) -> Permits:
    """A call is under way no more."""
    return {other: ends for other, ends in permits.items() if other != call}
