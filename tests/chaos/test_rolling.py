"""C14: SIGTERM to each web process and each worker in turn, under load: a deployment that loses nothing."""

from __future__ import annotations

import time

import pytest

from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import Plan
from tests.chaos.scene import Scene

DRAINED_WITHIN = 30.0


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(180)]),
        pytest.param(10, marks=[pytest.mark.chaos_full, pytest.mark.timeout(1800)]),
    ],
)
def test_a_rolling_restart_loses_nothing(scene: Scene, rounds: int) -> None:
    """Every call is answered, also those of two seconds; a stream is never closed by a shutdown.

    As behind any load balancer, a web process gets calls from when it is ready.
    """
    cluster = scene.start(Plan(tools=USUAL))
    scene.load.run(everyday(longest=2000), rate=20)
    scene.answered_more(30)
    for _ in range(rounds):
        for program in (*cluster.webs, *cluster.workers):
            begun = time.monotonic()
            status = program.terminate(timeout=DRAINED_WITHIN + 5)
            took = time.monotonic() - begun
            assert status in (0, -15), f"{program.name} ended with {status}"
            assert took < DRAINED_WITHIN, f"{program.name} took {took:.1f} s"
            cluster.start_again(program)
            cluster.wait_ready()
            scene.answered_more(20)
    scene.judge()
    scene.expect_codes()
