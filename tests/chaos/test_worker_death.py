"""C1: kill -9 of a worker at each step of a call, under load; and kill -9 of the reaper that outlives it.

A call that the backend has not seen goes to another worker, one that it has seen ends with WORKER_LOST within 12 s
unless it may run twice, and the next call of the same session is answered within 5 s of the death.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from random import Random

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.load import Call, Ended
from tests.chaos.mixes import PLAIN, TWICE, WEB, everyday
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.program import Program
from tests.chaos.scene import Scene
from tests.support.wait import wait_until

LOST_WITHIN, NEXT_WITHIN = 12.0, 5.0
SLOW = ToolPlan(name="slow", start_delay=1.5, fields={"request_timeout": 20.0, "circuit_failures": 1000})
"""A tool whose sessions take a while to start."""

TOOLS = (PLAIN, TWICE, WEB, SLOW)
BUSY = (PLAIN, TWICE, WEB)
FAST = pytest.param(1, marks=[pytest.mark.chaos_fast, pytest.mark.timeout(180)])
FULL = pytest.param(50, marks=[pytest.mark.chaos_full, pytest.mark.timeout(3000)])
CODES = ("WORKER_LOST",)


class Deaths:
    """Rounds of one call of the client ``v``, whose worker dies at a step."""

    def __init__(self, scene: Scene, cluster: Cluster, chance: Random) -> None:
        self._scene = scene
        self._cluster = cluster
        self._chance = chance
        self._number = 0

    def _call(self, tool: ToolPlan, ms: int, client: str = "v") -> Call:
        self._number += 1
        name = f"v{self._number}"
        return Call(tool=tool.name, id=name, leave=tool.leave, deadline=tool.deadline, client=client, ms=ms)

    def _holder(self, queue: str) -> Program:
        """The worker that holds a call of a queue."""
        name = wait_until(
            lambda: self._cluster.holder_of(queue), description=f"a worker to hold a call of {queue}"
        )
        return self._cluster.program(str(name))

    def before_begin(self) -> None:
        """All workers are frozen, so the call waits; the one that owns its session dies. Another answers it."""
        assert self._scene.load.call(self._call(PLAIN, 0)).good
        owner = self._scene.owner(f"v{self._number}")
        for worker in self._cluster.workers:
            worker.freeze()
        waiting = self._scene.load.begin(self._call(PLAIN, 0))
        try:
            wait_until(self._cluster.waiting, description="a call to wait")
            died = self._cluster.kill(owner)
        finally:
            for worker in self._cluster.workers:
                worker.thaw()
        self._answered(waiting, died)

    def after_begin(self) -> None:
        """The worker has the call, the backend's session still starts: another worker answers it."""
        waiting = self._scene.load.begin(self._call(SLOW, 0, client=f"n{self._number}"))
        self._answered(waiting, self._cluster.kill(self._holder("tool.slow")))

    def after_send(self) -> None:
        """The backend works on the call."""
        tool = self._chance.choice((PLAIN, TWICE))
        call = self._call(tool, 3000)
        waiting = self._scene.load.begin(call)
        self._lost(waiting, tool, self._cluster.kill(self._scene.owner(str(call.id))))

    def before_reply(self) -> None:
        """The backend has answered, and nothing of it has come to Redis."""
        tool = self._chance.choice((PLAIN, TWICE))
        call = self._call(tool, 300)
        waiting = self._scene.load.begin(call)
        owner = self._scene.owner(str(call.id))
        self._cluster.proxies[owner.name].black_hole()
        wait_until(lambda: self._scene.backend_events("done", call.id), description="the backend's answer")
        self._lost(waiting, tool, self._cluster.kill(owner))

    def without_reaper(self) -> None:
        """The reapers die first: no call notices, and there are others before the next children, who go with theirs."""
        before = self._scene.codes()["WORKER_LOST"]
        for worker in self._cluster.workers:
            reapers = [process for process in worker.below() if "reaper.py" in " ".join(process.cmdline())]
            assert reapers, f"{worker.name} has no reaper"
            for reaper in reapers:
                reaper.kill()
        for client in range(6):
            assert self._scene.load.call(self._call(PLAIN, 0, client=f"r{self._number}-{client}")).good
        assert self._scene.codes()["WORKER_LOST"] == before
        self._next(PLAIN, self._cluster.kill(self._scene.owner(f"v{self._number}")))

    def _answered(self, waiting: Future[Ended], died: float) -> None:
        self._next(PLAIN, died)
        ended = waiting.result(60)
        assert ended.good, ended
        assert time.monotonic() - died < LOST_WITHIN

    def _lost(self, waiting: Future[Ended], tool: ToolPlan, died: float) -> None:
        """WORKER_LOST, or with leave the answer; and the session's next call does not wait for that."""
        self._next(tool, died)
        ended = waiting.result(60)
        assert ended.good if tool.leave else ended.code == "WORKER_LOST", ended
        assert time.monotonic() - died < LOST_WITHIN + (tool.leave and 3.0)

    def _next(self, tool: ToolPlan, died: float) -> None:
        ended = self._scene.load.call(self._call(tool, 0))
        assert ended.good, ended
        took = time.monotonic() - died
        assert took < NEXT_WITHIN, f"the next call of {tool.name} was answered after {took:.1f} s"


@pytest.mark.parametrize("rounds", [FAST, FULL])
def test_a_worker_dies_at_each_step(scene: Scene, chance: Random, rounds: int) -> None:
    """Every step in each round, in any order."""
    names = frozenset({"worker0", "worker1", "worker2"})
    cluster = scene.start(Plan(tools=TOOLS, workers=3, proxied=names))
    deaths = Deaths(scene, cluster, chance)
    scene.load.run(everyday(BUSY), rate=10)
    scene.answered_more(20)
    steps = [deaths.before_begin, deaths.after_begin, deaths.after_send, deaths.before_reply]
    steps.append(deaths.without_reaper)
    for _ in range(rounds):
        for step in chance.sample(steps, len(steps)):
            print(f"{time.monotonic():.1f} {step.__name__}")
            step()
            cluster.wait_ready()
    scene.judge()
    scene.expect_codes(*CODES)
