"""C23: a worker is frozen for 20 s and comes back: the zombie owner. What it still says is refused."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.load import Call
from tests.chaos.mixes import PLAIN, TWICE, everyday
from tests.chaos.plan import Plan
from tests.chaos.program import Program
from tests.chaos.scene import Scene
from tests.support.wait import wait_until

FROZEN_FOR = 20.0
LOST_WITHIN = 12.0
WITH_LEAVE_WITHIN = 13.0


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(150)]),
        pytest.param(20, marks=[pytest.mark.chaos_full, pytest.mark.timeout(1800)]),
    ],
)
def test_a_frozen_owner(scene: Scene, rounds: int) -> None:
    """Its callers are told WORKER_LOST in time, its sessions go to another, and its late answers are refused."""
    cluster = scene.start(Plan(tools=(PLAIN, TWICE)))
    for number in range(rounds):
        scene.load.run(everyday((PLAIN, TWICE)), rate=10)
        refused = refusals(cluster)
        lost = Call(tool="plain", id=f"z{number}", client="z", ms=3000)
        again = Call(tool="twice", id=f"y{number}", client="z", ms=3000, leave=True, deadline=TWICE.deadline)
        waiting = scene.load.begin(lost)
        owner = scene.owner(f"z{number}")
        owner.freeze()
        frozen = time.monotonic()
        beside = scene.load.begin(again)
        ended = waiting.result(30)
        assert ended.code == "WORKER_LOST", ended
        assert time.monotonic() - frozen < LOST_WITHIN
        assert beside.result(30).good
        assert time.monotonic() - frozen < WITH_LEAVE_WITHIN + 3
        assert scene.load.call(Call(tool="plain", client="z")).good
        thaw_at(owner, frozen + FROZEN_FOR)
        wait_until(
            partial(more_refusals, cluster, refused),
            timeout=10,
            description="the zombie's late answer to be refused",
        )
        scene.answered_more(30)
        cluster.wait_ready()
        scene.load.finish()
    scene.judge()
    scene.expect_codes("WORKER_LOST")


def thaw_at(worker: Program, moment: float) -> None:
    """Let it go on at a moment."""
    wait_until(lambda: time.monotonic() > moment, timeout=FROZEN_FOR + 5, description="the end of the freeze")
    worker.thaw()


def refusals(cluster: Cluster) -> int:
    """Answers that the workers were refused so far."""
    return sum(worker.output().count("answer_refused") for worker in cluster.workers)


def more_refusals(cluster: Cluster, than: int) -> bool:
    """Whether there are more by now."""
    return refusals(cluster) > than
