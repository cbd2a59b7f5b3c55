"""Redis' clock as a process keeps it."""

from __future__ import annotations

import time

import pytest

from common.store.clock import RedisClock


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds on this machine's clock; change the one element to let time pass."""
    seconds = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    return seconds


def test_it_tells_the_time_of_day_until_it_knows_better() -> None:
    """A first guess, marked as such."""
    clock = RedisClock()
    assert not clock.synchronised
    assert abs(clock.now() - time.time() * 1000) < 1000


def test_it_goes_on_from_what_redis_said(monotonic: list[float]) -> None:
    """However far the machine's own clock is off."""
    clock = RedisClock()
    clock.correct(5_000_000)
    assert clock.synchronised
    monotonic[0] += 1.5
    assert clock.now() == 5_001_500
    clock.correct(4_000_000)
    assert clock.now() == 4_000_000


def test_it_tells_how_long_is_left(monotonic: list[float]) -> None:
    """In seconds; zero or less once the deadline has passed."""
    clock = RedisClock()
    clock.correct(10_000)
    assert clock.left(12_000) == pytest.approx(2.0)
    monotonic[0] += 2
    assert clock.left(12_000) == pytest.approx(0.0)
    monotonic[0] += 1
    assert clock.left(12_000) == pytest.approx(-1.0)


def test_it_does_not_follow_steps_of_the_machine(
    monotonic: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator who sets the date changes no deadline."""
    clock = RedisClock()
    clock.correct(10_000)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() == 10_000
