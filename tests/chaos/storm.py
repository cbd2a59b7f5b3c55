"""Faults by chance, four times a second, while the calls go on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from tests.chaos.load import Call
from tests.chaos.mixes import TOXIC
from tests.chaos.program import Program
from tests.chaos.scene import Scene

STEP = 0.25
FROZEN_FOR = 2.0
REDIS_DOWN = 0.5
CHANCES = (("redis", 0.02), ("worker", 0.08), ("web", 0.03), ("toxic", 0.05), ("freeze", 0.03))


class Storm:
    """Each step may bring any of the faults. The order of the faults is the seed's, their moments are not."""

    def __init__(self, scene: Scene, chance: Random) -> None:
        self.done: Counter[str] = Counter()
        self._scene = scene
        self._cluster = scene.cluster
        self._chance = chance
        self._thaws: list[threading.Timer] = []
        self._faults: dict[str, Callable[[], object]] = {
            "redis": lambda: self._cluster.redis_restart(down=REDIS_DOWN),
            "worker": lambda: self._kill(self._cluster.workers),
            "web": lambda: self._kill(self._cluster.webs),
            "toxic": self._poison,
            "freeze": self._freeze,
        }

    def rage(self, while_: Callable[[], bool], *, most: float) -> None:
        """Bring faults as long as a condition holds; fails after ``most`` seconds."""
        begun = time.monotonic()
        due = begun
        while while_():
            assert time.monotonic() - begun < most, f"the storm took longer than {most} s: {dict(self.done)}"
            due += STEP
            threading.Event().wait(max(0.0, due - time.monotonic()))
            for name, likely in CHANCES:
                if self._chance.random() < likely and self._faults[name]() is not False:
                    self.done[name] += 1
        for thaw in self._thaws:
            thaw.join()
        print(f"{time.monotonic() - begun:.0f} s of storm: {dict(self.done)}")

    def _kill(self, programs: list[Program]) -> bool:
        """Kill one of those that serve: killing what still starts would try nothing but the start of Python."""
        serving = [program for program in programs if program.alive and self._cluster.serves(program)]
        if serving:
            self._cluster.kill(self._chance.choice(serving))
        return bool(serving)

    def _freeze(self) -> bool:
        worker = self._chance.choice(self._cluster.workers)
        if not worker.alive or worker.frozen:
            return False
        worker.freeze()
        thaw = threading.Timer(FROZEN_FOR, worker.thaw)
        thaw.start()
        self._thaws.append(thaw)
        return True

    def _poison(self) -> None:
        how = self._chance.choice(("exit", "kill", "segv", "hang"))
        action = "hang" if how == "hang" else "crash"
        call = Call(
            tool=TOXIC.name, action=action, how=how, client=self._chance.choice("ab"), deadline=TOXIC.deadline
        )
        self._scene.load.begin(call)
