"""Delays between restarts."""

from __future__ import annotations

from gateway_web.supervisor import Backoff


def _exact(low: float, high: float) -> float:
    return (low + high) / 2


def test_delays_double_up_to_the_longest() -> None:
    """0.1 s first, 10 s at most."""
    backoff = Backoff(uniform=_exact)
    delays = [round(backoff.delay_after(life=0.0), 3) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_good_life_earns_the_first_delay_again() -> None:
    """30 s of being ready, not less."""
    backoff = Backoff(uniform=_exact)
    for _ in range(4):
        backoff.delay_after(life=29.9)
    assert backoff.delay_after(life=29.9) == 1.6
    assert backoff.delay_after(life=30.0) == 0.1
    assert backoff.delay_after(life=0.0) == 0.2


def test_jitter_stays_within_its_bounds_and_under_the_longest() -> None:
    """Children that died together do not return together, and nobody waits more than the longest delay."""
    assert Backoff(uniform=lambda low, high: low).delay_after(life=0.0) == 0.1 * 0.8
    assert Backoff(uniform=lambda low, high: high).delay_after(life=0.0) == 0.1 * 1.2
    assert Backoff(first=10.0, uniform=lambda low, high: high).delay_after(life=0.0) == 10.0
    assert len({Backoff().delay_after(life=0.0) for _ in range(20)}) > 1
