"""C3 at its full length."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from common.processes import ProcessGuard
from tests.chaos.test_children import one_death
from tests.support.aio import on_loop

pytestmark = [pytest.mark.chaos_full, pytest.mark.slow]


@pytest.fixture(scope="module")
def guard() -> Iterator[ProcessGuard]:
    """One guard, as in a worker."""
    with ProcessGuard(grace=1) as guard:
        yield guard


@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["start", "call", "idle"])
@pytest.mark.parametrize("how", ["exit0", "exit1", "segfault", "kill"])
def test_c3_five_hundred_deaths(how: str, when: str, guard: ProcessGuard) -> None:
    """Each way at each moment 42 times, six at once; each dies as the short test wants it."""

    async def six() -> None:
        await asyncio.gather(*(one_death(how, when, guard) for _ in range(6)))

    for _ in range(7):
        on_loop(six)()
